"""Two and three gloo processes, uneven and empty ranks: each gets the single-process value."""

import pytest
import torch.multiprocessing as mp
from distributed_checks import work


@pytest.mark.parametrize("world", [2, 3])
def test_processes(world, tmp_path):
    mp.start_processes(work, (world, str(tmp_path)), nprocs=world, start_method="spawn")
    for rank in range(world):
        failures = (tmp_path / f"rank{rank}").read_text()
        assert not failures, failures
