"""Float32 stays float32 inside, and the caller's settings come back."""

import subprocess
import sys

import pytest
import torch

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
