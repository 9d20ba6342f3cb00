"""Options that do not exist: the message says which one was meant, and which ones there are."""

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from functools import wraps
from inspect import Parameter, signature
from typing import Any, TypeVar, cast

# What POT, geomloss, prdc and torchmetrics, or another object here, call an option of ours.
_OTHER_NAMES = {
    "epsilon": "blur eps reg",
    "fake_weights": "b weights",
    "feature": "extractor",
    "features": "extractor",
    "generator": "seed",
    "max_iterations": "itermax max_iter maxiter num_iters numitermax",
    "method": "solver",
    "num_neighbors": "k nearest_k",
    "num_projections": "n_proj n_projections num_proj",
    "order": "p",
    "real_weights": "a weights",
    "seed": "generator",
    "solver": "method",
    "tolerance": "stopthr tol",
}

_ENTROPIC_HINTS = {
    "blur": "at p = 2 a blur b is `epsilon=2 * b**2, relative=False`",
    "debias": "the cost that is not debiased is `functional.entropic_cost`",
    "diameter": "it is measured here",
    "eps": "absolute with `relative=False`",
    "reach": "all mass is moved here: there is no unbalanced transport",
    "reg": "absolute with `relative=False`",
    "scaling": "epsilon comes down by itself here",
    "truncate": "nothing is cut off here",
}

_Class = TypeVar("_Class", bound="ToldOptions")
_Function = TypeVar("_Function", bound=Callable[..., Any])


class ToldOptions:
    """A class that refuses an unknown option with the one that was meant and the list of all."""

    def __new__(cls: type[_Class], *args: Any, **options: Any) -> _Class:
        """Check the names before `__init__` takes the options."""
        # Here, as the `__init__` of a dataclass is made after its body and cannot be decorated.
        parameters = signature(cls.__init__).parameters
        takes_any = any(one.kind == one.VAR_KEYWORD for one in parameters.values())
        for name in options:
            if name not in parameters and not takes_any:  # as a subclass may
                raise TypeError(unknown_option(cls, name))
        return super().__new__(cls)


def told_options(function: _Function) -> _Function:
    """Decorate a function so that it refuses an unknown option as `ToldOptions` does."""
    return _checked(function, list(signature(function).parameters.values()))


def options_of(solver: type, *, without: str = "") -> Callable[[_Function], _Function]:
    """Decorate a function whose `**options` are those of a solver, perhaps without one of them.

    Its signature, and with it `help`, shows them: the fields of the solver stay their only list.
    """

    def decorate(function: _Function) -> _Function:
        own = [
            one for one in signature(function).parameters.values() if one.kind != one.VAR_KEYWORD
        ]
        names = {one.name for one in own} | {without}
        fields = [
            one.replace(kind=Parameter.KEYWORD_ONLY)
            for one in signature(solver).parameters.values()
            if one.name not in names
        ]
        return _checked(function, [*own, *fields])

    return decorate


def _checked(function: _Function, parameters: list[Parameter]) -> _Function:
    """The function with these parameters as its signature, and with its names checked."""
    known = [one.name for one in parameters if one.name != "self"]

    @wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        for name in options:
            if name not in known:
                raise TypeError(_message(f"`{function.__qualname__}`", name, known))
        return function(*args, **options)

    # `wraps` alone would show `**options`, where these are a solver's.
    whole: Any = call
    whole.__signature__ = signature(function).replace(parameters=parameters)
    return cast(_Function, whole)


def _option_names(cls: type) -> list[str]:
    """The options of a class, in order."""
    parameters = signature(cls.__init__).parameters.values()  # type: ignore[misc]
    return [one.name for one in parameters if one.kind != one.VAR_KEYWORD][1:]


def unknown_option(cls: type, name: str) -> str:
    """What to say of an option that a class does not have.

    Of a class that takes a `solver`, its attribute `_kind` is the class of that solver.
    """
    known = _option_names(cls)
    hints = []

    # An option of the solver that was given to what holds one.
    kind: type | None = getattr(cls, "_kind", None)
    if kind and not _meant(name, known):
        inner = _option_names(kind)
        if meant := _meant(name, inner):
            options = ", ".join(f"{one}=..." for one in meant)
            hints = [f"give it to the solver, {cls.__name__}({kind.__name__}({options}))"]
        hints += _entropic_hint(name, inner)

    # Weights are those of samples, which come with a call.
    solve: Any = getattr(cls, "solve", None)
    if name.lower().endswith("weights") and solve is not None:
        own = [f"{one}=..." for one in signature(solve).parameters if one.endswith("weights")]
        hints = [f"weights belong to the call: solver(..., {', '.join(own)})"]
    return _message(cls.__name__, name, known, hints)


def _message(label: str, name: str, known: list[str], hints: Iterable[str] = ()) -> str:
    """The message for an unknown option: what was meant, perhaps, and all that there is."""
    parts = [f"{label} has no option `{name}`"]
    meant = _meant(name, known)
    if meant:
        parts.append("take " + " and ".join(f"`{one}`" for one in meant))
    if meant == ["generator"]:
        parts.append("give generator=torch.Generator().manual_seed(0)")
    if not meant and name.lower() in ("seed", "generator"):
        parts.append("nothing is drawn at random here")
    if name.lower() == "numthreads":
        parts.append("torch.set_num_threads sets their number")
    parts += [*_entropic_hint(name, known), *hints]
    listed = f"Its options are {', '.join(known)}" if known else "It has no options"
    return f"{'; '.join(parts)}. {listed}."


def _meant(name: str, known: list[str]) -> list[str]:
    """The options that a name stands for, or the one that is spelt much like it."""
    name = name.lower()
    if name in known:  # in other capitals, or of the solver
        return [name]

    # What other packages call it goes before what is spelt alike.
    meant = [one for one in known if name in _OTHER_NAMES.get(one, "").split()]
    return meant or get_close_matches(name, known, 1)


def _entropic_hint(name: str, known: list[str]) -> list[str]:
    """What else to say of a name where there is an `epsilon`."""
    hint = _ENTROPIC_HINTS.get(name.lower())
    return [hint] if hint and "epsilon" in known else []
