"""Samples of a run as files that `otmetrics score` reads."""

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
from torch import Tensor

from otmetrics.errors import DataError, OptionError
from otmetrics.functional.checks import check_at_least, check_seed
from otmetrics.images import write_png
from otmetrics.safe_files import writing

from .export import loaded
from .sampling import generated


def write_samples(run: Path, target: Path, *, num: int, seed: int = 0) -> str:
    """Write samples of the best generator of a run, all or none.

    Args:
        run: Folder of the run, or its generator's file.
        target: A new folder for one PNG an image; or a file `.npz` for one array: images
            (N, H, W, C) uint8 or points (N, D) float64 in the data's own coordinates.
        num: How many.
        seed: Decides the noise: the first n of more samples are those of n.

    Returns:
        What was written, in words.

    Raises:
        OptionError: If a number breaks its rule, or points should become images.
        DataError: If the run cannot be read, or the target exists or cannot be written.
    """
    try:
        check_at_least("num", num, 1)
        check_seed(seed)
    except ValueError as error:
        raise OptionError(str(error)) from error
    sampler, _, data = loaded(run)
    points = len(data.shape) == 1
    _check_target(target, points)
    try:
        samples = generated(sampler, data, num, seed)
    except RuntimeError as error:  # torch's word for memory
        raise OptionError(f"`num` must be smaller, got {num}: {error}") from error
    except OptionError:
        raise
    except ValueError as error:  # numbers of a damaged generator
        raise DataError(f"`{run}` cannot be sampled ({error}): train it again.") from error
    try:
        room = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise DataError(f"`{target}` cannot be written ({error.strerror}).") from error
    try:
        with writing(target):
            _write(room / "samples", samples, target.suffix == ".npz")
            (room / "samples").replace(target)
    finally:
        shutil.rmtree(room, ignore_errors=True)
    return f"{num} points of dimension {data.shape[0]}" if points else f"{num} images"


def _check_target(target: Path, points: bool) -> None:
    """Raise unless samples can go there, before any is made."""
    if points and target.suffix != ".npz":
        raise OptionError(f"OUT must end in .npz for points, got `{target}`.")
    if target.suffix in (".npy", ".zip", ".pt"):
        raise OptionError(f"OUT must be a folder or end in .npz, got `{target}`.")
    if os.path.lexists(target):  # a link that leads nowhere is something too
        raise DataError(f"`{target}` exists: name another place.")
    if not target.parent.is_dir():
        raise DataError(f"`{target.parent}` is no folder: create it first.")


def _write(place: Path, samples: Tensor, as_array: bool) -> None:
    """One array, or one PNG an image."""
    if as_array:
        points = samples.ndim == 2
        key, array = ("features", samples) if points else ("images", samples.permute(0, 2, 3, 1))
        with place.open("wb") as file:
            np.savez_compressed(file, **{key: array.numpy()})  # type: ignore[arg-type]
        return
    place.mkdir(mode=0o755)
    for i, image in enumerate(samples):
        write_png(place / f"sample_{i:06d}.png", image)
