"""Options, seeds and limits that every test shares."""

import copy
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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


_NETWORKS: dict[Any, Any] = {}
"""The default network as it was loaded in this process, and large ones as they were compiled."""


@pytest.fixture(scope="module", autouse=True)
def networks_once() -> Iterator[None]:
    """The default network is loaded once a process, and large ones are compiled once: seconds each.

    Every extractor has a copy of its own, and still compares it with what was compiled of the same
    layers and weights. The tests of `features/` load and compile each time.
    """
    from otmetrics.features import efficientnet, openvino

    load, compile_network = efficientnet._classifier, openvino._compile

    def loaded(weights: str | Path | None = None) -> Any:
        if weights is not None:
            return load(weights)
        key = efficientnet._packaged_weights()
        if key not in _NETWORKS:
            _NETWORKS[key] = load()
        return copy.deepcopy(_NETWORKS[key])

    def compiled(network: torch.nn.Module, shape: tuple[int, ...], num_threads: int) -> Any:
        if sum(value.numel() for value in network.parameters()) < 10**6:
            return compile_network(network, shape, num_threads)
        weights = hashlib.sha256()
        for value in network.state_dict().values():
            weights.update(value.contiguous().numpy())
        key = type(network), repr(network), weights.digest(), shape, num_threads
        if key not in _NETWORKS:
            _NETWORKS[key] = compile_network(network, shape, num_threads)
        return _NETWORKS[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(efficientnet, "_classifier", loaded)
        patch.setattr(openvino, "_compile", compiled)
        yield


@pytest.fixture(scope="session")
def forks() -> Iterator[Any]:
    """Starts processes that need not import the library."""
    from forks import Forks

    started = Forks()
    yield started
    started.close()


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
