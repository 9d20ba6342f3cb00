"""One file that holds all that a run needs to go on, written whole or not at all."""

import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from otmetrics.errors import DataError, OptionError
from otmetrics.safe_files import replaced, writing

from .config import TrainConfig, changes

VERSION = 3
LAST, BEST = "checkpoint.pt", "best.pt"


def save(path: Path, state: dict[str, Any], config: TrainConfig) -> None:
    """Write a state beside its configuration.

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
    with writing(path), replaced(path) as file:
        file.write(content.getbuffer())


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
        raise DataError(f"`{path}` does not exist: name the folder of a run that has a checkpoint.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch has no one error for a damaged file
        raise DataError(
            f"`{path}` is no checkpoint or is damaged ({type(error).__name__}): "
            f"copy {BEST} over it, if that is whole, or train anew."
        ) from error
    needed = {"config", "hash", "processes", "samples", "step", "images", "best", "best_average"}
    if not isinstance(state, dict) or state.get("version") != VERSION or needed - state.keys():
        raise DataError(f"`{path}` is no checkpoint of this version ({VERSION}): train anew.")
    return state


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
