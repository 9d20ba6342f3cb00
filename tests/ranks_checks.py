"""What each process of a run checks of what they exchange; `scoring/test_ranks` runs it."""

import warnings

import numpy as np
import pytest

from otmetrics.scoring import messages
from otmetrics.scoring.ranks import RankError, Ranks, ranks_of_environment

ROWS = (5, 0, 40, 1, 17)


def arrays_of(rank: int) -> dict[str, np.ndarray]:
    """What a process brings: as many rows as it has, numbered."""
    numbers = np.arange(ROWS[rank]) + 100 * rank
    features = np.outer(numbers, np.arange(1, 4)).astype(np.float32)
    features.flags.writeable = False
    return {"numbers": numbers, "features": features, "odd": numbers % 2 == 1}


def rows_of_all(ranks: Ranks) -> None:
    """They come whole, in order within a process, in parts, and in turn between processes."""
    parts = list(ranks.gather(arrays_of(ranks.rank)))
    if not ranks.first:
        assert parts == []
        return
    sources = [int(part["numbers"][0]) // 100 for part in parts if len(part["numbers"])]
    if ranks.world > 2:
        assert sources.count(2) == 10  # of 21 bytes a row, in parts of at most 100 bytes
    if ranks.world == 5:
        assert sources == [0, 2, 3, *[4, 2] * 5, *[2] * 4]
    for name, own in arrays_of(0).items():
        found = [part[name] for part in parts]
        assert all(one.dtype == own.dtype for one in found)
        for rank in range(ranks.world):
            expected = arrays_of(rank)[name]
            mine = [part[name] for part in parts if rank in part["numbers"] // 100]
            assert np.array_equal(np.concatenate([expected[:0], *mine]), expected)


def notes_of_all(ranks: Ranks) -> None:
    note = {"rank": ranks.rank, "text": "a\n\udcff"}
    expected = [{**note, "rank": rank} for rank in range(ranks.world)]
    assert ranks.collect(note) == (expected if ranks.first else None)


def merged(ranks: Ranks) -> None:
    """Each process once, lower ranks first; arrays of any shape as they were."""
    plain = np.arange(12.0).reshape(3, 4)
    own = {
        "order": np.array([str(ranks.rank)]),
        "scalar": np.array(2.0),
        "empty": np.empty((0, 7), np.float16),
        "swapped": plain.astype(">f4"),
        "columns": plain[:, ::2],
    }

    def combine(these, those):
        assert {name: one.shape for name, one in those.items() if name != "order"} == {
            name: one.shape for name, one in own.items() if name != "order"
        }
        assert {name: one.dtype for name, one in those.items()} == {
            name: one.dtype for name, one in own.items()
        }
        order = np.concatenate([these["order"], those["order"]])
        return {name: one + those[name] for name, one in these.items() if name != "order"} | {
            "order": order,
            "empty": those["empty"],
            "swapped": those["swapped"],
        }

    found = ranks.merge(own, combine)
    if not ranks.first:
        assert found is None
        return
    assert found["order"].tolist() == [str(rank) for rank in range(ranks.world)]
    assert found["scalar"] == 2.0 * ranks.world
    assert np.array_equal(found["columns"], ranks.world * plain[:, ::2])
    assert np.array_equal(found["swapped"], plain)


def agreed(ranks: Ranks) -> None:
    ranks.agree({"same": "1"})
    if ranks.world == 1:
        return
    facts = {"same": "1"} | ({"more": "2"} if ranks.rank == ranks.world - 1 else {})
    with pytest.raises(RankError) as raised:
        ranks.agree(facts)
    assert str(raised.value) == (
        f"rank {ranks.world - 1} was given something else than rank 0 (more: '2', not None): give "
        "all processes one command line and the same inputs."
    )


if __name__ == "__main__":
    messages._BLOCK_BYTES = 100
    warnings.simplefilter("error")  # such as of memory that is read only
    together = ranks_of_environment(60, {"one": "task"})
    for check in (notes_of_all, rows_of_all, merged, agreed, rows_of_all):
        check(together)
    together.close()
