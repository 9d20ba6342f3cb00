"""The training loop, whole on one page: critic steps, a generator step, average, log, evaluate."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from otmetrics.errors import DataError, OptionError
from otmetrics.functional.hashing import hashed

from . import checkpoint
from .config import TrainConfig
from .data import Data
from .evaluation import Evaluator, better
from .export import export
from .health import Health
from .interruption import deferred_interrupts
from .networks import networks
from .reporter import LOG, Reporter
from .sampling import noise_of

_RAMP = 0.05  # half-life of the average early in a run, as a share of the images seen


@dataclass
class State:
    """What changes in a run, and lies in its checkpoints."""

    generator: nn.Module
    average: nn.Module
    networks: nn.ModuleDict
    generator_optimizer: torch.optim.Optimizer
    critic_optimizer: torch.optim.Optimizer | None
    step: int = 0
    images: int = 0
    best: dict[str, float] = field(default_factory=dict)
    best_average: dict[str, Tensor] = field(default_factory=dict)

    def modules(self) -> dict[str, Any]:
        """All that has a state_dict, by name."""
        parts = {
            "generator": self.generator,
            "average": self.average,
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
        """From `checkpoint.load`."""
        for name, part in self.modules().items():
            part.load_state_dict(state[name])
        self.step, self.images = state["step"], state["images"]
        self.best, self.best_average = state["best"], state["best_average"]


def train(
    config: TrainConfig,
    data: Data,
    out: Path,
    *,
    reporter: Reporter,
    resume: bool = False,
    allow_change: bool = False,
    device: str = "auto",
    log_every: int = 0,
    checkpoint_every: int = 0,
) -> State:
    """Train a generator, and leave all that belongs to the run in its folder.

    Each process takes its own batches; gradients are averaged over processes. All random numbers of
    a step follow from seed, process and step: a run that is stopped anywhere and resumed has the
    same weights, to the bit on the CPU. In one process the first Ctrl-C or SIGTERM waits for the
    step to end, with its evaluation if it has one, and for its checkpoint.

    Args:
        config: The run.
        data: What `load_data(config.data)` gave.
        out: Folder of the run, made here.
        reporter: Where losses, scores and samples go.
        resume: Whether to go on from the folder's last checkpoint; from the start if it has none.
        allow_change: Whether to go on although the configuration, the samples or the number of
            processes are others.
        device: "auto", or "cpu" where a GPU shall not be taken.
        log_every: Steps between rows of the log; 0 for 200 rows in a run.
        checkpoint_every: Steps between checkpoints; 0 for twenty in a run.

    Returns:
        The last state.

    Raises:
        OptionError: If the folder holds a run and `resume` is not set, or the run is another one,
            or the folder holds something else, or accelerate is set to mixed precision.
        DataError: If a file cannot be read or written.
        DivergedError: If a loss or a weight is no longer finite; the last checkpoint is from
            before that.
        KeyboardInterrupt: After the checkpoint of the step in which a signal came.
    """
    accelerator = Accelerator(cpu=device == "cpu")
    if accelerator.mixed_precision != "no":
        raise OptionError(
            f"mixed precision {accelerator.mixed_precision!r} of accelerate is not read: set "
            "`precision`, which is part of the run, and leave accelerate's at no."
        )
    state = initial_state(config, data, accelerator.device)
    setting = {"processes": accelerator.num_processes, "samples": data.fingerprint}
    if not _resumed(state, config, setting, out, resume, allow_change):
        _check_new(out)
    log_every = log_every or max(1, config.steps // 200)
    checkpoint_every = checkpoint_every or max(1, config.steps // 20)
    eval_every = config.eval_every or max(1, config.steps // 10)
    evaluator = Evaluator(config, data, accelerator.device) if accelerator.is_main_process else None
    health = Health(out)
    accelerator.wait_for_everyone()  # all have looked at the folder before one writes into it
    reporter.start(config, data, state.step)
    health.remember(reporter.rows)
    if evaluator and state.best:
        _restore_best(out, state, config, data)

    def save(path: Path) -> None:
        whole = state.to_dict()
        health.check_weights(state.step, whole)
        checkpoint.save(path, whole | setting, config)

    alone = accelerator.num_processes == 1  # several would stop at different steps, and wait
    try:
        with deferred_interrupts(alone) as interrupted:
            while state.step < config.steps:
                logs = one_step(state, config, data, accelerator)
                step, done = state.step, state.step == config.steps
                health.note(logs)
                if step % log_every == 0 or done:
                    reporter.log(step, state.images, health.checked(step, logs))
                if evaluator and (step % eval_every == 0 or done):
                    reporter.evaluating(step)
                    scores = evaluator(state.average)
                    reporter.scores(
                        step, state.images, scores, state.average, health.judged(scores)
                    )
                    if better(config.select, scores, state.best):
                        state.best = scores | {"step": float(step)}
                        state.best_average = copy.deepcopy(state.average.state_dict())
                        save(out / checkpoint.BEST)
                        export(out, state.best_average, config, data, step)
                stop = interrupted()
                if evaluator and (step % checkpoint_every == 0 or done or stop):
                    save(out / checkpoint.LAST)
                    reporter.flush()
                if stop and not done:
                    raise KeyboardInterrupt(f"`{out}` is kept to step {step}: `resume` goes on.")
    except (DataError, OptionError):
        raise
    except ValueError as error:  # what a solver or a score says of samples that are not finite
        health.check_weights(state.step, state.to_dict())
        health.stop(state.step, f"what the networks gave ({error})", error)
    finally:
        reporter.end()
    accelerator.wait_for_everyone()
    return state


def _resumed(
    state: State,
    config: TrainConfig,
    setting: dict[str, Any],
    out: Path,
    resume: bool,
    allow_change: bool,
) -> bool:
    """Take up the last checkpoint of a folder, if there is one."""
    last = out / checkpoint.LAST
    if not last.exists():
        return False
    if not resume:
        raise OptionError(f"`{out}` holds a run: set `resume`, or name another folder.")
    stored = checkpoint.load(last)
    if not allow_change:
        checkpoint.check_same_run(stored, config, setting, last)
    try:
        state.load(stored)
    except (RuntimeError, ValueError, KeyError) as error:
        raise OptionError(
            f"`{last}` holds networks or optimisers of another kind or size: only options that "
            "leave them as they are can change in a run."
        ) from error
    return True


def _check_new(out: Path) -> None:
    """Raise where a folder holds what no run has left there."""
    if out.is_dir() and any(out.iterdir()) and not (out / LOG).exists():
        raise OptionError(f"`{out}` holds files of something else: name a new folder.")


def _restore_best(out: Path, state: State, config: TrainConfig, data: Data) -> None:
    """Put the best generator back; one from a later step than the run's is none of its."""
    export(out, state.best_average, config, data, int(state.best["step"]))
    best = out / checkpoint.BEST
    if best.exists() and checkpoint.load(best)["step"] > state.step:
        best.unlink()


def initial_state(config: TrainConfig, data: Data, device: torch.device) -> State:
    """Networks and optimisers before the first step.

    Args:
        config: The run.
        data: Its data, for their shape.
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
    average = copy.deepcopy(generator).eval().requires_grad_(False)
    trained = list(nets.parameters())
    return State(
        generator,
        average,
        nets,
        _optimizer(generator.parameters(), config.lr_generator, config),
        _optimizer(trained, config.lr_critic, config) if trained else None,
    )


def one_step(
    state: State, config: TrainConfig, data: Data, accelerator: Accelerator
) -> dict[str, Tensor]:
    """Train the critic as often as the objective asks for, then the generator once.

    Args:
        state: The state, which this changes.
        config: The run.
        data: Its data.
        accelerator: Device and processes.

    Returns:
        Losses and what the objective logs, scalars without graph.
    """
    _seed(config.seed, accelerator, state.step)
    share = 1 - state.step / config.steps if config.lr_decay == "linear" else 1.0
    objective = config.objective
    logs: dict[str, Tensor] = {}
    batches = _batches(config, data, accelerator.device)
    for _ in range(objective.critic_steps(state.step)):
        real, noise = next(batches)
        with _precision(config, accelerator.device):
            with torch.no_grad():
                fake = state.generator(noise)
            value, more = objective.critic_loss(state.networks, real, fake.float())
        _descend(state.critic_optimizer, value, config.lr_critic * share, accelerator)
        logs |= {"critic_loss": value.detach(), **more}
        logs |= objective.after_critic_step(state.networks)
    real, noise = next(batches)
    state.networks.requires_grad_(False)
    with _precision(config, accelerator.device):
        fake = state.generator(noise)
        value, more = objective.generator_loss(state.networks, real, fake.float())
    _descend(state.generator_optimizer, value, config.lr_generator * share, accelerator)
    state.networks.requires_grad_(True)
    images = len(fake) * accelerator.num_processes
    state.step += 1
    state.images += images
    _follow(state, config, images)
    spread = (fake.detach().float().var(0).sum() / real.var(0).sum().clamp_min(1e-12)).sqrt()
    return logs | {"generator_loss": value.detach(), **more, "spread": spread}


def _batches(
    config: TrainConfig, data: Data, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Real samples in the networks' units, drawn with replacement, and noise."""
    size = config.batch_size * (2 if config.objective.independent_halves else 1)
    while True:
        ids = torch.randint(len(data.train), (size,))
        yield data.to_network(data.train[ids]).to(device), noise_of(config, size).to(device)


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


def _optimizer(parameters: Any, rate: float, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimiser of one side."""
    if config.optimizer == "rmsprop":
        return torch.optim.RMSprop(parameters, lr=rate, alpha=config.beta2)
    betas = config.beta1, config.beta2
    return torch.optim.Adam(parameters, lr=rate, betas=betas, fused=True)


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


@torch.no_grad()
def _follow(state: State, config: TrainConfig, images: int) -> None:
    """Move the average towards the generator; early on its half-life is short."""
    half_life = min(config.ema_images, _RAMP * state.images)
    share = 1 - 0.5 ** (images / half_life)
    targets = state.generator.state_dict()
    for name, value in state.average.state_dict().items():
        if value.is_floating_point():
            value.lerp_(targets[name], share)
        else:
            value.copy_(targets[name])
