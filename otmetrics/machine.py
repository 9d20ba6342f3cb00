"""What the machine does: true float32, compiled work on all cores, how much memory there is."""

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

_LOCK = threading.Lock()
_IEEE, _EXPORT = "ieee", "export"
_needs: Counter[str] = Counter()  # threads that need either now
_before: list[Any] = []  # the settings when none did


@contextmanager
def ieee_float32(device: torch.device) -> Iterator[None]:
    """Compute float32 matrix products and convolutions on a device as IEEE float32.

    The former settings are back at the end, also after an error.
    """
    with torch.autocast(device.type, enabled=False), _settings_for(_IEEE):
        yield


@contextmanager
def exportable_settings() -> Iterator[None]:
    """Let torch.export read cuDNN's settings, which raises once the newer API has set them.

    Nothing is done where a GPU may compute by these settings meanwhile.
    """
    with _settings_for(_EXPORT):
        yield


@contextmanager
def _settings_for(need: str) -> Iterator[None]:
    """Set what is needed, and set the former settings back.

    They are the process's: the first thread in notes them, the last one out sets them back. The
    lock is held while they change only: a network that is exported runs code of the user, which may
    come here again or wait for a thread that does.
    """
    global _before
    with _LOCK:
        if not _needs.total():
            _before = _settings()
        _needs[need] += 1
        if _needs[need] == 1:  # within another of its kind, as solvers are, nothing changes
            _set_needed()
    try:
        yield
    finally:
        with _LOCK:
            _needs[need] -= 1
            if not _needs[need]:
                _set_needed()


def _has_newer_api() -> bool:
    """Whether torch is 2.9 or later; the two APIs must not be mixed.

    Once the caller has used the newer one, the older one raises.
    """
    return hasattr(torch.backends.cuda.matmul, "fp32_precision")


def _backends() -> list[Any]:
    """Each of these runs products or convolutions on some machine, but the last; cuDNN's last."""
    mkldnn: Any = torch.backends.mkldnn
    cudnn: Any = torch.backends.cudnn
    return [torch.backends.cuda.matmul, mkldnn.matmul, mkldnn.conv, cudnn.conv, cudnn.rnn]


def _settings() -> list[Any]:
    """The precisions now."""
    if _has_newer_api():
        return [backend.fp32_precision for backend in _backends()]
    return [torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32]


def _set_needed() -> None:
    """Set the precisions that some thread needs now, and the former ones elsewhere."""
    if not _has_newer_api():
        matmul, convolution = ("highest", False) if _needs[_IEEE] else _before
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.allow_tf32 = convolution
        return

    backends = _backends()
    wanted = ["ieee"] * 4 + _before[4:] if _needs[_IEEE] else _before
    # Without a GPU nothing computes by cuDNN's, and they are left to an export.
    is_exporting = bool(_needs[_EXPORT]) and not torch.cuda.is_initialized()
    kept = 3 if is_exporting else len(backends)
    for backend, precision in zip(backends[:kept], wanted[:kept], strict=True):
        if backend.fp32_precision != precision:
            backend.fp32_precision = precision

    # One of them is what the older API has in mind, whose setting cannot be asked for.
    for precision in ("tf32", "ieee") if is_exporting else ():
        if not _is_cudnn_readable():
            for backend in backends[kept:]:
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
