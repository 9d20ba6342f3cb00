"""The FID Inception network: the one whose features FID is defined on."""

import os
import socket
from collections import OrderedDict
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from otmetrics.errors import Argument, DataError
from otmetrics.features.extractor import FrozenExtractor
from otmetrics.features.preprocessing import Preprocessing
from otmetrics.features.weights import INCEPTION, load_weights, read_state_dict, verify_sha256
from otmetrics.safe_files import user_path

NUM_FEATURES = 2048
WEIGHTS_VARIABLE = "OTMETRICS_WEIGHTS"
TIMEOUT_SECONDS = 20.0
# (x - 128) / 128 on the grey levels 0..255, as the original graph has it: not quite (-1, 1).
PREPROCESSING = Preprocessing(size=299, mean=(128 / 255,) * 3, std=(128 / 255,) * 3)


def inception(weights: str | Path | None = None, download: bool = False) -> FrozenExtractor:
    """Build the extractor `inception`: the 2048 pooled features on which FID is defined.

    Images are squashed to 299 x 299, bicubic; published FIDs resize with `tf1`. `weights` None
    looks at the file or folder in the environment variable OTMETRICS_WEIGHTS, then into torch's
    cache, and fetches the published file if that is asked for.

    Heusel et al., "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash
    Equilibrium", NeurIPS 2017. Szegedy et al., "Rethinking the Inception Architecture for Computer
    Vision", CVPR 2016.
    """
    blocks = _building_blocks()
    if weights is not None:
        path = Path(weights)
    else:
        path = _published_weights(blocks.URL_INCEPTION_V3, download)

    # The classifier of 1008 classes is no part of the features.
    state = {k: v for k, v in read_state_dict(path).items() if not k.startswith("fc.")}
    network = _network(blocks)
    load_weights(network, state, path)
    network.to(memory_format=torch.channels_last)  # faster where torch runs it on a CPU
    return FrozenExtractor(network, PREPROCESSING, "inception", NUM_FEATURES, runtime="auto")


def find_weights() -> Path | None:
    """The file that OTMETRICS_WEIGHTS names or holds, else the one in torch's cache, else None."""
    paths = [_cached_path()]
    if variable := os.environ.get(WEIGHTS_VARIABLE):
        own = user_path(variable)
        paths.insert(0, own / INCEPTION.name if own.is_dir() else own)
    return next((path for path in paths if path.is_file()), None)


def is_available() -> bool:
    """Whether code and weights are on this machine, without importing the code."""
    return find_spec("torch_fidelity") is not None and find_weights() is not None


def _building_blocks() -> ModuleType:
    """Import torch-fidelity's Inception blocks."""
    try:
        from torch_fidelity import feature_extractor_inceptionv3
    except ImportError as error:
        raise DataError(
            'inception: needs the package torch-fidelity; pip install "otmetrics[inception]".'
        ) from error
    return feature_extractor_inceptionv3


def _network(blocks: ModuleType) -> nn.Sequential:
    """Assemble the network under the published names, without resize and classifier."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        Conv2d_1a_3x3=blocks.BasicConv2d(3, 32, kernel_size=3, stride=2),
        Conv2d_2a_3x3=blocks.BasicConv2d(32, 32, kernel_size=3),
        Conv2d_2b_3x3=blocks.BasicConv2d(32, 64, kernel_size=3, padding=1),
        MaxPool_1=nn.MaxPool2d(kernel_size=3, stride=2),
        Conv2d_3b_1x1=blocks.BasicConv2d(64, 80, kernel_size=1),
        Conv2d_4a_3x3=blocks.BasicConv2d(80, 192, kernel_size=3),
        MaxPool_2=nn.MaxPool2d(kernel_size=3, stride=2),
        Mixed_5b=blocks.InceptionA(192, pool_features=32),
        Mixed_5c=blocks.InceptionA(256, pool_features=64),
        Mixed_5d=blocks.InceptionA(288, pool_features=64),
        Mixed_6a=blocks.InceptionB(288),
        Mixed_6b=blocks.InceptionC(768, channels_7x7=128),
        Mixed_6c=blocks.InceptionC(768, channels_7x7=160),
        Mixed_6d=blocks.InceptionC(768, channels_7x7=160),
        Mixed_6e=blocks.InceptionC(768, channels_7x7=192),
        Mixed_7a=blocks.InceptionD(768),
        Mixed_7b=blocks.InceptionE_1(1280),
        Mixed_7c=blocks.InceptionE_2(2048),
        AvgPool=nn.AdaptiveAvgPool2d(1),
        Flatten=nn.Flatten(),
    )
    return nn.Sequential(layers)


def _published_weights(url: str, download: bool) -> Path:
    """Return the weights of this machine, else the download; the published name is checked."""
    variable = os.environ.get(WEIGHTS_VARIABLE)
    if variable and not user_path(variable).exists():
        raise DataError(f"{variable}: no such file or folder; correct {WEIGHTS_VARIABLE}.")
    path = find_weights()
    if path is None and not download:
        raise DataError(
            f"inception: its weights {INCEPTION.name} ({INCEPTION.num_bytes / 1e6:.1f} MB) are not "
            "on this machine, and nothing is fetched unless you ask for it: give ",
            Argument("download", "download=True"),
            ", name a file with ",
            Argument("weights"),
            f" or the environment variable {WEIGHTS_VARIABLE}, or put it at {_cached_path()} "
            f"(SHA-256 {INCEPTION.sha256}, from {url}).",
        )

    path = path or _download(url)
    if path.name == INCEPTION.name:
        verify_sha256(path, INCEPTION.sha256)
    return path


def _cached_path() -> Path:
    """Return where torch.hub keeps the file."""
    return Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION.name


def _download(url: str) -> Path:
    """Fetch the file into torch's cache, under its name only when it is whole."""
    path, timeout = _cached_path(), socket.getdefaulttimeout()

    # urllib has no timeout of its own: behind a firewall that drops packets it would hang for
    # minutes.
    socket.setdefaulttimeout(TIMEOUT_SECONDS)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), hash_prefix=INCEPTION.sha256, progress=False)
    except (OSError, RuntimeError, HTTPException) as error:
        raise DataError(
            f"{INCEPTION.name}: missing, and the download failed ({error}); put it at {path} "
            f"(SHA-256 {INCEPTION.sha256}, {INCEPTION.num_bytes} bytes, from {url}), or name it "
            "with ",
            Argument("weights"),
            f" or the environment variable {WEIGHTS_VARIABLE}.",
        ) from error
    finally:
        socket.setdefaulttimeout(timeout)
    return path
