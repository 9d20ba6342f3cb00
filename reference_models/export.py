"""The best generator as one safetensors file that says how to sample it."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from otmetrics.errors import DataError
from otmetrics.safe_files import replaced, writing

from .config import TrainConfig, config_from
from .data import Data
from .networks import networks
from .points import Scaling
from .priors import prior_of
from .sampling import Sampler

VERSION = 3
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
    content = save(tensors, metadata={"otmetrics": json.dumps(record)})
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
    from safetensors import SafetensorError, safe_open

    path = run / FILE if run.is_dir() else run
    if not path.is_file():
        raise DataError(
            f"`{path}` does not exist: name the folder of a run that has been evaluated once."
        )
    try:
        with safe_open(path, framework="pt") as file:
            record = _record(file.metadata()["otmetrics"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        config = config_from(record["config"])
        shape = tuple(record["shape"])
        pair = networks(
            shape, latent=config.latent, width=config.width, architecture=config.architecture
        )
        codes = tensors.get("prior.points")
        prior = prior_of(config, 0 if codes is None else len(codes))
        sampler = Sampler(pair.generator(), prior, None if codes is None else pair.encoder())
        sampler.load_state_dict(tensors)
        scaling = None
        if record["scaling"] is not None:
            centre, scale = (torch.tensor(v, dtype=torch.float64) for v in record["scaling"])
            scaling = Scaling(centre, scale)
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"`{path}` is no generator of this version or is damaged ({type(error).__name__}: "
            f"{error}): export it again by training on."
        ) from error
    nothing = torch.empty(0, *shape, dtype=torch.uint8 if scaling is None else torch.float64)
    return sampler.eval(), config, Data(config.data, nothing, nothing, scaling=scaling)


def _record(text: str) -> dict[str, Any]:
    """What a file says of its generator; a ValueError for one of another version."""
    record = json.loads(text)
    if record["version"] != VERSION:
        raise ValueError(f"version {record['version']}, not {VERSION}")
    return record
