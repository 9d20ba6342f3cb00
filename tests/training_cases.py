"""Small runs for the tests of the trainer."""

from pathlib import Path
from typing import Any

import torch
from otmetrics.reference_models.config import TrainConfig
from otmetrics.reference_models.data import Data, load_data
from otmetrics.reference_models.presets import config_for
from otmetrics.reference_models.reporter import Reporter
from otmetrics.reference_models.sampling import Sampler
from otmetrics.reference_models.training import RunOptions, State, train

SMALL: dict[str, Any] = {
    "steps": 12,
    "batch_size": 16,
    "width": 16,
    "eval_num": 40,
    "eval_every": 6,
}

FEW: dict[str, dict[str, Any]] = {
    "ae-ot": {"num_codes": 40},
    "ae-ot-gan": {"num_codes": 40},
}
"""Options of objectives that are as small."""


class Stopped(Exception):  # noqa: N818 - it stands for a kill
    """The end of a run that nobody asked it for."""


def configured(
    preset: str, data: Data, objective: dict[str, Any] | None = None, **options: Any
) -> TrainConfig:
    own = FEW.get(preset, {}) | (objective or {})
    return config_for(preset, data, SMALL | options, own)


def stopping(step: int) -> Any:
    """A progress callback that ends the run at a step."""

    def progress(done: int, total: int, text: str) -> None:
        if done == step:
            raise Stopped

    return progress


class Curveless(Reporter):
    """All that a run leaves but curves, which take ten times as long as the rest of it."""

    def end(self) -> None:
        """The table, without curves."""
        self.flush()


class Plain(Curveless):
    """No pictures of samples either."""

    def _draw(self, out: Path, step: int, sampler: Sampler) -> None:
        """Nothing."""


def run(
    config: TrainConfig,
    data: Data,
    out: Path,
    stop: int | None = None,
    pictures: bool = False,
    **rest: Any,
) -> State:
    """Train, or break off at a step; a row of the log at each one."""
    kind = Reporter if pictures else Plain
    reporter = kind(out, progress=None if stop is None else stopping(stop), tensorboard=False)
    options = RunOptions(**{"log_every": 1, "checkpoint_every": 3, "device": "cpu"} | rest)
    return train(config, data, out, reporter=reporter, options=options)


def images(shape: tuple[int, ...], num: int = 60, seed: int = 0) -> Data:
    """Random images."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (num, *shape), generator=generator, dtype=torch.uint8)
    return Data("images", pixels[: num // 2], pixels[num // 2 :])


def points() -> Data:
    return load_data("ring8")


def weights(state: State) -> list[torch.Tensor]:
    """All numbers of a state that training changes."""

    def tensors(part: Any) -> list[torch.Tensor]:
        if isinstance(part, torch.Tensor):
            return [part]
        if isinstance(part, dict):
            return [tensor for value in part.values() for tensor in tensors(value)]
        return []

    return tensors(state.to_dict())
