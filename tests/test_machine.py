"""Float32 stays float32 inside, and the caller's settings come back."""

import itertools
import subprocess
import sys
import threading
from contextlib import AbstractContextManager

import pytest
import torch

from otmetrics.machine import exportable_settings, ieee_float32

CPU = torch.device("cpu")
PRECISIONS = {
    "untouched": "pass",
    "older": "torch.set_float32_matmul_precision('medium')",
    "older, CUDA": "torch.backends.cuda.matmul.allow_tf32 = True",
    "newer": "torch.backends.cuda.matmul.fp32_precision = 'tf32'",
    "newer, all": "torch.backends.fp32_precision = 'tf32'",
}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_matmul_is_ieee_and_the_setting_comes_back(precision: str) -> None:
    # In a process of its own: torch refuses to mix its two ways to say this.
    if "newer" in precision and not hasattr(torch.backends, "fp32_precision"):
        pytest.skip("this torch has the older setting only")
    code = f"""
import torch
from otmetrics.machine import ieee_float32
{PRECISIONS[precision]}

def settings():
    if hasattr(torch.backends, "fp32_precision"):
        b = torch.backends
        found = b.cuda.matmul, b.cudnn.conv, b.mkldnn.matmul, b.mkldnn.conv
        return [backend.fp32_precision for backend in found]
    return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32

before = settings()
x = torch.randn(200, 200, generator=torch.Generator().manual_seed(0))
exact = x.double() @ x.double()
try:
    with ieee_float32(torch.device("cpu")):
        # 200 products of size one: IEEE float32 is off by 1e-5, bfloat16 by 1e-2.
        assert (x @ x - exact).abs().max() < 1e-3
        if hasattr(torch.backends, "fp32_precision"):
            assert set(settings()) == {{"ieee"}}
        else:
            assert settings() == ("highest", False)
        raise RuntimeError("inside")
except RuntimeError as error:
    assert str(error) == "inside"
assert settings() == before
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("others", ["another thread", "the same thread"])
def test_nobody_waits_for_an_export(others: str) -> None:
    """What is exported may wait for a thread that computes, or compute itself."""
    finished = threading.Event()

    def compute() -> None:
        with ieee_float32(CPU), exportable_settings():
            finished.set()

    def export() -> None:
        with exportable_settings():
            if others == "the same thread":
                compute()
            else:
                threading.Thread(target=compute, daemon=True).start()
            left.append(finished.wait(20))

    left: list[bool] = []
    exporter = threading.Thread(target=export, daemon=True)
    exporter.start()
    exporter.join(30)
    assert left == [True]


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="needs torch 2.9")
@pytest.mark.skipif(torch.cuda.is_initialized(), reason="cuDNN's settings are those of the GPU")
@pytest.mark.parametrize("users", [{"rnn": "ieee"}, {"conv": "ieee"}, {}], ids=str)
def test_settings_come_back_in_whatever_order_threads_leave(users: dict[str, str]) -> None:
    backends = torch.backends
    products = [backends.cuda.matmul, backends.mkldnn.matmul, backends.mkldnn.conv]
    everywhere = [*products, backends.cudnn.conv, backends.cudnn.rnn]

    def settings() -> list[str]:
        return [backend.fp32_precision for backend in everywhere]

    untouched = settings()
    try:
        for name, precision in users.items():
            getattr(backends.cudnn, name).fp32_precision = precision
        before = settings()
        kinds = ["export", "ieee", "export", "ieee"]
        for entries in itertools.permutations(range(4), 4):
            for exits in itertools.permutations(range(4), 4):
                managers: list[AbstractContextManager[None]] = [
                    ieee_float32(CPU) if kind == "ieee" else exportable_settings() for kind in kinds
                ]
                inside: list[str] = []
                for is_entry, k in [(True, k) for k in entries] + [(False, k) for k in exits]:
                    if is_entry:
                        managers[k].__enter__()
                        inside.append(kinds[k])
                    else:
                        managers[k].__exit__(None, None, None)
                        inside.remove(kinds[k])

                    wanted = ["ieee"] * 3 if "ieee" in inside else before[:3]
                    assert settings()[:3] == wanted
                    if "export" in inside:
                        assert backends.cudnn.allow_tf32 is not None  # it does not raise
                    else:
                        assert settings()[3] == ("ieee" if "ieee" in inside else before[3])
                        assert settings()[4] == before[4]
                assert settings() == before
    finally:
        for backend, precision in zip(everywhere, untouched, strict=True):
            backend.fp32_precision = precision
