"""The steps of a run: critic and generator against each other; before them, for some, codes."""

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn

from otmetrics.features.weights import is_plain
from otmetrics.hashing import hash_counters

from .config import TrainConfig
from .data import Data
from .networks import networks
from .objectives import AEOT
from .priors import Prior, TransportPrior
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
        config.objective.prior(config.noise, config.latent, len(data.train)).to(device),
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


_RAMP = 0.05  # half-life of the average early in a run, as a share of the images seen
_STREAM = 0x7A9E  # any number: choice of codes and samples of their transport, apart from steps


def one_step(
    state: State, config: TrainConfig, data: Data, accelerator: Accelerator
) -> dict[str, Tensor]:
    """Train the critic as often as the objective asks for, then the generator once.

    With `coding_steps` the first ones train an autoencoder, and the next solves for the transport
    of noise to its codes, a round of it at each call.

    Args:
        state: The state, which this changes.
        config: The run.
        data: Its data.
        accelerator: Device and processes.

    Returns:
        Losses and what the objective logs, scalars without graph.
    """
    if state.prior.known:
        return _adversarial_step(state, config, data, accelerator)
    if state.step < config.objective.coding_steps(config.steps):
        return _coding_step(state, config, data, accelerator)
    return _transport_round(state, config, data, accelerator)


def _adversarial_step(
    state: State, config: TrainConfig, data: Data, accelerator: Accelerator
) -> dict[str, Tensor]:
    """Critic steps, and one of the generator."""
    _seed_step(config.seed, accelerator, state.step)
    objective, device = config.objective, accelerator.device
    done = objective.coding_steps(config.steps)
    share = _share(config, state.step - done, config.steps - done)
    logs: dict[str, Tensor] = {}
    batches = _batches(config, data, device)
    for _ in range(objective.critic_steps(state.step)):
        real = next(batches)
        noise = state.prior.sample(len(real)).to(device)
        with _precision(config, device):
            with torch.no_grad():
                fake = state.generator(noise)
            value, more = objective.critic_loss(state.networks, real, fake.float())
        _descend(state.critic_optimizer, value, config.lr_critic * share, accelerator)
        logs |= {"critic_loss": value.detach(), **more}
        logs |= objective.after_critic_step(state.networks)
    real = next(batches)
    noise = state.prior.sample(len(real)).to(device)
    state.networks.requires_grad_(False)
    with _precision(config, device):
        if objective.paired:
            with torch.no_grad():
                noise = torch.cat([noise, _encoder(state)(real)])
        fake = state.generator(noise)
        value, more = objective.generator_loss(state.networks, real, fake.float())
    _descend(state.generator_optimizer, value, config.lr_generator * share, accelerator)
    state.networks.requires_grad_(True)
    _advance(state, config, len(fake) * accelerator.num_processes)
    spread = _spread(fake[: len(real)], real)
    return logs | {"generator_loss": value.detach(), **more, "spread": spread}


def _coding_step(
    state: State, config: TrainConfig, data: Data, accelerator: Accelerator
) -> dict[str, Tensor]:
    """Encoder and generator, one step together."""
    _seed_step(config.seed, accelerator, state.step)
    objective = cast(AEOT, config.objective)
    share = _share(config, state.step, objective.coding_steps(config.steps))
    real = next(_batches(config, data, accelerator.device))
    with _precision(config, accelerator.device):
        rebuilt = state.generator(_encoder(state)(real)).float()
        value, more = objective.coding_loss(real, rebuilt)
    _descend(state.generator_optimizer, value, objective.lr_autoencoder * share, accelerator)
    _advance(state, config, len(real) * accelerator.num_processes)
    return {"coding_loss": value.detach(), **more}


def _transport_round(
    state: State, config: TrainConfig, data: Data, accelerator: Accelerator
) -> dict[str, Tensor]:
    """The first heights or a round more; a step once the transport is known."""
    prior = cast(TransportPrior, state.prior)
    seed, order = hash_counters(torch.arange(2) + _STREAM, config.seed).tolist()
    if not prior.begun:
        drawn = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(order))
        ids = drawn[: len(prior.ids)].sort().values
        logs = prior.begin(ids, state.sampler.codes(data.train[ids], data), seed)
    else:
        logs = prior.advance(seed)
    if accelerator.num_processes > 1:  # the last digits may be others elsewhere
        prior.take(broadcast(prior.state_dict()))
    if prior.known:
        state.generator_optimizer.state.clear()  # moments of another loss
        state.step += 1
    return logs


def _encoder(state: State) -> nn.Module:
    """The encoder of an objective that has codes."""
    assert state.encoder is not None
    return state.encoder


def _share(config: TrainConfig, step: int, steps: int) -> float:
    """The learning rate of a step in units of the first one."""
    return 1 - step / steps if config.lr_decay == "linear" else 1.0


def _spread(fake: Tensor, real: Tensor) -> Tensor:
    """How far fake samples spread, in units of real ones."""
    return (fake.detach().float().var(0).sum() / real.var(0).sum().clamp_min(1e-12)).sqrt()


def _batches(config: TrainConfig, data: Data, device: torch.device) -> Iterator[Tensor]:
    """Real samples in the networks' units, drawn with replacement."""
    size = config.batch_size * (2 if config.objective.independent_halves else 1)
    while True:
        ids = torch.randint(len(data.train), (size,))
        yield data.to_network(data.train[ids]).to(device)


def _seed_step(seed: int, accelerator: Accelerator, step: int) -> None:
    """Seed the generators of the CPU and of this process's device for one step."""
    own = int(hash_counters(torch.tensor(accelerator.process_index), seed))
    value = int(hash_counters(torch.tensor(step), own))
    # Not `torch.manual_seed`: without a GPU it notes the whole stack each time, a tenth of a step.
    torch.default_generator.manual_seed(value)
    if accelerator.device.type == "cuda":
        torch.cuda.manual_seed(value)
    elif accelerator.device.type != "cpu":
        torch.manual_seed(value)


def _precision(config: TrainConfig, device: torch.device) -> torch.autocast:
    """Autocast to bfloat16 if asked for."""
    return torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16")


def _descend(
    optimizer: torch.optim.Optimizer | None, loss: Tensor, rate: float, accelerator: Accelerator
) -> None:
    """One step down the gradient, averaged over processes."""
    assert optimizer is not None, "critic steps need networks"
    optimizer.zero_grad()
    loss.backward()
    if accelerator.num_processes > 1:
        _average_gradients(optimizer, accelerator)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()


def _average_gradients(optimizer: torch.optim.Optimizer, accelerator: Accelerator) -> None:
    """All gradients in one message."""
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
    held = [gradient for gradient in gradients if gradient is not None]
    whole = accelerator.reduce(torch.cat([gradient.flatten() for gradient in held]), "mean")
    parts = whole.split([gradient.numel() for gradient in held])
    for gradient, part in zip(held, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


def _advance(state: State, config: TrainConfig, images: int) -> None:
    """Count a step, and let the average follow."""
    state.step += 1
    state.images += images
    follow(state, config, images)


@torch.no_grad()
def follow(state: State, config: TrainConfig, images: int) -> None:
    """Move the average towards the generator; early on its half-life is short.

    Args:
        state: The state, whose average this changes.
        config: The run.
        images: Fake samples of the step.
    """
    half_life = min(config.ema_images, _RAMP * state.images)
    share = 1 - 0.5 ** (images / half_life)
    targets = state.generator.state_dict()
    for name, value in state.average.state_dict().items():
        if value.is_floating_point():
            value.lerp_(targets[name], share)
        else:
            value.copy_(targets[name])
