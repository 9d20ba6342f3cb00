"""The examples run, print what they say, and give one number on one process and on two."""

import importlib.util
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from forks import as_ranks
from sklearn.datasets import load_digits

from otmetrics import FrechetFeatureDistance, WassersteinFeatureDistance

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
SMALL = "module:metric_cases:Small"  # Fréchet takes the cube of the dimension
TINY = ("--feature", "pixels", "--samples", "33")


def printed(*command: str) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_plain_loop_gets_closer():
    first, *epochs, last = printed(str(EXAMPLES / "plain_loop.py"), *TINY).splitlines()
    assert re.fullmatch(r"other real images: 0\.\d{4}", first)
    values = [float(line.split(": ")[1]) for line in epochs]
    assert values[0] > values[1] > values[2] > float(first.split(": ")[1])
    assert re.fullmatch(r"0\.\d{4} ± 0\.\d{4}, mean over 1024 directions", last)
    assert last.startswith(f"{values[2]:.4f}")


def test_pairs_within_conditions_make_the_better_flow(tmp_path, capsys, monkeypatch):
    """Pairs that ignore the moon tie the noise to it; others leave it as it is."""
    path, picture = EXAMPLES / "flow_matching_couplings.py", tmp_path / "flows.png"
    tiny = ["--steps", "60", "--samples", "100", "--points", "40", "--figure", str(picture)]
    monkeypatch.setattr(sys, "argv", [str(path), *tiny])
    with torch.random.fork_rng():
        runpy.run_path(str(path), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()

    found = {line[:20].strip(): [float(word) for word in line[20:].split()] for line in lines[3:8]}
    assert list(found) == ["independent", "exact", "Sinkhorn", "stored heights", "a perfect flow"]
    for name in ("exact", "Sinkhorn", "stored heights"):
        assert found[name][0] < found["independent"][0]  # after one step
        assert found[name][4] < found["independent"][4] / 5  # how far from straight
    shifts = {line[:20].strip(): float(line.split()[-1]) for line in lines[10:]}
    assert shifts["exact, all"] > 2 * shifts["exact, within moons"]
    assert shifts["heights, by moon"] < 2 * shifts["a perfect flow"]
    assert picture.stat().st_size > 10_000


def lightning_run(*arguments: str):
    """The model and what the Trainer logged of the Lightning example."""
    spec = importlib.util.spec_from_file_location("lightning_loop", EXAMPLES / "lightning_loop.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main(["--feature", SMALL, "--samples", "70", *arguments])


def quiet_lightning(test):
    """What Lightning warns of by itself, and nothing else."""
    for message in (
        "`isinstance.treespec, LeafSpec.` is deprecated",  # it calls what torch has deprecated
        "Found 1 module.s. in eval mode",  # the extractor, which is meant to be
        ".*does not have many workers",  # the example's images are in memory
    ):
        test = pytest.mark.filterwarnings(f"ignore:{message}")(test)
    return test


@quiet_lightning
def test_lightning_logs_what_a_plain_loop_gives(capsys):
    model, logged = lightning_run()
    assert set(logged) == {
        "val/distance",
        "val/FrechetFeatureDistance",
        "val/KernelFeatureDistance",
        "val/precision",
        "val/recall",
    }
    assert f"val/distance: {logged['val/distance']:.4f}" in capsys.readouterr().out
    images = (torch.tensor(load_digits().images[:70]) / 16 * 255).round().to(torch.uint8)
    for name, metric in (
        ("val/distance", WassersteinFeatureDistance(SMALL)),
        ("val/FrechetFeatureDistance", FrechetFeatureDistance(SMALL)),
    ):
        for index, batch in enumerate(images[:, None].expand(-1, 3, -1, -1).split(16)):
            metric.update(batch, real=True)
            metric.update(model(len(batch), seed=index), real=False)
        assert logged[name].item() == pytest.approx(metric.compute().item(), rel=1e-5)
    assert not [name for name in model.state_dict() if name != "mean"]


@quiet_lightning
def test_a_resumed_lightning_run_logs_what_an_unbroken_one_does(tmp_path):
    saved, moved = str(tmp_path / "digits.ckpt"), str(tmp_path / "moved.ckpt")
    lightning_run("--epochs", "1", "--save", saved)
    _, resumed = lightning_run("--resume", saved)
    _, unbroken = lightning_run()
    assert set(resumed) == set(unbroken)
    for name, value in unbroken.items():
        assert resumed[name].item() == pytest.approx(value.item(), rel=1e-6), name
    # From another start it ends elsewhere: it does go on from the file, not from the beginning.
    checkpoint = torch.load(saved, weights_only=True)
    assert list(checkpoint["state_dict"]) == ["mean"]
    checkpoint["state_dict"]["mean"] += 0.5
    torch.save(checkpoint, moved)
    _, elsewhere = lightning_run("--resume", moved)
    assert elsewhere["val/distance"] != pytest.approx(unbroken["val/distance"].item(), rel=1e-3)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_help_teaches(path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(path), "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(path), run_name="__main__")
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert f"python docs/examples/{path.name}" in shown
    assert "--samples" in shown


DISTRIBUTED = {
    "torchrun_eval": TINY,
    "accelerate_loop": (*TINY, "--cpu"),
}
NUMBER = r"(?:rank|process) (\d): (\d\.\d{6}), 33 real samples"


@pytest.mark.parametrize("name", DISTRIBUTED)
def test_two_processes_give_the_number_of_one(name, forks):
    """Started with the variables that torchrun sets."""
    ranks = [{"CUDA_VISIBLE_DEVICES": ""} | own for own in ({}, *as_ranks(2))]
    processes = [
        forks.start(name, *DISTRIBUTED[name], cwd=EXAMPLES, environment=own) for own in ranks
    ]
    numbers = []
    for process in processes:
        out, err = process.communicate()
        assert process.returncode == 0, err
        numbers += re.findall(NUMBER, out)
    assert [rank for rank, _ in numbers] == ["0", "0", "1"]
    alone, *together = (float(value) for _, value in numbers)
    assert together == pytest.approx([alone, alone], rel=1e-5)
