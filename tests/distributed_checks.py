"""What the ranks of a distributed run check on every metric; `metrics/test_distributed` runs it."""

import datetime
import sys
import traceback
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from metric_cases import CASES, FAKE, REAL, Case, assert_same, expected, filled, inferred
from torch import nn
from torchmetrics import MetricCollection

from otmetrics import FrechetFeatureDistance, Sliced, WassersteinFeatureDistance

# Samples of each of three ranks, real and fake.
SHARES = {
    "uneven": [(30, 5), (3, 21), (8, 11)],
    "nothing on the first rank": [(0, 0), (30, 20), (11, 17)],
    "nothing on the last rank": [(20, 20), (21, 17), (0, 0)],
    "one side a rank": [(41, 0), (0, 20), (0, 17)],
}


SIDES = ("real", "fake")


def split(shares: list[tuple[int, int]]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    real, fake = zip(*shares, strict=True)
    return list(zip(REAL.split(real), FAKE.split(fake), strict=True))


def feed(metric, real, fake):
    for side, is_real in ((real, True), (fake, False)):
        for batch in side.split(9) if len(side) else ():
            metric.update(batch, real=is_real)
    return metric


def every_share_gives_the_single_value(case: Case, rank: int, world: int) -> None:
    for shares in SHARES.values():
        parts = split(shares)
        metric = feed(case.make(feature=None), *parts[rank])
        assert_same(metric.compute(), expected(case))
        # The state of this rank is back, and goes on.
        local = sum(len(part) for part in parts[rank])
        seen = sum(metric._store.count(metric._memory(metric.metric_state, s)) for s in SIDES)
        assert seen == local
        metric.update(REAL[rank : rank + 1], real=True)
        metric.update(FAKE[rank : rank + 1], real=False)
        again = metric.compute()
        if not case.uses_order:
            more = torch.cat([REAL, REAL[:world]]), torch.cat([FAKE, FAKE[:world]])
            assert_same(again, case.expected(*more))
        assert_same_on_all_ranks(again, world)


def assert_same_on_all_ranks(value, world: int) -> None:
    values = torch.stack(list(value.values()) if isinstance(value, dict) else [value])
    gathered = [torch.zeros_like(values) for _ in range(world)]
    dist.all_gather(gathered, values)
    for other in gathered:
        assert other.equal(values)


def a_drawn_subset_is_the_same_everywhere(case: Case, rank: int, world: int) -> None:
    """More samples than the reservoir holds: drawn anew from those of all ranks."""
    for shares in SHARES.values():
        metric = feed(case.make(feature=None), *split(shares)[rank])
        assert_same_on_all_ranks(metric.compute(), world)
        assert metric.protocol["sizes"] == {"real": 41, "fake": 37}
        metric.sync()
        kept = metric._store.collect(metric._memory(metric.metric_state, "real"))
        metric.unsync()
        rows = {tuple(row) for row in kept.tolist()}
        assert len(rows) == 12
        assert rows <= {tuple(row) for row in REAL.tolist()}


def intervals_and_tests_are_those_of_one_process(case: Case, rank: int, world: int) -> None:
    if case.infers:
        metric = feed(case.make(feature=None), *split(SHARES["one side a rank"])[rank])
        found: list[str] = [""] * world
        dist.all_gather_object(found, inferred(metric))
        # A reservoir is drawn anew; all others are fed in the order of one process.
        alone = found[0] if case.uses_order else inferred(filled(case, sync_on_compute=False))
        assert set(found) == {alone}
        assert not metric._is_synced


def no_samples_anywhere(case: Case, rank: int, world: int) -> None:
    metric = case.make(feature=None)
    with pytest.raises(ValueError, match="`real` holds no samples"):
        metric.compute()
    if case.infers:
        with pytest.raises(ValueError, match="`real` holds no samples"):
            metric.interval()
    assert not metric._is_synced


def one_side_nowhere(case: Case, rank: int, world: int) -> None:
    metric = feed(case.make(feature=None), REAL, FAKE[:0])
    with pytest.raises(ValueError, match="`fake` holds no samples"):
        metric.compute()
    assert not metric._is_synced


def sync_only_when_asked(case: Case, rank: int, world: int) -> None:
    parts = split(SHARES["uneven"])
    metric = feed(case.make(feature=None, sync_on_compute=False), *parts[rank])
    assert_same(metric.compute(), case.expected(*parts[rank]))


def forward_stays_on_the_rank(case: Case, rank: int, world: int) -> None:
    parts = split(SHARES["uneven"])
    for on_step in (False, True):
        metric = case.make(feature=None, dist_sync_on_step=on_step)
        real, fake = parts[rank]
        mask = torch.arange(len(real) + len(fake)) < len(real)
        value = metric(torch.cat([real, fake]), mask)
        if not (on_step and case.uses_order):
            assert_same(value, expected(case) if on_step else case.expected(real, fake))
        if not case.uses_order:
            assert_same(metric.compute(), expected(case))


def kept_real_samples_are_counted_once(case: Case, rank: int, world: int) -> None:
    real, fake = split(SHARES["uneven"])[rank]
    metric = feed(case.make(feature=None, reset_real_features=False), real, fake[:0])
    for _ in range(2):
        feed(metric, real[:0], fake)
        if not case.uses_order:
            assert_same(metric.compute(), expected(case))
        metric.compute()
        assert metric.protocol["sizes"] == {"real": 41, "fake": 37}
        metric.reset()


def ranks_of_other_dtypes(case: Case, rank: int, world: int) -> None:
    real, fake = split(SHARES["uneven"])[rank]
    dtype = torch.float32 if rank else torch.float64
    metric = feed(case.make(feature=None), real.to(dtype), fake.to(dtype))
    value = metric.compute()
    assert_same_on_all_ranks(value, world)
    if not case.uses_order:
        assert_same(value, expected(case), tolerance=1e-5)


def ranks_of_other_options(case: Case, rank: int, world: int) -> None:
    feature = None if rank else nn.Flatten()
    metric = feed(case.make(feature=feature), REAL, FAKE)
    with pytest.raises(ValueError, match="must come from a metric with the features and options"):
        metric.compute()
    narrow = feed(case.make(feature=None), REAL[:, : 6 - rank], FAKE[:, : 6 - rank])
    with pytest.raises(ValueError, match="All batches must have the same number of features D"):
        narrow.compute()
    assert not narrow._is_synced


def ranks_of_other_scores(rank: int, world: int) -> None:
    for method in (("sliced", "exact")[rank % 2], Sliced(seed=rank)):
        metric = feed(WassersteinFeatureDistance(feature=None, method=method), REAL, FAKE)
        with pytest.raises(ValueError, match="`rank` must compute with the options of all others"):
            metric.compute()
        assert not metric._is_synced


def on_the_cpu(case: Case, rank: int, world: int) -> None:
    parts = split(SHARES["nothing on the first rank"])
    metric = feed(case.make(feature=None, compute_on_cpu=True), *parts[rank])
    if not case.uses_order:
        assert_same(metric.compute(), expected(case))


CHECKS = (
    every_share_gives_the_single_value,
    intervals_and_tests_are_those_of_one_process,
    no_samples_anywhere,
    one_side_nowhere,
    sync_only_when_asked,
    forward_stays_on_the_rank,
    kept_real_samples_are_counted_once,
    ranks_of_other_dtypes,
    ranks_of_other_options,
    on_the_cpu,
)


def collections_and_groups(rank: int, world: int) -> None:
    collection = MetricCollection(
        {
            "exact": WassersteinFeatureDistance(feature=None, method="exact"),
            "sliced": WassersteinFeatureDistance(feature=None),
            "frechet": FrechetFeatureDistance(feature=None),
        }
    )
    parts = split(SHARES["nothing on the last rank"])
    feed(collection, *parts[rank])
    found = collection.compute()
    assert_same(found["exact"], expected(CASES["exact"]))
    assert_same(found["frechet"], expected(CASES["frechet"]))


def a_smaller_process_group(rank: int, world: int) -> None:
    group = dist.new_group([0, 1])
    if rank > 1:
        return
    metric = WassersteinFeatureDistance(feature=None, method="exact", process_group=group)
    metric.update(REAL[rank::2], real=True)
    metric.update(FAKE[rank::2], real=False)
    assert_same(metric.compute(), expected(CASES["exact"]))


def work(rank: int, world: int, folder: str) -> None:
    """All checks on all metrics in one process: starting one takes seconds."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=world,
        timeout=datetime.timedelta(seconds=60),
    )
    failures = []

    def tried(name: str, check, *arguments) -> None:
        try:
            check(*arguments, rank, world)
        except Exception:
            failures.append(f"{name}\n{traceback.format_exc()}")
        # A rank that failed early must not meet the others in the next check.
        dist.barrier()

    for name, case in CASES.items():
        for check in CHECKS:
            if case.uses_order and check is every_share_gives_the_single_value:
                check = a_drawn_subset_is_the_same_everywhere
            tried(f"{check.__name__}[{name}]", check, case)
    tried("collections_and_groups", collections_and_groups)
    tried("a_smaller_process_group", a_smaller_process_group)
    tried("ranks_of_other_scores", ranks_of_other_scores)
    Path(folder, f"rank{rank}").write_text("\n".join(failures))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    work(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
