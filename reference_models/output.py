"""Samples of a run as files that `otmetrics score` reads."""

import shutil
from pathlib import Path

import numpy as np

from otmetrics.errors import DataError, OptionError
from otmetrics.functional.checks import check_at_least, check_seed
from otmetrics.images import write_png

from .export import loaded
from .sampling import generated


def write_samples(run: Path, target: Path, *, num: int, seed: int = 0) -> str:
    """Write samples of the best generator of a run, all or none.

    Args:
        run: Folder of the run, or its generator's file.
        target: A folder, made here, for one PNG an image; or a file `.npz` for one array: images
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
    generator, config, data = loaded(run)
    as_array = target.suffix == ".npz"
    points = len(data.shape) == 1
    if points and not as_array:
        raise OptionError(f"OUT must end in .npz for points, got `{target}`.")
    if target.exists():
        raise DataError(f"`{target}` exists: name another place.")
    samples = generated(generator, config, data, num, seed)
    partial = target.with_name(target.name + ".partial")
    try:
        if as_array:
            key, array = (
                ("features", samples) if points else ("images", samples.permute(0, 2, 3, 1))
            )
            with partial.open("wb") as file:
                np.savez_compressed(file, **{key: array.numpy()})  # type: ignore[arg-type]
        else:
            partial.mkdir(parents=True)
            for i, image in enumerate(samples):
                write_png(partial / f"sample_{i:06d}.png", image)
        partial.replace(target)
    except OSError as error:
        raise DataError(f"`{target}` cannot be written ({error.strerror}).") from error
    finally:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        partial.unlink(missing_ok=True)
    return f"{num} points of dimension {data.shape[0]}" if points else f"{num} images"
