"""Options, seeds and limits that every test shares."""

import os

# Two workers on two cores: a second thread in either only makes both wait. Before numpy loads.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")

import pytest
import torch
from hypothesis import settings

# derandomize: one commit gives one verdict. deadline: the first torch call of a process is slow.
settings.register_profile("otmetrics", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("otmetrics")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="where the tensors live: cpu, cuda, ...")
    parser.addoption("--dtype", default="float64", choices=["float32", "float64"])


def pytest_configure(config: pytest.Config) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.config.getoption("--device"))


@pytest.fixture(scope="session")
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return getattr(torch, request.config.getoption("--dtype"))


@pytest.fixture
def generator() -> torch.Generator:
    """A CPU generator: one seed gives the same data on every device."""
    return torch.Generator().manual_seed(0)
