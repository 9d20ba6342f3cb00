"""Tensors, and arrays in their place; whatever else is given is told how to become one."""

from decimal import Decimal
from numbers import Real
from os import PathLike

import numpy as np
import torch
from torch import Tensor


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
