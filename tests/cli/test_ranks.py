"""Several processes that share one extraction: one result, printed once, and no hang."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from otmetrics.ranks import ALONE, ranks_of_environment

PIXELS = np.random.default_rng(0).integers(0, 256, (23, 9, 8, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two folders, 11 and 12 images; one of each is no image, one has transparency."""
    root = tmp_path_factory.mktemp("images")
    for index, pixels in enumerate(PIXELS):
        path = root / ("real" if index < 11 else "fake") / f"{index:02d}.png"
        path.parent.mkdir(exist_ok=True)
        if index in (4, 15):
            path.write_bytes(b"no image")
        elif index in (5, 16):
            alpha = np.full((9, 8, 1), 99, np.uint8)
            Image.fromarray(np.concatenate([pixels, alpha], axis=-1)).save(path)
        else:
            Image.fromarray(pixels).save(path)
    return root


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def start(world, *arguments, cwd=None, only=None):
    """Start the processes of one run as torchrun would, or some of them."""
    port = str(free_port())
    processes = []
    for rank in range(world) if only is None else only:
        own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
        own |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
        environment = os.environ | {key: str(value) for key, value in own.items()}
        command = [sys.executable, "-m", "otmetrics", *map(str, arguments)]
        processes.append(
            subprocess.Popen(
                command,
                env=environment,
                cwd=cwd,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return processes


def ended(processes, seconds=120):
    """Exit code, output and errors of each."""
    found = []
    for process in processes:
        out, err = process.communicate(timeout=seconds)
        found.append((process.returncode, out, err))
    return found


def alone(*arguments):
    command = [sys.executable, "-m", "otmetrics", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True)


def without_path(protocol):
    return json.loads(str(protocol))


# --- one result -----------------------------------------------------------------------------


@pytest.mark.parametrize("world", [2, 3])
def test_features_are_those_of_one_process_to_the_bit(folders, tmp_path, world):
    options = ("--features", "pixels", "--skip-corrupt", "--overwrite")
    single, shared = tmp_path / "single.npz", tmp_path / "shared.npz"
    alone("extract", folders / "real", single, *options)
    results = ended(start(world, "extract", folders / "real", shared, *options))
    assert [code for code, _, _ in results] == [0] * world
    assert "10 x 3072 features of pixels" in results[0][1]
    assert "left out" in results[0][2]
    assert [out for _, out, _ in results[1:]] == [""] * (world - 1)
    assert [err for _, _, err in results[1:]] == [""] * (world - 1)
    with np.load(single) as one, np.load(shared) as other:
        assert np.array_equal(one["features"], other["features"])
        assert without_path(one["protocol"]) == without_path(other["protocol"])


@pytest.mark.parametrize("world", [2, 3])
def test_scores_are_those_of_one_process(folders, world):
    options = ("--features", "pixels", "--skip-corrupt", "--json", "-q", "--num-neighbors", "2")
    inputs = (folders / "real", folders / "fake")
    single = json.loads(alone("score", *inputs, *options).stdout)
    (first, *others) = ended(start(world, "score", *inputs, *options))
    assert first[0] == 0
    assert others == [(0, "", "")] * (world - 1)
    shared = json.loads(first[1])
    assert shared["protocol"] == single["protocol"]
    assert shared["notes"] == single["notes"]
    for name, score in single["scores"].items():
        assert shared["scores"][name]["value"] == pytest.approx(score["value"], rel=1e-12)


def test_more_processes_than_images(folders, tmp_path):
    options = ("--features", "pixels", "--skip-corrupt", "--num", "2", "--overwrite")
    single, shared = tmp_path / "single.npz", tmp_path / "shared.npz"
    alone("extract", folders / "fake", single, *options)
    assert ended(start(3, "extract", folders / "fake", shared, *options))[0][0] == 0
    with np.load(single) as one, np.load(shared) as other:
        assert np.array_equal(one["features"], other["features"])


def test_features_from_files_need_no_sharing(folders, tmp_path):
    for side in ("real", "fake"):
        options = ("--features", "pixels", "--skip-corrupt")
        alone("extract", folders / side, tmp_path / f"{side}.npz", *options)
    inputs = (tmp_path / "real.npz", folders / "fake")
    options = ("--metrics", "frechet_distance", "--json", "-q", "--skip-corrupt")
    results = ended(start(2, "score", *inputs, *options))
    single = json.loads(alone("score", *inputs, *options).stdout)["scores"]["frechet_distance"]
    value = json.loads(results[0][1])["scores"]["frechet_distance"]["value"]
    assert value == pytest.approx(single["value"], rel=1e-12)
    assert results[1] == (0, "", "")


# --- failures -------------------------------------------------------------------------------


def test_an_unreadable_file_of_another_process_is_told_once(folders, tmp_path):
    clean = tmp_path / "images"
    clean.mkdir()
    for index in range(6):
        Image.fromarray(PIXELS[index]).save(clean / f"{index}.png")
    (clean / "3.png").write_bytes(b"no image")  # falls to the second process
    first, second = ended(start(2, "extract", clean, tmp_path / "a.npz", "--features", "pixels"))
    assert first[0] == 3
    assert first[2].count("error:") == 1
    assert "3.png` is not a readable image" in first[2]
    assert second[:2] == (0, "")
    assert "Traceback" not in first[2] + second[2]
    assert not (tmp_path / "a.npz").exists()


MODULE = """
import os, time, pathlib
import torch

class Network(torch.nn.Module):
    def forward(self, images):
        rank = os.environ["RANK"]
        pathlib.Path(f"at work {rank}").touch()
        time.sleep(600 if rank == "1" else 0)
        return images.float().mean((2, 3))

network = Network()
"""


@pytest.fixture
def hanging(tmp_path):
    """Images and a network that never ends in the second process."""
    (tmp_path / "hanging.py").write_text(MODULE)
    (tmp_path / "images").mkdir()
    for index in range(6):
        Image.fromarray(PIXELS[index]).save(tmp_path / "images" / f"{index}.png")
    return tmp_path


def run_hanging(folder, timeout):
    options = ("--features", "module:hanging:network", "--timeout", timeout, "-q")
    processes = start(2, "extract", "images", "out.npz", *options, cwd=folder)
    deadline = time.monotonic() + 60
    while not all((folder / f"at work {rank}").exists() for rank in (0, 1)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return processes


def test_a_process_that_hangs_is_missed(hanging):
    processes = run_hanging(hanging, 3)
    began = time.monotonic()
    out, err = processes[0].communicate(timeout=60)
    assert time.monotonic() - began < 30
    assert (processes[0].returncode, out) == (3, "")
    assert "error: rank 1 has shown no sign of life for 3 s: it was killed, or hangs" in err
    assert "Traceback" not in err
    processes[1].kill()
    ended(processes[1:])
    assert not list(hanging.glob("out.npz*"))


@pytest.mark.parametrize("killed", [0, 1])
def test_a_process_that_is_killed_is_missed(hanging, killed):
    processes = run_hanging(hanging, 4)
    began = time.monotonic()
    processes[killed].send_signal(signal.SIGKILL)
    if killed == 0:  # the second one never comes back from its network
        processes[1].kill()
    results = ended(processes, 60)
    assert time.monotonic() - began < 30
    if killed == 1:
        assert results[0][0] == 3
        assert "error: rank 1 has shown no sign of life for 4 s" in results[0][2]
        assert "Traceback" not in results[0][2]


SLOW = """
import os, time, pathlib
import torch

class Network(torch.nn.Module):
    def forward(self, images):
        rank = os.environ["RANK"]
        number = len(list(pathlib.Path().glob(f"{rank} *")))
        pathlib.Path(f"{rank} {number}").touch()
        if rank == "1" and number == 2:
            END
        time.sleep(0.2)
        return images.float().mean((2, 3))

network = Network()
"""


@pytest.mark.parametrize(
    ("end", "message"),
    [
        ("time.sleep(600)", "rank 1 has shown no sign of life for 3 s"),
        ("os._exit(9)", "rank 1 has shown no sign of life for 3 s"),
        ("raise KeyError('lost')", "rank 1 failed: KeyError: 'lost'"),
        ("raise KeyboardInterrupt", "rank 1 failed: KeyboardInterrupt"),
    ],
)
def test_one_that_is_missed_ends_the_work_of_the_first(tmp_path, end, message):
    (tmp_path / "slow.py").write_text(SLOW.replace("END", end))
    np.save(tmp_path / "images.npy", np.zeros((400, 5, 5, 3), np.uint8))
    options = ("--features", "module:slow:network", "--runtime", "torch", "--batch-size", "1")
    arguments = ("extract", "images.npy", "out.npz", "-q", "--timeout", "3", *options)
    first, other = start(2, *arguments, cwd=tmp_path)
    ((code, out, err),) = ended([first])
    other.kill()
    ended([other])
    assert (code, out) == (3, "")
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1
    assert len(list(tmp_path.glob("0 *"))) < 150  # of 200


def test_a_process_that_never_comes_is_missed(folders, tmp_path):
    options = ("--features", "pixels", "--timeout", "3", "--skip-corrupt")
    (process,) = start(2, "extract", folders / "real", tmp_path / "a.npz", *options, only=[0])
    ((code, out, err),) = ended([process], 60)
    assert (code, out) == (3, "")
    assert "error: rank 0 of 2 did not meet the others" in err
    assert "Traceback" not in err


def test_a_function_is_refused_by_several_processes(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import numpy as np\n\ndef f():\n    yield np.zeros((4, 5, 5, 3), np.uint8)\n"
    )
    arguments = ("extract", "mine:f", "out.npz", "--features", "pixels")
    first, second = ended(start(2, *arguments, cwd=tmp_path))
    assert first[0] == 3
    assert "yields images anew in each process" in first[2]
    assert second[1:] == ("", "")


@pytest.mark.parametrize("rank", ["x", "", "-1"])
def test_a_variable_that_is_no_number_is_another_programs(monkeypatch, rank):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert ranks_of_environment() is ALONE
