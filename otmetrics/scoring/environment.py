"""What torchrun or Slurm says of a process in its environment: which one it is, of how many."""

import os
import socket

from otmetrics.errors import DataError


class RankError(DataError):
    """Several processes do not work together: one is gone, silent, or was given something else."""


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


def check_master(rank: int, world: int) -> None:
    """Raise where the first process has no port, or its machine's name stands for no address."""
    number_in_environment("MASTER_PORT", least=1, most=65535)
    host = os.environ.get("MASTER_ADDR", "")
    if not host:
        raise RankError(
            f"rank {rank} of {world} does not know where the others are (MASTER_ADDR is not set): "
            "start all of them with torchrun, or set MASTER_ADDR and MASTER_PORT."
        )
    try:
        socket.getaddrinfo(host, None)
    except (OSError, UnicodeError) as error:
        raise RankError(
            f"rank {rank} of {world} did not find the machine of MASTER_ADDR, {host[:80]!r} "
            f"({error}): set it to the name or address of the machine of rank 0, 127.0.0.1 where "
            "all processes are on one."
        ) from error
