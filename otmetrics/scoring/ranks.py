"""Several processes that share the extraction of features; the first one does the rest."""

import os
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import torch.distributed as dist

from otmetrics.errors import Argument
from otmetrics.scoring.environment import RankError, check_master, place_in_environment
from otmetrics.scoring.messages import Arrays, receive, row_parts, send, waited

T = TypeVar("T")

TIMEOUT_SECONDS = 1800.0


class Ranks:
    """One process of several, as torchrun and Slurm start them, or the only one.

    They talk by gloo, over the CPU, and only in the methods below, which all of them call alike. A
    process that has ended is noticed there at once; the first one waits `timeout` seconds for the
    others, and they twice as long, so that it can say for whom it waited. Either is a RankError:
    nobody waits for ever.
    """

    def __init__(self, rank: int = 0, world: int = 1, timeout: float = TIMEOUT_SECONDS) -> None:
        self.rank, self.world = rank, world
        self.timeout = timeout if self.first else 2 * timeout
        if world == 1:
            return

        # Before torch, whose errors name neither the variable nor what to do.
        check_master(rank, world)
        try:
            # What holds the port may be no store, and never answer.
            waited(self._meet, self.timeout + 1)
        except (RuntimeError, TimeoutError) as error:
            raise RankError(
                f"rank {rank} of {world} did not meet the others ({_short(str(error))}): start all "
                "of them with torchrun, or set MASTER_ADDR and MASTER_PORT."
            ) from error

    def _meet(self) -> None:
        """Join the group of all processes."""
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        # torchrun's own store serves; a second one at the same port would find it taken.
        own = self.first and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        wait = timedelta(seconds=self.timeout)
        # Not for the others: they may have another number of processes in mind.
        server = dist.TCPStore(host, port, is_master=own, timeout=wait, wait_for_workers=False)
        # torchrun's store outlives the processes that it starts again.
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = dist.PrefixStore(f"otmetrics/{attempt}", server)

        # Compared before the group is made: gloo would wait for processes that do not come. Others
        # read before they write, for the store ends with the first one, which may give up.
        if self.first:
            store.set("world/0", str(self.world))
        for rank in range(1, self.world) if self.first else [0]:
            there = int(store.get(f"world/{rank}"))
            if not self.first:
                store.set(f"world/{self.rank}", str(self.world))
            if there != self.world:
                raise RankError(
                    f"rank {rank} has another WORLD_SIZE than rank {self.rank} ({there}, not "
                    f"{self.world}): start all processes of a run alike."
                )
        dist.init_process_group(
            "gloo", store=store, rank=self.rank, world_size=self.world, timeout=wait
        )

    @property
    def first(self) -> bool:
        """Whether this process computes the scores and prints them."""
        return self.rank == 0

    def share(self, indices: list[int]) -> list[int]:
        """The part of some images that is this process's: every world-th one, none twice."""
        return indices[self.rank :: self.world]

    def agree(self, facts: dict[str, str]) -> None:
        """Raise on all processes where the facts of one are not those of the first one."""
        told = self.collect(facts)
        difference = _difference(told) if told is not None else ""
        for rank in range(1, self.world) if self.first else ():
            self._send(rank, difference)
        if not self.first:
            difference, _ = self._receive(0)
        if difference:
            raise RankError(difference)

    def collect(self, note: T) -> list[T] | None:
        """Bring a note (JSON-able) of each process to the first one, by rank; None on others."""
        if self.first:
            return [note, *(self._receive(rank)[0] for rank in range(1, self.world))]
        self._send(0, note)
        return None

    def gather(self, arrays: Arrays) -> Iterator[Arrays]:
        """Bring the rows of arrays of each process to the first one; the others get nothing.

        Arrays of a process have equal numbers of rows. Its own come whole, those of others in
        parts of some megabytes, in turn, so that none of them waits until another has sent all.
        """
        left = self.collect(len(next(iter(arrays.values()))))
        if left is None:
            for part in row_parts(arrays):
                self._send(0, None, part)
            return

        yield arrays
        while any(left[1:]):
            for rank in range(1, self.world):
                if left[rank]:
                    _, part = self._receive(rank)
                    left[rank] -= len(next(iter(part.values())))
                    yield part

    def merge(self, arrays: Arrays, combine: Callable[[Arrays, Arrays], Arrays]) -> Arrays | None:
        """Combine the arrays of all processes on the first one, two by two; None on others.

        `combine(these, those)` gets those of lower ranks first, each exactly once.
        """
        # The first one waits for each of them, so that it can say who does not come.
        self.collect(None)
        step = 1
        while step < self.world:
            if self.rank % (2 * step):
                self._send(self.rank - step, None, arrays)
                return None
            if self.rank + step < self.world:
                _, others = self._receive(self.rank + step)
                arrays = combine(arrays, others)
            step *= 2
        return arrays

    def close(self) -> None:
        """Leave the group."""
        if self.world > 1 and dist.is_initialized():
            dist.destroy_process_group()

    def _send(self, rank: int, note: Any, arrays: Arrays | None = None) -> None:
        self._talk(rank, partial(send, rank, note, arrays or {}))

    def _receive(self, rank: int) -> tuple[Any, Arrays]:
        return self._talk(rank, partial(receive, rank))

    def _talk(self, rank: int, call: Callable[[], T]) -> T:
        """Exchange messages with a process, which may be gone or silent."""
        try:
            return waited(call)
        except RuntimeError as error:
            text = str(error)
        if "timed out" in text.lower():
            raise RankError(
                f"rank {rank} did not answer for {self.timeout:g} s: it was stopped, hangs, or is "
                "far behind; look at its output, or raise ",
                Argument("timeout"),
                ".",
            )
        raise RankError(f"rank {rank} is gone ({_short(text)}): look at its output.")


ALONE = Ranks()
"""The only process."""


def ranks_of_environment(
    timeout: float = TIMEOUT_SECONDS, task: dict[str, str] | None = None
) -> Ranks:
    """This process among the others of its run, which it meets here, or `ALONE`.

    `task` is what it is asked to do, in options and their values: all must be asked for the same.
    """
    rank, world = place_in_environment()
    if world == 1:
        return ALONE
    ranks = Ranks(rank, world, timeout)
    ranks.agree(task or {})
    return ranks


def _difference(told: list[dict[str, str]]) -> str:
    """The first fact in which a process differs from the first one, as an error."""
    for rank, facts in enumerate(told):
        for name in {**told[0], **facts}:
            here, there = told[0].get(name), facts.get(name)
            if here != there:
                return (
                    f"rank {rank} was given something else than rank 0 ({name}: {there!r:.80}, "
                    f"not {here!r:.80}): give all processes one command line and the same inputs."
                )
    return ""


def _short(text: str) -> str:
    """Somebody else's message on one line: what went wrong, without where or advice."""
    text = " ".join(text.split()).partition(". This is typically")[0]
    return re.sub(r"^\[\S+\] ", "", text)[:200]
