"""What several processes exchange; how they start, fail and end is tested with the commands."""

import pytest
from forks import as_ranks


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_processes_exchange_what_they_have(forks, world):
    processes = [forks.start("ranks_checks", environment=own) for own in as_ranks(world)]
    for process in processes:
        _, said = process.communicate()
        assert process.returncode == 0, said
