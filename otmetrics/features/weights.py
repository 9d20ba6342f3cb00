"""Weight files and hashes: safe formats only, every surprise in one line."""

import hashlib
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

import torch
from torch import Tensor, nn

from otmetrics.errors import Argument, DataError


class PublishedFile(NamedTuple):
    """A file of weights as its authors published it."""

    name: str
    sha256: str
    num_bytes: int


EFFICIENTNET_LITE0 = PublishedFile(
    "efficientnet-lite0-57934424.pth",
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    18826032,
)
INCEPTION = PublishedFile(
    "weights-inception-2015-12-05-6726825d.pth",
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    95628359,
)


def verify_sha256(path: Path, expected: str) -> None:
    """Raise DataError unless a file has this SHA-256, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != expected:
        raise DataError(
            f"{path}: must be the published file with SHA-256 {expected}, got "
            f"{digest.hexdigest()}; fetch it again, or give other weights with ",
            Argument("weights"),
            ".",
        )


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read named tensors, on the CPU, without executing anything from the file.

    A .safetensors file, or one written by `torch.save`, where the weights may lie under
    `state_dict` or `model`. DataError for anything else, and for damaged copies of published files.
    """
    if path.exists() and not path.is_file():
        raise DataError(f"{path}: is not a regular file; give a file of weights.")
    if not path.is_file():
        raise DataError(f"{path}: no such file; check the path given as ", Argument("weights"), ".")
    _check_published(path)

    try:
        content = _read(path)
    # A damaged file fails in as many ways as there are formats; the user needs the one line.
    except Exception as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        if isinstance(error, pickle.UnpicklingError | RuntimeError):
            # torch's own words advise to load the file so that it may run code.
            reason = "it holds other things than tensors, or is not a file of torch.save"
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


def _check_published(path: Path) -> None:
    """Raise for a damaged copy: the published files are of a format that has no checksums."""
    # Copies go by other names too; a flipped byte leaves their size as it was. Weights of one's own
    # that happen to have that size can be saved in a format of now.
    size = path.stat().st_size
    for published in (EFFICIENTNET_LITE0, INCEPTION):
        if path.name == published.name or size == published.num_bytes:
            try:
                verify_sha256(path, published.sha256)
            except DataError as error:
                remedy = (
                    "; if these are your own weights, save them as .safetensors with another name."
                )
                raise DataError(*error.args[:-1], remedy) from error


def _read(path: Path) -> object:
    """Read by suffix; `weights_only` refuses pickled code."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    with path.open("rb") as file:
        check_members(file)
        file.seek(0)
        return torch.load(file, map_location="cpu", weights_only=True)


def check_members(file: BinaryIO) -> None:
    """Compare the members of a file of `torch.save` with their checksums, which torch does not.

    Files of the format before torch 1.6, which has no checksums, pass. Raises ValueError.
    """
    if not zipfile.is_zipfile(file):
        return
    with zipfile.ZipFile(file) as archive:
        # Before they are unpacked: they may hold far more than the file.
        if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
            raise ValueError("its members are compressed, which torch.save never does")
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"{damaged} has other bytes than were written: it is damaged")


def is_plain(value: object) -> bool:
    """Whether a value of a file is a dense tensor whose numbers lie in memory, on the CPU."""
    return (
        isinstance(value, Tensor)
        and type(value) in (Tensor, nn.Parameter)
        and value.layout is torch.strided
        and value.device.type == "cpu"
        and not (value.is_quantized or value.is_nested)
    )


def load_weights(network: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Copy `state`, read from `path`, into a network, which it must match in names and shapes."""
    wanted = network.state_dict()
    shared = [name for name in wanted if name in state]
    problems = {
        "missing": [name for name in wanted if name not in state],
        "unknown": [name for name in state if name not in wanted],
        "of another shape": [n for n in shared if state[n].shape != wanted[n].shape],
        "of another kind of number": [
            n for n in shared if _kind(state[n].dtype) != _kind(wanted[n].dtype)
        ],
    }
    for problem, names in problems.items():
        if names:
            raise DataError(
                f"{path}: holds weights of another network, {len(names)} of {len(wanted)} tensors "
                f"are {problem} (first: {names[0]}); give weights of this extractor."
            )

    # A flipped bit in a format without checksums may show itself here, and only here.
    infinite = [n for n in wanted if not bool(torch.isfinite(state[n].to(wanted[n].dtype)).all())]
    if infinite:
        raise DataError(
            f"{path}: holds numbers that are not finite in {len(infinite)} of {len(wanted)} "
            f"tensors (first: {infinite[0]}): it is damaged; fetch it again."
        )
    network.load_state_dict(dict(state))


def _kind(dtype: torch.dtype) -> object:
    """Floating-point numbers are converted to each other, others are not."""
    return "float" if dtype.is_floating_point else dtype


def tensors_sha256(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of named tensors, in order.

    The same on every device and in every memory layout; what is not a tensor is left out.
    """
    digest = hashlib.sha256()
    for name, tensor in state.items():
        if isinstance(tensor, Tensor):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
