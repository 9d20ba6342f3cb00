"""Float32 that is float32: no autocast, no TF32, no bfloat16 behind the back of a number."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_LOCK = threading.Lock()
_inside = 0  # threads that need IEEE products now
_before: list[str] = []


@contextmanager
def ieee_float32(device: torch.device) -> Iterator[None]:
    """Compute float32 matrix products and convolutions as IEEE float32.

    Args:
        device: Where they run.

    Yields:
        Nothing; the former settings are back at the end, also after an error.
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
    mkldnn: Any = torch.backends.mkldnn
    cudnn: Any = torch.backends.cudnn
    backends: list[Any] = [torch.backends.cuda.matmul, cudnn.conv, mkldnn.matmul, mkldnn.conv]
    former = [backend.fp32_precision for backend in backends]
    for backend, precision in zip(backends, wanted or ["ieee"] * len(backends), strict=True):
        backend.fp32_precision = precision
    return former
