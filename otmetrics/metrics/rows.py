"""Rows that grow at their end: appending copies the new rows only, and leaves one tensor."""

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

_LEAST = 256


class _Buffer:
    """A tensor with room behind its first `taken` rows."""

    def __init__(self, rows: Tensor, taken: int) -> None:
        self.rows = rows
        self.taken = taken


_BUFFERS = WeakTensorKeyDictionary()


def appended(rows: Tensor, more: Tensor) -> Tensor:
    """Rows followed by more of them; both stay as they are.

    The result is the beginning of a buffer with room to spare. Appending to the result writes into
    that room, which nobody else sees; appending to the same rows a second time copies them. Time
    is O(M D), amortised; the room is at most half of the rows.

    Args:
        rows: Rows (N, ...).
        more: Rows (M, ...), on any device.

    Returns:
        Rows (N + M, ...) on the device of the first, in the wider dtype of both.
    """
    count, total = len(rows), len(rows) + len(more)
    dtype = torch.promote_types(rows.dtype, more.dtype)
    buffer = _BUFFERS.get(rows)
    if (
        buffer is None
        or buffer.taken != count
        or len(buffer.rows) < total
        or buffer.rows.dtype != dtype
    ):
        room = max(total + total // 2, _LEAST)
        with torch.inference_mode(False):  # a buffer made inside could not be written to outside
            buffer = _Buffer(
                torch.empty((room, *rows.shape[1:]), dtype=dtype, device=rows.device), total
            )
        buffer.rows[:count] = rows
    buffer.rows[count:total] = more
    buffer.taken = total
    result = buffer.rows[:total]
    _BUFFERS[result] = buffer
    return result
