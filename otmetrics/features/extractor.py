"""The frozen network that every feature extractor is."""

from collections.abc import Callable
from functools import cached_property
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from otmetrics.errors import DataError
from otmetrics.features.openvino import CompiledNetwork, Runtime, openvino_name
from otmetrics.features.preprocessing import Preprocessing, check_batch
from otmetrics.features.weights import tensors_sha256
from otmetrics.machine import ieee_float32


class FrozenExtractor(nn.Module):
    """Images in, features out, by a network that nothing around it can change.

    A metric or a loss that holds an extractor can be trained, cast, saved and moved as if the
    extractor were not there:

    - the network stays in eval mode, also after `train()` of a parent;
    - its weights get no gradient (`extractor.network.requires_grad_(True)` asks for one), while
      gradients do flow to floating images;
    - its weights are in nobody's `parameters()`, `buffers()`, `modules()` or `state_dict()`;
    - `.to(device)`, `.cuda()`, `.cpu()`, its own or a parent's, move it; `.half()`, `.double()` and
      autocast do not change its float32;
    - images and inputs on another device are moved to the network's.

    Where no gradient is asked for, a CPU runs the network as OpenVINO compiles it; its features
    agree with the network's to float32 rounding.

    Args:
        network: Maps a batch of inputs to features (N, D). It is frozen, put in eval mode and cast
            to float32 in place.
        preprocessing: Maps images to inputs; None hands the images to the network as they are.
        name: What to call the extractor in records and messages.
        num_features: D, where it is known beforehand.
        runtime: How a CPU runs the network without gradients; "torch" leaves it as it is.

    Attributes:
        dtype: In what the network computes: float32, unless `set_dtype` says otherwise.
        num_features: D; None until the first batch where nobody said it.

    Examples:
        >>> pixels = FrozenExtractor(nn.Flatten(), Preprocessing(size=8), "pixels")
        >>> pixels(torch.zeros(2, 3, 16, 16, dtype=torch.uint8)).shape
        torch.Size([2, 192])
    """

    network: nn.Module

    def __init__(
        self,
        network: nn.Module,
        preprocessing: Preprocessing | None,
        name: str,
        num_features: int | None = None,
        *,
        runtime: str = "torch",
    ):
        super().__init__()
        # nn.Module's own __setattr__ would make the network a submodule that parents see.
        network = network.eval().float()
        for weight in network.parameters():  # scripted modules have no requires_grad_
            weight.requires_grad_(False)
        object.__setattr__(self, "network", network)

        self.preprocessing = preprocessing
        self.name = name
        self.num_features = num_features
        self.runtime = Runtime(runtime)
        self.dtype = torch.float32
        self._resting_device = torch.device("cpu")
        self.training = False

    @property
    def device(self) -> torch.device:
        """Where the network is; for a network without tensors, where it was last sent."""
        tensors = chain(self.network.parameters(), self.network.buffers())
        return next((tensor.device for tensor in tensors), self._resting_device)

    @cached_property
    def weights_sha256(self) -> str:
        """Hash of the weights when first asked for: names, shapes, dtypes, bytes; on any device."""
        return tensors_sha256(self.network.state_dict())

    @property
    def protocol(self) -> dict[str, Any]:
        """What the features depend on, for the record of a score (JSON-able)."""
        resize = (self.preprocessing or Preprocessing(size=None)).protocol
        return {
            "extractor": self.name,
            "weights_sha256": self.weights_sha256,
            "resize": resize,
            "dtype": "as given" if isinstance(self.network, nn.Identity) else str(self.dtype)[6:],
        }

    @property
    def runtime_name(self) -> str:
        """What runs the network where no gradient is asked for, for the record of a score.

        Known for certain once it has run; before that, OpenVINO may still fail to compile it.
        """
        if self._compiled_shape is not None and self.runtime.compiles:
            return openvino_name()
        device = "" if self.device.type == "cpu" else f", {self.device.type}"
        return f"torch {torch.__version__}{device}"

    def preprocess(self, images: Tensor) -> Tensor:
        """Return the network inputs of a batch, on the network's device.

        Args:
            images: uint8 (N, 3, H, W), or floating in [0, 1]; untouched where nothing is resized.

        Returns:
            Inputs as the network takes them.

        Raises:
            ValueError: If the images are not a batch of such images.
        """
        if not isinstance(images, Tensor):
            raise ValueError(
                f"`images` must be a tensor, got {type(images).__name__}: for a NumPy array, "
                "torch.from_numpy(images); for a list, torch.stack(images)."
            )
        images = images.to(self.device)
        if self.preprocessing is None:
            return images
        check_batch(images)
        with ieee_float32(self.device):
            return self.preprocessing(images)

    def features(self, inputs: Tensor) -> Tensor:
        """Return the features of preprocessed `inputs`.

        Args:
            inputs: A batch of N network inputs.

        Returns:
            (N, D), float32 (features given to the extractor `none` keep float64), on the network's
            device.

        Raises:
            DataError: If the network returns anything else than one row of floating numbers per
                input.
        """
        inputs = inputs.to(self.device)
        compiled = self._compiled_for(inputs)
        if compiled is not None:
            features = compiled(inputs)
        elif self.dtype == torch.float32:
            with ieee_float32(self.device):
                features = self.network(inputs)
        else:
            # The caller's autocast would choose another dtype for some of the layers.
            with torch.autocast(self.device.type, enabled=False):
                features = self.network(inputs.to(self.dtype))

        features = _checked_features(features, len(inputs), self.name)
        self.num_features = features.shape[1]
        return features

    def compiled_network(self) -> CompiledNetwork | None:
        """The network compiled for inputs without gradients, which takes seconds, once.

        Returns:
            What computes features of inputs on the CPU; None where torch runs the network.
        """
        shape = self._compiled_shape
        return None if shape is None else self.runtime.compiled_network(self.network, shape)

    @property
    def _compiled_shape(self) -> tuple[int, ...] | None:
        """Shape of the inputs, where it is known and a CPU runs the network in float32."""
        size = self.preprocessing and self.preprocessing.size
        if not size or self.device.type != "cpu" or self.dtype != torch.float32:
            return None
        return 3, size, size

    def _compiled_for(self, inputs: Tensor) -> CompiledNetwork | None:
        """The compiled network, where it can do these inputs."""
        # What was compiled has no gradients.
        graph = torch.is_grad_enabled() and (
            inputs.requires_grad or any(p.requires_grad for p in self.network.parameters())
        )
        if graph or not len(inputs) or inputs.dtype != torch.float32:
            return None
        return self.compiled_network() if inputs.shape[1:] == self._compiled_shape else None

    def forward(self, images: Tensor) -> Tensor:
        """Return the `features` of the inputs that `preprocess` makes of `images`."""
        return self.features(self.preprocess(images))

    def set_dtype(self, dtype: torch.dtype) -> "FrozenExtractor":
        """Let the network compute in another dtype; features are float32 all the same.

        Args:
            dtype: What weights and inputs are cast to.

        Returns:
            The extractor itself.
        """
        # The record has the hash of the weights as they were in float32.
        _ = self.weights_sha256
        self.network.to(dtype)
        self.dtype = dtype
        return self

    def train(self, mode: bool = True) -> "FrozenExtractor":
        """Do nothing: a frozen extractor stays in eval mode."""
        return self

    def extra_repr(self) -> str:
        """Name and preprocessing, for `repr`."""
        return f"{self.name!r}, {self.preprocessing}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "FrozenExtractor":
        """Follow a cast or a move of this module to its device, never to its dtype."""
        super()._apply(fn, recurse)
        # torch does not say what `fn` does: a probe in the network's dtype shows where it leads.
        probe = fn(torch.empty(0, dtype=torch.float32, device=self.device))
        self._resting_device = probe.device
        self.network.to(probe.device)
        return self


def _checked_features(features: Any, count: int, name: str) -> Tensor:
    """Return `features` as a floating (N, D) tensor, at least float32."""
    got = type(features).__name__
    if isinstance(features, Tensor):
        # Global pooling leaves axes of one.
        if features.ndim == 4 and features.shape[2:] == (1, 1):
            features = features.flatten(1)
        if features.ndim == 2 and len(features) == count and features.is_floating_point():
            return features if features.dtype == torch.float64 else features.float()
        got = f"{tuple(features.shape)} of {features.dtype}"
    raise DataError(
        f"`{name}` must return one tensor of floating features (N, D) with N = {count}, got {got}; "
        "pool and flatten inside the network, for example with a final torch.nn.Flatten()."
    )
