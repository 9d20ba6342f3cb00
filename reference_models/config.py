"""Everything that decides the weights of a run, as one immutable object with a hash."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from otmetrics.checks import check_positive, check_seed
from otmetrics.errors import Argument, OptionError

from .objectives import OBJECTIVES
from .objectives.base import Objective, at_least, check_options, option

FILE = "config.json"
"""Its file in the folder of a run."""

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


def _check_decay(name: str, value: float) -> None:
    """The rule of a decay of Adam."""
    if not 0 <= value < 1:
        raise OptionError(Argument(name), f" must be in [0, 1), got {value!r}.")


@dataclass(frozen=True)
class TrainConfig:
    """A run: objective, data, networks, optimisers, evaluation.

    Each field has its sentence where `otmetrics train PRESET --help` shows it. An option that
    breaks its rule is an OptionError.
    """

    objective: Objective
    data: str
    size: int = option(0, "Side in pixels of the images of folder:PATH, 32 or 64; 0 for 64.")
    architecture: str = option(
        "mlp", "Pair of networks, of matched size.", choices=("mlp", "dcgan", "resnet")
    )
    width: int = option(
        128, "Hidden units of an MLP; channels at the finest resolution.", check=at_least(1)
    )
    latent: int = option(2, "Dimension of the noise.", check=at_least(1))
    noise: str = option(
        "normal",
        "Distribution of the noise; decoders of codes have --source.",
        choices=("normal", "uniform"),
    )
    steps: int = option(
        5000, "Generator steps; of decoders those of all stages.", check=at_least(1)
    )
    batch_size: int = option(
        256, "Samples of each side in a step, on each process.", check=at_least(2)
    )
    optimizer: str = option("adam", "Optimiser of both sides.", choices=("adam", "rmsprop"))
    lr_generator: float = option(
        1e-4,
        "Learning rate of the generator; autoencoders have their own.",
        check=check_positive,
    )
    lr_critic: float = option(
        1e-4, "Learning rate of the critic and of dual networks.", check=check_positive
    )
    beta1: float = option(0.5, "First moment decay of Adam.", check=_check_decay)
    beta2: float = option(
        0.9, "Second moment decay of Adam; smoothing of RMSprop.", check=_check_decay
    )
    lr_decay: str = option(
        "linear", "Learning rates fall to 0 at the last step, or stay.", choices=("linear", "none")
    )
    ema_images: int = option(
        100_000,
        "Half-life, in images, of the average of the generator that is evaluated.",
        check=at_least(1),
    )
    precision: str = option(
        "float32", "Of networks; penalties stay float32.", choices=("float32", "bfloat16")
    )
    seed: int = option(
        0, "Decides every draw of the run.", check=lambda name, seed: check_seed(seed)
    )
    eval_every: int = option(0, "Steps between evaluations; 0 for ten in a run.", check=at_least(0))
    eval_num: int = option(2500, "Samples per side of an evaluation.", check=at_least(20))
    eval_features: str = option(
        "auto",
        "Extractor of an evaluation; auto: none for points, pixels for digits, else the default.",
    )
    select: str = option(
        "sliced_wasserstein", "Score that chooses the best checkpoint.", choices=EVALUATED
    )

    def __post_init__(self) -> None:
        check_options(self)

        # A file of a run, which may be anybody's, says any number.
        if self.batch_size > _LARGEST_BATCH:
            raise OptionError(Argument("batch_size"), f" must be {_LARGEST_BATCH} at most.")

        coding = self.objective.coding_steps(self.steps)
        if coding >= self.steps:
            raise OptionError(
                Argument("steps"),
                f" must be above the {coding} of the autoencoder, got {self.steps}: one "
                "step is the transport, and those after it train the generator.",
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
        return hash_values(self.to_dict())

    @property
    def text(self) -> str:
        """What `config.json` holds: the plain values and their hash."""
        return json.dumps(self.to_dict() | {"hash": self.hash}, indent=2) + "\n"


def hash_values(values: dict[str, Any]) -> str:
    """SHA-256 of plain values, whatever their order."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def config_from(values: dict[str, Any]) -> TrainConfig:
    """The configuration of what `TrainConfig.to_dict` gave.

    An OptionError says that a value breaks its rule, or is of another type than its option.
    """
    kind = OBJECTIVES[values["preset"]]
    _check_types(kind, values["objective"])
    rest = {key: value for key, value in values.items() if key not in ("preset", "objective")}
    _check_types(TrainConfig, rest)
    return TrainConfig(objective=kind(**values["objective"]), **rest)


def _check_types(kind: type, values: dict[str, Any]) -> None:
    """Raise unless values from a file are those of the options of a dataclass."""
    types: dict[str, Any] = {item.name: item.type for item in dataclasses.fields(kind)}
    for name, value in values.items():
        if name not in types:
            raise OptionError(f"there is no option {name!r}.")

        # Exact types, as True is an int; but JSON and the command line write whole numbers for
        # options that are floats.
        wanted = types[name]
        if type(value) is not wanted and not (wanted is float and type(value) is int):
            raise OptionError(Argument(name), f" must be of type {wanted.__name__}, got {value!r}.")
