import hashlib
import zipfile

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from otmetrics.errors import DataError
from otmetrics.features import efficientnet
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
        (None, "no such file; check the path given as `weights`"),
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


def test_flipped_bytes_of_what_torch_saves_are_noticed(tmp_path):
    """Torch reads no checksums: without them most flips give other weights."""
    state = nn.Linear(30, 20).state_dict()
    path = tmp_path / "weights.pth"
    torch.save(state, path)
    whole, silent = path.read_bytes(), 0
    for place in range(0, len(whole), 7):
        copy = bytearray(whole)
        copy[place] ^= 0x10
        path.write_bytes(copy)
        try:
            found = read_state_dict(path)
        except DataError as error:
            silent += "cannot be read as weights" not in str(error) or "\n" in str(error)
            continue
        # What no reader looks at: dates, alignment, names beside the central directory.
        silent += found.keys() != state.keys() or any(
            not torch.equal(found[name], state[name]) for name in state
        )
    assert silent == 0


def test_a_flipped_exponent_is_seen_where_there_are_no_checksums(tmp_path):
    """As in files of before torch 1.6, and in .safetensors."""
    network = nn.Linear(3, 2)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    state["weight"][1, 2] = float("inf")
    path = tmp_path / "weights.pth"
    torch.save(state, path, _use_new_zipfile_serialization=False)
    with pytest.raises(DataError, match=r"not finite in 1 of 2 tensors \(first: weight\)"):
        load_weights(network, read_state_dict(path), path)


def test_compressed_members_are_refused_before_they_are_unpacked(tmp_path):
    path, bomb = tmp_path / "weights.pth", tmp_path / "bomb.pth"
    torch.save({"weight": torch.zeros(1000)}, path)
    with (
        zipfile.ZipFile(path) as source,
        zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for member in source.infolist():
            target.writestr(member.filename, source.read(member))
    with pytest.raises(DataError, match="members are compressed"):
        read_state_dict(bomb)


def test_tensors_without_numbers_are_refused(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"weight": torch.zeros(2, 3, device="meta")}, path)
    with pytest.raises(DataError, match="holds no state_dict of tensors"):
        read_state_dict(path)


def test_kinds_of_numbers_are_not_mixed(tmp_path):
    network, path = nn.BatchNorm1d(2), tmp_path / "weights.pth"
    state = network.state_dict()
    load_weights(
        network, {n: v.half() if v.is_floating_point() else v for n, v in state.items()}, path
    )
    for name, dtype in (("weight", torch.complex64), ("bias", torch.int64)):
        with pytest.raises(DataError, match=f"another kind of number .first: {name}"):
            load_weights(network, state | {name: state[name].to(dtype)}, path)


@pytest.mark.parametrize("place", [100, 5_000_000, 18_000_000])
def test_a_damaged_copy_of_the_packaged_weights_is_refused(tmp_path, place):
    """Under whatever name; its format has no checksums."""
    path = tmp_path / "mine.pth"
    content = bytearray(efficientnet.find_weights().read_bytes())
    path.write_bytes(content)
    assert len(read_state_dict(path)) > 100
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="must be the published file with SHA-256 5793"):
        read_state_dict(path)
