"""Several processes that share the extraction of features; the first one does the rest."""

import json
import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from otmetrics.errors import Argument, DataError

Room = Callable[[tuple[int, ...], Any], np.ndarray]

TIMEOUT_SECONDS = 600.0
_POLL_SECONDS = 0.05
_LOOK_SECONDS = 0.5  # a look at all others takes a question to the store for each
_DONE = b"done"
_BLOCK_BYTES = 2**26  # of a message, so that signs of life go between


class RankError(DataError):
    """Another process failed, fell silent or went away."""


class Ranks:
    """One process of several, as torchrun and Slurm start them, or the only one.

    Processes talk by gloo, over the CPU: a store in the first process, where each leaves signs of
    life, and messages from the others to the first. The first one looks after the others while it
    works: a process that fails says why, one that is killed or hangs is missed after `timeout`
    seconds without a sign. Nobody waits for ever, or works on for a result that cannot come: that
    is a RankError. `task` is what this process is asked to do, in options and their values; all of
    them must be asked for the same.
    """

    def __init__(
        self,
        rank: int = 0,
        world: int = 1,
        timeout: float = TIMEOUT_SECONDS,
        task: dict[str, str] | None = None,
    ) -> None:
        self.rank, self.world, self.timeout = rank, world, timeout
        self._beats, self._round, self._looked = 0, 0, 0.0
        self._seen: dict[int, tuple[bytes, float]] = {}  # last sign of each, and since when
        if world == 1:
            return

        # Before torch, whose errors name neither the variable nor what to do.
        number_in_environment("MASTER_PORT", least=1, most=65535)
        _check_master(rank, world)
        try:
            # What holds the port may be no store, and never answer.
            self._store = self._ask(self._met)
            # Compared before the group is made: gloo would wait for processes that do not come.
            difference = self._difference({"WORLD_SIZE": str(world), **(task or {})})
            if not difference:
                wait = timedelta(seconds=timeout)
                dist.init_process_group(
                    "gloo", store=self._store, rank=rank, world_size=world, timeout=wait
                )
        except (KeyError, ValueError, RuntimeError) as error:
            missing = isinstance(error, KeyError)
            reason = f"{error.args[0]} is not set" if missing else str(error.__cause__ or error)
            raise RankError(
                f"rank {rank} of {world} did not meet the others ({_short(reason)}): start all of "
                "them with torchrun, or set MASTER_ADDR and MASTER_PORT."
            ) from error
        if difference:
            raise RankError(difference)

    def _met(self) -> Any:
        """The store, where each process finds what the others leave."""
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        # torchrun's own store serves; a second one at the same port would find it taken.
        first = self.first and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        wait = timedelta(seconds=self.timeout)

        # Not for the others: they may have another number of processes in mind.
        store = dist.TCPStore(host, port, is_master=first, timeout=wait, wait_for_workers=False)
        # torchrun's store outlives the processes that it starts again.
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        return dist.PrefixStore(f"otmetrics/{attempt}", store)

    def _difference(self, task: dict[str, str]) -> str:
        """What other processes were asked for instead, if they were; all of them compare."""
        others = range(1, self.world) if self.first else [0]
        self._store.set(f"task/{self.rank}", json.dumps(task))
        told = {
            rank: json.loads(self._ask(partial(self._store.get, f"task/{rank}"), rank))
            for rank in others
        }
        self._store.set(f"compared/{self.rank}", "")
        for rank in others if self.first else ():  # the store ends with the first one
            self._ask(partial(self._store.get, f"compared/{rank}"), rank)

        for rank, other in told.items():
            for name in {**task, **other}:
                here, there = task.get(name), other.get(name)
                if here != there:
                    return (
                        f"rank {rank} was asked for something else than rank {self.rank} ({name}: "
                        f"{there!r:.80}, not {here!r:.80}): start all with the same command line."
                    )
        return ""

    @property
    def first(self) -> bool:
        """Whether this process computes the scores and prints them."""
        return self.rank == 0

    def share(self, indices: list[int]) -> list[int]:
        """The part of some images that is this process's: every world-th one, none twice."""
        return indices[self.rank :: self.world]

    def alive(self) -> None:
        """Leave a sign of life; the first process looks for those of the others."""
        if self.world == 1:
            return
        # A count, not a time: clocks of machines differ.
        self._beats += 1
        self._ask(lambda: self._store.set(f"beat/{self.rank}", str(self._beats)))
        if self.first and time.monotonic() - self._looked >= _LOOK_SECONDS:
            self._looked = time.monotonic()
            for rank in range(1, self.world):
                self._ask(partial(self._look_after, rank), rank)

    def report_failure(self, message: str) -> None:
        """Tell the first process in one line why this one ends."""
        if self.world > 1 and not self.first:
            self._ask(lambda: self._store.set(f"error/{self.rank}", message))

    def done(self) -> None:
        """Tell the first process that this one has no more to do, and leaves."""
        if self.world > 1 and not self.first:
            with suppress(RuntimeError):  # the first one may have ended already
                self._store.set(f"beat/{self.rank}", _DONE.decode())

    def gather(
        self, arrays: list[np.ndarray], record: Any, room: Room = np.empty
    ) -> Iterator[tuple[list[np.ndarray], Any]]:
        """Bring arrays of each process, with a record (JSON-able), to the first one.

        It gets what each has, by rank, one at a time, in arrays that `room` makes of a shape and
        dtype; the others get nothing.
        """
        # Of several inputs each has its own keys: the store keeps those of the last one.
        self._round += 1
        if self.first:
            yield arrays, record
            for rank in range(1, self.world):
                yield self._receive(rank, room)
            return

        # What is to come first, so that the first process can make room, then the arrays.
        shapes = [(array.dtype.str, array.shape) for array in arrays]
        note = json.dumps({"arrays": shapes, "record": record})
        self._ask(lambda: self._store.set(f"done/{self._round}/{self.rank}", note))
        # gloo would give up a message that nobody takes while the first one is still at work.
        go = f"go/{self._round}/{self.rank}"
        self._await(0, lambda: self._store.check([go]))
        for array in arrays:
            for block in _blocks(array):
                self._ask(partial(dist.send, block, 0))
                self.alive()

    def _receive(self, rank: int, room: Room) -> tuple[list[np.ndarray], Any]:
        """What another process has, once it is done."""
        key = f"done/{self._round}/{rank}"
        self._await(rank, lambda: self._store.check([key]))
        note = json.loads(self._store.get(key))
        self._store.set(f"go/{self._round}/{rank}", "")

        arrays = []
        for dtype, shape in note["arrays"]:
            array = room(tuple(shape), np.dtype(dtype))
            for block in _blocks(array):
                self._ask(partial(dist.recv, block, rank), rank)
                self.alive()
            arrays.append(array)
        return arrays, note["record"]

    def _look_after(self, rank: int) -> None:
        """Raise where another process failed, or has shown no sign of life for too long."""
        if self._store.check([f"error/{rank}"]):
            raise RankError(self._store.get(f"error/{rank}").decode())
        beat = self._store.get(f"beat/{rank}") if self._store.check([f"beat/{rank}"]) else b""
        last, since = self._seen.setdefault(rank, (beat, time.monotonic()))
        if beat != last:
            self._seen[rank] = beat, time.monotonic()
        elif time.monotonic() - since > self.timeout and beat != _DONE:
            raise self._silence(rank)

    def _await(self, rank: int, ready: Callable[[], bool]) -> None:
        """Wait for another process as long as it shows signs of life."""
        while not self._ask(ready, rank):
            self._ask(partial(self._look_after, rank), rank)
            # Asked again, for it may have become ready just before it ended.
            if self._seen[rank][0] == _DONE and not self._ask(ready, rank):
                raise RankError(f"rank {rank} has ended, but this process still waits for it.")
            self.alive()
            time.sleep(_POLL_SECONDS)

    def _ask(self, call: Callable[[], Any], rank: int = 0) -> Any:
        """Talk to another process, which may have gone, or never answer."""
        answer: queue.SimpleQueue[Any] = queue.SimpleQueue()

        def ask() -> None:
            try:
                answer.put((call(), None))
            except Exception as error:
                answer.put((None, error))

        # A question to a store whose process is stopped waits for ever; its thread is left behind.
        threading.Thread(target=ask, daemon=True).start()
        # A little longer than the store's own limit, so that its own error comes first.
        try:
            value, error = answer.get(timeout=self.timeout + _LOOK_SECONDS)
        except queue.Empty:
            raise self._silence(rank) from None

        if isinstance(error, RuntimeError):
            raise RankError(
                f"rank {rank} is gone ({_short(str(error))}): look at its output."
            ) from error
        if error is not None:
            raise error
        return value

    def _silence(self, rank: int) -> RankError:
        """What is said of a process that is missed."""
        return RankError(
            f"rank {rank} has shown no sign of life for {self.timeout:g} s: it was killed, or "
            "hangs; look at its output, or raise ",
            Argument("timeout"),
            ".",
        )

    def close(self) -> None:
        """Leave the group."""
        if self.world > 1 and dist.is_initialized():
            dist.destroy_process_group()


ALONE = Ranks()
"""The only process."""


def number_in_environment(
    variable: str, default: int | None = None, *, least: int = 0, most: int = 10**6
) -> int:
    """A number that whoever starts several processes sets; one without a default must be set."""
    text = os.environ.get(variable, "" if default is None else str(default))
    # Of a long text only some digits: Python refuses to read thousands.
    if not (text.isascii() and text.isdecimal()) or not least <= int(text[:20]) <= most:
        given = repr(text[:80]) if variable in os.environ else "none"
        raise RankError(
            f"the environment variable {variable} must be a whole number from {least} to {most}, "
            f"got {given}: start the processes with torchrun, or set it; for one alone unset it."
        )
    return int(text)


def _check_master(rank: int, world: int) -> None:
    """Raise where the name of the first process's machine stands for no address."""
    host = os.environ.get("MASTER_ADDR", "")
    if not host:
        return  # told where it is read
    try:
        socket.getaddrinfo(host, None)
    except (OSError, UnicodeError) as error:
        raise RankError(
            f"rank {rank} of {world} did not find the machine of MASTER_ADDR, {host[:80]!r} "
            f"({error}): set it to the name or address of the machine of rank 0, 127.0.0.1 where "
            "all processes are on one."
        ) from error


def place_in_environment(*, slurm: bool = True) -> tuple[int, int]:
    """Rank and number of processes by torchrun's or Slurm's variables; 0 and 1 for one alone."""
    # Of Slurm the step's variable, which the script that starts a step does not have.
    pairs = [("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")]
    for rank, world in pairs if slurm else pairs[:1]:
        there = [name in os.environ for name in (rank, world)]
        # A job of several tasks, which may have nothing to do with each other.
        if rank == "SLURM_PROCID" and not (all(there) and "MASTER_ADDR" in os.environ):
            continue
        if not any(there):
            continue

        size = number_in_environment(world, 1, least=1)
        number = number_in_environment(rank, 0 if size == 1 else None)
        if number >= size:
            raise RankError(
                f"{rank} must be below {world}, {size}, got {number}: start the processes with "
                "torchrun, or for one alone unset both."
            )
        return number, size
    return 0, 1


def ranks_of_environment(
    timeout: float = TIMEOUT_SECONDS, task: dict[str, str] | None = None
) -> Ranks:
    """This process among the others of its run, which it meets here, or `ALONE`."""
    rank, world = place_in_environment()
    return Ranks(rank, world, timeout, task) if world > 1 else ALONE


def _blocks(array: np.ndarray) -> list[torch.Tensor]:
    """An array as bytes, in messages of a bounded size that share its memory."""
    # Of an empty array split would make one empty message.
    flat = torch.from_numpy(array.reshape(-1).view(np.uint8))
    return list(flat.split(_BLOCK_BYTES)) if len(flat) else []


def _short(text: str) -> str:
    """Somebody else's message on one line."""
    return " ".join(text.split())[:200]
