"""Options that do not exist: which one was meant, and which there are."""

from difflib import get_close_matches
from inspect import Parameter, signature
from typing import Any, TypeVar

_ELSEWHERE = {
    "blur": "epsilon",
    "eps": "epsilon",
    "reg": "epsilon",
    "p": "order",
    "n_proj": "num_projections",
    "n_projections": "num_projections",
    "num_proj": "num_projections",
    "itermax": "max_iterations",
    "max_iter": "max_iterations",
    "maxiter": "max_iterations",
    "num_iters": "max_iterations",
    "numitermax": "max_iterations",
    "stopthr": "tolerance",
    "tol": "tolerance",
}
"""Options of geomloss, POT and others, in lower case, and their names here."""

_REMARKS = {
    "blur": "at p = 2 a blur b is `epsilon=2 * b**2, relative=False`",
    "debias": "`functional.entropic_cost` is not debiased",
    "diameter": "it is measured here",
    "eps": "absolute with `relative=False`",
    "numthreads": "torch.set_num_threads says how many there are",
    "reach": "all mass is moved here: there is no unbalanced transport",
    "reg": "absolute with `relative=False`",
    "scaling": "epsilon comes down by itself here",
    "truncate": "nothing is cut off here",
    "real_weights": "weights belong to the call: solver(real, fake, real_weights=a)",
    "fake_weights": "weights belong to the call: solver(real, fake, fake_weights=b)",
}
"""What else to say of a name."""

_Class = TypeVar("_Class", bound="ToldOptions")


class ToldOptions:
    """A class that tells of an unknown option which one comes closest, and all that it has."""

    def __new__(cls: type[_Class], *args: Any, **options: Any) -> _Class:
        """Check the names before `__init__` takes the options."""
        check_option_names(cls, options)
        return super().__new__(cls)


def check_option_names(cls: type, given: dict[str, Any]) -> None:
    """Raise if a class is made with an option that it does not have.

    Args:
        cls: The class; if its options include a `solver`, its attribute `_kind` is the class of it.
        given: The options by name.

    Raises:
        TypeError: If one is unknown.
    """
    known = _names(cls)
    if known is None:
        return
    for name in given:
        if name not in known:
            raise TypeError(_unknown(cls, name, known))


def _names(cls: type) -> list[str] | None:
    """The options of a class, or None if it takes any."""
    parameters = list(signature(cls.__init__).parameters.values())[1:]  # type: ignore[misc]
    if any(one.kind is Parameter.VAR_KEYWORD for one in parameters):
        return None
    return [one.name for one in parameters]


def _unknown(cls: type, name: str, known: list[str]) -> str:
    """That there is no such option, what is meant perhaps, and what there is."""
    parts = [f"{cls.__name__} has no option `{name}`"]
    kind: type = getattr(cls, "_kind", object)
    inner = _names(kind) if "solver" in known else None
    if (closest := _closest(name, known)) is not None:
        parts.append(f"take `{closest}`")
    elif inner and (closest := _closest(name, inner)) is not None:
        parts.append(f"give it to the solver, {cls.__name__}({kind.__name__}({closest}=...))")
    if (remark := _REMARKS.get(name.lower())) is not None:
        parts.append(remark)
    return f"{'; '.join(parts)}. Its options are {', '.join(known)}."


def _closest(name: str, known: list[str]) -> str | None:
    """The option that a name stands for, or that is spelt much like it."""
    lower = name.lower()
    meant = _ELSEWHERE.get(lower, lower)
    if meant in known:
        return meant
    return next(iter(get_close_matches(lower, known, 1)), None)
