import hashlib

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from otmetrics.errors import DataError
from otmetrics.features.weights import load_weights, read_state_dict, verify_sha256


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_reads_what_torch_saves(tmp_path, wrapper):
    state = nn.Linear(3, 2).state_dict()
    path = tmp_path / "weights.pth"
    torch.save(state if wrapper is None else {wrapper: state, "epoch": 3}, path)
    assert read_state_dict(path).keys() == state.keys()


def test_reads_safetensors(tmp_path):
    state = nn.Linear(3, 2).state_dict()
    path = tmp_path / "weights.safetensors"
    save_file(state, path)
    assert torch.equal(read_state_dict(path)["bias"], state["bias"])


class Opaque:
    """What an old checkpoint may hold: an object that only its own code can read."""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such weights file"),
        (b"not weights at all", "cannot be read as weights"),
        (b"", "cannot be read as weights"),
        (Opaque(), "cannot be read as weights .*save a state_dict"),
        ({"a": 1}, "holds no state_dict of tensors"),
        (torch.zeros(3), "holds no state_dict of tensors"),
    ],
)
@pytest.mark.filterwarnings("default")
def test_unreadable_files_get_one_line(tmp_path, content, message):
    path = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(DataError, match=message) as caught:
        read_state_dict(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_damaged_safetensors_get_one_line(tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"\x08\0\0\0\0\0\0\0{broken}")
    with pytest.raises(DataError, match="cannot be read as weights"):
        read_state_dict(path)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"weight": torch.zeros(2, 3)}, r"1 of 2 tensors are missing \(first: bias\)"),
        (
            {"weight": torch.zeros(2, 3), "bias": torch.zeros(2), "extra": torch.zeros(1)},
            r"1 of 2 tensors are unknown \(first: extra\)",
        ),
        (
            {"weight": torch.zeros(3, 2), "bias": torch.zeros(2)},
            r"1 of 2 tensors are of another shape \(first: weight\)",
        ),
    ],
)
def test_weights_of_another_network_are_refused(tmp_path, state, message):
    with pytest.raises(DataError, match=message):
        load_weights(nn.Linear(3, 2), state, tmp_path / "weights.pth")


def test_hash_of_a_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"abc" * 1_000_000)
    verify_sha256(path, hashlib.sha256(path.read_bytes()).hexdigest())
    with pytest.raises(DataError, match="must be the published file with SHA-256 0000, got"):
        verify_sha256(path, "0000")
