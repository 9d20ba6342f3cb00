"""The two loops of a run: an autoencoder, for presets that have one, and generator against critic.

After each step a run logs, evaluates and saves, each as often as its options say.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import Tensor

from otmetrics.errors import Argument, OptionError, RangeError

from . import saving
from .choosing import LEVEL
from .config import TrainConfig
from .data import Data
from .evaluation import Evaluator
from .health import Health
from .interruption import deferred_interrupts
from .reporter import Reporter
from .resuming import check_folder, drop_later_best, resume_run
from .steps import State, coding_step, gan_step, initial_state, transport_round


@dataclass(frozen=True)
class RunOptions:
    """How a run is carried out; none of this changes its weights."""

    resume: bool = False  # go on from the folder's last checkpoint, or begin where it has none
    allow_change: bool = False  # also with another configuration, samples or number of processes
    device: str = "auto"  # "cpu" to use no GPU
    download: bool = False  # fetch weights of the extractor that evaluates, if they are missing
    log_every: int = 0  # steps between rows of the log; 0: 200 rows in a run
    checkpoint_every: int = 0  # steps between checkpoints; 0: twenty in a run


def train(
    config: TrainConfig,
    data: Data,
    out: Path,
    *,
    reporter: Reporter,
    options: RunOptions = RunOptions(),
) -> State:
    """Train a generator on `load_data(config.data)`, and leave all of the run in a folder.

    Each process takes its own batches; gradients are averaged over processes. All random numbers of
    a step follow from seed, process and step: a run that is stopped anywhere and resumed has the
    same weights, to the bit on the CPU. In one process the first Ctrl-C or SIGTERM waits for the
    step to end, with its evaluation if it has one, and for its checkpoint; then it is a
    KeyboardInterrupt.

    An OptionError says that the folder holds a run and `resume` is not set, or another run, or
    something else; a DataError that a file cannot be read or written; a DivergedError that a loss
    or a weight is no longer finite: the last checkpoint is from before that.
    """
    accelerator = Accelerator(cpu=options.device == "cpu")
    if accelerator.mixed_precision != "no":
        raise OptionError(
            f"mixed precision {accelerator.mixed_precision!r} set in accelerate is not used: set ",
            Argument("precision"),
            ", which is part of the run, and leave accelerate's at no.",
        )
    run = _begin(config, data, out, reporter, options, accelerator)

    # Several processes would stop at different steps, and wait for each other for ever.
    alone = accelerator.num_processes == 1
    try:
        with deferred_interrupts(alone) as run.interrupted:
            train_autoencoder(run)
            train_gan(run)
        run.conclude()
    except RangeError as error:  # of samples, or of their cost
        run.health.check_weights(run.state.step, run.state.to_dict())
        run.health.stop(run.state.step, f"what the networks gave ({error})", error)
    finally:
        reporter.end()
    accelerator.wait_for_everyone()
    return run.state


def train_autoencoder(run: "Run") -> None:
    """Train encoder and decoder, then transport noise to their codes; nothing for plain noise."""
    state, last = run.state, run.coding_steps
    while state.step < last:
        logs = coding_step(state, run.config, run.data, run.accelerator)
        # Kept at the end: the first round of the transport may take minutes, and be killed.
        run.finish_step(logs, keep=state.step == last)

    while not state.prior.known:
        run.reporter.begun(state.step, "transporting noise to codes, a round")
        logs = transport_round(state, run.config, run.data, run.accelerator)
        if state.prior.known:
            run.finish_step(logs, milestone=True)
        else:
            run.finish_round(logs)


def train_gan(run: "Run") -> None:
    """Train critic and generator, until all steps are done."""
    state = run.state
    while state.step < run.config.steps:
        logs = gan_step(state, run.config, run.data, run.accelerator)
        run.finish_step(logs)


@dataclass
class Run:
    """What the loops have at hand, and what follows each of their steps."""

    config: TrainConfig
    data: Data
    out: Path
    state: State
    reporter: Reporter
    health: Health
    accelerator: Accelerator
    evaluator: Evaluator | None  # on the first process alone, which also saves
    setting: dict[str, Any]  # what decides the weights next to the configuration
    log_every: int
    eval_every: int
    checkpoint_every: int
    interrupted: Callable[[], bool] = lambda: False

    @property
    def coding_steps(self) -> int:
        """Steps of the autoencoder; the one that follows them is the transport."""
        return self.config.objective.coding_steps(self.config.steps)

    def finish_step(
        self, logs: dict[str, Tensor], *, milestone: bool = False, keep: bool = False
    ) -> None:
        """Log, evaluate and save if it is time to, or at a milestone; save also to `keep` it."""
        step = self.state.step
        milestone |= step == self.config.steps
        self.health.note(logs)

        if milestone or step % self.log_every == 0:
            self.log(logs)
        if milestone or step % self.eval_every == 0:
            self.evaluate()

        # Asked once, after all that takes time: a signal in an evaluation stops this step too.
        stopped = self.interrupted()
        if milestone or keep or stopped or step % self.checkpoint_every == 0:
            self.save()
        if stopped and step < self.config.steps:
            self.stop()

    def finish_round(self, logs: dict[str, Tensor]) -> None:
        """Save after a round of the transport, which is part of a step."""
        self.health.note(logs)
        self.reporter.note(self.state.step, logs)
        self.save()
        if self.interrupted():
            self.stop()

    def log(self, logs: dict[str, Tensor]) -> None:
        """A row of the log, unless a number is not finite."""
        step = self.state.step
        values = self.health.check_step(step, logs)
        self.reporter.log(step, self.state.images, values)
        if "spread" in values:
            self.reporter.tell(step, self.health.collapse(step, values["spread"]))
        if "misfit" in values:
            self.reporter.tell(step, self.health.unequal_shares(values))

    def evaluate(self) -> None:
        """Score the average, and keep it if it is the best one so far."""
        if self.evaluator is None:
            return

        state, select = self.state, self.config.select
        self.reporter.begun(state.step, "evaluating")
        scores, interval, contender = self.evaluator(state.sampler)
        is_best = select in scores and state.best_set.choose(
            select, state.step, scores, contender, state.best
        )
        known = {}
        if interval is not None:
            known = {f"low/{select}": interval.low, f"high/{select}": interval.high}
            known["best_set"] = float(state.step in state.best_set.members)
        self.reporter.scores(state.step, state.images, scores, state.sampler, known)

        if is_best:
            state.best = scores | {"step": float(state.step)}
            # A copy: a state_dict holds the very tensors that go on moving.
            state.best_average = copy.deepcopy(state.average.state_dict())
            self.save(saving.BEST)
            self.export()

    def conclude(self) -> None:
        """Say which evaluations may be the best one, and score its generator on fresh samples."""
        if self.evaluator is None or not self.state.best:
            return
        step, select = int(self.state.best["step"]), self.config.select
        self.reporter.begun(self.state.step, "scoring the best generator on fresh samples")
        score = self.evaluator.fresh_score(self.state.best_sampler)
        lines = []
        if step in self.state.best_set.members:
            others = sorted(self.state.best_set.members.keys() - {step})
            steps = ", ".join(map(str, others)) or "no other evaluation"
            lines.append(f"not told apart from it at {LEVEL:.0%}: {steps}")
        found = f"{select} on fresh samples: {score.value:.4g}"
        if score.interval is not None:
            low, high = score.interval.low, score.interval.high
            found += f", {LEVEL:.0%} interval {low:.4g} to {high:.4g}"
            found += f", for the {score.interval.target}"
        self.reporter.conclusion = [*lines, f"{found}: the number to report"]

    def save(self, name: str = saving.LAST) -> None:
        """Write a checkpoint, unless a weight is not finite."""
        if self.evaluator is None:
            return

        # Before the file is touched: the one that is there is from sound steps.
        whole = self.state.to_dict()
        self.health.check_weights(self.state.step, whole)
        saving.save(self.out / name, whole | self.setting, self.config)
        if name == saving.LAST:
            self.reporter.flush()

    def export(self) -> None:
        """Write the best generator."""
        best = self.state.best
        sampler = self.state.best_sampler.state_dict()
        saving.export(self.out, sampler, self.config, self.data, int(best["step"]))

    def stop(self) -> None:
        """Stop as the signal asked, now that nothing is lost by it."""
        raise KeyboardInterrupt(f"`{self.out}` is saved up to step {self.state.step}")


def _begin(
    config: TrainConfig,
    data: Data,
    out: Path,
    reporter: Reporter,
    options: RunOptions,
    accelerator: Accelerator,
) -> Run:
    """Take up the run of a folder, or begin one."""
    check_folder(out, options.resume)
    state = initial_state(config, data, accelerator.device)
    setting = {"processes": accelerator.num_processes, "samples": data.fingerprint}
    resumed = resume_run(state, config, setting, out, options.allow_change)

    evaluator = None
    if accelerator.is_main_process:
        evaluator = Evaluator(config, data, accelerator.device, options.download)
    run = Run(
        config,
        data,
        out,
        state,
        reporter,
        Health(out),
        accelerator,
        evaluator,
        setting,
        log_every=options.log_every or max(1, config.steps // 200),
        eval_every=config.eval_every or max(1, config.steps // 10),
        checkpoint_every=options.checkpoint_every or max(1, config.steps // 20),
    )

    accelerator.wait_for_everyone()  # all have looked at the folder before one writes into it
    if options.resume and not resumed:
        reporter.tell(0, f"`{out}` has no checkpoint: the run starts from step 0.")
    reporter.start(config, data, state.step)  # which may refuse the folder
    run.health.remember(reporter.rows)
    if evaluator is not None:
        drop_later_best(out, state)
        if state.best:
            run.export()  # a kill may have come between the checkpoint and the generator
    return run
