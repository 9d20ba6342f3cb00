"""Weight files and hashes: safe formats only, every surprise in one line."""

import hashlib
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor, nn

from otmetrics.errors import DataError


def verify_sha256(path: Path, expected: str) -> None:
    """Compare a published file with its published hash.

    Args:
        path: The file.
        expected: Its SHA-256 in hexadecimal digits.

    Raises:
        DataError: If the file has other bytes.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != expected:
        raise DataError(
            f"{path}: must be the published file with SHA-256 {expected}, got "
            f"{digest.hexdigest()}; fetch it again, or pass other weights with --weights PATH."
        )


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read named tensors without executing anything from the file.

    Args:
        path: A .safetensors file, or one written by `torch.save`; there the weights may lie under
            `state_dict` or `model`.

    Returns:
        The tensors by name, on the CPU.

    Raises:
        DataError: If there is no such file, or it holds anything else, or is a damaged copy of one
            that was published.
    """
    if path.exists() and not path.is_file():
        raise DataError(f"{path}: is not a regular file; give a file of weights.")
    if not path.is_file():
        raise DataError(f"{path}: no such weights file; check the path given as --weights.")
    _check_published(path)
    try:
        content = _read(path)
    # A damaged file fails in as many ways as there are formats; the user needs the one line.
    except Exception as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        if isinstance(error, pickle.UnpicklingError | RuntimeError):
            # torch's own words advise to load the file so that it may run code.
            reason = "it holds other things than tensors, or is no file of torch.save"
        raise DataError(
            f"{path}: cannot be read as weights ({reason}); "
            "save a state_dict with torch.save or as .safetensors."
        ) from error
    for wrapper in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not all(is_plain(v) for v in content.values()):
        raise DataError(f"{path}: holds no state_dict of tensors; save network.state_dict().")
    return dict(content)


def check_members(file: BinaryIO) -> None:
    """Compare the members of a file of `torch.save` with their checksums, which torch does not.

    Args:
        file: The file; one of the format before torch 1.6, which has no checksums, passes.

    Raises:
        ValueError: If a member has other bytes, or more than the file can hold.
    """
    if not zipfile.is_zipfile(file):
        return
    with zipfile.ZipFile(file) as archive:
        if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
            raise ValueError("its members are compressed, which torch.save never does")
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"{damaged} has other bytes than were written: it is damaged")


def is_plain(value: object) -> bool:
    """Whether a value of a file is a tensor whose numbers lie in memory, one after the other.

    Args:
        value: Anything.

    Returns:
        False for sparse, nested, quantised and other tensors, and for all that is none.
    """
    return (
        isinstance(value, Tensor)
        and type(value) in (Tensor, nn.Parameter)
        and value.layout is torch.strided
        and value.device.type == "cpu"
        and not (value.is_quantized or value.is_nested)
    )


def load_weights(network: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Copy `state` into `network`, which must match it name by name and shape by shape.

    Args:
        network: Receives the weights.
        state: Tensors by name.
        path: Where they come from, for the message.

    Raises:
        DataError: If a tensor is missing, unknown, of another shape or not finite.
    """
    wanted = network.state_dict()
    missing = [name for name in wanted if name not in state]
    unknown = [name for name in state if name not in wanted]
    reshaped = [n for n in wanted if n in state and state[n].shape != wanted[n].shape]
    problems = {"missing": missing, "unknown": unknown, "of another shape": reshaped}
    problems["of another kind of number"] = [
        n for n in wanted if n in state and _kind(state[n].dtype) != _kind(wanted[n].dtype)
    ]
    for problem, names in problems.items():
        if names:
            raise DataError(
                f"{path}: holds weights of another network, {len(names)} of {len(wanted)} tensors "
                f"are {problem} (first: {names[0]}); pass weights of this extractor."
            )
    # A flipped bit in a format without checksums may show itself here, and only here.
    infinite = [n for n in wanted if not bool(torch.isfinite(state[n].to(wanted[n].dtype)).all())]
    if infinite:
        raise DataError(
            f"{path}: holds numbers that are not finite in {len(infinite)} of {len(wanted)} "
            f"tensors (first: {infinite[0]}): it is damaged; fetch it again."
        )
    network.load_state_dict(dict(state))


def state_sha256(network: nn.Module) -> str:
    """Hash the state of a network: what a score records about its features.

    Args:
        network: Any module.

    Returns:
        SHA-256 over the names, dtypes, shapes and bytes of its state_dict, in order; the same on
        every device and in every memory layout.
    """
    return tensors_sha256(network.state_dict())


def tensors_sha256(state: Mapping[str, Tensor]) -> str:
    """Hash named tensors.

    Args:
        state: Tensors by name; what is none is left out.

    Returns:
        SHA-256 over their names, dtypes, shapes and bytes, in order; the same on every device and
        in every memory layout.
    """
    digest = hashlib.sha256()
    for name, tensor in state.items():
        if isinstance(tensor, Tensor):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _check_published(path: Path) -> None:
    """Raise for a damaged copy: the published files are of a format that has no checksums."""
    # Copies go by other names too; a flipped byte leaves their size as it was. Weights of one's own
    # that happen to have that size can be saved in a format of now.
    from otmetrics.features import efficientnet, inception

    size = path.stat().st_size
    for module in (efficientnet, inception):
        if path.name == module.FILE_NAME or size == module.NUM_BYTES:
            try:
                verify_sha256(path, module.SHA256)
            except DataError as error:
                raise DataError(
                    f"{str(error).rstrip('.')}; if these are weights of your own, save them as "
                    ".safetensors under another name."
                ) from error


def _kind(dtype: torch.dtype) -> object:
    """Floating-point numbers are converted to each other, others are not."""
    return "float" if dtype.is_floating_point else dtype


def _read(path: Path) -> object:
    """Read by suffix; `weights_only` refuses pickled code."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    with path.open("rb") as file:
        check_members(file)
        file.seek(0)
        return torch.load(file, map_location="cpu", weights_only=True)
