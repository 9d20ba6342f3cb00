"""Any timm backbone, and plain pixels."""

import difflib
import os
import ssl
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import torch
from torch import nn

from otmetrics.errors import Argument, DataError, OptionError
from otmetrics.features.extractor import FrozenExtractor
from otmetrics.features.preprocessing import Preprocessing
from otmetrics.features.weights import load_weights, read_state_dict
from otmetrics.safe_files import user_path

PIXELS_SIZE = 32
TIMEOUT_SECONDS = 10.0
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")


def timm_backbone(
    model: str, weights: str | Path | None = None, download: bool = False
) -> FrozenExtractor:
    """Build the extractor `timm:MODEL`: pooled features of a timm model, with its preprocessing.

    Differs from timm's evaluation transform only in that the resized image is not rounded to uint8.
    `weights` None takes timm's own: from this machine, or from the Hugging Face hub if asked to.
    """
    import timm

    _check_model_name(model, needs_weights=weights is None)
    if weights is None:
        network = _create_pretrained(model, download)
    else:
        network = timm.create_model(model, pretrained=False, num_classes=0)
        _load_without_classifier(network, Path(weights))
    num_features = getattr(network, "head_hidden_size", None)
    preprocessing = _timm_preprocessing(network)
    return FrozenExtractor(network, preprocessing, f"timm:{model}", num_features, runtime="auto")


def is_cached(model: str) -> bool:
    """Whether the Hugging Face cache holds a timm model, without importing anything.

    A name without tag stands for any tag.
    """
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface"))
    cache = user_path(os.environ.get("HF_HUB_CACHE", home / "hub"))
    pattern = model if "." in model else f"{model}.*"
    return any(cache.glob(f"models--timm--{pattern}/snapshots/*/*"))


def pixels() -> FrozenExtractor:
    """Build the extractor `pixels`: the image itself at 32 x 32, in [0, 1]; D = 3072."""
    preprocessing = Preprocessing(size=PIXELS_SIZE)
    return FrozenExtractor(nn.Flatten(), preprocessing, "pixels", 3 * PIXELS_SIZE**2)


def _check_model_name(model: str, needs_weights: bool) -> None:
    """Raise with close names unless timm knows `model` and, if needed, its weights."""
    import timm

    architecture, _, tag = model.partition(".")
    if not timm.is_model(architecture):
        known = timm.list_models() + timm.list_pretrained()
        close = difflib.get_close_matches(model, known, n=5) or ["timm.list_models()"]
    elif (tag or needs_weights) and not timm.models.is_model_pretrained(model):
        published = timm.list_pretrained(f"{architecture}.*")
        if not published:
            raise OptionError(
                f"`timm:{model}` has no published weights: give a file with ",
                Argument("weights"),
                ", or choose another model.",
            )
        close = published
    else:
        return
    raise OptionError(f"`timm:{model}` is not a timm model: choose from {', '.join(close)}.")


def _create_pretrained(model: str, download: bool) -> nn.Module:
    """Create the model with timm's weights: those of this machine, else fetched if asked."""
    import timm

    path = _cached_weights(model)
    if path is not None:
        # Handed over as tensors, so that timm has nothing to look up, and nothing to unpickle.
        weights = {"state_dict": read_state_dict(path)}
        network: Any = timm.create_model(
            model, pretrained=True, num_classes=0, pretrained_cfg_overlay=weights
        )
        # Else the network would hold its weights twice, and with it each copy and file of it.
        network.pretrained_cfg.pop("state_dict", None)
        return network
    if not download:
        raise DataError(
            f"timm:{model}: its weights ({_size(model)}) are not on this machine, and nothing is "
            "fetched unless you ask for it: give ",
            Argument("download", "download=True"),
            ", or name a file with ",
            Argument("weights"),
            ".",
        )

    try:
        _reach_hub()
        return timm.create_model(model, pretrained=True, num_classes=0)
    # No network shows as a different exception in every version of the hub's client.
    except Exception as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise DataError(
            f"timm:{model}: its weights are not in the cache and could not be fetched ({reason}); "
            "download them elsewhere and give the file with ",
            Argument("weights"),
            ".",
        ) from error


def _cached_weights(model: str) -> Path | None:
    """The file of timm's weights in the cache of the Hugging Face hub, or in torch's."""
    import timm
    from huggingface_hub import try_to_load_from_cache

    config: Any = timm.models.get_pretrained_cfg(model)
    repository, _, revision = (config.hf_hub_id or "").partition("@")
    for name in (config.hf_hub_filename, *_HUB_FILES) if repository else ():
        found = name and try_to_load_from_cache(repository, name, revision=revision or None)
        if isinstance(found, str):  # neither unknown nor known to be missing there
            return Path(found)
    # Where timm keeps weights that are not on the hub, under the name in their address.
    older = Path(torch.hub.get_dir(), "checkpoints", PurePosixPath(config.url or "-").name)
    return older if older.is_file() else None


def _size(model: str) -> str:
    """About how large the weights of a model are, in words, without making them."""
    import timm

    with torch.device("meta"):
        network = timm.create_model(model, pretrained=False)
    return f"about {sum(p.nbytes for p in network.state_dict().values()) / 1e6:.0f} MB"


def _reach_hub() -> None:
    """Raise OSError unless the hub answers: its client would retry for a minute, line by line."""
    # The client says at once that it must not ask.
    if os.environ.get("HF_HUB_OFFLINE"):
        return
    try:
        endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
        urlopen(endpoint, timeout=TIMEOUT_SECONDS).close()
    except HTTPError:
        return  # It answers, if only with an error code.
    except URLError as error:
        # The client may know certificates that urllib does not.
        if not isinstance(error.reason, ssl.SSLError):
            raise


def _load_without_classifier(network: nn.Module, path: Path) -> None:
    """Load a weights file of the model with or without its classifier."""
    heads = getattr(network, "pretrained_cfg", {}).get("classifier") or ()
    heads = (heads,) if isinstance(heads, str) else tuple(heads)
    classifier = tuple(f"{head}." for head in heads)
    wanted = network.state_dict()
    state = read_state_dict(path)
    kept = {k: v for k, v in state.items() if k in wanted or not k.startswith(classifier)}
    load_weights(network, kept, path)


def _timm_preprocessing(network: nn.Module) -> Preprocessing:
    """Translate timm's data configuration."""
    import timm

    config: dict[str, Any] = timm.data.resolve_model_data_config(network)
    mode = config["interpolation"]
    return Preprocessing(
        size=config["input_size"][-1],
        resize=mode if mode in ("bicubic", "bilinear") else "bicubic",
        crop=None if config["crop_mode"] == "squash" else config["crop_pct"],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )
