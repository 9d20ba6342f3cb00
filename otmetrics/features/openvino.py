"""A frozen network made fast without changing its features: compiled by OpenVINO for CPUs."""

import copy
import logging
import queue
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from otmetrics.errors import Argument, OptionError, ignored_warnings
from otmetrics.machine import exportable_settings, ieee_float32

RUNTIMES = ("auto", "openvino", "torch")
TOLERANCE = 1e-4  # of the features' norm, between compiled and eager on a probe

_ABSENT: Any = object()
# Imports, exports and conversions change settings of the whole process: one at a time.
_COMPILING = threading.Lock()


class Runtime:
    """Which runtime an extractor uses on a CPU, and the network as it was compiled.

    "auto" takes OpenVINO where it is installed and agrees with the network, "openvino" insists on
    it, "torch" leaves the network as it is. Copies and pickles compile a network of their own.
    """

    def __init__(self, choice: str = "auto") -> None:
        if choice not in RUNTIMES:
            raise OptionError(
                Argument("runtime"), f" must be one of {', '.join(RUNTIMES)}, got {choice!r}."
            )
        installed = find_spec("openvino") is not None
        if choice == "openvino" and not installed:
            raise OptionError(
                Argument("runtime"), " openvino needs the package openvino: pip install openvino."
            )

        self.choice = choice
        # Whether OpenVINO runs the network, as far as is known before it is compiled.
        self.compiles = choice != "torch" and installed
        self._lock = threading.Lock()
        self._compiled: CompiledNetwork | None = None

    def compiled_network(
        self, network: nn.Module, shape: tuple[int, ...]
    ) -> "CompiledNetwork | None":
        """The network compiled for inputs of `shape` (3, H, W); None where torch must run it.

        It is compiled at the first call, and again when its weights have changed.
        """
        with self._lock:
            if not self.compiles or _has_hooks(network):
                return None
            if self._compiled is None or self._compiled.state != _state(network):
                self._compiled = self._compile(network, shape)
            return self._compiled

    def _compile(self, network: nn.Module, shape: tuple[int, ...]) -> "CompiledNetwork | None":
        """Compile, or say once why torch must run the network."""
        try:
            return CompiledNetwork(network, shape, torch.get_num_threads())
        except Exception as error:  # a converter fails in as many ways as there are networks
            reason = " ".join(str(error).split())[:200]
            if self.choice == "openvino":
                raise OptionError(
                    Argument("runtime"),
                    f" openvino cannot run this network ({reason}): leave it out.",
                ) from error

            self.compiles = False
            warnings.warn(
                f"OpenVINO cannot run this network ({reason}): torch runs it, more slowly.",
                stacklevel=4,
            )
            return None

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return Runtime, (self.choice,)


class CompiledNetwork:
    """A network as OpenVINO compiles it for one image (3, H, W) at a time, in float32.

    One image per call keeps the activations in a core's cache. It also makes the features of an
    image independent of its neighbours, of the batch size and of the number of threads, to the last
    bit. Compiling fails where OpenVINO cannot convert the network, or where its features differ
    from the network's by more than `TOLERANCE`.
    """

    def __init__(self, network: nn.Module, shape: tuple[int, ...], num_threads: int) -> None:
        self.num_threads = num_threads
        self.state = _state(network)

        self._model = _compile(network, shape, num_threads)
        # Twice as many as cores: threads that read images compute their features as well.
        self._free: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(2 * num_threads):
            self._free.put(self._model.create_infer_request())
        self._check(network, shape)

    def __call__(self, inputs: Tensor) -> Tensor:
        """Features (N, D) of float32 inputs (N, 3, H, W); many threads may ask at once."""
        images = inputs.detach().contiguous().numpy()
        if len(images) == 1:
            return torch.from_numpy(self._features(images[0]))

        with ThreadPoolExecutor(self.num_threads) as pool:
            return torch.from_numpy(np.concatenate(list(pool.map(self._features, images))))

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
        with torch.no_grad(), ieee_float32(torch.device("cpu")):
            eager = network(probe)
        error = float((self(probe) - eager).norm() / eager.norm())
        if not error <= TOLERANCE:  # NaN is an error too
            raise RuntimeError(f"features differ by {error:.1e} of their norm")


def openvino_name() -> str:
    """What records call the compiled runtime: its name and version."""
    return f"openvino {version('openvino')}"


def _state(network: nn.Module) -> list[tuple[int, int | None]]:
    """Where each tensor of a network lies, and its version, which counts what is written to it."""
    tensors = [*network.parameters(), *network.buffers()]
    # torch does not count what is written to inference tensors.
    return [(t.data_ptr(), None if t.is_inference() else t._version) for t in tensors]


def _has_hooks(network: nn.Module) -> bool:
    """Whether a user listens to layers, which a compiled network does not have."""
    return any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


def _compile(network: nn.Module, shape: tuple[int, ...], num_threads: int) -> Any:
    """Export, convert and compile a network for inputs (1, *shape)."""
    options = {
        "INFERENCE_PRECISION_HINT": "f32",  # never bfloat16, where the processor has it
        "INFERENCE_NUM_THREADS": num_threads,
        "NUM_STREAMS": num_threads,
        "ENABLE_CPU_PINNING": False,  # cores are shared with the decoding of images
    }

    with _COMPILING:
        openvino = _import_openvino()
        logger = logging.getLogger()  # whose settings a conversion that fails would leave changed
        level, filters, handlers = logger.level, logger.filters[:], logger.handlers[:]
        with torch.inference_mode(False), torch.no_grad(), torch.autocast("cpu", enabled=False):
            # A copy, as the model reads the weights where they lie: nobody else frees them or
            # writes to them while a thread computes.
            network = copy.deepcopy(network).to(memory_format=torch.contiguous_format)
            try:
                # Some networks keep tables that depend on the size of images: computed once.
                with exportable_settings(), ignored_warnings("The tensor attribute"):
                    program = torch.export.export(network, (torch.zeros(1, *shape),))
                    with _interrupts_after():
                        model = openvino.convert_model(program)
            finally:
                logger.setLevel(level)
                logger.filters, logger.handlers = filters, handlers

        model.reshape([1, *shape])
        return _core().compile_model(model, "CPU", options)


@contextmanager
def _interrupts_after() -> Iterator[None]:
    """Raise an interrupt at the end of C++ code that calls Python back, and would swallow it."""
    usual = signal.default_int_handler
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not usual:
        yield
        return

    came: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
    if came:
        raise KeyboardInterrupt


def _import_openvino() -> Any:
    """Import OpenVINO without its telemetry, which would tell its makers of each use.

    It does without where the package `openvino_telemetry` cannot be imported.
    """
    if "openvino" in sys.modules:
        return sys.modules["openvino"]
    before = sys.modules.get("openvino_telemetry", _ABSENT)
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    try:
        import openvino
    finally:
        del sys.modules["openvino_telemetry"]
        if before is not _ABSENT:
            sys.modules["openvino_telemetry"] = before
    return openvino


@cache
def _core() -> Any:
    """The one `openvino.Core` of this process, which is never given up.

    On processors with AMX every core replaces the thread's stack for signals and, when it goes,
    puts back what it found: out of order, that is the freed stack of another core, and the next
    signal ends the process.
    """
    import openvino

    return openvino.Core()
