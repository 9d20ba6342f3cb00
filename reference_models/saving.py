"""Files of a run: checkpoints to go on from, generators to sample from, what they sample."""

import hashlib
import io
import json
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from otmetrics.checks import check_at_least, check_seed
from otmetrics.errors import Argument, DataError, OptionError
from otmetrics.features.weights import check_members, tensors_sha256
from otmetrics.images import write_png
from otmetrics.safe_files import replace_file, writing

from .config import TrainConfig, config_from
from .data import Data
from .modes import Scaling
from .networks import networks
from .sampling import Sampler, generate_samples
from .steps import matching

CHECKPOINTS, FORMAT = 5, 4
"""Versions of checkpoints and of generators."""

LAST, BEST = "checkpoint.pt", "best.pt"
GENERATOR = "generator.safetensors"

_MARK = b"otmetrics sha256"  # at the end of a checkpoint, before the hash of all that precedes it
_FOOTER = len(_MARK) + hashlib.sha256().digest_size
_BLOCK = 1 << 20
_SAMPLE = re.compile(r"sample_\d{6,}\.png")

_KINDS = {
    "config": dict,
    "hash": str,
    "processes": int,
    "samples": str,
    "step": int,
    "images": int,
    "best": dict,
    "best_average": dict,
    "best_set": dict,
}
"""What a checkpoint holds next to the networks."""


def reason(error: Exception) -> str:
    """Why a file cannot be read, in a few words of whatever library read it."""
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__


def is_finite(state: Any) -> bool:
    """Whether all numbers of the tensors in dicts and lists are."""
    if isinstance(state, Tensor):
        return not state.is_floating_point() or bool(torch.isfinite(state).all())
    if isinstance(state, dict):
        return all(is_finite(value) for value in state.values())
    if isinstance(state, list | tuple):
        return all(is_finite(value) for value in state)
    return True


def _write(path: Path, *parts: bytes | memoryview) -> None:
    """Write a file, whole or not at all."""
    with writing(path), replace_file(path) as file:
        for part in parts:
            file.write(part)


def _check_regular(path: Path, needed: str) -> None:
    """Raise where there is no file; a fifo would wait for ever for somebody who writes."""
    if not path.is_file():
        what = "is not a regular file" if path.exists() else "does not exist"
        raise DataError(f"`{path}` {what}: name the folder of a run that {needed}.")


# --- checkpoints ------------------------------------------------------------------------------


def save(path: Path, state: dict[str, Any], config: TrainConfig) -> None:
    """Write tensors, numbers and strings in dicts and lists, with the configuration of the run.

    A hash of all of it follows: `torch.load` reads the file all the same, for it finds an archive
    from its start. Random numbers need no entry: every step seeds all generators from the run's
    seed, its process and its number.
    """
    whole = {"version": CHECKPOINTS, "config": config.to_dict(), "hash": config.hash, **state}
    content = io.BytesIO()
    torch.save(whole, content)
    digest = hashlib.sha256(content.getbuffer()).digest()
    _write(path, content.getbuffer(), _MARK + digest)


def load(path: Path) -> dict[str, Any]:
    """Read what `save` wrote, on the CPU; a DataError for any other content."""
    _check_regular(path, "has a checkpoint")
    try:
        with path.open("rb") as file:
            _check_hash(file)
            file.seek(0)
            # A hash tells damage and no intent: compressed members could unpack to any size.
            check_members(file)
            file.seek(0)
            state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch has no one error for a damaged file
        remedy = f"remove it, if {LAST} next to it is whole"
        if path.name == LAST:
            remedy = f"copy {BEST} over it, if that is whole"
        raise DataError(
            f"`{path}` is not a checkpoint of this version or is damaged ({reason(error)}): "
            f"{remedy}, or train again."
        ) from error

    # By its text: what a file may have in its place, such as a tensor, compares as it likes.
    if not isinstance(state, dict) or repr(state.get("version")) != str(CHECKPOINTS):
        raise DataError(
            f"`{path}` is not a checkpoint of this version ({CHECKPOINTS}): train again."
        )
    wrong = [name for name, kind in _KINDS.items() if not _is(state.get(name), kind)]
    if "config" not in wrong and not _is_plain(state["config"]):
        wrong.append("config")
    if wrong:
        raise DataError(
            f"`{path}` holds a malformed record ({', '.join(wrong)}): it was not written by "
            "`otmetrics train`; train again."
        )
    return state


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


def _is_plain(values: dict[Any, Any], depth: int = 0) -> bool:
    """Whether a configuration is plain values by name, those of its objective one level down."""
    for name, value in values.items():
        plain = value is None or isinstance(value, str | bool | int | float)
        nested = isinstance(value, dict) and depth == 0 and _is_plain(value, 1)
        if not isinstance(name, str) or not (plain or nested):
            return False
    return True


# --- generators -------------------------------------------------------------------------------


def export(
    out: Path, sampler: dict[str, Tensor], config: TrainConfig, data: Data, step: int
) -> None:
    """Write the state of a sampler, with its run and the shape and units of its samples."""
    from safetensors.torch import save

    record = {"version": FORMAT, "config": config.to_dict(), "shape": data.shape, "step": step}
    units = None if data.scaling is None else [values.tolist() for values in data.scaling]
    text = json.dumps(record | {"scaling": units})

    tensors = {name: value.contiguous().cpu() for name, value in sampler.items()}
    metadata = {"otmetrics": text, "sha256": _hash(text, tensors)}
    _write(out / GENERATOR, save(tensors, metadata=metadata))


def load_generator(run: Path) -> tuple[Sampler, TrainConfig, Data]:
    """Read what `export` wrote, from the folder of a run or from the file itself.

    Gives a sampler in evaluation mode on the CPU, its configuration, and data without samples,
    which know shape and units. A DataError says that the file is missing or damaged.
    """
    path = run / GENERATOR if run.is_dir() else run
    _check_regular(path, "has been evaluated once")
    try:
        sampler, config, shape, scaling = _read(path)
    except Exception as error:  # a damaged file fails in as many ways as it has parts
        raise DataError(
            f"`{path}` is not a generator of this version or is damaged ({type(error).__name__}: "
            f"{reason(error)}): `otmetrics train PRESET --resume` writes it again."
        ) from error
    nothing = torch.empty(0, *shape, dtype=torch.uint8 if scaling is None else torch.float64)
    return sampler.eval(), config, Data(config.data, nothing, nothing, scaling=scaling)


def _read(path: Path) -> tuple[Sampler, TrainConfig, tuple[int, ...], Scaling | None]:
    """A generator, its run, shape and units of its samples; any error if the file has not all."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        record = json.loads(metadata["otmetrics"])
        if record["version"] != FORMAT:
            raise ValueError(f"version {record['version']}, not {FORMAT}")
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if metadata["sha256"] != _hash(metadata["otmetrics"], tensors):
        raise ValueError("its checksum is of other numbers")

    config = config_from(record["config"])
    shape, scaling = _form(record)
    with torch.device("meta"):  # takes no memory, whatever sizes the file names
        form = _sampler(config, shape, tensors)
    # Memory is taken only now that names and shapes are known to fit.
    tensors = matching(tensors, form.state_dict(), "it")
    sampler = _sampler(config, shape, tensors)
    sampler.load_state_dict(tensors)

    sampler.prior.check()
    if not sampler.prior.known:
        raise ValueError("it has no transport")
    sampler.prior.kept_share(config.seed)  # without any, sampling would not end
    return sampler, config, shape, scaling


def _sampler(config: TrainConfig, shape: tuple[int, ...], tensors: dict[str, Tensor]) -> Sampler:
    """A sampler whose numbers are still to come, of the form that tensors of a file have."""
    pair = networks(
        shape, latent=config.latent, width=config.width, architecture=config.architecture
    )
    codes = tensors.get("prior.points")
    num_codes = 0 if codes is None else len(codes)
    prior = config.objective.prior(config.noise, config.latent, num_codes)
    return Sampler(pair.generator(), prior, None if codes is None else pair.encoder())


def _form(record: dict[str, Any]) -> tuple[tuple[int, ...], Scaling | None]:
    """Shape and units of samples; a ValueError unless they are those of points or of images."""
    shape = tuple(record["shape"])
    whole = all(type(size) is int and 0 < size < 2**31 for size in shape)
    if not whole or not (len(shape) == 1 or (len(shape) == 3 and shape[0] in (1, 3))):
        raise ValueError(f"samples cannot have the shape {shape}")
    if len(shape) == 3:
        return shape, None

    centre, scale = (torch.tensor(values, dtype=torch.float64) for values in record["scaling"])
    finite = torch.isfinite(centre).all() and torch.isfinite(scale).all()
    if not (centre.shape == scale.shape == shape and finite and (scale > 0).all()):
        raise ValueError("its units are not those of points")
    return shape, Scaling(centre, scale)


def _hash(text: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of all that a file says and holds, whatever the order of its tensors."""
    content = f"{text}\n{tensors_sha256(dict(sorted(tensors.items())))}"
    return hashlib.sha256(content.encode()).hexdigest()


# --- samples ----------------------------------------------------------------------------------


def write_samples(
    run: Path, target: Path, *, num: int, seed: int = 0, overwrite: bool = False
) -> str:
    """Write samples of the best generator of a run, all or none, and say in words what it wrote.

    The target is a new folder for one PNG per image, or a file `.npz` for one array: images
    (N, H, W, C) uint8 or points (N, D) float64 in the data's own coordinates. The seed decides the
    noise: the first n of more samples are those of n. To overwrite is to replace samples that are
    there: a file, or a folder of PNG files.
    """
    check_at_least("num", num, 1)
    check_seed(seed)

    sampler, _, data = load_generator(run)
    points = len(data.shape) == 1
    _check_target(target, points, overwrite)
    try:
        samples = generate_samples(sampler, data, num, seed)
    except RuntimeError as error:  # torch's word for memory
        raise OptionError(Argument("num"), f" must be smaller, got {num}: {error}") from error
    except OptionError:
        raise
    except ValueError as error:  # numbers of a damaged generator
        raise DataError(f"`{run}` cannot be sampled ({error}): train it again.") from error

    # In a folder next to the target: the last step renames, which no kill can cut in two.
    with writing(target):
        room = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            _write_samples(room / "samples", samples, target.suffix == ".npz")
            _put(room / "samples", target, room / "before")
        finally:
            if os.path.lexists(target) or not (room / "before").exists():
                shutil.rmtree(room, ignore_errors=True)
    return f"{num} points of dimension {data.shape[0]}" if points else f"{num} images"


def _put(samples: Path, target: Path, before: Path) -> None:
    """Move samples to their place; those of a folder there, which was checked, move to `before`."""
    if not target.is_dir():
        samples.replace(target)
        return
    try:
        target.rename(before)
        samples.rename(target)
    except BaseException:  # between the two there are none
        if before.exists() and not os.path.lexists(target):
            before.rename(target)
        raise


def _check_target(target: Path, points: bool, overwrite: bool) -> None:
    """Raise unless samples can go there, before any is made."""
    if points and target.suffix != ".npz":
        raise OptionError(f"OUT must end in .npz for points, got `{target}`.")
    if target.suffix in (".npy", ".zip", ".pt"):
        raise OptionError(f"OUT must be a folder or end in .npz, got `{target}`.")

    if os.path.lexists(target):  # a link that leads nowhere is something too
        if not overwrite:
            raise DataError(
                f"`{target}` exists: name another place, or pass ", Argument("overwrite"), "."
            )
        if target.is_symlink() or not _is_samples(target):
            raise DataError(f"`{target}` is not samples of a run alone: name another place.")
    if not target.parent.is_dir():
        raise DataError(f"`{target.parent}` is not a folder: create it first.")


def _is_samples(target: Path) -> bool:
    """Whether there is what `_write_samples` writes and nothing else: no more is replaced."""
    if target.is_dir():
        return all(_SAMPLE.fullmatch(path.name) and path.is_file() for path in target.iterdir())
    if target.suffix != ".npz" or not target.is_file():
        return False
    try:
        with zipfile.ZipFile(target) as archive:
            return archive.namelist() in (["features.npy"], ["images.npy"])
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
        return False  # not an archive, or a damaged one


def _write_samples(place: Path, samples: Tensor, as_array: bool) -> None:
    """One array, or one PNG per image."""
    if as_array:
        points = samples.ndim == 2
        key, array = ("features", samples) if points else ("images", samples.permute(0, 2, 3, 1))
        # Open already: to a name numpy would add the suffix.
        with place.open("wb") as file:
            np.savez_compressed(file, **{key: array.numpy()})  # type: ignore[arg-type]
        return
    place.mkdir(mode=0o755)
    for i, image in enumerate(samples):
        write_png(place / f"sample_{i:06d}.png", image)
