"""One file that holds all that a run needs to go on, written whole or not at all."""

import hashlib
import io
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from otmetrics.errors import DataError, OptionError
from otmetrics.features.weights import check_members
from otmetrics.safe_files import replaced, writing

from .config import TrainConfig, changes

VERSION = 4
LAST, BEST = "checkpoint.pt", "best.pt"

_MARK = b"otmetrics sha256"  # at the end of a file, before the hash of all that precedes it
_FOOTER = len(_MARK) + hashlib.sha256().digest_size
_BLOCK = 1 << 20

_KINDS = {
    "config": dict,
    "hash": str,
    "processes": int,
    "samples": str,
    "step": int,
    "images": int,
    "best": dict,
    "best_average": dict,
}


def save(path: Path, state: dict[str, Any], config: TrainConfig) -> None:
    """Write a state beside its configuration, and a hash of both behind them.

    `torch.load` reads the file as any other, for it finds an archive from its start.

    Random numbers need no entry: every step seeds all generators from the run's seed, its process
    and its number, so that seed and step are the state of each of them.

    Args:
        path: The file; its former content stays until the new one is complete.
        state: Tensors, numbers and strings in dicts and lists.
        config: The configuration of the run.

    Raises:
        DataError: If the file cannot be written.
    """
    whole = {"version": VERSION, "config": config.to_dict(), "hash": config.hash, **state}
    content = io.BytesIO()
    torch.save(whole, content)
    digest = hashlib.sha256(content.getbuffer()).digest()
    with writing(path), replaced(path) as file:
        file.write(content.getbuffer())
        file.write(_MARK + digest)


def load(path: Path) -> dict[str, Any]:
    """Read a state.

    Args:
        path: A file that `save` wrote.

    Returns:
        What it holds, on the CPU.

    Raises:
        DataError: If it is missing, damaged, or of another kind or version.
    """
    if not path.is_file():
        what = "is no regular file" if path.exists() else "does not exist"
        raise DataError(f"`{path}` {what}: name the folder of a run that has a checkpoint.")
    try:
        with path.open("rb") as file:
            _check_hash(file)
            file.seek(0)
            check_members(file)
            file.seek(0)
            state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch has no one error for a damaged file
        remedy = (
            f"copy {BEST} over it, if that is whole, or train anew"
            if path.name == LAST
            else f"remove it, if {LAST} beside it is whole, or train anew"
        )
        raise DataError(
            f"`{path}` is no checkpoint of this version or is damaged ({reason(error)}): {remedy}."
        ) from error
    if not isinstance(state, dict) or repr(state.get("version")) != str(VERSION):
        raise DataError(f"`{path}` is no checkpoint of this version ({VERSION}): train anew.")
    wrong = [name for name, kind in _KINDS.items() if not _is(state.get(name), kind)]
    wrong += [] if "config" in wrong or _plain(state["config"]) else ["config"]
    if wrong:
        raise DataError(
            f"`{path}` holds a malformed record ({', '.join(wrong)}): it was not written by "
            "`otmetrics train`; train anew."
        )
    return state


def reason(error: Exception) -> str:
    """Why a file cannot be read, in a few words of whatever library read it.

    Args:
        error: Its error.

    Returns:
        The first line, with the kind of error where it has none.
    """
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__


def _check_hash(file: BinaryIO) -> None:
    """Raise unless a file ends in the hash of all that precedes it; block by block."""
    size = file.seek(0, io.SEEK_END) - _FOOTER
    file.seek(max(0, size))
    footer = file.read(_FOOTER)
    if not footer.startswith(_MARK):  # before a file of whatever size is read
        raise ValueError("there is no checksum at its end")
    file.seek(0)
    digest = hashlib.sha256()
    while size > 0 and (block := file.read(min(_BLOCK, size))):
        digest.update(block)
        size -= len(block)
    if digest.digest() != footer[len(_MARK) :]:
        raise ValueError("its checksum is of other bytes")


def _is(value: object, kind: type) -> bool:
    """Whether a part of a record is of its kind; numbers are those of steps or images."""
    if kind is int:
        return type(value) is int and 0 <= value < 2**53
    if kind is dict and isinstance(value, dict):
        return all(isinstance(name, str) for name in value)
    return isinstance(value, kind)


def _plain(values: dict[Any, Any], depth: int = 0) -> bool:
    """Whether a configuration is plain values by name, those of its objective one level down."""
    return all(
        isinstance(name, str)
        and (
            value is None
            or isinstance(value, str | bool | int | float)
            or (isinstance(value, dict) and depth == 0 and _plain(value, 1))
        )
        for name, value in values.items()
    )


def check_same_run(
    state: dict[str, Any], config: TrainConfig, setting: dict[str, Any], path: Path
) -> None:
    """Raise unless a checkpoint was made with this configuration.

    Args:
        state: What `load` gave.
        config: The configuration that shall go on.
        setting: What else decides the weights: the number of "processes", each of which draws its
            own samples, and the fingerprint of the "samples".
        path: Where the state comes from, for the message.

    Raises:
        OptionError: If the configurations differ; the message names what does.
    """
    old = state["config"] | {key: state[key] for key in setting}
    new = config.to_dict() | setting
    if old["samples"] != new["samples"] and old | {"samples": new["samples"]} == new:
        raise OptionError(
            f"`{path}` was made with other samples under the name of `data`: give those, or "
            "`allow_change` to go on with the new ones."
        )
    if state["hash"] != config.hash or old != new:
        differences = "; ".join(changes(old, new)) or "their formats"
        raise OptionError(
            f"`{path}` was made with another configuration ({differences}): give the same options, "
            "or `allow_change` to go on with the new ones."
        )


def is_finite(state: Any) -> bool:
    """Whether all numbers in a state are.

    Args:
        state: Tensors in dicts and lists.

    Returns:
        False if any is NaN or infinite.
    """
    if isinstance(state, Tensor):
        return not state.is_floating_point() or bool(torch.isfinite(state).all())
    if isinstance(state, dict):
        return all(is_finite(value) for value in state.values())
    if isinstance(state, list | tuple):
        return all(is_finite(value) for value in state)
    return True
