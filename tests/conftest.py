"""Options, seeds and limits that every test shares."""

import os
from collections.abc import Iterator
from pathlib import Path

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


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Features that tests keep are nobody else's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTMETRICS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def inception_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file like the published one, with random tensors that keep activations of order one."""
    from otmetrics.features import inception as module

    torch.manual_seed(0)
    network = module._network(module._building_blocks())
    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(layer.bias, -0.5, 0.5)
            torch.nn.init.uniform_(layer.running_mean, -0.2, 0.2)
            torch.nn.init.uniform_(layer.running_var, 0.8, 1.5)
    classifier = {"fc.weight": torch.randn(1008, 2048), "fc.bias": torch.randn(1008)}
    path = tmp_path_factory.mktemp("weights") / "random.pth"
    torch.save(network.state_dict() | classifier, path)
    return path
