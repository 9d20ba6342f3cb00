"""Three gloo processes, uneven and empty ranks: each gets the value of a single process."""

WORLD = 3


def test_processes(forks, tmp_path):
    ranks = [forks.start("distributed_checks", rank, WORLD, tmp_path) for rank in range(WORLD)]
    for rank, process in enumerate(ranks):
        _, told = process.communicate()
        assert process.returncode == 0, told
        failures = (tmp_path / f"rank{rank}").read_text()
        assert not failures, failures
