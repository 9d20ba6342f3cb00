"""The training loop, whole on one page: critic steps, a generator step, average, log, evaluate."""

import copy
import os
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from otmetrics.errors import DataError, OptionError
from otmetrics.safe_files import writing

from . import saving
from .config import TrainConfig, config_from
from .data import Data
from .evaluation import Evaluator, better
from .health import Health
from .interruption import deferred_interrupts
from .priors import TransportPrior
from .reporter import Reporter, begun
from .saving import export
from .steps import State, initial_state, one_step


def train(
    config: TrainConfig,
    data: Data,
    out: Path,
    *,
    reporter: Reporter,
    resume: bool = False,
    allow_change: bool = False,
    device: str = "auto",
    download: bool = False,
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
        resume: Whether to go on from the folder's last checkpoint; from the start if it has none,
            which a warning says.
        allow_change: Whether to go on although the configuration, the samples or the number of
            processes are others.
        device: "auto", or "cpu" where a GPU shall not be taken.
        download: Whether to fetch weights of the extractor that evaluates, if they are missing.
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
    _check_folder(out, resume)
    state = initial_state(config, data, accelerator.device)
    setting = {"processes": accelerator.num_processes, "samples": data.fingerprint}
    resumed = _resume(state, config, setting, out, allow_change)
    log_every = log_every or max(1, config.steps // 200)
    checkpoint_every = checkpoint_every or max(1, config.steps // 20)
    eval_every = config.eval_every or max(1, config.steps // 10)
    coding = config.objective.coding_steps(config.steps)
    evaluator = None
    if accelerator.is_main_process:
        evaluator = Evaluator(config, data, accelerator.device, download)
    health = Health(out)
    given_up = evaluator is not None and _has_later_best(out, state)
    accelerator.wait_for_everyone()  # all have looked at the folder before one writes into it
    if resume and not resumed and reporter.warn is not None:
        reporter.warn(f"`{out}` has no checkpoint: the run begins from its start.")
    reporter.start(config, data, state.step)
    health.remember(reporter.rows)
    if given_up:
        with writing(out / saving.BEST):
            (out / saving.BEST).unlink()
    if evaluator and state.best:
        export(out, state.best_sampler, config, data, int(state.best["step"]))

    def save(path: Path) -> None:
        whole = state.to_dict()
        health.check_weights(state.step, whole)
        saving.save(path, whole | setting, config)

    alone = accelerator.num_processes == 1  # several would stop at different steps, and wait
    try:
        with deferred_interrupts(alone) as interrupted:
            while state.step < config.steps:
                before = state.step
                if before == coding > 0:
                    reporter.begun(before, "transporting noise to codes, a round")
                logs = one_step(state, config, data, accelerator)
                step, done = state.step, state.step == config.steps
                health.note(logs)
                if step == before:  # a round of the transport, with more of them to come
                    reporter.note(step, logs)
                marked = done or step == coding + 1 > 1  # its end is logged and evaluated too
                if step > before and (marked or step % log_every == 0):
                    reporter.log(step, state.images, health.check_step(step, logs))
                if evaluator and step > before and (marked or step % eval_every == 0):
                    reporter.begun(step, "evaluating")
                    sampler = state.sampler
                    scores = evaluator(sampler)
                    reporter.scores(
                        step, state.images, scores, sampler, health.judge_scores(scores)
                    )
                    if config.select in scores and better(config.select, scores, state.best):
                        state.best = scores | {"step": float(step)}
                        state.best_average = copy.deepcopy(state.average.state_dict())
                        save(out / saving.BEST)
                        export(out, state.best_sampler, config, data, step)
                stop = interrupted()
                kept = marked or step == coding  # each round, and the codes before the first
                if evaluator and (kept or stop or step % checkpoint_every == 0):
                    save(out / saving.LAST)
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


def last_checkpoint(out: Path) -> Path | None:
    """The checkpoint that a run goes on from.

    Args:
        out: Folder of the run.

    Returns:
        The last one; the best one where a kill came between the two; None where there is neither.
        A link counts also where it leads nowhere.
    """
    places = (out / saving.LAST, out / saving.BEST)
    return next((place for place in places if os.path.lexists(place)), None)


def _check_folder(out: Path, resume: bool) -> None:
    """Raise where a folder holds what no run has left there, or a run that nobody asked for."""
    if last_checkpoint(out) is not None:
        if not resume:
            raise OptionError(f"`{out}` holds a run: set `resume`, or name another folder.")
    elif begun(out) and not resume:
        raise OptionError(
            f"`{out}` holds a run that was stopped before its first checkpoint: set `resume` to "
            "begin it again, or name another folder."
        )


def _resume(
    state: State, config: TrainConfig, setting: dict[str, Any], out: Path, allow_change: bool
) -> bool:
    """Take up the last checkpoint of a folder, if there is one."""
    last = last_checkpoint(out)
    if last is None:
        return False
    stored = saving.load(last)
    if not allow_change:
        saving.check_same_run(stored, config, setting, last)
    try:
        state.load(stored)
        if isinstance(state.prior, TransportPrior):
            _check_stage(state, state.prior, config, config_from(stored["config"]), last)
    except OptionError:
        raise
    except Exception as error:  # what comes from a file may be anything
        if stored["config"] == config.to_dict():
            raise DataError(
                f"`{last}` holds a malformed record ({saving.reason(error)}): it was not "
                "written by `otmetrics train`; train anew."
            ) from error
        raise OptionError(
            f"`{last}` holds networks or optimisers of another kind or size: only options that "
            "leave them as they are can change in a run."
        ) from error
    return True


def _check_stage(
    state: State, prior: TransportPrior, config: TrainConfig, old: TrainConfig, last: Path
) -> None:
    """Raise where other options would train an autoencoder whose codes have a law already."""
    before, now = (one.objective.coding_steps(one.steps) for one in (old, config))
    if before != now and (prior.begun or state.step > now):
        raise OptionError(
            f"`{last}` is beyond the {before} steps of its autoencoder, which would be {now}: "
            "choose `steps` and `autoencoder_share` so that they stay, or train anew."
        )
    if prior.known:
        prior.kept_share(config.seed)


def _has_later_best(out: Path, state: State) -> bool:
    """Whether the best checkpoint is from a later step than the run's, and so none of it."""
    best = out / saving.BEST
    return os.path.lexists(best) and saving.load(best)["step"] > state.step
