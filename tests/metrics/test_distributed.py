"""Three gloo processes, uneven and empty ranks: each gets the single-process value."""

import torch.multiprocessing as mp
from distributed_checks import work


def test_processes(tmp_path):
    mp.start_processes(work, (3, str(tmp_path)), nprocs=3, start_method="spawn")
    for rank in range(3):
        failures = (tmp_path / f"rank{rank}").read_text()
        assert not failures, failures
