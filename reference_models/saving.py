"""Files of a run: checkpoints to go on from, generators to sample from, what they sample."""

import hashlib
import io
import json
import os
import shutil
import tempfile
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

from .config import TrainConfig, changes, config_from
from .data import Data
from .modes import Scaling
from .networks import networks
from .priors import TransportPrior
from .sampling import Sampler, generate_samples
from .steps import matching

CHECKPOINT_FORMAT = 4
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
    whole = {"version": CHECKPOINT_FORMAT, "config": config.to_dict(), "hash": config.hash, **state}
    content = io.BytesIO()
    torch.save(whole, content)
    digest = hashlib.sha256(content.getbuffer()).digest()
    with writing(path), replace_file(path) as file:
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
    if not isinstance(state, dict) or repr(state.get("version")) != str(CHECKPOINT_FORMAT):
        raise DataError(
            f"`{path}` is no checkpoint of this version ({CHECKPOINT_FORMAT}): train anew."
        )
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


GENERATOR_FORMAT = 4
FILE = "generator.safetensors"


def export(
    out: Path, sampler: dict[str, Tensor], config: TrainConfig, data: Data, step: int
) -> Path:
    """Write a generator, whole or not at all.

    Args:
        out: Folder of the run.
        sampler: State of generator, prior and encoder.
        config: Its run.
        data: Its data, for shape and units.
        step: Of which step it is.

    Returns:
        The file.

    Raises:
        DataError: If it cannot be written.
    """
    from safetensors.torch import save

    record = {
        "version": GENERATOR_FORMAT,
        "config": config.to_dict(),
        "shape": data.shape,
        "step": step,
    }
    record["scaling"] = None
    if data.scaling is not None:
        record["scaling"] = [values.tolist() for values in data.scaling]
    path = out / FILE
    tensors = {name: value.contiguous().cpu() for name, value in sampler.items()}
    text = json.dumps(record)
    content = save(tensors, metadata={"otmetrics": text, "sha256": _hash(text, tensors)})
    with writing(path), replace_file(path) as file:
        file.write(content)
    return path


def load_generator(run: Path) -> tuple[Sampler, TrainConfig, Data]:
    """Read a generator, and what it needs to be sampled.

    Args:
        run: Folder of a run, or a file that `export` wrote.

    Returns:
        Generator and prior in evaluation mode on the CPU, their configuration, and data without
        samples, which know shape and units.

    Raises:
        DataError: If the file is missing or damaged.
    """
    path = run / FILE if run.is_dir() else run
    if not path.is_file():
        what = "is no regular file" if path.exists() else "does not exist"
        raise DataError(f"`{path}` {what}: name the folder of a run that has been evaluated once.")
    try:
        sampler, config, shape, scaling = _read(path)
    except Exception as error:  # a damaged file fails in as many ways as it has parts
        raise DataError(
            f"`{path}` is no generator of this version or is damaged ({type(error).__name__}: "
            f"{reason(error)}): `otmetrics train PRESET` with `resume` writes it again."
        ) from error
    nothing = torch.empty(0, *shape, dtype=torch.uint8 if scaling is None else torch.float64)
    return sampler.eval(), config, Data(config.data, nothing, nothing, scaling=scaling)


def _read(path: Path) -> tuple[Sampler, TrainConfig, tuple[int, ...], Scaling | None]:
    """A generator, its run, shape and units of its samples; any error if the file has not all."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        record = _record(metadata["otmetrics"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if metadata["sha256"] != _hash(metadata["otmetrics"], tensors):
        raise ValueError("its checksum is of other numbers")
    config = config_from(record["config"])
    shape, scaling = _form(record)
    with torch.device("meta"):  # takes no memory, whatever sizes the file names
        form = _sampler(config, shape, tensors)
    tensors = matching(tensors, form.state_dict(), "it")
    sampler = _sampler(config, shape, tensors)
    sampler.load_state_dict(tensors)
    if isinstance(sampler.prior, TransportPrior):
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
    prior = config.objective.prior(config.noise, config.latent, 0 if codes is None else len(codes))
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
        raise ValueError("its units are none")
    return shape, Scaling(centre, scale)


def _hash(text: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of all that a file says and holds, whatever the order of its tensors."""
    content = f"{text}\n{tensors_sha256(dict(sorted(tensors.items())))}"
    return hashlib.sha256(content.encode()).hexdigest()


def _record(text: str) -> dict[str, Any]:
    """What a file says of its generator; a ValueError for one of another version."""
    record = json.loads(text)
    if record["version"] != GENERATOR_FORMAT:
        raise ValueError(f"version {record['version']}, not {GENERATOR_FORMAT}")
    return record


def write_samples(
    run: Path, target: Path, *, num: int, seed: int = 0, overwrite: bool = False
) -> str:
    """Write samples of the best generator of a run, all or none.

    Args:
        run: Folder of the run, or its generator's file.
        target: A new folder for one PNG an image; or a file `.npz` for one array: images
            (N, H, W, C) uint8 or points (N, D) float64 in the data's own coordinates.
        num: How many.
        seed: Decides the noise: the first n of more samples are those of n.
        overwrite: Whether to replace samples that are there: a file, or a folder of PNG files.

    Returns:
        What was written, in words.

    Raises:
        OptionError: If a number breaks its rule, or points should become images.
        DataError: If the run cannot be read, or the target exists or cannot be written.
    """
    check_at_least("num", num, 1)
    check_seed(seed)
    sampler, _, data = load_generator(run)
    points = len(data.shape) == 1
    _check_target(target, points, overwrite)
    try:
        samples = generate_samples(sampler, data, num, seed)
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
            if target.is_dir():  # was checked: samples alone
                target.rename(room / "before")
            (room / "samples").replace(target)
    finally:
        shutil.rmtree(room, ignore_errors=True)
    return f"{num} points of dimension {data.shape[0]}" if points else f"{num} images"


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
        is_array = target.suffix == ".npz" and target.is_file()
        if target.is_symlink() or not (is_array or _holds_samples(target)):
            raise DataError(f"`{target}` is not samples of a run alone: name another place.")
    if not target.parent.is_dir():
        raise DataError(f"`{target.parent}` is no folder: create it first.")


def _holds_samples(target: Path) -> bool:
    """Whether a folder has PNG files and nothing else, so that no more than those is replaced."""
    return target.is_dir() and all(
        path.suffix == ".png" and path.is_file() for path in target.iterdir()
    )


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
