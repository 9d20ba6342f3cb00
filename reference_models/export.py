"""The best generator as one safetensors file that says how to sample it."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from otmetrics.errors import DataError
from otmetrics.features.weights import tensors_sha256
from otmetrics.safe_files import replaced, writing

from .checkpoint import reason
from .config import TrainConfig, config_from
from .data import Data
from .networks import networks
from .points import Scaling
from .priors import TransportPrior, prior_of
from .sampling import Sampler
from .state import matching

VERSION = 4
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

    record = {"version": VERSION, "config": config.to_dict(), "shape": data.shape, "step": step}
    record["scaling"] = None
    if data.scaling is not None:
        record["scaling"] = [values.tolist() for values in data.scaling]
    path = out / FILE
    tensors = {name: value.contiguous().cpu() for name, value in sampler.items()}
    text = json.dumps(record)
    content = save(tensors, metadata={"otmetrics": text, "sha256": _hash(text, tensors)})
    with writing(path), replaced(path) as file:
        file.write(content)
    return path


def loaded(run: Path) -> tuple[Sampler, TrainConfig, Data]:
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
        sampler.prior.checked_share(config.seed)  # without any, sampling would not end
    return sampler, config, shape, scaling


def _sampler(config: TrainConfig, shape: tuple[int, ...], tensors: dict[str, Tensor]) -> Sampler:
    """A sampler whose numbers are still to come, of the form that tensors of a file have."""
    pair = networks(
        shape, latent=config.latent, width=config.width, architecture=config.architecture
    )
    codes = tensors.get("prior.points")
    prior = prior_of(config, 0 if codes is None else len(codes))
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
    if record["version"] != VERSION:
        raise ValueError(f"version {record['version']}, not {VERSION}")
    return record
