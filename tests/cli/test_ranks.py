"""Several processes that share one extraction: one result, printed once, and no hang."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch.distributed as dist
from command import write_features
from PIL import Image

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

    def run(world, *arguments, cwd=None, only=None, real=False):
        port = free_port()
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


def test_an_unreadable_file_of_another_process_is_told_once(start, folders, tmp_path):
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


def run_hanging(start, folder, timeout):
    options = ("--features", "module:hanging:network", "--timeout", timeout, "-q")
    processes = start(2, "extract", "images", "out.npz", *options, cwd=folder)
    deadline = time.monotonic() + 60
    while not all((folder / f"at work {rank}").exists() for rank in (0, 1)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return processes


def test_a_process_that_hangs_is_missed(start, hanging):
    processes = run_hanging(start, hanging, 3)
    began = time.monotonic()
    out, err = processes[0].communicate(timeout=60)
    assert time.monotonic() - began < 30
    assert (processes[0].returncode, out) == (3, "")
    assert "error: rank 1 has shown no sign of life for 3 s: it was killed, or hangs" in err
    assert "Traceback" not in err
    processes[1].kill()
    ended(processes[1:])
    assert not list(hanging.glob("out.npz*"))


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
        time.sleep(float(os.environ.get("SECONDS", "0.2 0.2 0.2").split()[int(rank)]))
        return images.float().mean((2, 3))

network = Network()
"""


def run_slow(start, folder, world, num, *, end="pass", real=False):
    """Start processes that take their time for each image."""
    (folder / "slow.py").write_text(SLOW.replace("END", end))
    np.save(folder / "images.npy", np.zeros((num, 5, 5, 3), np.uint8))
    options = ("--features", "module:slow:network", "--runtime", "torch", "--batch-size", "1")
    arguments = ("extract", "images.npy", "out.npz", "-q", "--timeout", "3", *options)
    return start(world, *arguments, cwd=folder, real=real)


@pytest.mark.parametrize(
    ("end", "message"),
    [
        ("os._exit(9)", "rank 1 has shown no sign of life for 3 s"),
        ("raise KeyError('lost')", "rank 1 failed: KeyError: 'lost'"),
        ("raise KeyboardInterrupt", "rank 1 was interrupted"),
    ],
)
def test_one_that_is_missed_ends_the_work_of_the_first(start, tmp_path, end, message):
    first, other = run_slow(start, tmp_path, 2, 400, end=end)
    ((code, out, err),) = ended([first])
    other.kill()
    ended([other])
    assert (code, out) == (3, "")
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1
    assert len(list(tmp_path.glob("0 *"))) < 150  # of 200


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        ("SIGKILL", "error: rank 0 is gone"),
        ("SIGSTOP", "error: rank 0 has shown no sign of life for 3 s"),
    ],
)
def test_others_end_without_the_first(start, tmp_path, sent, message):
    # Three seconds of work each. Real ones, whose end finds a thread that waits for the first.
    first, other = run_slow(start, tmp_path, 2, 30, real=True)
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("? *"))) < 4:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    first.send_signal(getattr(signal, sent))
    ((code, out, err),) = ended([other])
    first.kill()
    ended([first])
    assert (code, out) == (3, "")
    assert err.startswith(message)
    assert err.count("\n") == 1


def test_one_that_is_done_is_not_missed(start, tmp_path, monkeypatch):
    monkeypatch.setenv("SECONDS", "0 0 0.5")
    results = ended(run_slow(start, tmp_path, 3, 30))  # the last one works for five seconds
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
    environment = os.environ | {"SECONDS": "0 0", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("error: rank 1 failed: AssertionError: once") == 1
    assert json.loads(done.stdout)["scores"]["frechet_distance"]["sizes"] == [
        8,
        8,
    ]  # one of each is none


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
    (process,) = start(2, "extract", folders / "real", tmp_path / "a.npz", *options, only=[0])
    ((code, out, err),) = ended([process], 60)
    assert (code, out) == (3, "")
    assert "error: rank 0 of 2 did not meet the others" in err
    assert "Traceback" not in err


def test_a_function_is_refused_by_several_processes(start, tmp_path):
    (tmp_path / "mine.py").write_text(
        "import numpy as np\n\ndef f():\n    yield np.zeros((4, 5, 5, 3), np.uint8)\n"
    )
    arguments = ("extract", "python:mine:f", "out.npz", "--features", "pixels")
    first, second = ended(start(2, *arguments, cwd=tmp_path))
    assert first[0] == 3
    assert "yields its images again in each process" in first[2]
    assert second[1:] == ("", "")


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


def met(tasks, worlds=(2, 2)):
    """What two processes say that meet in one place, each with a task of its own."""

    def meet(rank):
        with pytest.raises(RankError) as raised:
            Ranks(rank, worlds[rank], 20, tasks[rank])
        return str(raised.value)

    with ThreadPoolExecutor(2) as threads:
        return list(threads.map(meet, range(2)))


@pytest.mark.parametrize("case", ["command", "num", "WORLD_SIZE"])
def test_processes_that_were_asked_for_different_things_say_so(monkeypatch, case):
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    task = {"command": "score", "num": "5"}
    tasks = (
        task,
        {"command": task | {"command": "extract"}, "num": {"command": "score"}}.get(case, task),
    )
    told = met(tasks, (2, 3) if case == "WORLD_SIZE" else (2, 2))
    for rank, text in enumerate(told):
        assert text.startswith(f"rank {1 - rank} was asked for something else than rank {rank} (")
        assert f"({case}: " in text


def test_a_rank_beside_one_with_another_command_ends(forks, folders, tmp_path):
    port = str(free_port())
    commands = (
        ("score", folders / "real", folders / "fake", "--features", "pixels", "-q"),
        ("extract", folders / "real", tmp_path / "a.npz", "--features", "pixels"),
    )
    processes = []
    for rank, arguments in enumerate(commands):
        own = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
        own |= {"MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
        processes.append(forks.start("otmetrics", *arguments, environment=own))
    for code, out, err in ended(processes):
        assert (code, out) == (3, "")
        assert err.count("\n") == 1
        assert "(command: " in err
    assert not (tmp_path / "a.npz").exists()


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


def test_one_that_ends_too_early_is_not_waited_for(monkeypatch):
    """It says that it is done, and what the first one waits for never comes."""
    ranks = Ranks()
    ranks.world, ranks._store = 2, dist.HashStore()
    ranks._store.set("beat/1", "done")
    with pytest.raises(RankError, match="rank 1 has ended, but this process still waits for it"):
        ranks._await(1, lambda: False)


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


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b", "x" * 300])
def test_a_machine_without_an_address(monkeypatch, host):
    monkeypatch.setenv("MASTER_ADDR", host)
    monkeypatch.setenv("MASTER_PORT", "29512")
    with pytest.raises(RankError, match="rank 1 of 2 did not find the machine of MASTER_ADDR, '"):
        Ranks(1, 2, 1)
