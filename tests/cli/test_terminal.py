"""What reaches the terminal: nobody else's lines, colours or markup, and no traceback."""

import copy
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
from command import write_features, write_images
from otmetrics.cli.options import field_options, flag
from otmetrics.cli.progress import progress_bars
from otmetrics.cli.render import print_table
from otmetrics.cli.runs import evaluate
from otmetrics.cli.score import end_unconverged, score

from otmetrics import Extraction, Scoring
from otmetrics.errors import Argument, DivergedError, Message, OptionError, tell
from otmetrics.images.facts import WIDTH
from otmetrics.scoring.cache import Shelf
from otmetrics.scoring.report import Score, ScoreReport

EVIL = "a\nerror: forged\x1b[31m\r\x07\u202e.npy"
SHOWN = r"a\nerror: forged\x1b[31m\r\x07\u202e.npy"
QUICK = ("--features", "pixels", "--metrics", "frechet_distance", "--no-floor")


def assert_clean(finished):
    """Nothing of a name is taken for a line or a command to the terminal."""
    for text in (finished.stdout, finished.stderr):
        assert not re.search(r"^(note: )?error: forged", text, re.M)
        assert not set(text) & set("\x1b\r\x07\u202e")


# --- names of others ------------------------------------------------------------------------


def test_names_are_escaped_wherever_they_are_told(otmetrics, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "500")
    real = write_images(tmp_path / "real", 12, seed=0)
    fake = write_images(tmp_path / EVIL, 12, seed=1)
    (fake / f"{EVIL}.png").write_bytes(b"no image")
    stopped = otmetrics("score", real, fake, *QUICK)
    finished = otmetrics("score", real, fake, *QUICK, "--skip-corrupt")
    extracted = otmetrics(
        "extract", fake, tmp_path / f"{EVIL}.npz", "--skip-corrupt", "--features", "pixels"
    )
    missing = otmetrics("score", real, tmp_path / "b\nerror: forged\x1b[0m")
    assert [each.code for each in (stopped, finished, extracted, missing)] == [3, 0, 0, 3]
    for each in (stopped, finished, extracted, missing):
        assert_clean(each)
    assert SHOWN in stopped.stderr
    assert f"note: fake: left out `{tmp_path}/{SHOWN}/{SHOWN}.png`" in finished.stderr
    assert f"features of {tmp_path}/{SHOWN}" in finished.stderr
    assert SHOWN in extracted.stdout
    assert extracted.stdout.count("\n") == 1


def test_the_cache_shows_names_as_they_are_shown_elsewhere(otmetrics):
    Shelf(EVIL, {"extractor": {"extractor": EVIL}}).store(
        [bytes(16)], np.zeros((1, 2), np.float32), [False], np.zeros((1, WIDTH), np.int32)
    )
    listed = otmetrics("cache", "info")
    assert_clean(listed)
    assert listed.stdout.count(SHOWN) == 2
    assert sum(SHOWN in line for line in listed.stdout.splitlines()) == 1  # others may be there


@pytest.mark.parametrize(
    "arguments",
    [
        (EVIL,),
        ("score", "a", "b", f"--{EVIL}"),
        ("score", "a", "b", "--resize", EVIL),
        ("score", "a", "b", "--num", EVIL),
        ("score", "a", "b", "--json", EVIL),
        ("score", "a", "b", "--metrics", EVIL),
        ("score", "a", "b", "--features", EVIL),
        ("score", "a", "b", "--device", EVIL),
        ("score", "a", "b", "--memory-limit", EVIL),
        ("train", EVIL),
        ("train", "swg", "--data", EVIL, "--out", "c"),
        ("train", "swg", "--data", f"folder:{EVIL}", "--out", "c"),
        ("train", "swg", "--data", "ring8", "--out", "c", "--precision", EVIL),
        ("sample", EVIL, "c"),
        ("evaluate", EVIL),
        ("models", EVIL),
    ],
)
def test_words_of_the_command_line_are_escaped(otmetrics, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    finished = otmetrics(*arguments)
    assert finished.code in {2, 3}
    assert_clean(finished)
    *_, last = finished.stderr.splitlines()
    assert last.lower().startswith("error: ")


def test_errors_of_training_and_warnings_of_python_are_escaped(otmetrics, monkeypatch, tmp_path):
    import warnings

    from otmetrics.cli import train as module

    def warn(*arguments, **options):
        sys.stderr.write(warnings.formatwarning(UserWarning(EVIL), UserWarning, EVIL, 3))
        raise DivergedError(EVIL)

    monkeypatch.setattr(module, "run_training", warn)
    finished = otmetrics("train", "swg", "--data", "ring8", "--out", tmp_path / "c")
    assert finished.code == 4
    assert_clean(finished)
    warned, told = finished.stderr.splitlines()
    assert warned.startswith("warning: a error: forged")
    assert told == f"error: {SHOWN}"

    def interrupt(*arguments, **options):
        raise KeyboardInterrupt(f"`{EVIL}` is kept: ", Argument("resume"), " goes on.")

    monkeypatch.setattr(module, "run_training", interrupt)
    finished = otmetrics("train", "swg", "--data", "ring8", "--out", tmp_path / "c")
    assert finished.code == 130
    assert finished.stderr.strip() == f"interrupted: `{SHOWN}` is kept: --resume goes on."


class Terminal:
    """A stream that says it is one."""

    encoding = "utf-8"

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text
        return len(text)

    def isatty(self):
        return True

    def flush(self):
        pass


@pytest.mark.parametrize("name", ["cut[/raw]", "exp[lr=0.1]", "[red]x[/red]", ":smile:", r"a\[b]"])
def test_nothing_of_a_user_is_markup(monkeypatch, name):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "200")
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    print_table(("name", "path"), [("1", name)], left=(0, 1))
    assert name in screen.text
    monkeypatch.setattr(sys, "stderr", screen)
    screen.text = ""
    with progress_bars(quiet=False) as progress:
        progress(f"features of {name}: starting", 0, 3)
        progress(f"features of {name}", 3, 3)
    assert f"features of {name}" in screen.text


def test_two_inputs_whose_names_begin_alike_have_a_bar_each(capsys):
    with progress_bars(quiet=False) as progress:
        for name in ("features of a: b", "features of a: c"):
            progress(f"{name}: starting", 0, 3)
            progress(name, 3, 3)
    assert capsys.readouterr().err.count("3/3") == 2


def test_there_is_one_way_to_the_terminal():
    folder = Path(__file__).parents[2] / "cli"
    ways = re.compile(r"click\.s?echo|sys\.stdout\.write|sys\.stderr\.write|(?<![.\w])print\(")
    found = {path.name for path in folder.glob("*.py") if ways.search(path.read_text("utf-8"))}
    assert found == {"terminal.py"}


# --- options and files of one name ----------------------------------------------------------


@pytest.mark.parametrize("name", ["data", "weights", "features", "metrics", "num", "seed", "json"])
def test_a_folder_is_not_taken_for_an_option(otmetrics, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "samples", 6, seed=0)
    for finished in (
        otmetrics("score", name, "samples", *QUICK),
        otmetrics("extract", name, "out.npz", "--features", "pixels"),
        otmetrics("sample", name, "out"),
        otmetrics("train", "swg", "--data", f"folder:{name}", "--out", "run"),
    ):
        assert finished.code == 3
        assert f"`{name}`" in finished.stderr
        assert f"--{name}" not in finished.stderr


@pytest.mark.parametrize(
    ("command", "option"), [(["score"], "--exact-max"), (["train", "wgan-gp"], "--penalty")]
)
def test_help_without_docstrings(command, option):
    done = subprocess.run(
        [sys.executable, "-OO", "-m", "otmetrics", *command, "--help"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert option in done.stdout


def test_a_folder_called_as_an_option_beside_that_option(otmetrics, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("seed", "fake")):
        write_images(tmp_path / name, 6, seed=seed)
    finished = otmetrics("score", "seed", "fake", *QUICK[:4], "--floor-with", "seed")
    assert finished.stderr == "error: --floor-with must hold samples other than those of `seed`.\n"


def test_an_argument_is_shown_as_its_caller_writes_it():
    error = OptionError(
        Argument("num_workers"), " and `num` differ: see ", Argument("metrics", "Scoring(metrics=)")
    )
    assert str(error) == "`num_workers` and `num` differ: see `Scoring(metrics=)`"
    assert tell(error, flag) == "--workers and `num` differ: see --metrics"
    message = Message("of `num`: ", Argument("num"), " changes it")
    assert message == "of `num`: `num` changes it"
    for said in (message, copy.deepcopy(message), pickle.loads(pickle.dumps(message))):
        assert tell("x: " + said + ".", flag) == "x: of `num`: --num changes it."
        assert "x: " + said + "." == f"x: {message}."
    assert tell("raise `num`", flag) == "raise `num`"


def test_options_are_those_of_the_fields():
    """Type, choices, help and default: none of them stands twice."""
    features, resize, num, skip = field_options(
        Extraction, ("features", "resize", "num", "skip_corrupt")
    )
    assert (features.opts, features.type) == (["--features"], click.STRING)
    assert list(resize.type.choices) == ["bicubic", "bilinear", "tf1"]
    assert (num.type, num.default) == (click.INT, None)
    assert skip.is_flag
    metrics, exact_max, floor = field_options(Scoring, ("metrics", "exact_max", "floor"))
    assert metrics.type.convert("recall, density", None, None) == ("recall", "density")
    assert exact_max.help.endswith(f"Default: {Scoring().exact_max}.")
    assert floor.secondary_opts == ["--no-floor"]


@pytest.mark.parametrize(
    ("command", "name", "advice", "where"),
    [
        (
            score,
            "sinkhorn_divergence",
            "--max-iterations or --epsilon",
            "options here: --epsilon, --max-iterations, --richardson",
        ),
        (score, "wasserstein", "`max_iterations` or `epsilon`", "options in Python alone"),
        (
            evaluate,
            "sinkhorn_divergence",
            "`max_iterations` or `epsilon`",
            "options in Python alone",
        ),
    ],
)
def test_a_solver_that_did_not_converge_is_told_with_its_options(
    capsys, command, name, advice, where
):
    said = Message("It stopped: raise ", Argument("max_iterations"), " or ", Argument("epsilon"))
    found = Score(1.0, (5, 5), converged=False, message="floor: " + said + ".")
    with click.Context(command, info_name="x") as context:
        command.get_params(context)
        with pytest.raises(click.exceptions.Exit) as left:
            end_unconverged(ScoreReport({name: found}, {}))
    assert left.value.exit_code == 4
    told = f"warning: {name}: floor: It stopped: raise {advice} ({where}).\n"
    assert capsys.readouterr().err == told


# --- many files -----------------------------------------------------------------------------


@pytest.mark.parametrize("count", [4, 5, 6, 40])
def test_many_unreadable_files_are_counted(otmetrics, tmp_path, count):
    real, fake = (write_images(tmp_path / side, 8, seed=i) for i, side in enumerate("ab"))
    for index in range(count):
        (fake / f"bad_{index:02d}.png").write_bytes(b"no picture")
    arguments = ("score", real, fake, *QUICK, "--skip-corrupt")
    finished = otmetrics(*arguments)
    told = [line for line in finished.stderr.splitlines() if "left out" in line]
    named = [line for line in told if "bad_" in line]
    assert [f"bad_{index:02d}" in line for index, line in enumerate(named)] == [True] * len(named)
    assert len(named) == min(count, 5)
    if count > 5:
        assert told[0].startswith(f"note: fake: left out {count} images")
        assert told[-1] == (
            f"note: fake: --verbose or --json names the other {count - 5} that were left out"
        )
        del told[0], told[-1]
    assert told == named
    everything = otmetrics(*arguments, "--verbose").stderr
    for index in range(count):
        assert everything.count(f"bad_{index:02d}.png") == 1
    assert otmetrics(*arguments, "-v", "-q").stderr == ""
    report = otmetrics(*arguments, "--json", "-q").stdout
    assert report.count("bad_") >= count
    target = ("extract", fake, tmp_path / "out.npz", "--features", "pixels", "--skip-corrupt")
    assert otmetrics(*target).stderr.count("bad_") == min(count, 5)
    assert otmetrics(*target, "--overwrite", "-v").stderr.count("bad_") == count
    # A feature file remembers what was left out of its images.
    stored = ("score", tmp_path / "out.npz", tmp_path / "out.npz", *QUICK[2:], "-v")
    assert otmetrics(*stored).stderr.count("bad_") == 2 * count


@pytest.mark.parametrize(
    ("command", "takes"),
    [
        (("score",), "REAL FAKE"),
        (("extract",), "INPUT OUT.npz"),
        (("sample",), "RUN OUT"),
        (("evaluate",), "RUN"),
        (("models",), "PRESET"),
        (("features",), "none"),
        (("cache", "info"), "none"),
        (("train", "swg", "--data", "ring8", "--out", "x"), "none"),
    ],
)
def test_names_that_a_shell_made_of_a_pattern(otmetrics, command, takes):
    names = [f"real/{index:04d}.png" for index in range(80)]
    finished = otmetrics(*command, *names)
    assert finished.code == 2
    *_, last = finished.stderr.splitlines()
    assert (
        f"Got 80 arguments, but {command[-1] if len(command) < 3 else 'swg'} takes {takes}" in last
    )
    assert "give the folder" in last
    assert len(finished.stderr) < 600


# --- streams and surroundings ---------------------------------------------------------------


def shell(tmp_path, ending, **environment):
    """Score two small files with the streams that a shell gives."""
    paths = [write_features(tmp_path / f"{seed}.npy", 20, seed=seed) for seed in range(2)]
    command = f"exec '{sys.executable}' -m otmetrics score {paths[0]} {paths[1]} -q "
    command += "--metrics frechet_distance --no-floor " + ending
    return subprocess.run(
        ["bash", "-c", command], env=os.environ | environment, capture_output=True, text=True
    )


@pytest.mark.skipif(os.name == "nt", reason="needs a POSIX shell")
@pytest.mark.parametrize(
    ("ending", "code", "told"),
    [
        (">&-", 3, "error: the standard output is closed: send it to a file, or to /dev/null.\n"),
        (">/dev/full", 3, "error: no room is left for the output (No space left on device)"),
        ("1</dev/null", 3, "error: the output cannot be written (Bad file descriptor)"),
        ("2>&-", 0, ""),
        ("2>/dev/full", 0, ""),
        (">&- 2>&- <&-", 3, ""),
        ("> >(true)", 0, ""),
    ],
)
def test_streams_that_are_closed_or_full(tmp_path, ending, code, told):
    finished = shell(tmp_path, ending)
    assert finished.returncode == code
    assert finished.stderr.startswith(told)
    assert finished.stderr.count("\n") == bool(told)
    assert ("Fréchet" in finished.stdout) == ending.startswith("2>")


@pytest.mark.skipif(os.name == "nt", reason="a folder in use cannot be removed")
def test_a_working_folder_that_is_gone(otmetrics, tmp_path, monkeypatch):
    paths = [write_features(tmp_path / f"{seed}.npy", 20, seed=seed) for seed in range(2)]
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    finished = otmetrics("score", *paths)
    assert finished.code == 3
    assert finished.stderr.startswith("error: the working folder is gone")
    assert otmetrics("score", "--help").code == 0


@pytest.mark.skipif(os.name == "nt", reason="a folder in use cannot be removed")
@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("score", "a", "b"), 3),
        (("score", "./a:b", "./c:d"), 3),
        (("extract", "a", "b.npz"), 3),
        (("demo",), 3),
        (("train", "swg", "--data", "ring8", "--out", "x"), 3),
        (("sample", "a", "b"), 3),
        (("evaluate", "a"), 3),
        (("models",), 3),
        (("features",), 3),
        (("cache", "info"), 3),
        (("score", "--help"), 0),
        (("train", "swg", "-h"), 0),
        (("--version",), 0),
        (("score", "a", "b", "--features", "--help"), 3),
    ],
)
def test_a_working_folder_that_is_gone_before_torch_is_loaded(tmp_path, arguments, code):
    """Whose own libraries end the process there: in a fresh one."""
    script = 'mkdir gone && cd gone && rmdir ../gone && exec "$0" -m otmetrics "$@"'
    finished = subprocess.run(
        ["bash", "-c", script, sys.executable, *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert finished.returncode == code
    told = "" if code == 0 else "error: the working folder is gone: change to one that exists.\n"
    assert finished.stderr == told
    assert ("tmetrics" in finished.stdout) == (code == 0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("COLUMNS", "abc"),
        ("COLUMNS", "-1"),
        ("LC_ALL", "C"),
        ("PYTHONIOENCODING", "ascii:strict"),
        ("HOME", ""),
        ("OTMETRICS_CACHE", "/dev/null"),
        ("OTMETRICS_CACHE", "~nobody-of-this-name/x"),
        ("OTMETRICS_CACHE", "/proc/x"),
        ("OTMETRICS_WEIGHTS", "~nobody-of-this-name/x"),
        ("HF_HOME", "~nobody-of-this-name/x"),
    ],
)
def test_odd_surroundings(otmetrics, tmp_path, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    folder = write_images(tmp_path / "a", 6, seed=0)
    for arguments in (("score", folder, folder, *QUICK), ("cache", "info"), ("features",)):
        finished = otmetrics(*arguments)
        assert finished.code == 0, finished.stderr
        assert "Traceback" not in finished.stderr


@pytest.mark.parametrize("value", ["/dev/null", "~nobody-of-this-name/x", "/proc/x", ""])
def test_a_data_folder_that_is_none_is_told(otmetrics, tmp_path, monkeypatch, value):
    pytest.importorskip("torchvision")
    monkeypatch.setenv("OTMETRICS_DATA", value)
    monkeypatch.chdir(tmp_path)
    finished = otmetrics("score", "mnist:test", "mnist:test", *QUICK)
    assert finished.code == 3
    assert "OTMETRICS_DATA" in finished.stderr
    assert finished.stderr.count("\n") == 1
