"""Notes and arrays sent between processes, over gloo: never pickled, and Ctrl-C ends a wait."""

import json
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist

T = TypeVar("T")
Arrays = dict[str, np.ndarray]

_BLOCK_BYTES = 2**26  # of a message, each of which has the time-out of the group for itself


def send(rank: int, note: Any, arrays: Arrays) -> None:
    """Send a note (JSON-able) and arrays to another process."""
    shapes = [(name, array.dtype.str, array.shape) for name, array in arrays.items()]
    header = np.frombuffer(json.dumps([note, shapes]).encode(), np.uint8)
    messages: list[np.ndarray] = [np.array([len(header)], np.int64), header, *arrays.values()]
    for message in messages:
        for block in _blocks(message):
            dist.send(block, rank)


def receive(rank: int) -> tuple[Any, Arrays]:
    """The note and arrays that another process sends."""
    size = _filled(np.empty(1, np.int64), rank)
    header = _filled(np.empty(size[0], np.uint8), rank)
    note, shapes = json.loads(header.tobytes())
    return note, {
        name: _filled(np.empty(tuple(shape), dtype), rank) for name, dtype, shape in shapes
    }


def _filled(array: np.ndarray, rank: int) -> np.ndarray:
    """Fill an array by what another process sends."""
    for block in _blocks(array):
        dist.recv(block, rank)
    return array


def _blocks(array: np.ndarray) -> list[torch.Tensor]:
    """An array as bytes, in messages of a bounded size that share its memory where they can."""
    # torch warns of memory that is read only. Of an empty array split would make one message.
    whole = np.require(array, requirements=("C", "W"))
    flat = torch.from_numpy(whole.reshape(-1).view(np.uint8))
    return list(flat.split(_BLOCK_BYTES)) if len(flat) else []


def row_parts(arrays: Arrays) -> Iterator[Arrays]:
    """Arrays of equal numbers of rows, in parts of a bounded size."""
    num = len(next(iter(arrays.values())))
    size = sum(array.nbytes for array in arrays.values())
    step = max(1, _BLOCK_BYTES * num // max(1, size))
    for start in range(0, num, step):
        yield {name: array[start : start + step] for name, array in arrays.items()}


def waited(call: Callable[[], T], seconds: float | None = None) -> T:
    """Call what may block for long, so that Ctrl-C ends it; at most some seconds of it."""
    answer: queue.SimpleQueue[tuple[Any, Exception | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            answer.put((call(), None))
        except Exception as error:
            answer.put((None, error))

    # Python handles a signal in the main thread only, and only between its own instructions.
    threading.Thread(target=run, daemon=True).start()
    try:
        value, error = answer.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no answer for {seconds:g} s") from None
    if error is not None:
        raise error
    return value
