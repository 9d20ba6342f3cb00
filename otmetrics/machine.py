"""What the machine does: true float32, compiled work on all cores, how much memory there is."""

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

_LOCK = threading.Lock()
_inside = 0  # threads that need IEEE products now
_before: list[str] = []


@contextmanager
def ieee_float32(device: torch.device) -> Iterator[None]:
    """Compute float32 matrix products and convolutions on a device as IEEE float32.

    The former settings are back at the end, also after an error.
    """
    with torch.autocast(device.type, enabled=False), _ieee_precision():
        yield


@contextmanager
def _ieee_precision() -> Iterator[None]:
    """Set the precision by the API that this torch has, and set it back.

    The two APIs must not be mixed: once the caller has used the newer one, the older one raises.
    """
    global _inside, _before
    # The setting is the process's: the first thread in sets it, the last one out sets it back.
    with _LOCK:
        if not _inside:
            _before = _precisions(None)
        _inside += 1
    try:
        yield
    finally:
        with _LOCK:
            _inside -= 1
            if not _inside:
                _precisions(_before)


def _precisions(wanted: list[Any] | None) -> list[Any]:
    """Set these precisions of products and convolutions, None for IEEE; return the former ones."""
    if not hasattr(torch.backends.cuda.matmul, "fp32_precision"):  # torch before 2.9
        former = [torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32]
        matmul, convolution = wanted or ["highest", False]
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.allow_tf32 = convolution
        return former

    # All four: each of these backends runs products or convolutions on some machine.
    mkldnn: Any = torch.backends.mkldnn
    cudnn: Any = torch.backends.cudnn
    backends: list[Any] = [torch.backends.cuda.matmul, cudnn.conv, mkldnn.matmul, mkldnn.conv]
    former = [backend.fp32_precision for backend in backends]
    for backend, precision in zip(backends, wanted or ["ieee"] * len(backends), strict=True):
        backend.fp32_precision = precision
    return former


@contextmanager
def exportable_settings() -> Iterator[None]:
    """Let torch.export read cuDNN's settings, which raises once the newer API has set them.

    Nothing is done where a GPU may compute by these settings meanwhile.
    """
    cudnn: Any = torch.backends.cudnn
    with _LOCK:
        untouched = torch.cuda.is_initialized() or not hasattr(cudnn, "conv")  # torch before 2.9
        backends = [] if untouched else [cudnn.conv, cudnn.rnn]
        former = [backend.fp32_precision for backend in backends]
        try:
            # One of them is what the older API has in mind, whose setting cannot be asked for.
            for precision in ("tf32", "ieee"):
                if not _is_cudnn_readable():
                    for backend in backends:
                        backend.fp32_precision = precision
            yield
        finally:
            for backend, precision in zip(backends, former, strict=True):
                backend.fp32_precision = precision


def _is_cudnn_readable() -> bool:
    """Whether the older API tells cuDNN's precision."""
    try:
        return torch.backends.cudnn.allow_tf32 is not None
    except RuntimeError:
        return False


_MODEST = 4e9  # bytes for costs where the memory of the machine is unknown
_T = TypeVar("_T")
_S = TypeVar("_S")


def in_threads(
    work: Callable[[_T], _S], items: Iterable[_T], num_threads: int | None = None
) -> list[_S]:
    """Results, in order, of work that lets other threads run; None for one thread per core."""
    if num_threads == 1:
        return [work(item) for item in items]
    with ThreadPoolExecutor(num_threads or os.cpu_count()) as pool:
        return list(pool.map(work, items))


def memory_budget(device: torch.device, memory_limit: float | None) -> float:
    """Bytes that costs may take: the limit that was asked for, or half of the device's memory."""
    if memory_limit is not None:
        return memory_limit
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / 2
    if hasattr(os, "sysconf"):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2
    return _MODEST  # Windows does not say
