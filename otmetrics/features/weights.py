"""Weight files and hashes: safe formats only, every surprise in one line."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

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
        DataError: If there is no such file or it holds anything else.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such weights file; check the path given as --weights.")
    try:
        content = _read(path)
    # A damaged file fails in as many ways as there are formats; the user needs the one line.
    except Exception as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise DataError(
            f"{path}: cannot be read as weights ({reason}); "
            "save a state_dict with torch.save or as .safetensors."
        ) from error
    for wrapper in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not all(isinstance(v, Tensor) for v in content.values()):
        raise DataError(f"{path}: holds no state_dict of tensors; save network.state_dict().")
    return dict(content)


def load_weights(network: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Copy `state` into `network`, which must match it name by name and shape by shape.

    Args:
        network: Receives the weights.
        state: Tensors by name.
        path: Where they come from, for the message.

    Raises:
        DataError: If a tensor is missing, unknown or of another shape.
    """
    wanted = network.state_dict()
    missing = [name for name in wanted if name not in state]
    unknown = [name for name in state if name not in wanted]
    reshaped = [n for n in wanted if n in state and state[n].shape != wanted[n].shape]
    problems = {"missing": missing, "unknown": unknown, "of another shape": reshaped}
    for problem, names in problems.items():
        if names:
            raise DataError(
                f"{path}: holds weights of another network, {len(names)} of {len(wanted)} tensors "
                f"are {problem} (first: {names[0]}); pass weights of this extractor."
            )
    network.load_state_dict(state)


def state_sha256(network: nn.Module) -> str:
    """Hash the state of a network: what a score records about its features.

    Args:
        network: Any module.

    Returns:
        SHA-256 over the names, dtypes, shapes and bytes of its state_dict, in order; the same on
        every device and in every memory layout.
    """
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        if isinstance(tensor, Tensor):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _read(path: Path) -> object:
    """Read by suffix; `weights_only` refuses pickled code."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)
