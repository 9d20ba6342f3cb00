"""What the maths accepts: clouds, weights and options, and arrays in place of tensors."""

import math
from decimal import Decimal
from numbers import Integral, Real
from os import PathLike
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Powers of distances up to this one fit float64, with room for sums over samples.
_LARGEST_POWER, _SMALLEST_POWER = 1e290, 1e-290


def checked_clouds(
    real: Tensor, fake: Tensor, *, min_samples: int = 1, order: float = 2.0
) -> tuple[Tensor, Tensor]:
    """Return both clouds in one floating dtype of at least 32 bits.

    Args:
        real: Features of shape (N, D) or (B, N, D).
        fake: Features of shape (M, D) or (B, M, D).
        min_samples: The fewest samples a side for which the question has an answer.
        order: The highest power of a distance that the answer takes.

    Returns:
        `real` and `fake`, promoted to one dtype.

    Raises:
        TypeError: If either is not a floating tensor.
        ValueError: If shapes or devices do not match, a side has too few samples, or a value is
            NaN, infinite, or too large or all too small for their powers to fit float64.
    """
    real, fake = as_tensor("real", real), as_tensor("fake", fake)
    sides = ("real", real), ("fake", fake)
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
    dtype = torch.promote_types(torch.promote_types(real.dtype, fake.dtype), torch.float32)
    return real.to(dtype), fake.to(dtype)


def checked_cloud(name: str, cloud: Tensor) -> Tensor:
    """Return one cloud (N, D) in a floating dtype of at least 32 bits.

    Args:
        name: The argument's name, for the message.
        cloud: Its value.

    Returns:
        The cloud.

    Raises:
        TypeError: If it is not a floating tensor.
        ValueError: If it is not (N, D) with N, D >= 1, or a value is NaN, infinite, or too large or
            all too small for squares to fit float64.
    """
    cloud = as_tensor(name, cloud)
    if cloud.ndim != 2:
        raise ValueError(f"`{name}` must have shape (N, D), got {tuple(cloud.shape)}.")
    largest = _largest_value(name, cloud, 1, 2.0)
    if 0 < largest < _SMALLEST_POWER**0.5:
        raise ValueError(
            f"`{name}` must be large enough for its squares to fit float64, "
            f"got values up to {largest:.1e}: scale it up."
        )
    return cloud.to(torch.promote_types(cloud.dtype, torch.float32))


def checked_samples(samples: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Return samples of a source and the points it is transported to, in one dtype.

    Args:
        samples: Samples (N, D).
        points: Points (M, D).

    Returns:
        Both, promoted to one dtype of at least 32 bits.

    Raises:
        TypeError: If either is not a floating tensor.
        ValueError: If either breaks a rule of `checked_cloud`, or dimensions or devices differ.
    """
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
    """Return heights, a finite one for each point.

    Args:
        heights: Heights (M,).
        points: Points (M, D).

    Returns:
        The heights.

    Raises:
        TypeError: If the heights are not a tensor.
        ValueError: If they have another shape, or are not finite.
    """
    heights = as_tensor("heights", heights)
    if heights.shape != points.shape[:1]:
        raise ValueError(f"`heights` must have shape ({len(points)},), got {tuple(heights.shape)}.")
    if not torch.isfinite(heights).all():
        raise ValueError("`heights` must be finite, got NaN or infinite values.")
    return heights


def _largest_value(name: str, cloud: Tensor, min_samples: int, order: float) -> float:
    """The largest size of a value; raise unless (N, D) or (B, N, D) are floating and finite."""
    if not cloud.is_floating_point():
        raise TypeError(f"`{name}` must be floating, got {cloud.dtype}: convert it first.")
    if cloud.ndim not in (2, 3):
        raise ValueError(f"`{name}` must have shape (N, D) or (B, N, D), got {tuple(cloud.shape)}.")
    if cloud.shape[-2] < min_samples:
        raise ValueError(
            f"`{name}` must hold at least {min_samples} sample(s), got {cloud.shape[-2]}."
        )
    if cloud.shape[-1] < 1 or cloud.shape[0] < 1:
        raise ValueError(f"`{name}` must not be empty, got shape {tuple(cloud.shape)}.")
    largest = max(abs(float(end)) for end in cloud.detach().aminmax())
    if not math.isfinite(largest):
        raise ValueError(f"`{name}` must be finite, got NaN or infinite values.")
    # No distance is longer than twice the longest vector.
    bound = min(_LARGEST_POWER ** (1 / order), torch.finfo(cloud.dtype).max)
    if 2 * largest * cloud.shape[-1] > bound:
        raise ValueError(
            f"`{name}` must be small enough for |x - y|^{order:g} to fit its dtype, "
            f"got values up to {largest:.1e}: scale both clouds down."
        )
    return largest


def checked_weights(name: str, weights: Tensor | None, cloud: Tensor) -> Tensor | None:
    """Return `weights` in float64, each row summing to one, or None for uniform weights.

    Args:
        name: The argument's name, for the message.
        weights: Non-negative weights of shape (N,) or (B, N), or None.
        cloud: The cloud they weigh, of shape (N, D) or (B, N, D).

    Returns:
        Weights of shape `cloud.shape[:-1]`, or None. They keep their graph: a gradient in them is
        one in what was given.

    Raises:
        TypeError: If the weights are not a tensor.
        ValueError: If the shape differs, a weight is negative or not finite, or a row does not sum
            to a positive finite number.
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
    weights = weights.to(cloud.device, torch.float64).expand(shape)
    if not torch.isfinite(weights.detach()).all() or (weights.detach() < 0).any():
        raise ValueError(f"`{name}` must be finite and >= 0.")
    total = weights.sum(-1, keepdim=True)
    if not ((total > 0) & torch.isfinite(total)).all():
        raise ValueError(f"`{name}` must have a positive finite sum.")
    return weights / total


def _way_to_weights(name: str, given: torch.Size, shape: torch.Size) -> str:
    """How weights with an axis of one too many become weights (N,) or (B, N)."""
    if given[-1:] == (1,) and given[:-1] in (shape, shape[-1:]):
        return f": give {name}[{':, ' if len(given) == 2 else '..., '}0]"
    return f": give {name}[0]" if given == (1, *shape[-1:]) else ""


def weights_note(real_weights: Tensor | None, fake_weights: Tensor | None) -> str:
    """What a message adds where the weights of both sides, as given, differ in their sum.

    Args:
        real_weights: Weights (N,) or (B, N) that were checked, or None for uniform ones of sum 1.
        fake_weights: The same for fake.

    Returns:
        A clause, or nothing where they agree to six digits.
    """
    given = ("real_weights", real_weights), ("fake_weights", fake_weights)
    sums = [
        torch.ones((), dtype=torch.float64)
        if weights is None
        else as_tensor(name, weights).detach().double().sum(-1).cpu()
        for name, weights in given
    ]
    first, second = torch.broadcast_tensors(*sums)
    apart = ~torch.isclose(first, second, rtol=1e-6, atol=0)
    if not apart.any():
        return ""
    first, second = first[apart][0], second[apart][0]
    return f"; weights sum to {first:g} (real) and {second:g} (fake): each side was normalised"


def is_uniform(weights: Tensor) -> bool:
    """Whether all weights are one and the same.

    Args:
        weights: Weights (N,).

    Returns:
        True if so.
    """
    return bool((weights == weights[0]).all())


def checked_generator(
    generator: torch.Generator | None, default: torch.Generator
) -> torch.Generator:
    """Return the generator that was given, or the default.

    Args:
        generator: A CPU generator, or None.
        default: What stands for None.

    Returns:
        The generator.

    Raises:
        TypeError: If it is no generator, a seed for example.
        ValueError: If it is not one of the CPU.
    """
    if generator is None:
        return default
    check_generator(generator)
    return generator


def check_generator(generator: torch.Generator) -> None:
    """Raise unless an argument is a generator of the CPU.

    Args:
        generator: Its value.

    Raises:
        TypeError: If it is no generator, a seed for example.
        ValueError: If it is not one of the CPU.
    """
    if not isinstance(generator, torch.Generator):
        raise TypeError(
            f"`generator` must be a torch.Generator, got {generator!r}: give "
            "torch.Generator().manual_seed(0)."
        )
    if generator.device.type != "cpu":
        raise ValueError(
            f"`generator` must be one of the CPU, got one of {generator.device}: give "
            "torch.Generator().manual_seed(0), which draws the same for every device."
        )


def check_order(order: float) -> None:
    """Raise unless the order p of the distance is a finite number of at least 1.

    Args:
        order: The order p.

    Raises:
        ValueError: If `order` is not a number, below 1 or not finite.
    """
    if not _is_number(order) or order < 1:
        raise ValueError(f"`order` must be a finite number >= 1, got {order!r}.")


def check_positive(name: str, value: float) -> None:
    """Raise unless a real option is positive and finite.

    Args:
        name: The option's name, for the message.
        value: Its value.

    Raises:
        ValueError: If `value` is not a positive finite number.
    """
    if not _is_number(value) or value <= 0:
        raise ValueError(f"`{name}` must be a positive finite number, got {value!r}.")


def check_not_negative(name: str, value: float) -> None:
    """Raise unless a real option is at least 0 and finite.

    Args:
        name: The option's name, for the message.
        value: Its value.

    Raises:
        ValueError: If `value` is negative or no finite number.
    """
    if not _is_number(value) or value < 0:
        raise ValueError(f"`{name}` must be a finite number >= 0, got {value!r}.")


def check_share(name: str, value: float) -> None:
    """Raise unless a real option is a share between 0 and 1.

    Args:
        name: The option's name, for the message.
        value: Its value.

    Raises:
        ValueError: If `value` is not a number in (0, 1).
    """
    if not _is_number(value) or not 0 < value < 1:
        raise ValueError(f"`{name}` must be in (0, 1), got {value!r}.")


def check_at_least(name: str, value: int, minimum: int) -> None:
    """Raise unless an integer option reaches its minimum.

    Args:
        name: The option's name, for the message.
        value: Its value.
        minimum: The smallest value allowed.

    Raises:
        ValueError: If `value` is below `minimum` or not an integer.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < minimum:
        raise ValueError(f"`{name}` must be an integer >= {minimum}, got {value!r}.")


def check_seed(seed: int) -> None:
    """Raise unless a seed is one that torch takes.

    Args:
        seed: The seed.

    Raises:
        ValueError: If it is not an integer in [0, 2^63).
    """
    check_at_least("seed", seed, 0)
    if seed >= 2**63:
        raise ValueError(f"`seed` must be below 2^63, got {seed}.")


def check_device(device: str | torch.device) -> None:
    """Raise unless an option `device` names a place where tensors can be on this machine.

    Args:
        device: Its value.

    Raises:
        ValueError: If it is no device, holds no values, or is not on this machine.
    """
    rule = '`device` must be "cpu", "cuda" or "cuda:i"'
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f'{rule}, got {device!r}: give "cpu".') from error
    if found.type == "meta":
        raise ValueError(f'{rule}, got {device!r}, where tensors have no values: give "cpu".')
    if found.type == "cpu":
        return
    backend: Any = torch.backends.mps if found.type == "mps" else getattr(torch, found.type, None)
    there = backend is not None and hasattr(backend, "is_available") and backend.is_available()
    count = backend.device_count() if there and hasattr(backend, "device_count") else int(there)
    if (found.index or 0) >= count:
        reason = f"which is not on this machine ({count} of this kind are)"
        raise ValueError(f'{rule}, got {device!r}, {reason}: give "cpu".')


def check_flag(name: str, value: bool) -> None:
    """Raise unless an option is True or False.

    Args:
        name: The option's name, for the message.
        value: Its value.

    Raises:
        ValueError: If it is anything else.
    """
    if not isinstance(value, bool):
        raise ValueError(f"`{name}` must be True or False, got {value!r}.")


def _is_number(value: object) -> bool:
    """Whether a value is a finite real number; True and False are none."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def check_tensor(name: str, value: object) -> None:
    """Raise unless an argument is a tensor.

    Args:
        name: The argument's name, for the message.
        value: Its value.

    Raises:
        TypeError: If it is not.
    """
    if not isinstance(value, Tensor):
        raise TypeError(_no_tensor(name, value))


def as_tensor(name: str, value: object, *, sparse: bool = False) -> Tensor:
    """Return an argument as a tensor: a tensor as it is, a NumPy array with its values.

    Arrays that torch cannot share (read-only ones, those of another byte order, views with gaps or
    negative strides) are copied.

    Args:
        name: The argument's name, for the message.
        value: Its value.
        sparse: Whether a sparse tensor will do.

    Returns:
        The tensor, in the dtype of the array.

    Raises:
        TypeError: If it is neither, or holds what no tensor keeps: a mask, what is no number, or
            numbers that are complex or of no dtype of torch.
        ValueError: If it is a tensor without values, of the device meta.
    """
    if isinstance(value, np.ma.MaskedArray | torch.masked.MaskedTensor):
        raise TypeError(
            f"`{name}` must not be masked: the values under the mask would count. Drop the masked "
            "samples, for example with numpy.ma.compress_rows."
        )
    if isinstance(value, np.ndarray):
        value = _of_array(name, value)
    check_tensor(name, value)
    assert isinstance(value, Tensor)
    if value.is_complex():
        raise TypeError(
            f"`{name}` must be floating, got {value.dtype}: take `.real` where the imaginary part "
            "is 0, or real and imaginary part as two features."
        )
    if value.is_meta:
        raise ValueError(
            f"`{name}` must hold values, got a tensor on the device meta, which has a shape alone: "
            "give one on the CPU or a GPU."
        )
    if not sparse and value.layout != torch.strided:
        raise TypeError(f"`{name}` must be dense, got {value.layout}: give {name}.to_dense().")
    return value


def _of_array(name: str, array: np.ndarray) -> Tensor:
    """A tensor that shares the memory of an array where torch can, else with a copy of it."""
    array = np.asarray(array)
    if array.dtype.kind not in "biufcO" or not all(map(_is_real_number, _objects(array))):
        raise TypeError(
            f"`{name}` must hold numbers, got an array of {array.dtype}: give features, which are "
            "numbers, without names, dates and what else stands beside them."
        )
    if array.dtype.kind not in "biufc" or array.dtype.itemsize > 8 * (
        1 + (array.dtype.kind == "c")
    ):
        raise TypeError(
            f"`{name}` must hold numbers that torch has, got an array of {array.dtype}: give "
            f"{name}.astype(numpy.float64)."
        )
    flags = array.flags
    plain = flags.c_contiguous and flags.aligned and flags.writeable and array.dtype.isnative
    # An axis of one row may have a negative stride and yet be contiguous.
    if not plain or min(array.strides, default=0) < 0:
        array = np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
    return torch.from_numpy(array)


def _objects(array: np.ndarray) -> list[object]:
    """What an array of objects holds."""
    return array.ravel().tolist() if array.dtype.kind == "O" else []


def _is_real_number(value: object) -> bool:
    """Whether numpy can take an object for a real number."""
    return isinstance(value, Real | Decimal | np.bool_)


def _no_tensor(name: str, value: object) -> str:
    """That an argument is no tensor, and how it becomes one."""
    got = type(value).__name__
    if value is None:
        return f"`{name}` is missing, got None: give a torch.Tensor or numpy.ndarray."
    if isinstance(value, str | bytes | PathLike):
        return (
            f"`{name}` must be a torch.Tensor, got {got}: features are numbers; files are read by "
            "otmetrics.score(real, fake)."
        )
    if hasattr(value, "toarray"):
        remedy = f"give {name}.toarray()"
    elif hasattr(value, "to_numpy"):
        remedy = f"give {name}.to_numpy()"
    else:
        remedy = f"give numpy.asarray({name}), as arrays are taken too, or torch.as_tensor({name})"
    return f"`{name}` must be a torch.Tensor, got {got}: {remedy}."
