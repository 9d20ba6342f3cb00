"""Two processes: own samples, one average of gradients, and no waiting for one that failed."""

from pathlib import Path
from typing import Any

import pytest
import torch
from forks import Fork, Forks, as_ranks
from otmetrics.reference_models import saving
from training_cases import configured, points, run

PROGRAM = """
import sys
from pathlib import Path
import torch
from accelerate import PartialState
from training_cases import configured, points
from otmetrics.errors import DataError
from otmetrics.reference_models import training
from otmetrics.reference_models.reporter import Reporter

root, *presets = sys.argv[1:]
data, rank = points(), PartialState(cpu=True).process_index
drawn = []
to_network = training.Data.to_network
training.Data.to_network = lambda self, samples: drawn.append(samples) or to_network(self, samples)

def full(*arguments):
    raise DataError("the disk is full")

if presets[-1] == "full":
    training.saving.save = full
    presets.pop()
for preset in presets:
    drawn.clear()
    out = Path(root, preset)
    config = configured(preset, data, steps=4, eval_every=2)
    reporter = Reporter(out if rank == 0 else None, tensorboard=False)
    options = training.RunOptions(device="cpu", checkpoint_every=2)
    state = training.train(config, data, out, reporter=reporter, options=options)
    torch.save(state.to_dict() | {"drawn": drawn[0]}, out / f"rank{rank}.pt")
"""


def processes(forks: Forks, folder: Path, *arguments: str) -> list[Fork]:
    """Two that train presets one after the other, each in a folder of its name."""
    (folder / "program.py").write_text(PROGRAM)
    return [
        forks.start("program", folder, *arguments, cwd=folder, environment=own)
        for own in as_ranks(2)
    ]


@pytest.fixture(scope="module")
def trained(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of two processes, which take longer to start than to train."""
    root = tmp_path_factory.mktemp("runs")
    for process in processes(forks, root, "wgan-gp", "ae-ot-gan"):
        _, told = process.communicate()
        assert process.returncode == 0, told
    return root


def states(run: Path) -> list[dict[str, Any]]:
    return [torch.load(run / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]


def test_both_hold_the_same_weights_from_samples_of_their_own(
    trained: Path, tmp_path: Path
) -> None:
    one, two = states(trained / "wgan-gp")
    assert one["images"] == two["images"] == 4 * 16 * 2
    assert not torch.equal(one["drawn"], two["drawn"])
    for part in ("generator", "average", "networks"):
        for name, value in one[part].items():
            assert torch.equal(value, two[part][name])
    saved = torch.load(trained / "wgan-gp" / saving.LAST, weights_only=True)
    assert saved["processes"] == 2
    data = points()
    alone = run(configured("wgan-gp", data, steps=4, eval_every=2), data, tmp_path / "alone")
    first = next(iter(one["generator"].values()))
    assert not torch.equal(first, next(iter(alone.generator.state_dict().values())))


def test_both_transport_noise_to_the_same_codes(trained: Path) -> None:
    one, two = states(trained / "ae-ot-gan")
    assert one["step"] == 4
    assert not torch.equal(one["drawn"], two["drawn"])
    for part in ("generator", "encoder", "prior", "networks"):
        for name, value in one[part].items():
            assert torch.equal(value, two[part][name])


def test_one_that_fails_ends_both(forks: Forks, tmp_path: Path) -> None:
    """The other does not wait for it, even where nobody ends it."""
    failed, other = processes(forks, tmp_path, "wgan-gp", "full")
    _, told = failed.communicate()
    assert failed.returncode == 1
    assert "the disk is full" in told
    _, told = other.communicate()
    assert other.returncode not in (0, None)
    assert told
