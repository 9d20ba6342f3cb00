"""The examples run, print what they say, and give one number on one process and on two."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
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
    *epochs, last = printed(str(EXAMPLES / "plain_loop.py"), *TINY).splitlines()
    values = [float(line.split(": ")[1]) for line in epochs]
    assert values[0] > values[1] > values[2]
    assert re.fullmatch(r"0\.\d{4} ± 0\.\d{4}, mean over 1024 directions", last)
    assert last.startswith(f"{values[2]:.4f}")


# Lightning warns of few workers and short epochs, and calls what torch has deprecated.
@pytest.mark.filterwarnings("ignore")
def test_lightning_logs_what_a_plain_loop_gives(capsys):
    spec = importlib.util.spec_from_file_location("lightning_loop", EXAMPLES / "lightning_loop.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model, logged = module.main(["--feature", SMALL, "--samples", "70"])
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
        for batch in images[:, None].expand(-1, 3, -1, -1).split(32):
            metric.update(batch, real=True)
            metric.update(model(len(batch)), real=False)
        assert logged[name].item() == pytest.approx(metric.compute().item(), rel=1e-5)
    assert not [name for name in model.state_dict() if name != "mean"]


@pytest.mark.parametrize("name", ["torchrun_eval.py", "accelerate_loop.py"])
def test_two_processes_give_the_number_of_one(name):
    script = [str(EXAMPLES / name), *TINY, *(["--cpu"] if "accelerate" in name else [])]
    pattern = r"(?:rank|process) \d: (\d\.\d{6}), 33 real samples"
    (alone,) = re.findall(pattern, printed(*script))
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    together = re.findall(pattern, printed(*launcher, *script))
    assert len(together) == 2
    for value in together:
        assert float(value) == pytest.approx(float(alone), rel=1e-5)
