"""Several processes that share one extraction: one result, printed once, and no hang."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from command import write_features
from PIL import Image
from summary_cases import network  # noqa: F401 - a fixture

from otmetrics.scoring.ranks import RankError, Ranks, place_in_environment, ranks_of_environment

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


@pytest.fixture
def start(forks):
    """Start the processes of one run as torchrun would, or some of them; real ones, or forks."""

    def run(world, *arguments, cwd=None, only=None, real=False, port=None):
        port = port or free_port()
        processes = []
        for rank in range(world) if only is None else only:
            own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
            own |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
            environment = {key: str(value) for key, value in own.items()}
            if not real:
                started = forks.start("otmetrics", *arguments, cwd=cwd, environment=environment)
                processes.append(started)
                continue
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "otmetrics", *map(str, arguments)],
                    env=os.environ | environment,
                    cwd=cwd,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        return processes

    return run


def ended(processes, seconds=120):
    """Exit code, output and errors of each."""
    found = []
    for process in processes:
        out, err = process.communicate(timeout=seconds)
        found.append((process.returncode, out, err))
    return found


@pytest.fixture
def alone(otmetrics):
    """One process without others, which is this one."""

    def run(*arguments):
        finished = otmetrics(*arguments)
        assert finished.code == 0, finished.stderr
        return finished.stdout

    return run


def without_path(protocol):
    return json.loads(str(protocol))


# --- one result -----------------------------------------------------------------------------


@pytest.mark.parametrize("world", [2, 3])
def test_features_are_those_of_one_process_to_the_bit(start, alone, folders, tmp_path, world):
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
def test_scores_are_those_of_one_process(start, alone, folders, world):
    options = ("--features", "pixels", "--skip-corrupt", "--json", "-q", "--num-neighbors", "2")
    options += ("--metrics", "wasserstein,frechet_distance,recall")
    inputs = (folders / "real", folders / "fake")
    single = json.loads(alone("score", *inputs, *options))
    (first, *others) = ended(start(world, "score", *inputs, *options))
    assert first[0] == 0
    assert others == [(0, "", "")] * (world - 1)
    shared = json.loads(first[1])
    assert shared["protocol"] == single["protocol"]
    assert shared["notes"] == single["notes"]
    for name, score in single["scores"].items():
        assert shared["scores"][name]["value"] == pytest.approx(score["value"], rel=1e-12)


@pytest.mark.parametrize("world", [2, 3])
def test_summaries_of_the_parts_are_reduced_to_that_of_one_process(
    start,
    alone,
    folders,
    network,  # noqa: F811
    tmp_path,
    world,
):
    options = ("--features", network, "--skip-corrupt", "--json", "-q", "--num-neighbors", "2")
    options += ("--metrics", "sliced_wasserstein,frechet_distance,kernel_distance,recall")
    options += ("--summarize", "6")
    inputs = (folders / "real", folders / "fake")
    single = json.loads(alone("score", *inputs, *options))
    (first, *others) = ended(start(world, "score", *inputs, *options, cwd=tmp_path))
    assert first[0] == 0, first[2]
    assert others == [(0, "", "")] * (world - 1)
    shared = json.loads(first[1])
    assert shared["protocol"] == single["protocol"]
    assert shared["notes"] == single["notes"]
    for name, score in single["scores"].items():
        found = shared["scores"][name]
        if name in ("sliced_wasserstein", "frechet_distance"):
            # Moments, which both use, are rounded in another order.
            assert found["value"] == pytest.approx(score["value"], rel=1e-11)
        else:
            assert found["value"] == score["value"]
        assert found["floor"]["value"] == score["floor"]["value"]
        assert found["floor"]["excess"] == score["floor"]["excess"]
        assert found["sizes"] == score["sizes"]
    assert single["scores"]["sliced_wasserstein"]["sizes"] == [10, 11]
    assert single["scores"]["kernel_distance"]["sizes"] == [6, 6]
    assert single["scores"]["recall"]["sizes"] == [5, 6]  # in the proportion of all


def test_summaries_where_processes_have_no_images_that_can_be_read(
    start,
    alone,
    network,  # noqa: F811
    tmp_path,
):
    """Of two real images and one that is none: the third process has that one, or nothing."""
    for side, count in (("real", 2), ("fake", 3)):
        for index in range(count):
            path = tmp_path / side / f"{index}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(PIXELS[index]).save(path)
    (tmp_path / "real" / "9.png").write_bytes(b"no image")
    options = ("--features", network, "--skip-corrupt", "--json", "-q", "--summarize", "2")
    options += ("--metrics", "frechet_distance")
    inputs = (tmp_path / "real", tmp_path / "fake")
    single = json.loads(alone("score", *inputs, *options))
    (first, *_) = ended(start(3, "score", *inputs, *options, cwd=tmp_path))
    assert first[0] == 0, first[2]
    shared = json.loads(first[1])
    assert shared["protocol"] == single["protocol"]
    assert shared["notes"] == single["notes"]
    assert any("left out" in note for note in shared["notes"])


def test_the_first_process_writes_the_page(start, alone, folders, tmp_path):
    options = ("--features", "pixels", "--skip-corrupt", "-q", "--num-neighbors", "2")
    single, shared = tmp_path / "single.html", tmp_path / "shared.html"
    inputs = (folders / "real", folders / "fake", "--metrics", "recall")
    alone("score", *inputs, *options, "--html", single)
    (first, *others) = ended(start(2, "score", *inputs, *options, "--html", shared))
    assert (first[0], first[2]) == (0, "")
    assert others == [(0, "", "")]
    assert shared.read_bytes() == single.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"single.html", "shared.html"}


def test_more_processes_than_images(start, alone, folders, tmp_path):
    options = ("--features", "pixels", "--skip-corrupt", "--num", "2", "--overwrite")
    single, shared = tmp_path / "single.npz", tmp_path / "shared.npz"
    alone("extract", folders / "fake", single, *options)
    assert ended(start(3, "extract", folders / "fake", shared, *options))[0][0] == 0
    with np.load(single) as one, np.load(shared) as other:
        assert np.array_equal(one["features"], other["features"])


def test_features_from_files_need_no_sharing(start, alone, folders, tmp_path):
    for side in ("real", "fake"):
        options = ("--features", "pixels", "--skip-corrupt")
        alone("extract", folders / side, tmp_path / f"{side}.npz", *options)
    inputs = (tmp_path / "real.npz", folders / "fake")
    options = ("--metrics", "frechet_distance", "--json", "-q", "--skip-corrupt")
    results = ended(start(2, "score", *inputs, *options))
    single = json.loads(alone("score", *inputs, *options))["scores"]["frechet_distance"]
    value = json.loads(results[0][1])["scores"]["frechet_distance"]["value"]
    assert value == pytest.approx(single["value"], rel=1e-12)
    assert results[1] == (0, "", "")


# --- failures -------------------------------------------------------------------------------


def told(result):
    """The one line that a process ended with."""
    code, out, err = result
    assert (code, out) == (3, ""), err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err.removeprefix("error: ")


def test_an_unreadable_file_is_told_by_the_process_that_has_it(start, folders, tmp_path):
    clean = tmp_path / "images"
    clean.mkdir()
    for index in range(6):
        Image.fromarray(PIXELS[index]).save(clean / f"{index}.png")
    (clean / "3.png").write_bytes(b"no image")  # falls to the second process
    first, second = ended(
        start(2, "extract", clean, tmp_path / "a.npz", "--features", "pixels", "-q")
    )
    assert "3.png` is not a readable image" in told(second)
    assert told(first).startswith("rank 1 is gone (")
    assert told(first).endswith("): look at its output.\n")
    assert not (tmp_path / "a.npz").exists()


SLOW = """
import os, signal, time, pathlib
import torch

class Network(torch.nn.Module):
    def forward(self, images):
        rank = os.environ["RANK"]
        number = len(list(pathlib.Path().glob(f"{rank} *")))
        pathlib.Path(f"{rank} {number}").touch()
        if rank == "1" and number == 2:
            END
        time.sleep(float(os.environ.get("SECONDS", "0 0 0").split()[int(rank)]))
        return images.float().mean((2, 3))

network = Network()
"""


def run_slow(start, folder, world, num, *, end="pass", timeout=60, real=False):
    """Start processes that may take their time for each image, or end at the second's third."""
    (folder / "slow.py").write_text(SLOW.replace("END", end))
    np.save(folder / "images.npy", np.zeros((num, 5, 5, 3), np.uint8))
    options = ("--features", "module:slow:network", "--runtime", "torch", "--batch-size", "1")
    arguments = ("extract", "images.npy", "out.npz", "-q", "--timeout", timeout, *options)
    return start(world, *arguments, cwd=folder, real=real)


def wait_for(there, seconds=60):
    """Until something is true."""
    deadline = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("end", "code", "message"),
    [
        ("os._exit(9)", 9, ""),
        ("raise KeyError('lost')", 1, "KeyError: 'lost'\n"),
        ("raise KeyboardInterrupt", 130, "interrupted\n"),
    ],
)
def test_one_that_ends_is_missed_at_once(start, tmp_path, end, code, message):
    first, other = ended(run_slow(start, tmp_path, 2, 8, end=end))
    assert other[:2] == (code, "")
    assert other[2].endswith(message)
    assert told(first).startswith("rank 1 is gone (")
    assert not list(tmp_path.glob("out.npz*"))


def test_one_that_stops_is_missed_and_named_to_the_end(start, tmp_path):
    """By the first one; the third, which waits for the first, is patient enough to let it speak."""
    stop = "os.kill(os.getpid(), signal.SIGSTOP)"
    first, stopped, third = run_slow(start, tmp_path, 3, 12, end=stop, timeout=2)
    missed, gone = ended([first, third])
    stopped.kill()
    ended([stopped])
    assert told(missed).startswith("rank 1 did not answer for 2 s: it was stopped, hangs, or is")
    assert told(missed).endswith("look at its output, or raise --timeout.\n")
    assert told(gone).startswith("rank 0 is gone (")


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        ("SIGKILL", "rank 0 is gone ("),
        ("SIGSTOP", "rank 0 did not answer for 4 s: "),
    ],
)
def test_others_end_without_the_first(start, tmp_path, monkeypatch, sent, message):
    monkeypatch.setenv("SECONDS", "0.3 0.3")
    first, other = run_slow(start, tmp_path, 2, 12, timeout=2)
    wait_for(lambda: len(list(tmp_path.glob("? *"))) >= 4)
    first.send_signal(getattr(signal, sent))
    (result,) = ended([other])
    first.kill()
    ended([first])
    assert told(result).startswith(message)


def test_one_that_waits_can_be_interrupted(start, tmp_path, monkeypatch):
    # Real ones, whose end finds a thread that still waits.
    monkeypatch.setenv("SECONDS", "30 0")
    first, other = run_slow(start, tmp_path, 2, 6, real=True)
    wait_for(lambda: len(list(tmp_path.glob("1 *"))) == 3)
    time.sleep(0.5)  # from the last image to the first wait
    other.send_signal(signal.SIGINT)
    assert ended([other], 20) == [(130, "", "\ninterrupted\n")]
    first.kill()
    ended([first])


def test_a_slow_one_is_waited_for(start, tmp_path, monkeypatch):
    monkeypatch.setenv("SECONDS", "0 0 0.2")
    results = ended(run_slow(start, tmp_path, 3, 30))
    assert [code for code, _, _ in results] == [0, 0, 0], results
    assert "30 x 3 features" in results[0][1]


def test_torchrun_starts_them_and_starts_them_again(folders, tmp_path):
    end = "assert os.environ['TORCHELASTIC_RESTART_COUNT'] != '0', 'once'"
    (tmp_path / "slow.py").write_text(SLOW.replace("END", end))
    options = ("--features", "module:slow:network", "--skip-corrupt", "--metrics")
    inputs = (folders / "real", folders / "fake")
    arguments = ("score", *inputs, *options, "sliced_wasserstein,frechet_distance", "--json", "-q")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--max-restarts", "1", "--master-port", str(free_port()), "-m", "otmetrics", "--"]
    command += [*map(str, arguments), "--runtime", "torch", "--batch-size", "1", "--num", "9"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("AssertionError: once") == 1
    # One of each side is no image.
    assert json.loads(done.stdout)["scores"]["frechet_distance"]["sizes"] == [8, 8]


def test_errors_of_usage_are_told_by_each(otmetrics, folders, monkeypatch):
    """By the first before there is a second, and by the second after the first has ended."""
    inputs = (folders / "real", folders / "fake")
    for name, value in {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}.items():
        monkeypatch.setenv(name, str(value))
    for wrong in (("--metrics", "no"), ("--workers", "-1"), ("--timeout", "nan"), ("--what",)):
        for rank in range(2):
            own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
            for name, value in own.items():
                monkeypatch.setenv(name, str(value))
            finished = otmetrics("score", *inputs, *wrong)
            assert (finished.code, finished.stdout) == (2, "")
            assert wrong[0] in finished.stderr.splitlines()[-1]


def test_a_process_that_never_comes_is_missed(start, folders, tmp_path):
    options = ("--features", "pixels", "--timeout", "1", "--skip-corrupt")
    processes = start(2, "extract", folders / "real", tmp_path / "a.npz", *options, only=[0])
    (result,) = ended(processes, 60)
    assert told(result).startswith("rank 0 of 2 did not meet the others (")


def test_a_function_is_refused_by_several_processes(start, tmp_path):
    (tmp_path / "mine.py").write_text(
        "import numpy as np\n\ndef f():\n    yield np.zeros((4, 5, 5, 3), np.uint8)\n"
    )
    arguments = ("extract", "python:mine:f", "out.npz", "--features", "pixels", "-q")
    for result in ended(start(2, *arguments, cwd=tmp_path)):
        assert "yields its images again in each process" in told(result)


# --- one task -------------------------------------------------------------------------------


def run_differing(start, commands, cwds=(None, None)):
    """What two processes say, each with a command line and a working folder of its own."""
    port = free_port()
    processes = [
        start(2, *command, cwd=cwd, only=[rank], port=port)[0]
        for rank, (command, cwd) in enumerate(zip(commands, cwds, strict=True))
    ]
    return {told(result) for result in ended(processes)}


@pytest.mark.parametrize(
    ("second", "difference"),
    [
        (("score", "b", "a"), "real: '{0}/b', not '{0}/a'"),
        (("score", "a", "b", "--seed", "1"), "seed: '1', not 'None'"),
        (("score", "a", "b", "--resize", "tf1"), "resize: 'tf1', not 'None'"),
        (("extract", "a", "c.npz"), "command: 'extract', not 'score'"),
    ],
)
def test_another_task_is_told_by_both(start, tmp_path, second, difference):
    (line,) = run_differing(start, (("score", "a", "b"), second), (tmp_path, tmp_path))
    given = "rank 1 was given something else than rank 0"
    assert line.startswith(f"{given} ({difference.format(tmp_path)})")


def other_inputs(folder, case):
    """Images on two machines under one path: of the second one they differ."""
    images = [pixels.copy() for pixels in PIXELS[:8]]
    for machine in ("0", "1"):
        if case == "pixels":
            images[3][0, 0, 0] ^= machine == "1"
            (folder / machine).mkdir()
            np.save(folder / machine / "images.npy", np.stack(images))
            continue
        (folder / machine / "images").mkdir(parents=True)
        for index, pixels in enumerate(images):
            if machine == "1" and index == 3:
                if case == "fewer":
                    continue
                index, pixels = (13, pixels) if case == "name" else (3, pixels[:5])
            Image.fromarray(pixels).save(folder / machine / "images" / f"{index}.png")
    return "/proc/self/cwd/images" + (".npy" if case == "pixels" else "")


@pytest.mark.skipif(sys.platform != "linux", reason="needs a path that each process has of its own")
@pytest.mark.parametrize(
    ("case", "difference"),
    [
        ("fewer", "number of images of `{0}`: '7', not '8'"),
        ("name", "names of `{0}`: "),
        ("size", "sizes of `{0}`: "),
        ("pixels", "content of `{0}`: "),
    ],
)
def test_other_inputs_are_told_by_both_before_they_are_read(start, tmp_path, case, difference):
    path = other_inputs(tmp_path, case)
    command = ("extract", path, tmp_path / "a.npz", "--features", "pixels", "-q")
    (line,) = run_differing(start, (command, command), (tmp_path / "0", tmp_path / "1"))
    assert line.startswith("rank 1 was given something else than rank 0 (")
    assert f"({difference.format(path)}" in line
    assert not (tmp_path / "a.npz").exists()


def test_copies_of_other_ages_are_the_same_inputs(start, tmp_path):
    path = other_inputs(tmp_path, "none")
    shutil.rmtree(tmp_path / "1")
    shutil.copytree(tmp_path / "0", tmp_path / "1")
    for file in (tmp_path / "1" / "images").iterdir():
        os.utime(file, (1e9, 1e9))
    command = ("extract", path, tmp_path / "a.npz", "--features", "pixels", "-q")
    port = free_port()
    processes = [
        start(2, *command, cwd=tmp_path / str(rank), only=[rank], port=port)[0] for rank in range(2)
    ]
    assert [code for code, _, _ in ended(processes)] == [0, 0]


def test_which_process_this_is(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    assert place_in_environment() == (0, 1)
    monkeypatch.setenv("SLURM_NTASKS", "4")  # a script that starts no step
    monkeypatch.setenv("SLURM_PROCID", "3")
    monkeypatch.setenv("MASTER_ADDR", "here")
    assert place_in_environment() == (0, 1)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    assert place_in_environment() == (3, 4)
    monkeypatch.delenv("MASTER_ADDR")
    assert place_in_environment() == (0, 1)
    monkeypatch.setenv("MASTER_ADDR", "here")
    monkeypatch.setenv("RANK", "0")  # goes before Slurm's
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert place_in_environment() == (0, 1)
    monkeypatch.setenv("RANK", "5")
    with pytest.raises(RankError, match="RANK must be below WORLD_SIZE, 1, got 5"):
        place_in_environment()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RANK", "x"),
        ("RANK", ""),
        ("RANK", "-1"),
        ("RANK", None),
        ("WORLD_SIZE", "abc"),
        ("WORLD_SIZE", "0"),
        ("WORLD_SIZE", "-2"),
        ("WORLD_SIZE", "9" * 30),
        ("MASTER_PORT", "65536"),
        ("MASTER_PORT", "0"),
        ("MASTER_PORT", "http"),
        ("MASTER_PORT", None),
    ],
)
def test_a_variable_that_is_no_number_is_named(monkeypatch, name, value):
    good = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    for variable, text in (good | {name: value}).items():
        if text is None:
            monkeypatch.delenv(variable, raising=False)
        else:
            monkeypatch.setenv(variable, text)
    given = "none" if value is None else re.escape(repr(value))
    with pytest.raises(RankError, match=rf"variable {name} must be a whole number .* got {given}"):
        ranks_of_environment(timeout=2)


@pytest.mark.parametrize(
    ("variables", "code"),
    [
        ({"RANK": "x"}, 3),  # alone or not: nobody knows
        ({"WORLD_SIZE": "abc"}, 3),
        ({"RANK": "1"}, 3),  # of how many?
        ({"LOCAL_WORLD_SIZE": "-1"}, 3),
        ({"RANK": "0"}, 0),
        ({"WORLD_SIZE": "1"}, 0),
        ({"MASTER_PORT": "http"}, 0),  # nobody to meet
    ],
)
def test_variables_of_a_command(otmetrics, tmp_path, monkeypatch, variables, code):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    paths = [write_features(tmp_path / f"{seed}.npy", 20, seed=seed) for seed in range(2)]
    finished = otmetrics("score", *paths, "--metrics", "frechet_distance", "--no-floor", "-q")
    assert finished.code == code
    if code:
        assert finished.stdout == ""
        assert next(iter(variables)) in finished.stderr
        assert finished.stderr.count("\n") == 1


def test_another_number_of_processes_is_told_by_both(monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(free_port()))

    def meet(rank):
        with pytest.raises(RankError) as raised:
            Ranks(rank, rank + 2, 20)
        return str(raised.value)

    with ThreadPoolExecutor(2) as threads:
        for rank, text in enumerate(threads.map(meet, range(2))):
            assert text.startswith(f"rank {1 - rank} has another WORLD_SIZE than rank {rank} (")


def test_only_what_decides_the_numbers_is_compared():
    from otmetrics.cli.options import _task
    from otmetrics.cli.score import score

    def asked(*arguments):
        with score.make_context("score", ["a", "b", *arguments]):
            return _task()

    own = ("-q", "-v", "--workers", "2", "--device", "cpu", "--timeout", "9")
    assert asked(*own) == asked()
    for other in (
        ("--num", "7"),
        ("--seed", "1"),
        ("--features", "pixels"),
        ("--metrics", "recall"),
    ):
        assert asked(*other) != asked()
    assert asked()["fake"] == str(Path("b").absolute())


@pytest.mark.parametrize("rank", [0, 1])
def test_a_port_that_another_server_holds(monkeypatch, rank):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        monkeypatch.setenv("MASTER_PORT", str(silent.getsockname()[1]))
        with pytest.raises(RankError, match=f"rank {rank} of 2 did not meet the others"):
            Ranks(rank, 2, 1)


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"WORLD_SIZE": "abc"}, "WORLD_SIZE"),
        ({"WORLD_SIZE": "\N{ARABIC-INDIC DIGIT THREE}"}, "WORLD_SIZE"),
        ({"RANK": "x"}, "RANK"),
        ({"LOCAL_RANK": "zz"}, "LOCAL_RANK"),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": "99999"}, "MASTER_PORT"),
    ],
)
def test_variables_of_a_training(otmetrics, tmp_path, monkeypatch, variables, named):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    finished = otmetrics("train", "swg", "--data", "ring8", "--out", tmp_path / "run", "-q")
    assert finished.code == 3
    assert finished.stderr.startswith(f"error: the environment variable {named} must be")
    assert finished.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_local_rank_is_a_number_on_a_cpu_too(otmetrics, tmp_path, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "zz")
    finished = otmetrics("score", tmp_path, tmp_path, "--device", "cpu")
    assert finished.code == 3
    assert finished.stderr.startswith("error: the environment variable LOCAL_RANK must be")


@pytest.mark.parametrize("unset", ["MASTER_ADDR", "MASTER_PORT"])
def test_where_the_others_are_must_be_said(monkeypatch, unset):
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "29512")
    monkeypatch.delenv(unset)
    with pytest.raises(RankError, match=unset):
        Ranks(0, 2, 1)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b", "x" * 300])
def test_a_machine_without_an_address(monkeypatch, host):
    monkeypatch.setenv("MASTER_ADDR", host)
    monkeypatch.setenv("MASTER_PORT", "29512")
    with pytest.raises(RankError, match="rank 1 of 2 did not find the machine of MASTER_ADDR, '"):
        Ranks(1, 2, 1)
