"""The steps of a run: critic and generator against each other; before them, for some, codes."""

from collections.abc import Iterator
from typing import cast

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn

from otmetrics.functional.hashing import hashed

from .config import TrainConfig
from .data import Data
from .objectives import AEOT
from .priors import TransportPrior
from .state import State

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
    _seed(config.seed, accelerator, state.step)
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
    _seed(config.seed, accelerator, state.step)
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
    seed, order = hashed(torch.arange(2) + _STREAM, config.seed).tolist()
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


def _seed(seed: int, accelerator: Accelerator, step: int) -> None:
    """Seed the generators of the CPU and of this process's device for one step."""
    own = int(hashed(torch.tensor(accelerator.process_index), seed))
    value = int(hashed(torch.tensor(step), own))
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
