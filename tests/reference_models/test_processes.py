"""Two processes: one average of gradients, so that both hold the same weights."""

import subprocess
import sys
from pathlib import Path

import torch
from otmetrics.reference_models import checkpoint

PROGRAM = """
import sys
from pathlib import Path
import torch
from accelerate import PartialState
from training_cases import configured, points, run
from otmetrics.reference_models.reporter import Reporter
from otmetrics.reference_models.training import train

out = Path(sys.argv[1])
data, rank = points(), PartialState(cpu=True).process_index
config = configured("wgan-gp", data, steps=4, eval_every=2)
reporter = Reporter(out if rank == 0 else None, tensorboard=False)
state = train(config, data, out, reporter=reporter, device="cpu", checkpoint_every=2)
torch.save(state.to_dict(), out / f"rank{rank}.pt")
"""


def test_both_hold_the_same_weights_and_differ_from_one_process(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--master-port", "29741", str(program), str(tmp_path / "run")]
    tests = str(Path(__file__).parents[1])
    environment = {"PYTHONPATH": tests, "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    finished = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert finished.returncode == 0, finished.stderr
    one, two = (torch.load(tmp_path / "run" / f"rank{r}.pt", weights_only=True) for r in (0, 1))
    assert one["images"] == two["images"] == 4 * 16 * 2
    for part in ("generator", "average", "networks"):
        for name, value in one[part].items():
            assert torch.equal(value, two[part][name])
    saved = torch.load(tmp_path / "run" / checkpoint.LAST, weights_only=True)
    assert torch.equal(
        next(iter(saved["generator"].values())), next(iter(one["generator"].values()))
    )
