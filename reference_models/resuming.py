"""Taking up a run: what its folder holds, and whether what shall go on is the same run."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from otmetrics.errors import Argument, DataError, OptionError
from otmetrics.safe_files import writing

from .config import FILE, TrainConfig, config_from, hash_values
from .objectives import OBJECTIVES
from .reporter import PARTIAL, SAMPLES
from .saving import BEST, LAST, load, reason
from .steps import State

_LARGEST = 1 << 20  # bytes of a configuration; a run's has two thousand


# --- what a folder holds ----------------------------------------------------------------------


def last_checkpoint(out: Path) -> Path | None:
    """The last checkpoint of a folder; the best one where a kill came between the two.

    A link counts also where it leads nowhere: perhaps a disk is missing.
    """
    places = (out / LAST, out / BEST)
    return next((place for place in places if os.path.lexists(place)), None)


def check_folder(out: Path, resume: bool) -> None:
    """Raise where a folder holds what no run has left there, or a run that nobody asked for."""
    if last_checkpoint(out) is not None:
        if not resume:
            raise OptionError(
                f"`{out}` holds a run: set ", Argument("resume"), ", or name another folder."
            )
    elif has_begun(out) and not resume:
        raise OptionError(
            f"`{out}` holds a run that was stopped before its first checkpoint: set ",
            Argument("resume"),
            " to begin it again, or name another folder.",
        )


def has_begun(out: Path) -> bool:
    """Whether a folder without checkpoints, if there is one, holds the beginning of a run."""
    try:
        found = [path for path in out.iterdir() if not PARTIAL.fullmatch(path.name)]
        # Of a run that was killed before its configuration was there.
        bare = [path.name for path in found] == [SAMPLES] and not any(found[0].iterdir())
    except (FileNotFoundError, NotADirectoryError):  # told where it is made
        return False
    except OSError as error:
        raise DataError(f"`{out}` cannot be read ({error.strerror}): name another.") from error

    if not found or bare:
        return False
    if _read(out / FILE) is None:
        raise OptionError(f"`{out}` holds other files, and no run: name a new folder.")
    return True


def read_config(out: Path) -> dict[str, Any] | None:
    """The plain values in `config.json`, for a run without a checkpoint; None where it has none."""
    values = _read(out / FILE)
    if values is None:
        return None
    digest = values.pop("hash")
    if hash_values(values) != digest:
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


class Earlier(NamedTuple):
    """The options of the run in a folder."""

    data: str
    options: dict[str, Any]  # fields of `TrainConfig`
    objective: dict[str, Any]  # fields of its objective


def earlier_options(out: Path, preset: str) -> Earlier | None:
    """What the run in a folder was begun with; None where there is none.

    An OptionError names the preset of the run if it is another one.
    """
    last = last_checkpoint(out)
    before = load(last)["config"] if last else read_config(out)
    if before is None:
        return None
    check_preset(before, preset, out)

    # Without what another version may have had.
    own = _known(before.get("objective"), OBJECTIVES[preset])
    common = _known(before, TrainConfig)

    # Tried here: later a bad value of the file would be told as an option that the user gave.
    try:
        data = before["data"]
        config_from({"preset": preset, "objective": own, "data": data, **common})
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(
            f"the configuration of `{out}` is malformed ({reason(error)}): "
            "name another folder, with all options."
        ) from error
    return Earlier(data, common, own)


def _known(values: Any, kind: type) -> Any:
    """Values of the options that a dataclass has."""
    if not isinstance(values, dict):
        return values  # `config_from` says what is wrong with it
    names = [item.name for item in dataclasses.fields(kind) if "help" in item.metadata]
    return {name: values[name] for name in names if name in values}


# --- going on ---------------------------------------------------------------------------------


def resume_run(
    state: State, config: TrainConfig, setting: dict[str, Any], out: Path, allow_change: bool
) -> bool:
    """Take up the last checkpoint of a folder, if there is one.

    `setting` is what else decides the weights: the number of "processes", each of which draws its
    own samples, and the fingerprint of the "samples".
    """
    last = last_checkpoint(out)
    if last is None:
        return False

    stored = load(last)
    if not allow_change:
        _check_same_run(stored, config, setting, out, last)
    try:
        state.load(stored)
        if config.objective.coding_steps(config.steps):
            # No other run needs the old configuration to be one of this version.
            _check_coding(state, config, config_from(stored["config"]), last)
    except OptionError:
        raise
    except Exception as error:  # what comes from a file may be anything
        if stored["config"] == config.to_dict():
            raise DataError(
                f"`{last}` holds a malformed record ({reason(error)}): it was not "
                "written by `otmetrics train`; train again."
            ) from error
        raise OptionError(
            f"`{last}` holds networks or optimisers of another kind or size: only options that "
            "leave them as they are can change in a run."
        ) from error
    return True


def drop_later_best(out: Path, state: State) -> None:
    """Remove a best checkpoint from a later step than the run's: a branch that was given up."""
    best = out / BEST
    if os.path.lexists(best) and load(best)["step"] > state.step:
        with writing(best):
            best.unlink()


def check_preset(stored: dict[str, Any], preset: str, out: Path) -> None:
    """Raise unless the configuration of a run is one of a preset."""
    found = stored.get("preset")
    if found != preset:
        raise OptionError(
            f"`{out}` is a run of {found}: use `train {found}`, or another ", Argument("out"), "."
        )


def _check_same_run(
    stored: dict[str, Any], config: TrainConfig, setting: dict[str, Any], out: Path, path: Path
) -> None:
    """Raise unless a checkpoint was made with this configuration."""
    check_preset(stored["config"], config.preset, out)

    old = stored["config"] | {key: stored[key] for key in setting}
    new = config.to_dict() | setting
    if old["samples"] != new["samples"] and old | {"samples": new["samples"]} == new:
        raise OptionError(
            f"`{path}` was made with other samples under the name of ",
            Argument("data"),
            ": give those, or ",
            Argument("allow_change"),
            " to go on with the new ones.",
        )

    if stored["hash"] != config.hash or old != new:
        differences = "; ".join(changes(old, new)) or "their formats"
        raise OptionError(
            f"`{path}` was made with another configuration ({differences}): give the same options, "
            "or ",
            Argument("allow_change"),
            " to go on with the new ones.",
        )


def changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What differs between two configurations, a line for each option."""
    lines = []
    for key in sorted(old.keys() | new.keys()):
        one, two = old.get(key), new.get(key)
        if isinstance(one, dict) and isinstance(two, dict):
            lines += changes(one, two)
        elif one != two:
            lines.append(f"{key} {one!r} -> {two!r}")
    return lines


def _check_coding(state: State, config: TrainConfig, old: TrainConfig, last: Path) -> None:
    """Raise where other options would train an autoencoder further whose codes are in use."""
    # A transport belongs to the codes of the encoder as it was when it was solved.
    before, now = (one.objective.coding_steps(one.steps) for one in (old, config))
    if now and before != now and (state.prior.begun or state.step > now):
        raise OptionError(
            f"`{last}` is beyond the {before} steps of its autoencoder, which would be {now}: "
            "choose ",
            Argument("steps"),
            " and ",
            Argument("autoencoder_share"),
            " so that they stay, or train again.",
        )
    if state.prior.known:
        state.prior.kept_share(config.seed)  # another `angle` may keep nothing
