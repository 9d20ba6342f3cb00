"""Which extractors there are, and the one door to all of them."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from otmetrics.checks import check_device
from otmetrics.errors import Argument, OptionError
from otmetrics.features import efficientnet, inception, timm_models
from otmetrics.features.extractor import FrozenExtractor
from otmetrics.features.openvino import Runtime
from otmetrics.user_code import (
    NoSuchObjectError,
    check_takes_no_arguments,
    import_object,
    is_object_name,
)

DEFAULT_EXTRACTOR = "efficientnet_lite0"
DINOV2 = "timm:vit_small_patch14_dinov2.lvd142m"


@dataclass(frozen=True)
class ExtractorInfo:
    """What a user wants to know before choosing an extractor.

    Attributes:
        name: As `load_extractor` takes it; capitals and `package.name:attr` stand for the user's
            choice.
        description: One line.
        load: Builds it from the part of the name after the first colon, a weights path or None, and
            whether published weights may be fetched.
        num_features: D; None where it depends on that choice.
        weights_size: Size of the weights on disk.
        licence: Licence of the weights.
        is_available: Tells from the same part of the name whether everything it needs is on this
            machine, without network access and heavy imports.
        takes_weights: Whether it reads a weights file.
        resizes: Whether it resizes the images.
        compiles: Whether a CPU may run it compiled.
        installed: Whether code and weights are installed with otmetrics: a file may name it.
    """

    name: str
    description: str
    load: Callable[[str, str | Path | None, bool], FrozenExtractor]
    num_features: int | None = None
    weights_size: str = "-"
    licence: str = "-"
    is_available: Callable[[str], bool] = lambda argument: True
    takes_weights: bool = True
    resizes: bool = True
    compiles: bool = False
    installed: bool = False


DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

EXTRACTORS = {
    info.name: info
    for info in (
        ExtractorInfo(
            name="efficientnet_lite0",
            num_features=efficientnet.NUM_FEATURES,
            weights_size="18.8 MB",
            licence="Apache-2.0",
            description="ImageNet classifier that is installed with otmetrics; works offline",
            load=lambda _, weights, __: efficientnet.efficientnet_lite0(weights),
            is_available=lambda _: efficientnet.find_weights() is not None,
            compiles=True,
            installed=True,
        ),
        ExtractorInfo(
            name="inception",
            num_features=inception.NUM_FEATURES,
            weights_size="95.6 MB",
            licence="Apache-2.0",
            description="the network of FID; published numbers need resize tf1",
            load=lambda _, weights, download: inception.inception(weights, download),
            is_available=lambda _: inception.is_available(),
            compiles=True,
        ),
        ExtractorInfo(
            name="timm:MODEL",
            weights_size="by model",
            licence="by model",
            description=f"any timm backbone, e.g. {DINOV2} (DINOv2)",
            load=timm_models.timm_backbone,
            is_available=timm_models.is_cached,
            compiles=True,
        ),
        ExtractorInfo(
            name="module:package.name:attr",
            licence="yours",
            description="your own torch.nn.Module on uint8 images (N, 3, H, W)",
            load=lambda path, _, __: user_module(path),
            takes_weights=False,
            resizes=False,
        ),
        ExtractorInfo(
            name="pixels",
            num_features=3 * timm_models.PIXELS_SIZE**2,
            description="the image itself at 32 x 32; a baseline without weights",
            load=lambda *_: timm_models.pixels(),
            takes_weights=False,
            installed=True,
        ),
        ExtractorInfo(
            name="none",
            description="the inputs already are features (N, D)",
            load=lambda *_: FrozenExtractor(nn.Identity(), None, "none"),
            takes_weights=False,
            resizes=False,
            installed=True,
        ),
    )
}


def load_extractor(
    name: str,
    *,
    weights: str | Path | None = None,
    resize: str | None = None,
    device: str | torch.device = "cpu",
    runtime: str | None = None,
    dtype: str = "float32",
    download: bool = False,
) -> FrozenExtractor:
    """Build an extractor by name.

    `module:` imports what the name says: do not load a name that comes out of a file.

    Args:
        name: A key of `EXTRACTORS`, with MODEL or package.name:attr filled in.
        weights: Weights file to use instead of the published one.
        resize: One of `RESIZE_MODES` instead of the extractor's own.
        device: Where the network shall be: "cpu", "cuda" or "cuda:i".
        runtime: What runs it on a CPU: "openvino", "torch", or "auto", which takes the first where
            it agrees with the second; None for the extractor's own choice.
        dtype: "float32", or "bfloat16", which is faster on a GPU and less exact.
        download: Fetch published weights that are not on this machine. Nothing is fetched without
            it.

    Returns:
        The frozen extractor.

    Raises:
        OptionError: If the name is unknown, or an option does not apply to this extractor.
        DataError: If weights are missing or damaged.

    Examples:
        >>> load_extractor("pixels").num_features
        3072
    """
    info, argument = _look_up(name)
    check_device(device)
    on_cpu = (dtype, torch.device(device).type) == ("float32", "cpu")
    rules = [
        ("weights", weights is not None and not info.takes_weights, "which has no weights"),
        ("resize", resize is not None and not info.resizes, "which does not resize images"),
        ("runtime", runtime == "openvino" and not info.compiles, "which is not compiled"),
    ]
    # All that can be refused is refused before weights are read, or fetched.
    for option, is_broken, reason in rules:
        if is_broken:
            raise OptionError(
                Argument(option), f" does not apply to `{name}`, {reason}: leave it out."
            )
    if runtime == "openvino" and not on_cpu:
        raise OptionError(
            Argument("runtime"),
            f" openvino computes in float32 on the CPU, not in {dtype} on {device}: leave it out.",
        )
    if dtype not in DTYPES:
        raise OptionError(Argument("dtype"), f" must be one of {', '.join(DTYPES)}, got {dtype!r}.")

    extractor = info.load(argument, weights, download)
    if resize is not None and extractor.preprocessing is not None:
        extractor.preprocessing = replace(extractor.preprocessing, resize=resize)
    if runtime is not None:
        extractor.runtime = Runtime(runtime if info.compiles else "torch")
    if dtype != "float32":
        if next(extractor.network.parameters(), None) is None:
            raise OptionError(
                Argument("dtype"), f" must be float32 for `{name}`, which has no weights."
            )
        extractor.set_dtype(DTYPES[dtype])
    return extractor.to(device)


def is_available(name: str) -> bool:
    """Whether `load_extractor(name)` works offline; quick, without importing timm.

    Args:
        name: As `load_extractor` takes it; of `module:` only the form is known here.

    Returns:
        Whether code and weights are on this machine.
    """
    info, argument = _look_up(name)
    return info.is_available(argument)


def is_known(name: str) -> bool:
    """Whether a name has a form that `load_extractor` takes, such as `timm:MODEL`.

    Args:
        name: Any text.

    Returns:
        Whether it has.
    """
    return _find(name) is not None


def is_installed(name: str) -> bool:
    """Whether an extractor is part of otmetrics: loading it runs and fetches nothing foreign.

    What a file says of itself is a claim: only such extractors are loaded on its word.

    Args:
        name: Any text.

    Returns:
        Whether it is one.
    """
    return name in EXTRACTORS and EXTRACTORS[name].installed


def _find(name: str) -> tuple[ExtractorInfo, str] | None:
    """The catalog entry of a name, and what follows its first colon."""
    kind, _, argument = name.partition(":")
    for info in EXTRACTORS.values():
        if (kind, bool(argument)) == (info.name.partition(":")[0], ":" in info.name):
            return info, argument
    return None


def _look_up(name: str) -> tuple[ExtractorInfo, str]:
    """The same as `_find` for a name that a user gives: what is not one raises OptionError."""
    check_extractor(name)
    found = _find(name)
    assert found is not None  # it was checked
    return found


def check_extractor(name: str, argument: str | None = None) -> None:
    """Raise OptionError unless a name is that of an extractor.

    `argument` is that of a metric, for which the name was given: it takes None for `none`.
    """
    known = [one for one in EXTRACTORS if argument is None or one != "none"]
    names = ", ".join(known)
    if not isinstance(name, str):
        raise OptionError(f"an extractor is chosen by its name, got {name!r}: choose from {names}.")
    if _find(name) is None:
        likely = _likely_name(name, known)
        hint = f"did you mean `{likely}`? There are" if likely else "choose from"
        given = () if argument is None else (Argument(argument), ": ")
        raise OptionError(*given, f"`{name}` is not an extractor: {hint} {names}.")


def _likely_name(name: str, known: list[str]) -> str | None:
    """What somebody means who gives a misspelt name, or one of timm without its prefix."""
    import timm

    # DINOv2 goes by other names elsewhere, such as dinov2_vits14.
    if "dino" in name.lower() and not timm.is_model(name.partition(".")[0]):
        return DINOV2
    if timm.is_model(name.partition(".")[0]):
        return f"timm:{name}"
    plain = [key for key in known if ":" not in key]
    return next(iter(difflib.get_close_matches(name.lower(), plain, n=1)), None)


def user_module(path: str) -> FrozenExtractor:
    """Build the extractor `module:package.name:attr`: the user's own network on untouched images.

    The module is importable from here or from the working directory; `attr` is an nn.Module, or a
    class or function that returns one when called without arguments. It receives the images as they
    come, uint8 (N, 3, H, W), and returns features (N, D).
    """
    if not is_object_name(path):
        raise OptionError(f"`module:{path}` must have the form module:package.name:attr.")
    try:
        network = import_object(path)
        if not isinstance(network, nn.Module) and callable(network):
            check_takes_no_arguments(network)
            network = network()
    except NoSuchObjectError as error:
        raise OptionError(f"`module:{path}` {error}.") from error

    if not isinstance(network, nn.Module):
        raise OptionError(
            f"`module:{path}` must be a torch.nn.Module, got {type(network).__name__}: name a "
            "module, or a class or function that returns one."
        )
    return FrozenExtractor(network, None, f"module:{path}")
