"""Options that do not exist: which one was meant, and which there are."""

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from functools import wraps
from inspect import Parameter, signature
from typing import Any, TypeVar, cast

_ELSEWHERE = {
    "a": ("real_weights",),
    "b": ("fake_weights",),
    "blur": ("epsilon",),
    "eps": ("epsilon",),
    "extractor": ("feature", "features"),
    "generator": ("seed",),
    "itermax": ("max_iterations",),
    "k": ("num_neighbors",),
    "max_iter": ("max_iterations",),
    "maxiter": ("max_iterations",),
    "method": ("solver",),
    "n_proj": ("num_projections",),
    "n_projections": ("num_projections",),
    "nearest_k": ("num_neighbors",),
    "num_iters": ("max_iterations",),
    "num_proj": ("num_projections",),
    "numitermax": ("max_iterations",),
    "p": ("order",),
    "reg": ("epsilon",),
    "seed": ("generator",),
    "solver": ("method",),
    "stopthr": ("tolerance",),
    "tol": ("tolerance",),
    "weights": ("real_weights", "fake_weights"),
}
"""Options of geomloss, POT and others, or of another object here, in lower case, and the names
that stand for them where they were given."""

_ENTROPIC = {
    "blur": "at p = 2 a blur b is `epsilon=2 * b**2, relative=False`",
    "debias": "`functional.entropic_cost` is not debiased",
    "diameter": "it is measured here",
    "eps": "absolute with `relative=False`",
    "reach": "all mass is moved here: there is no unbalanced transport",
    "reg": "absolute with `relative=False`",
    "scaling": "epsilon comes down by itself here",
    "truncate": "nothing is cut off here",
}
"""What else to say of a name where there is an `epsilon`."""

_Class = TypeVar("_Class", bound="ToldOptions")
_Function = TypeVar("_Function", bound=Callable[..., Any])


class ToldOptions:
    """A class that tells of an unknown option which one comes closest, and all that it has."""

    def __new__(cls: type[_Class], *args: Any, **options: Any) -> _Class:
        """Check the names before `__init__` takes the options."""
        check_option_names(cls, options)
        return super().__new__(cls)


def told_options(function: _Function) -> _Function:
    """Decorate a function, so that it tells of an unknown option as `ToldOptions` does.

    Args:
        function: A function that takes a fixed set of arguments.

    Returns:
        The function with its name, signature and documentation.
    """
    known = list(signature(function).parameters)
    names = frozenset(known)

    @wraps(function)
    def told(*args: Any, **options: Any) -> Any:
        for name in options:
            if name not in names:
                label = function.__qualname__.removesuffix(".__call__")
                listed = [one for one in known if one != "self"]
                raise TypeError(_unknown(f"`{label}`", name, listed))
        return function(*args, **options)

    return cast(_Function, told)


def check_option_names(cls: type, given: Iterable[str]) -> None:
    """Raise if a class is made with an option that it does not have.

    Args:
        cls: The class; if its options include a `solver`, its attribute `_kind` is the class of it.
        given: The names of the options.

    Raises:
        TypeError: If one is unknown.
    """
    known = _names(cls)
    if known is None:
        return
    for name in given:
        if name not in known:
            kind = getattr(cls, "_kind", None) if "solver" in known else None
            raise TypeError(_unknown(cls.__name__, name, known, cls, kind))


def unknown_option(cls: type, name: str) -> str:
    """What to say of an option that a class does not have, though its signature takes any.

    Args:
        cls: The class.
        name: The option.

    Returns:
        The message.
    """
    parameters = list(signature(cls).parameters.values())
    known = [one.name for one in parameters if one.kind is not Parameter.VAR_KEYWORD]
    return _unknown(cls.__name__, name, known)


def _names(cls: type) -> list[str] | None:
    """The options of a class, or None if it takes any."""
    parameters = list(signature(cls.__init__).parameters.values())[1:]  # type: ignore[misc]
    if any(one.kind is Parameter.VAR_KEYWORD for one in parameters):
        return None
    return [one.name for one in parameters]


def _unknown(
    label: str, name: str, known: list[str], cls: type | None = None, kind: type | None = None
) -> str:
    """That there is no such option, what is meant perhaps, and what there is."""
    parts = [f"{label} has no option `{name}`"]
    lower = name.lower()
    inner = (_names(kind) if kind else None) or []
    meant = _meant(name, known)
    if meant:
        parts.append("take " + " and ".join(f"`{one}`" for one in meant))
        if meant == ["generator"]:
            parts.append("give generator=torch.Generator().manual_seed(0)")
    elif kind and cls and (of_solver := _meant(name, inner)):
        options = ", ".join(f"{one}=..." for one in of_solver)
        parts.append(f"give it to the solver, {cls.__name__}({kind.__name__}({options}))")
    elif lower in ("seed", "generator"):
        parts.append("nothing is drawn at random here")
    if "epsilon" in [*known, *inner] and lower in _ENTROPIC:
        parts.append(_ENTROPIC[lower])
    solve: Any = getattr(cls, "solve", None)
    if lower.endswith("weights") and not meant and solve is not None:
        own = [f"{one}=..." for one in signature(solve).parameters if one.endswith("weights")]
        parts.append(f"weights belong to the call: solver(..., {', '.join(own)})")
    if lower == "numthreads":
        parts.append("torch.set_num_threads says how many there are")
    listed = f"Its options are {', '.join(known)}" if known else "It has no options"
    return f"{'; '.join(parts)}. {listed}."


def _meant(name: str, known: list[str]) -> list[str]:
    """The options that a name stands for, or the one that is spelt much like it."""
    lower = name.lower()
    if lower in known:
        return [lower]
    meant = [one for one in _ELSEWHERE.get(lower, ()) if one in known]
    return meant or get_close_matches(lower, known, 1)
