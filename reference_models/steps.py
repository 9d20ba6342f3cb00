"""The state of a run, and its three kinds of steps: of codes, of their transport, of a GAN."""

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn

from otmetrics.features.weights import is_plain
from otmetrics.hashing import hash_counters

from .choosing import BestSet
from .config import TrainConfig
from .data import Data
from .networks import networks
from .priors import Prior, TransportPrior
from .sampling import Sampler

_MOMENTS = {
    torch.optim.Adam: ("exp_avg", "exp_avg_sq"),
    torch.optim.RMSprop: ("square_avg",),
}
"""What optimisers keep of a parameter next to the number of its steps."""

_RAMP = 0.05  # half-life of the average early in a run, as a share of the images seen
_STREAM = 0x7A9E  # any number: choice of codes and samples of their transport, apart from steps


@dataclass
class State:
    """Networks, optimisers, and how far the run is."""

    generator: nn.Module
    average: nn.Module  # of the generator: this one is evaluated and exported
    encoder: nn.Module | None  # samples to codes, trained with the generator; None for noise
    prior: Prior  # where noise or codes come from
    networks: nn.ModuleDict  # what the objective trains next to the generator
    generator_optimizer: torch.optim.Optimizer  # of generator and encoder
    critic_optimizer: torch.optim.Optimizer | None
    step: int = 0
    images: int = 0  # fake samples so far, rebuilt ones among them
    best: dict[str, float] = field(default_factory=dict)  # scores of the best evaluation, its step
    best_average: dict[str, Tensor] = field(default_factory=dict)  # the average that has them
    best_set: BestSet = field(default_factory=BestSet)  # evaluations not told apart from it

    @property
    def sampler(self) -> Sampler:
        """What samples are drawn from: average, prior and encoder."""
        return Sampler(self.average, self.prior, self.encoder)

    @property
    def best_sampler(self) -> Sampler:
        """`sampler` with the best average."""
        generator = copy.deepcopy(self.average)
        generator.load_state_dict(self.best_average)
        return Sampler(generator, self.prior, self.encoder)

    def modules(self) -> dict[str, Any]:
        """All that has a state_dict, by name."""
        names = ["generator", "average", "encoder", "prior", "networks"]
        names += ["generator_optimizer", "critic_optimizer"]
        parts = {name: getattr(self, name) for name in names}
        return {name: part for name, part in parts.items() if part is not None}

    def to_dict(self) -> dict[str, Any]:
        """Plain values and tensors, for a checkpoint."""
        states = {name: part.state_dict() for name, part in self.modules().items()}
        counts = {"step": self.step, "images": self.images}
        best = {"best": self.best, "best_average": self.best_average}
        return states | counts | best | {"best_set": self.best_set.to_dict()}

    def load(self, state: dict[str, Any]) -> None:
        """Take over what a checkpoint holds; a ValueError if a part has another form."""
        for name, part in self.modules().items():
            if isinstance(part, torch.optim.Optimizer):
                _restore(part, state.get(name), name)
            else:
                part.load_state_dict(matching(state.get(name), part.state_dict(), name))
        self.prior.check()

        # Neither is there before the first evaluation.
        best, average = state["best"], state["best_average"]
        if best or average:
            average = matching(average, self.average.state_dict(), "best_average")
        if best and not _are_scores(best):
            raise ValueError("best holds no scores")
        self.best_set.load(state["best_set"], state["step"])
        self.step, self.images = state["step"], state["images"]
        self.best, self.best_average = best, average


def initial_state(config: TrainConfig, data: Data, device: torch.device) -> State:
    """Networks and optimisers before the first step."""
    torch.manual_seed(config.seed)  # the same on all processes
    pair = networks(
        data.shape, latent=config.latent, width=config.width, architecture=config.architecture
    )

    # The order in which networks are made decides their first weights.
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


def _optimizer(
    parameters: Iterable[nn.Parameter], rate: float, config: TrainConfig
) -> torch.optim.Optimizer:
    """The optimiser of one side."""
    if config.optimizer == "rmsprop":
        return torch.optim.RMSprop(parameters, lr=rate, alpha=config.beta2)
    betas = config.beta1, config.beta2
    return torch.optim.Adam(parameters, lr=rate, betas=betas, fused=True)


# --- what comes from a file -------------------------------------------------------------------


def matching(stored: object, expected: Mapping[str, Tensor], what: str) -> dict[str, Tensor]:
    """Tensors of a file, if they have the names, shapes and dtypes of others and are finite."""
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
    """Take the moments of a file; rates and decays are those of this run's options."""
    if not isinstance(stored, dict) or not isinstance(stored.get("state"), dict):
        raise ValueError(f"{what} has other parts")

    groups = optimizer.state_dict()["param_groups"]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state = {}
    # Of some parameters there may be none: those that have had no gradient yet.
    for index, found in stored["state"].items():
        if type(index) is not int or not 0 <= index < len(parameters):
            raise ValueError(f"{what} has other parameters")
        # torch counts the steps of a parameter in a scalar of its own.
        like = {"step": torch.zeros(())}
        like |= dict.fromkeys(_MOMENTS[type(optimizer)], parameters[index])
        # Shapes are those of the parameter: what came from a file must not broadcast.
        state[index] = matching(found, like, f"{what} {index}")
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _are_scores(best: dict[Any, Any]) -> bool:
    """Whether these are scores by name, with the step that has them."""
    numbers = all(type(name) is str and type(value) is float for name, value in best.items())
    return numbers and 0 <= best.get("step", -1.0) < 2**53 and len(best) > 1


# --- steps ------------------------------------------------------------------------------------


def coding_step(
    state: State, config: TrainConfig, data: Data, accelerator: Accelerator
) -> dict[str, Tensor]:
    """One step of encoder and generator together; gives scalars to log, without graph."""
    assert state.encoder is not None
    _seed_step(config.seed, accelerator, state.step)
    objective = config.objective
    share = _rate_share(config, state.step, objective.coding_steps(config.steps))
    real = next(_batches(config, data, accelerator.device))

    with _precision(config, accelerator.device):
        rebuilt = state.generator(state.encoder(real)).float()
        value, more = objective.coding_loss(real, rebuilt)
    _descend(state.generator_optimizer, value, objective.lr_autoencoder * share, accelerator)

    _advance(state, config, len(real) * accelerator.num_processes)
    return {"coding_loss": value.detach(), **more}


def transport_round(
    state: State, config: TrainConfig, data: Data, accelerator: Accelerator
) -> dict[str, Tensor]:
    """The first heights of the transport to codes, or a round more; a step once it is known."""
    prior = state.prior
    assert isinstance(prior, TransportPrior), "noise has no codes"
    seed, order = hash_counters(torch.arange(2) + _STREAM, config.seed).tolist()
    if prior.begun:
        logs = prior.advance(seed)
    else:
        drawn = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(order))
        ids = drawn[: prior.num_codes].sort().values
        logs = prior.begin(ids, state.sampler.codes(data.train[ids], data), seed)

    if accelerator.num_processes > 1:  # the last digits may be others elsewhere
        prior.take(broadcast(prior.state_dict()))
    if prior.known:
        state.generator_optimizer.state.clear()  # moments of another loss
        state.step += 1
    return logs


def gan_step(
    state: State, config: TrainConfig, data: Data, accelerator: Accelerator
) -> dict[str, Tensor]:
    """Train the critic as often as the objective asks, then the generator; gives scalars to log."""
    _seed_step(config.seed, accelerator, state.step)
    objective, device = config.objective, accelerator.device
    coding = objective.coding_steps(config.steps)  # rates begin again after an autoencoder
    share = _rate_share(config, state.step - coding, config.steps - coding)
    batches = _batches(config, data, device)
    logs: dict[str, Tensor] = {}

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
    # Gradients pass through the critic, and stop nowhere in it.
    state.networks.requires_grad_(False)
    with _precision(config, device):
        if objective.paired:
            assert state.encoder is not None, "pairs need an encoder"
            with torch.no_grad():
                noise = torch.cat([noise, state.encoder(real)])
        fake = state.generator(noise)
        value, more = objective.generator_loss(state.networks, real, fake.float())
    _descend(state.generator_optimizer, value, config.lr_generator * share, accelerator)
    state.networks.requires_grad_(True)

    _advance(state, config, len(fake) * accelerator.num_processes)
    # Without the rebuilt samples, which follow behind the others where `paired`.
    spread = _spread(fake[: len(real)], real)
    return logs | {"generator_loss": value.detach(), **more, "spread": spread}


def _rate_share(config: TrainConfig, step: int, steps: int) -> float:
    """The learning rate of a step in units of the first one."""
    return 1 - step / steps if config.lr_decay == "linear" else 1.0


def _spread(fake: Tensor, real: Tensor) -> Tensor:
    """How far fake samples spread, in units of real ones."""
    return (fake.detach().float().var(0).sum() / real.var(0).sum().clamp_min(1e-12)).sqrt()


def _batches(config: TrainConfig, data: Data, device: torch.device) -> Iterator[Tensor]:
    """Real samples in the networks' units, drawn with replacement."""
    # Drawn by the global generators, which `_seed_step` has seeded, as all that a step draws.
    size = config.batch_size * (2 if config.objective.independent_halves else 1)
    while True:
        ids = torch.randint(len(data.train), (size,))
        yield data.to_network(data.train[ids]).to(device)


def _seed_step(seed: int, accelerator: Accelerator, step: int) -> None:
    """Seed the generators of the CPU and of this process's device for one step."""
    # A stream for each process, and in it a number for each step.
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

    # From the number of the step, not from the step before: a resumed run has the same rates.
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()


def _average_gradients(optimizer: torch.optim.Optimizer, accelerator: Accelerator) -> None:
    """Average all gradients over processes, in one message."""
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
    held = [gradient for gradient in gradients if gradient is not None]
    whole = accelerator.reduce(torch.cat([gradient.flatten() for gradient in held]), "mean")
    parts = whole.split([gradient.numel() for gradient in held])
    for gradient, part in zip(held, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


def _advance(state: State, config: TrainConfig, images: int) -> None:
    """Count a step of so many fake samples, and let the average follow."""
    state.step += 1
    state.images += images
    follow(state, config, images)


@torch.no_grad()
def follow(state: State, config: TrainConfig, images: int) -> None:
    """Move the average towards the generator, for a step of so many fake samples."""
    # Early in a run the half-life is short: the average would be of the first weights for long.
    half_life = min(config.ema_images, _RAMP * state.images)
    share = 1 - 0.5 ** (images / half_life)

    targets = state.generator.state_dict()
    for name, value in state.average.state_dict().items():
        if value.is_floating_point():
            value.lerp_(targets[name], share)
        else:  # how many batches a normalisation has seen
            value.copy_(targets[name])
