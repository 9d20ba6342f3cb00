"""Everything that decides the weights of a run, as one immutable object with a hash."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from otmetrics.checks import check_at_least, check_positive, check_seed
from otmetrics.errors import DataError, OptionError

from .objectives import OBJECTIVES
from .objectives.base import Objective, check_options, option

FILE = "config.json"
_LARGEST = 1 << 20  # bytes of it; a run's has two thousand

EVALUATED = (
    "sliced_wasserstein",
    "wasserstein",
    "sinkhorn_divergence",
    "frechet_distance",
    "precision",
    "recall",
    "density",
    "coverage",
)
"""Scores of an evaluation, each of which may choose the best checkpoint."""

HIGHER_IS_BETTER = {"precision", "recall", "density", "coverage", "modes", "high_quality"}
"""Those that grow with the quality of samples."""


_LARGEST_BATCH = 2**16


@dataclass(frozen=True)
class TrainConfig:
    """A run: objective, data, networks, optimisers, evaluation.

    Each field has its sentence where `otmetrics train PRESET --help` shows it.

    Raises:
        OptionError: If an option breaks its rule.
    """

    objective: Objective
    data: str
    size: int = option(0, "Side in pixels of the images of folder:PATH, 32 or 64; 0 for 64.")
    architecture: str = option(
        "mlp", "Pair of networks, of matched size.", choices=("mlp", "dcgan", "resnet")
    )
    width: int = option(128, "Hidden units of an MLP; channels at the finest resolution.")
    latent: int = option(2, "Dimension of the noise.")
    noise: str = option(
        "normal",
        "Law of the noise; decoders of codes have --source.",
        choices=("normal", "uniform"),
    )
    steps: int = option(5000, "Generator steps; of decoders those of all stages.")
    batch_size: int = option(256, "Samples of each side in a step, on each process.")
    optimizer: str = option("adam", "Optimiser of both sides.", choices=("adam", "rmsprop"))
    lr_generator: float = option(
        1e-4, "Learning rate of the generator; autoencoders have their own."
    )
    lr_critic: float = option(1e-4, "Learning rate of the critic and of dual networks.")
    beta1: float = option(0.5, "First moment decay of Adam.")
    beta2: float = option(0.9, "Second moment decay of Adam; smoothing of RMSprop.")
    lr_decay: str = option(
        "linear", "Learning rates fall to 0 at the last step, or stay.", choices=("linear", "none")
    )
    ema_images: int = option(
        100_000, "Half-life, in images, of the average of the generator that is evaluated."
    )
    precision: str = option(
        "float32", "Of networks; penalties stay float32.", choices=("float32", "bfloat16")
    )
    seed: int = option(0, "Decides every draw of the run.")
    eval_every: int = option(0, "Steps between evaluations; 0 for ten in a run.")
    eval_num: int = option(2500, "Samples a side of an evaluation.")
    eval_features: str = option(
        "auto",
        "Extractor of an evaluation; auto: none for points, pixels for digits, else the default.",
    )
    select: str = option(
        "sliced_wasserstein", "Score that chooses the best checkpoint.", choices=EVALUATED
    )

    def __post_init__(self) -> None:
        for name in ("width", "latent", "steps", "batch_size", "ema_images"):
            _run_check(check_at_least, name, getattr(self, name), 1)
        _run_check(check_at_least, "eval_every", self.eval_every, 0)
        _run_check(check_at_least, "batch_size", self.batch_size, 2)
        if self.batch_size > _LARGEST_BATCH:  # a file of a run may say any
            raise OptionError(f"`batch_size` must be {_LARGEST_BATCH} at most.")
        _run_check(check_at_least, "eval_num", self.eval_num, 20)
        for name in ("lr_generator", "lr_critic"):
            _run_check(check_positive, name, getattr(self, name))
        for name in ("beta1", "beta2"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise OptionError(f"`{name}` must be in [0, 1), got {value!r}.")
        _run_check(check_seed, self.seed)
        _run_check(check_options, self)
        coding = self.objective.coding_steps(self.steps)
        if coding >= self.steps:
            raise OptionError(
                f"`steps` must be above the {coding} of the autoencoder, got {self.steps}: one "
                "step is the transport, those behind it train the generator."
            )

    @property
    def preset(self) -> str:
        """Name of the objective."""
        return next(name for name, kind in OBJECTIVES.items() if kind is type(self.objective))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and for checkpoints."""
        return dataclasses.asdict(self) | {
            "preset": self.preset,
            "objective": dataclasses.asdict(self.objective),  # type: ignore[call-overload]
        }

    @property
    def hash(self) -> str:
        """SHA-256 of the plain values."""
        return _hash(self.to_dict())

    @property
    def text(self) -> str:
        """What `config.json` holds: the plain values and their hash."""
        return json.dumps(self.to_dict() | {"hash": self.hash}, indent=2) + "\n"


def _hash(values: dict[str, Any]) -> str:
    """SHA-256 of plain values, whatever their order."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def is_run(out: Path) -> bool:
    """Whether a folder has the configuration of a run, however old or damaged its values are.

    Args:
        out: The folder.

    Returns:
        False where there is none, or it is something else.
    """
    return _read(out / FILE) is not None


def read_config(out: Path) -> dict[str, Any] | None:
    """The plain values of a run that has no checkpoint yet.

    Args:
        out: Its folder.

    Returns:
        What `TrainConfig.to_dict` gave; None where there is no configuration of a run.

    Raises:
        DataError: If the values are not those that were written.
    """
    values = _read(out / FILE)
    if values is None:
        return None
    digest = values.pop("hash")
    if _hash(values) != digest:
        raise DataError(
            f"`{out / FILE}` was changed or is damaged (its hash is of other options): "
            "name another folder, with all options."
        )
    return values


def _read(path: Path) -> dict[str, Any] | None:
    """What a file holds, if that looks like a configuration; no fifo, and nothing large."""
    try:
        if not path.is_file() or path.stat().st_size > _LARGEST:
            return None
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    looks = isinstance(values, dict) and {"preset", "objective", "hash"} <= values.keys()
    return values if looks else None


def config_from(values: dict[str, Any]) -> TrainConfig:
    """The configuration of plain values.

    Args:
        values: What `TrainConfig.to_dict` gave.

    Returns:
        The configuration.

    Raises:
        OptionError: If a value breaks its rule, or is of another type than its option.
    """
    kind = OBJECTIVES[values["preset"]]
    _check_types(kind, values["objective"])
    rest = {key: value for key, value in values.items() if key not in ("preset", "objective")}
    _check_types(TrainConfig, rest)
    return TrainConfig(objective=kind(**values["objective"]), **rest)


def changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What differs between two configurations.

    Args:
        old: Plain values of the one.
        new: Plain values of the other.

    Returns:
        A line for each option: its name and both values.
    """
    lines = []
    for key in sorted(old.keys() | new.keys()):
        one, two = old.get(key), new.get(key)
        if isinstance(one, dict) and isinstance(two, dict):
            lines += changes(one, two)
        elif one != two:
            lines.append(f"{key} {one!r} -> {two!r}")
    return lines


def _check_types(kind: type, values: dict[str, Any]) -> None:
    """Raise unless values from a file are those of the options of a dataclass."""
    types: dict[str, Any] = {item.name: item.type for item in dataclasses.fields(kind)}
    for name, value in values.items():
        if name not in types:
            raise OptionError(f"there is no option {name!r}.")
        wanted = types[name]
        # JSON and the command line write whole numbers for options that are floats.
        if type(value) is not wanted and not (wanted is float and type(value) is int):
            raise OptionError(f"`{name}` must be of type {wanted.__name__}, got {value!r}.")


def _run_check(check: Any, *arguments: Any) -> None:
    """Run a check of the library, whose ValueErrors are errors of options here."""
    try:
        check(*arguments)
    except ValueError as error:
        raise OptionError(str(error)) from error
