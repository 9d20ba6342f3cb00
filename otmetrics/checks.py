"""What the maths accepts: clouds, weights and options, and arrays in place of tensors."""

import math
from decimal import Decimal
from numbers import Integral, Real
from os import PathLike
from typing import Any

import numpy as np
import torch
from torch import Tensor

from otmetrics.errors import Argument, OptionError, RangeError

# Powers of distances up to this one fit float64, with room for sums over samples.
_LARGEST_POWER, _SMALLEST_POWER = 1e290, 1e-290
_DRAW = "give torch.Generator().manual_seed(0)"


def checked_clouds(
    real: Tensor, fake: Tensor, *, min_samples: int = 1, order: float = 2.0
) -> tuple[Tensor, Tensor]:
    """Both clouds, (N, D) and (M, D) or batches (B, ...) of them, in one dtype of at least 32 bits.

    Raises unless they are finite floating tensors or arrays on one device, of matching shapes, with
    so many samples per side, and of a size whose distances to the power `order` fit float64.
    """
    real, fake = as_tensor("real", real, floating=True), as_tensor("fake", fake, floating=True)
    sides = ("real", real), ("fake", fake)
    # One side may be tiny, such as a point at the origin: the larger one decides.
    largest = max(_largest_value(name, cloud, min_samples, order) for name, cloud in sides)
    if 0 < largest < _SMALLEST_POWER ** (1 / max(2, order)):  # squares come first
        raise ValueError(
            f"`real` and `fake` must be large enough for |x - y|^{order:g} to fit float64, "
            f"got values up to {largest:.1e}: scale both clouds up."
        )

    if real.ndim != fake.ndim or real.shape[:-2] != fake.shape[:-2]:
        raise ValueError(
            "`real` and `fake` must have the same batch dimensions, "
            f"got {tuple(real.shape)} and {tuple(fake.shape)}."
        )
    if real.shape[-1] != fake.shape[-1]:
        raise ValueError(
            "`real` and `fake` must have the same number of features D, "
            f"got {real.shape[-1]} and {fake.shape[-1]}."
        )
    if real.device != fake.device:
        raise ValueError(
            f"`real` and `fake` must be on one device, got {real.device} and {fake.device}."
        )

    # Half precision has too few digits for sums over samples.
    dtype = torch.promote_types(torch.promote_types(real.dtype, fake.dtype), torch.float32)
    return real.to(dtype), fake.to(dtype)


def checked_cloud(name: str, cloud: Tensor, *, order: float = 2.0) -> Tensor:
    """One cloud (N, D), finite and of a size whose powers fit float64, in at least 32 bits."""
    cloud = as_tensor(name, cloud, floating=True)
    if cloud.ndim != 2:
        raise ValueError(_bad_shape(name, cloud, "(N, D)"))
    largest = _largest_value(name, cloud, 1, order)
    if 0 < largest < _SMALLEST_POWER ** (1 / max(2, order)):  # squares come first
        raise ValueError(
            f"`{name}` must be large enough for |x - y|^{order:g} to fit float64, "
            f"got values up to {largest:.1e}: scale it up."
        )
    return cloud.to(torch.promote_types(cloud.dtype, torch.float32))


def checked_samples(samples: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Samples (N, D) of a source and the points (M, D) it is transported to, in one dtype."""
    samples, points = checked_cloud("samples", samples), checked_cloud("points", points)
    if samples.shape[1] != points.shape[1] or samples.device != points.device:
        raise ValueError(
            "`samples` and `points` must have the same number of features D and one device, got "
            f"{tuple(samples.shape)} on {samples.device} and {tuple(points.shape)} on "
            f"{points.device}."
        )
    dtype = torch.promote_types(samples.dtype, points.dtype)
    return samples.to(dtype), points.to(dtype)


def checked_heights(heights: Tensor, points: Tensor) -> Tensor:
    """Heights (M,), a finite one for each of the points (M, D)."""
    heights = as_tensor("heights", heights)
    if heights.shape != points.shape[:1]:
        raise ValueError(f"`heights` must have shape ({len(points)},), got {tuple(heights.shape)}.")
    if not torch.isfinite(heights).all():
        raise ValueError("`heights` must be finite, got NaN or infinite values.")
    return heights


def _largest_value(name: str, cloud: Tensor, min_samples: int, order: float) -> float:
    """The largest size of a value; raise unless (N, D) or (B, N, D), finite and not too large."""
    if cloud.ndim not in (2, 3):
        raise ValueError(_bad_shape(name, cloud, "(N, D) or (B, N, D)"))
    if cloud.shape[-2] < min_samples:
        raise ValueError(
            f"`{name}` must hold at least {min_samples} sample(s), got {cloud.shape[-2]}."
        )
    if cloud.shape[-1] < 1 or cloud.shape[0] < 1:
        raise ValueError(f"`{name}` must not be empty, got shape {tuple(cloud.shape)}.")

    # Both ends are NaN where any value is.
    largest = max(abs(float(end)) for end in cloud.detach().aminmax())
    if not math.isfinite(largest):
        raise RangeError(f"`{name}` must be finite, got NaN or infinite values.")
    # No distance is longer than twice the longest vector.
    bound = min(_LARGEST_POWER ** (1 / order), torch.finfo(cloud.dtype).max)
    if 2 * largest * cloud.shape[-1] > bound:
        raise RangeError(
            f"`{name}` must be small enough for |x - y|^{order:g} to fit its dtype, "
            f"got values up to {largest:.1e}: scale both clouds down."
        )
    return largest


def _bad_shape(name: str, cloud: Tensor, wanted: str) -> str:
    """That a cloud has another shape, and how it gets this one."""
    text = f"`{name}` must have shape {wanted}, got {tuple(cloud.shape)}"
    if cloud.ndim == 4:
        return f"{text}{_IMAGES}"
    if cloud.ndim == 1:
        return f"{text}: give {name}[:, None] for {len(cloud)} samples of one feature."
    return f"{text}."


_IMAGES = (
    ", which looks like images: turn them into features with an extractor of "
    "`otmetrics.load_extractor`, or give them to `otmetrics.WassersteinFeatureDistance`."
)


def checked_weights(name: str, weights: Tensor | None, cloud: Tensor) -> Tensor | None:
    """Weights in float64 of the shape `cloud.shape[:-1]`, each row of sum one; None for uniform.

    They are given as (N,) or (B, N), non-negative with a positive sum, and keep their graph: a
    gradient in them is one in what was given.
    """
    if weights is None:
        return None
    weights = as_tensor(name, weights)
    shape = cloud.shape[:-1]
    if weights.shape not in (shape, shape[-1:]):
        raise ValueError(
            f"`{name}` must have shape {tuple(shape)}, got {tuple(weights.shape)}"
            f"{_way_to_weights(name, weights.shape, shape)}."
        )

    # One row of weights serves all problems of a batch.
    weights = weights.to(cloud.device, torch.float64).expand(shape)
    if not torch.isfinite(weights.detach()).all() or (weights.detach() < 0).any():
        raise ValueError(f"`{name}` must be finite and >= 0.")
    # Finite weights may have an infinite sum.
    total = weights.sum(-1, keepdim=True)
    if not ((total > 0) & torch.isfinite(total)).all():
        raise ValueError(f"`{name}` must have a positive finite sum.")
    return weights / total


def filled_weights(name: str, weights: Tensor | None, cloud: Tensor) -> Tensor:
    """Checked weights (N,) or (B, N) in float64 of sum 1, uniform where none are given."""
    checked = checked_weights(name, weights, cloud)
    if checked is not None:
        return checked
    size = cloud.shape[-2]
    return torch.full(cloud.shape[:-1], 1 / size, dtype=torch.float64, device=cloud.device)


def _way_to_weights(name: str, given: torch.Size, shape: torch.Size) -> str:
    """How weights with an axis of one too many become weights (N,) or (B, N)."""
    if given[-1:] == (1,) and given[:-1] in (shape, shape[-1:]):
        return f": give {name}[{':, ' if len(given) == 2 else '..., '}0]"
    return f": give {name}[0]" if given == (1, *shape[-1:]) else ""


def weights_note(real_weights: Tensor | None, fake_weights: Tensor | None) -> str:
    """What a message adds where the weights of both sides, as given, differ in their sum.

    Both were checked; None has the sum 1. Nothing where they agree to six digits.
    """
    given = ("real_weights", real_weights), ("fake_weights", fake_weights)
    sums = [
        torch.ones((), dtype=torch.float64)
        if weights is None
        else as_tensor(name, weights).detach().double().sum(-1).cpu()
        for name, weights in given
    ]

    # One side may have a row per problem and the other one row for all.
    first, second = torch.broadcast_tensors(*sums)
    apart = ~torch.isclose(first, second, rtol=1e-6, atol=0)
    if not apart.any():
        return ""
    first, second = first[apart][0], second[apart][0]
    return f"; weights sum to {first:g} (real) and {second:g} (fake): each side was normalised"


def is_uniform(weights: Tensor) -> bool:
    """Whether all weights are one and the same."""
    return bool((weights == weights[0]).all())


def checked_generator(
    generator: torch.Generator | None, default: torch.Generator
) -> torch.Generator:
    """The CPU generator that was given, or the default in place of None."""
    if generator is None:
        return default
    check_generator(generator)
    return generator


def check_generator(generator: torch.Generator) -> None:
    """Raise unless an argument is a generator of the CPU."""
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"`generator` must be a torch.Generator, got {generator!r}: {_DRAW}.")
    if generator.device.type != "cpu":
        raise ValueError(
            f"`generator` must be one of the CPU, got one of {generator.device}: {_DRAW}, which "
            "draws the same for every device."
        )


def check_order(order: float) -> None:
    """Raise unless the order p of a distance is a finite number of at least 1."""
    if not _is_number(order) or order < 1:
        raise OptionError(Argument("order"), f" must be a finite number >= 1, got {order!r}.")


def check_positive(name: str, value: float) -> None:
    """Raise unless an option is a positive finite number."""
    if not _is_number(value) or value <= 0:
        raise OptionError(Argument(name), f" must be a positive finite number, got {value!r}.")


def check_not_negative(name: str, value: float) -> None:
    """Raise unless an option is a finite number of at least 0."""
    if not _is_number(value) or value < 0:
        raise OptionError(Argument(name), f" must be a finite number >= 0, got {value!r}.")


def check_share(name: str, value: float) -> None:
    """Raise unless an option is a number in (0, 1)."""
    if not _is_number(value) or not 0 < value < 1:
        raise OptionError(Argument(name), f" must be in (0, 1), got {value!r}.")


def check_at_least(name: str, value: int, minimum: int) -> None:
    """Raise unless an option is an integer that reaches its minimum."""
    # To Python True is an integer, and would pass for 1.
    if isinstance(value, bool) or not isinstance(value, Integral) or value < minimum:
        raise OptionError(Argument(name), f" must be an integer >= {minimum}, got {value!r}.")


def check_seed(seed: int, name: str = "seed") -> None:
    """Raise unless a seed is one that torch takes, an integer in [0, 2^63)."""
    check_at_least(name, seed, 0)
    if seed >= 2**63:
        raise OptionError(Argument(name), f" must be below 2^63, got {seed}.")


def check_flag(name: str, value: bool) -> None:
    """Raise unless an option is True or False."""
    if not isinstance(value, bool):
        raise OptionError(Argument(name), f" must be True or False, got {value!r}.")


def check_device(device: str | torch.device) -> None:
    """Raise unless an option `device` names a place where tensors can be on this machine."""
    rule = ' must be "cpu", "cuda" or "cuda:i"'
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise OptionError(Argument("device"), f'{rule}, got {device!r}: give "cpu".') from error
    if found.type == "meta":
        raise OptionError(
            Argument("device"), f'{rule}, got {device!r}, where tensors have no values: give "cpu".'
        )
    if found.type == "cpu":
        return

    # Each kind of device tells in its own module how many there are; some say only whether.
    backend: Any = torch.backends.mps if found.type == "mps" else getattr(torch, found.type, None)
    there = backend is not None and hasattr(backend, "is_available") and backend.is_available()
    count = backend.device_count() if there and hasattr(backend, "device_count") else int(there)
    if (found.index or 0) >= count:
        reason = f"which is not on this machine ({count} of this kind are)"
        raise OptionError(Argument("device"), f'{rule}, got {device!r}, {reason}: give "cpu".')


def _is_number(value: object) -> bool:
    """Whether a value is a finite real number, which True and False are not."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def as_tensor(name: str, value: object, *, floating: bool = False, sparse: bool = False) -> Tensor:
    """An argument as a tensor: a tensor as it is, a NumPy array with its values and its dtype.

    Arrays that torch cannot share (read-only ones, those of another byte order, views with gaps or
    negative strides) are copied. With `floating` integers are refused; `sparse` tensors are taken
    only where that says so.
    """
    # First: a masked array is an array too, and would pass below with what its mask hides.
    if isinstance(value, np.ma.MaskedArray | torch.masked.MaskedTensor):
        raise TypeError(
            f"`{name}` must not be masked: the values under the mask would count. Drop the masked "
            "samples, for example with numpy.ma.compress_rows."
        )
    tensor = _of_array(name, value) if isinstance(value, np.ndarray) else value
    if not isinstance(tensor, Tensor):
        raise TypeError(_not_a_tensor(name, value))

    if tensor.is_complex():
        raise TypeError(
            f"`{name}` must be floating, got {tensor.dtype}: take `.real` where the imaginary part "
            "is 0, or real and imaginary part as two features."
        )
    if tensor.is_meta:
        raise ValueError(
            f"`{name}` must hold values, got a tensor on the device meta, which has a shape alone: "
            "give one on the CPU or a GPU."
        )
    if not sparse and tensor.layout != torch.strided:
        raise TypeError(f"`{name}` must be dense, got {tensor.layout}: give {name}.to_dense().")
    if floating and not tensor.is_floating_point():
        text = f"`{name}` must be floating, got {tensor.dtype}"
        if tensor.dtype == torch.uint8 and tensor.ndim in (3, 4):
            raise TypeError(f"{text} of shape {tuple(tensor.shape)}{_IMAGES}")
        call = "astype(numpy.float64)" if isinstance(value, np.ndarray) else "float()"
        raise TypeError(f"{text}: give {name}.{call}.")
    return tensor


def _of_array(name: str, array: np.ndarray) -> Tensor:
    """A tensor that shares the memory of an array where torch can, else with a copy of it."""
    array = np.asarray(array)
    # Columns of tables are arrays of objects, which may all be numbers.
    kind, objects = array.dtype.kind, array.ravel().tolist() if array.dtype.kind == "O" else []
    if kind not in "biufcO" or not all(isinstance(v, Real | Decimal | np.bool_) for v in objects):
        raise TypeError(
            f"`{name}` must hold numbers, got an array of {array.dtype}: give the features alone, "
            "without names, dates and other columns."
        )
    if kind == "O" or array.dtype.itemsize > (16 if kind == "c" else 8):
        raise TypeError(
            f"`{name}` must hold numbers that torch has, got an array of {array.dtype}: give "
            f"{name}.astype(numpy.float64)."
        )

    # torch shares only plain memory, and warns of what is read-only.
    flags = array.flags
    plain = flags.c_contiguous and flags.aligned and flags.writeable and array.dtype.isnative
    # An axis of one row may have a negative stride and yet be contiguous.
    if not plain or min(array.strides, default=0) < 0:
        array = np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
    return torch.from_numpy(array)


def _not_a_tensor(name: str, value: object) -> str:
    """The message that an argument is not a tensor, with the call that makes it one."""
    got = type(value).__name__
    if value is None:
        return f"`{name}` must be a torch.Tensor or numpy.ndarray, got None."
    if isinstance(value, str | bytes | PathLike):
        return (
            f"`{name}` must be a torch.Tensor, got {got}: features are numbers; files are read by "
            "otmetrics.score(real, fake)."
        )
    # By what they can do and not by type: scipy and pandas need not be installed.
    if hasattr(value, "toarray"):
        remedy = f"give {name}.toarray()"
    elif hasattr(value, "to_numpy"):
        remedy = f"give {name}.to_numpy()"
    else:
        remedy = f"give numpy.asarray({name}), as arrays are taken too, or torch.as_tensor({name})"
    return f"`{name}` must be a torch.Tensor, got {got}: {remedy}."
