"""A frozen network made fast without changing its features: compiled by OpenVINO for CPUs."""

import copy
import queue
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from otmetrics.errors import OptionError, ignored_warnings

RUNTIMES = ("auto", "openvino", "torch")
_ABSENT: Any = object()
_COMPILING = threading.Lock()
TOLERANCE = 1e-4  # of the features' norm, between compiled and eager on a probe


class CompiledNetwork:
    """A network as OpenVINO compiles it for one image at a time, in float32.

    One image a call keeps the activations in a core's cache. It also makes the features of an image
    independent of its neighbours, of the size of batches and of the number of threads, to the last
    bit.

    Args:
        network: Maps (N, 3, H, W) to (N, D); in eval mode, on the CPU.
        shape: (3, H, W) of its inputs.
        num_threads: How many images are computed at once, one core each.

    Raises:
        RuntimeError: OpenVINO cannot convert the network, or its features differ from the
            network's by more than `TOLERANCE`.
    """

    def __init__(self, network: nn.Module, shape: tuple[int, ...], num_threads: int) -> None:
        self.num_threads = num_threads
        self._state = _State(network)
        self._model = _compile(network, shape, num_threads)
        self._free: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(2 * num_threads):
            self._free.put(self._model.create_infer_request())
        self._check(network, shape)

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return the features of a batch, which any number of threads may ask for at once.

        Args:
            inputs: float32 (N, 3, H, W) on the CPU, of the shape that was compiled.

        Returns:
            float32 (N, D).
        """
        images = inputs.detach().contiguous().numpy()
        if len(images) == 1:
            return torch.from_numpy(self._features(images[0]))
        with ThreadPoolExecutor(self.num_threads) as pool:
            return torch.from_numpy(np.concatenate(list(pool.map(self._features, images))))

    def is_of(self, network: nn.Module) -> bool:
        """Tell whether this still computes what a call of the network would.

        Args:
            network: What it was compiled from, perhaps changed since.

        Returns:
            False where its tensors were written to or replaced.
        """
        return self._state == _State(network)

    def _features(self, image: np.ndarray) -> np.ndarray:
        """Features (1, D) of one image (3, H, W)."""
        request = self._free.get()
        try:
            return request.infer({0: image[None]})[0]
        finally:
            self._free.put(request)

    def _check(self, network: nn.Module, shape: tuple[int, ...]) -> None:
        """Raise unless the compiled network agrees with the network."""
        probe = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
        with torch.no_grad():
            eager = network(probe)
        error = float((self(probe) - eager).norm() / eager.norm())
        if not error <= TOLERANCE:
            raise RuntimeError(f"features differ by {error:.1e} of their norm")


class _State:
    """What a compiled network depends on: its tensors in their present version."""

    def __init__(self, network: nn.Module) -> None:
        tensors = [*network.parameters(), *network.buffers()]
        self.tensors = [(t.data_ptr(), None if t.is_inference() else t._version) for t in tensors]
        self.hooked = any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _State) and self.tensors == other.tensors

    __hash__ = None  # type: ignore[assignment]


class Runtime:
    """Which runtime an extractor uses on a CPU, and the network as it compiled it.

    Copies and pickles of an extractor compile their own network.

    Args:
        choice: One of `RUNTIMES`: "auto" takes OpenVINO where it is installed and agrees with the
            network, "openvino" insists on it, "torch" leaves the network as it is.

    Raises:
        ValueError: The choice is another one, or OpenVINO is not installed.
    """

    def __init__(self, choice: str = "auto") -> None:
        if choice not in RUNTIMES:
            raise ValueError(f"`runtime` must be one of {', '.join(RUNTIMES)}, got {choice!r}.")
        if choice == "openvino" and find_spec("openvino") is None:
            raise ValueError("`runtime` openvino needs the package openvino: pip install openvino.")
        self.choice = choice
        self._lock = threading.Lock()
        self._network: CompiledNetwork | None = None
        self._failed = choice == "torch" or find_spec("openvino") is None

    def compiled_network(
        self, network: nn.Module, shape: tuple[int, ...]
    ) -> CompiledNetwork | None:
        """Return the compiled network, compiled at the first call and when the weights changed.

        Args:
            network: The network, on the CPU.
            shape: (3, H, W) of its inputs.

        Returns:
            None where torch is to run the network.

        Raises:
            OptionError: OpenVINO was insisted on and does not do.
        """
        with self._lock:
            if self._failed or _State(network).hooked:
                return None
            if self._network is None or not self._network.is_of(network):
                self._network = self._compile(network, shape)
            return self._network

    @property
    def compiles(self) -> bool:
        """Whether OpenVINO runs the network, as far as is known before it is compiled."""
        return not self._failed

    def _compile(self, network: nn.Module, shape: tuple[int, ...]) -> CompiledNetwork | None:
        """Compile, or say once why torch has to do."""
        try:
            return CompiledNetwork(network, shape, torch.get_num_threads())
        except Exception as error:  # a converter fails in as many ways as there are networks
            reason = " ".join(str(error).split())[:200]
            if self.choice == "openvino":
                raise OptionError(
                    f"`runtime` openvino does not do for this network ({reason}): leave it out."
                ) from error
            self._failed = True
            warnings.warn(
                f"OpenVINO does not do for this network ({reason}): torch runs it, more slowly.",
                stacklevel=4,
            )
            return None

    def __deepcopy__(self, memo: dict[int, Any]) -> "Runtime":
        return Runtime(self.choice)

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return Runtime, (self.choice,)


def openvino_name() -> str:
    """What records call the compiled runtime.

    Returns:
        Name and version.
    """
    return f"openvino {version('openvino')}"


def _compile(network: nn.Module, shape: tuple[int, ...], num_threads: int) -> Any:
    """Convert and compile; `openvino.convert_model` would do the same and report that it did."""
    _import_openvino()
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    network = copy.deepcopy(network).to(memory_format=torch.contiguous_format)
    with ignored_warnings(), torch.no_grad():  # torch's tracer deprecates itself
        example = (torch.zeros(1, *shape),)
        # Weights of its own: none that Python frees or writes to while a thread computes.
        decoder = TorchScriptPythonDecoder(network, example_input=example, shared_memory=False)
        frontend = FrontEndManager().load_by_framework("pytorch")
        model = frontend.convert(frontend.load(decoder))
    model.reshape([1, *shape])
    options = {
        "INFERENCE_PRECISION_HINT": "f32",  # never bfloat16, where the processor has it
        "INFERENCE_NUM_THREADS": num_threads,
        "NUM_STREAMS": num_threads,
        "ENABLE_CPU_PINNING": False,  # cores are shared with the decoding of images
    }
    with _COMPILING:
        return _core().compile_model(model, "CPU", options)


def _import_openvino() -> None:
    """Import OpenVINO without its telemetry, which would tell its makers of the import.

    It does without where the package `openvino_telemetry` cannot be imported.
    """
    with _COMPILING:
        if "openvino" in sys.modules:
            return
        before = sys.modules.get("openvino_telemetry", _ABSENT)
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
        try:
            import openvino  # noqa: F401
        finally:
            del sys.modules["openvino_telemetry"]
            if before is not _ABSENT:
                sys.modules["openvino_telemetry"] = before


@cache
def _core() -> Any:
    """The one `openvino.Core` of this process, which is never given up.

    On processors with AMX every core replaces the thread's stack for signals and, when it goes,
    puts back what it found: out of order, that is the freed stack of another core, and the next
    signal ends the process.

    Returns:
        The core.
    """
    import openvino

    return openvino.Core()
