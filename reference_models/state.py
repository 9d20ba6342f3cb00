"""What changes in a run, and lies in its checkpoints."""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from otmetrics.features.weights import is_plain

from .config import TrainConfig
from .data import Data
from .networks import networks
from .priors import Prior, TransportPrior, prior_of
from .sampling import Sampler

_MOMENTS = {
    torch.optim.Adam: ("exp_avg", "exp_avg_sq"),
    torch.optim.RMSprop: ("square_avg",),
}
"""What optimisers keep of a parameter beside the number of its steps."""


@dataclass
class State:
    """Networks, optimisers, and how far the run is.

    Attributes:
        generator: The generator that is trained.
        average: Its average, which is evaluated.
        encoder: What makes codes of samples, trained with the generator; None for noise.
        prior: Where noise or codes come from.
        networks: What the objective trains beside them.
        generator_optimizer: That of generator and encoder.
        critic_optimizer: That of `networks`; None where they are none.
        step: Steps so far.
        images: Fake samples so far, rebuilt ones among them.
        best: Scores of the best evaluation, with its step.
        best_average: The average that has them.
    """

    generator: nn.Module
    average: nn.Module
    encoder: nn.Module | None
    prior: Prior
    networks: nn.ModuleDict
    generator_optimizer: torch.optim.Optimizer
    critic_optimizer: torch.optim.Optimizer | None
    step: int = 0
    images: int = 0
    best: dict[str, float] = field(default_factory=dict)
    best_average: dict[str, Tensor] = field(default_factory=dict)

    @property
    def sampler(self) -> Sampler:
        """What samples are drawn from: average, prior and encoder."""
        return Sampler(self.average, self.prior, self.encoder)

    @property
    def best_sampler(self) -> dict[str, Tensor]:
        """The state of `sampler` with the best average."""
        average = {f"generator.{name}": value for name, value in self.best_average.items()}
        return self.sampler.state_dict() | average

    def modules(self) -> dict[str, Any]:
        """All that has a state_dict, by name."""
        parts = {
            "generator": self.generator,
            "average": self.average,
            "encoder": self.encoder,
            "prior": self.prior,
            "networks": self.networks,
            "generator_optimizer": self.generator_optimizer,
            "critic_optimizer": self.critic_optimizer,
        }
        return {name: part for name, part in parts.items() if part is not None}

    def to_dict(self) -> dict[str, Any]:
        """For `checkpoint.save`."""
        states = {name: part.state_dict() for name, part in self.modules().items()}
        counts = {"step": self.step, "images": self.images}
        return states | counts | {"best": self.best, "best_average": self.best_average}

    def load(self, state: dict[str, Any]) -> None:
        """From `checkpoint.load`.

        Args:
            state: What it gave.

        Raises:
            ValueError: If a part has not the form that it has here.
        """
        for name, part in self.modules().items():
            if isinstance(part, torch.optim.Optimizer):
                _restore(part, state.get(name), name)
            else:
                part.load_state_dict(matching(state.get(name), part.state_dict(), name))
        if isinstance(self.prior, TransportPrior):
            self.prior.check()
        best, average = state["best"], state["best_average"]
        if best or average:
            average = matching(average, self.average.state_dict(), "best_average")
        if best and not _are_scores(best):
            raise ValueError("best holds no scores")
        self.step, self.images = state["step"], state["images"]
        self.best, self.best_average = best, average


def initial_state(config: TrainConfig, data: Data, device: torch.device) -> State:
    """Networks and optimisers before the first step.

    Args:
        config: The run.
        data: Its data, for their shape and number.
        device: Where the networks go.

    Returns:
        The state.
    """
    torch.manual_seed(config.seed)  # the same on all processes
    pair = networks(
        data.shape, latent=config.latent, width=config.width, architecture=config.architecture
    )
    generator = pair.generator().to(device)
    nets = config.objective.networks(pair.critic).to(device)
    coded = config.objective.coding_steps(config.steps) > 0
    encoder = pair.encoder().to(device) if coded else None
    average = copy.deepcopy(generator).eval().requires_grad_(False)
    made = [*generator.parameters(), *(encoder.parameters() if encoder else ())]
    trained = list(nets.parameters())
    return State(
        generator,
        average,
        encoder,
        prior_of(config, len(data.train)).to(device),
        nets,
        _optimizer(made, config.lr_generator, config),
        _optimizer(trained, config.lr_critic, config) if trained else None,
    )


def matching(stored: object, expected: Mapping[str, Tensor], what: str) -> dict[str, Tensor]:
    """Tensors of a file that has what it should: the same names, shapes and dtypes.

    Args:
        stored: What the file has.
        expected: Tensors of that form, on any device.
        what: What they are, for the message.

    Returns:
        The tensors of the file.

    Raises:
        ValueError: If it has other ones, or one is not finite.
    """
    if not isinstance(stored, dict) or stored.keys() != expected.keys():
        raise ValueError(f"{what} has other parts")
    for name, like in expected.items():
        value = stored[name]
        if not is_plain(value) or value.shape != like.shape or value.dtype != like.dtype:
            raise ValueError(f"{what}: {name} must be {like.dtype} {tuple(like.shape)}")
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ValueError(f"{what}: {name} is not finite")
    return {name: stored[name] for name in expected}


def _restore(optimizer: torch.optim.Optimizer, stored: object, what: str) -> None:
    """Take moments of the parameters here; rates and decays are those of this run's options.

    Raises:
        ValueError: If they are those of other parameters, or none.
    """
    if not isinstance(stored, dict) or not isinstance(stored.get("state"), dict):
        raise ValueError(f"{what} has other parts")
    groups = optimizer.state_dict()["param_groups"]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    count = torch.zeros(())
    state = {}
    for index, found in stored["state"].items():
        if type(index) is not int or not 0 <= index < len(parameters):
            raise ValueError(f"{what} has other parameters")
        like = {"step": count} | dict.fromkeys(_MOMENTS[type(optimizer)], parameters[index])
        state[index] = matching(found, like, f"{what} {index}")
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _are_scores(best: dict[Any, Any]) -> bool:
    """Whether these are scores by name, with the step that has them."""
    numbers = all(type(name) is str and type(value) is float for name, value in best.items())
    return numbers and 0 <= best.get("step", -1.0) < 2**53 and len(best) > 1


def _optimizer(
    parameters: Iterable[nn.Parameter], rate: float, config: TrainConfig
) -> torch.optim.Optimizer:
    """The optimiser of one side."""
    if config.optimizer == "rmsprop":
        return torch.optim.RMSprop(parameters, lr=rate, alpha=config.beta2)
    betas = config.beta1, config.beta2
    return torch.optim.Adam(parameters, lr=rate, betas=betas, fused=True)
