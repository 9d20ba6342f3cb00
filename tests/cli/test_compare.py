"""`otmetrics compare` and `otmetrics power` on the command line."""

import json
import os

import pytest
from command import on_a_terminal, write_features

KERNEL = ("--metrics", "kernel_distance", "-q")


@pytest.fixture
def inputs(tmp_path):
    paths = {"real": write_features(tmp_path / "real.npy", 160, seed=0)}
    for i, (name, shift) in enumerate((("old", 0.0), ("same", 0.0), ("worse", 1.5))):
        path = tmp_path / f"{name}.npy"
        paths[name] = write_features(path, 120, seed=i + 1, shift=shift)
    return paths


def test_two_tables_and_a_verdict(otmetrics, inputs):
    done = otmetrics("compare", *inputs.values(), "--num", "120")
    assert done.code == 0
    lines = done.stdout.splitlines()
    assert lines[0].split()[:3] == ["sliced", "Wasserstein", "↓"]
    assert [line.split()[0] for line in lines[1:4]][2] == "worse"
    assert lines[5].split() == ["score", *(line.split()[0] for line in lines[1:4])]
    assert "By sliced Wasserstein any of " in done.stdout
    assert "nothing is said about retraining" in done.stdout
    assert "note: wasserstein is not ranked" in done.stderr


def test_json_holds_what_the_tables_show(otmetrics, inputs, tmp_path):
    target = tmp_path / "out.json"
    done = otmetrics("compare", *inputs.values(), *KERNEL, "--json", target)
    assert "kernel distance" in done.stdout
    found = json.loads(target.read_text())
    board = found["leaderboards"]["kernel_distance"]
    assert found["by"] == "kernel_distance"
    assert set(board["best_set"]) == {"old", "same"}
    assert board["standings"]["worse"]["ranks"] == [3, 3]
    assert board["standings"]["worse"]["difference"]["low"] > 0
    only = otmetrics("compare", *inputs.values(), *KERNEL, "--json")
    assert json.loads(only.stdout) == found


def test_a_release_gate(otmetrics, inputs):
    old, same, worse = (f"{name}={inputs[name]}" for name in ("old", "same", "worse"))
    gate = ("--baseline", "old", "--fail-if-worse", *KERNEL)
    assert otmetrics("compare", inputs["real"], old, same, *gate).code == 0
    failed = otmetrics("compare", inputs["real"], old, same, worse, *gate)
    assert failed.code == 1
    assert "worse is worse than old." in failed.stdout
    assert otmetrics("compare", inputs["real"], old, worse, *gate[:2], *KERNEL).code == 0

    within = otmetrics("compare", inputs["real"], old, same, *gate, "--margin", "50")
    assert within.code == 0
    assert "same is not worse than old by more than 50." in within.stdout
    shown = otmetrics("compare", inputs["real"], old, same, *gate, "--margin", "1e-9")
    assert shown.code == 1
    assert "may be worse than old by more than" in shown.stdout


def test_models_have_names_and_runs(otmetrics, inputs):
    runs = f"new={inputs['old']},{inputs['same']}"
    done = otmetrics("compare", inputs["real"], inputs["worse"], runs, *KERNEL, "--json")
    found = json.loads(done.stdout)
    assert found["protocol"]["models"] == {"worse": ["worse"], "new": ["new, run 1", "new, run 2"]}
    assert len(found["leaderboards"]["kernel_distance"]["standings"]["new"]["runs"]) == 2


def test_a_file_with_a_sign_in_its_name_is_a_file(otmetrics, inputs):
    odd = write_features(inputs["real"].parent / "a=b,c.npy", 120, seed=5)
    done = otmetrics("compare", inputs["real"], odd, f"x={inputs['old']}", *KERNEL, "--json")
    assert json.loads(done.stdout)["protocol"]["models"] == {"a=b,c": ["a=b,c"], "x": ["x"]}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["{real}", "{old}"], 2, "must name two models or more, got 1"),
        (["{real}", "{old}", "{old}"], 2, "two models have the name `old`: give names"),
        (["{real}", "{old}", "x="], 2, "the path is empty"),
        (["{real}", "{old}", "x={same},,{worse}"], 2, "the path is empty"),
        (["{real}", "{old}", "x={old}"], 2, "old.npy` is named twice"),
        (["{real}", "{old}", "x={real}"], 3, "take as many of each, with --num 120"),
        (["{real}", "{old}", "missing"], 3, "`missing` "),
        (["{real}", "{old}", "{same}", "--baseline", "b"], 2, "--baseline must be one of old"),
        (["{real}", "{old}", "{same}", "--margin", "1"], 2, "--margin needs --baseline"),
        (["{real}", "{old}", "{same}", "--fail-if-worse"], 2, "--fail-if-worse needs --baseline"),
        (["{real}", "{old}", "{same}", "--by", "recall", *KERNEL], 2, "--by must be among"),
    ],
)
def test_bad_input_is_one_line_and_a_code(otmetrics, inputs, arguments, code, words):
    done = otmetrics("compare", *(word.format(**inputs) for word in arguments))
    assert done.code == code
    assert done.stdout == ""
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_what_power_says(otmetrics, inputs):
    done = otmetrics("power", inputs["real"], inputs["worse"], "-q")
    assert done.code == 0
    assert len(done.stdout.splitlines()) == 11
    alone = ("--metrics", "kernel_distance", "--difference", "0.5", "--json")
    found = json.loads(otmetrics("power", inputs["real"], inputs["worse"], *alone).stdout)
    kernel = found["scores"]["kernel_distance"]
    share = (kernel["detectable"] / 0.5) ** 2
    assert kernel["for_difference"] == pytest.approx(120 * share, abs=1)
    assert kernel["to_differ"] < 120


def test_a_difference_is_in_the_units_of_one_score(otmetrics, inputs):
    done = otmetrics("power", inputs["real"], inputs["worse"], "--difference", "1")
    assert done.code == 2
    assert "--difference is in the units of one score: name that one in --metrics" in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="needs a POSIX terminal")
def test_a_table_that_is_wider_than_the_terminal_is_whole(inputs):
    """Frames cut what does not fit, without a word."""
    names = [f"{'long' * 8}{i}={path}" for i, path in enumerate([*inputs.values()][1:])]
    arguments = ["compare", str(inputs["real"]), *names, *KERNEL]
    shown = on_a_terminal(arguments, columns=80)
    assert all(f"{'long' * 8}{i}" in shown for i in range(3))
    assert "< 0.001" in shown
