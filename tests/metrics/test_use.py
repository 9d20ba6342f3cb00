"""update, compute, forward and reset of every metric."""

import copy
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from metric_cases import (
    CASES,
    FAKE,
    IS_REAL,
    REAL,
    TOGETHER,
    Case,
    assert_same,
    expected,
    filled,
)

from otmetrics import FrechetInceptionDistance, KernelFeatureDistance
from otmetrics.summaries import stores


@pytest.fixture(params=CASES)
def case(request) -> Case:
    return CASES[request.param]


def tensors(value) -> list[torch.Tensor]:
    return list(value.values()) if isinstance(value, dict) else [value]


def test_equals_the_function(case):
    metric = filled(case)
    assert_same(metric.compute(), expected(case))
    assert metric.protocol["sizes"] == {"real": 41, "fake": 37}


@pytest.mark.parametrize("name", CASES)
@given(cuts=st.lists(st.tuples(st.booleans(), st.integers(0, 25)), max_size=12))
def test_batches_do_not_matter(name, cuts):
    """Any cut of either side, in any interleaving, with empty batches among them."""
    case = CASES[name]
    metric = case.make(feature=None)
    sides, places = {True: REAL, False: FAKE}, {True: 0, False: 0}
    for real, size in [*cuts, (True, 41), (False, 41)]:
        metric.update(sides[real][places[real] : places[real] + size], real=real)
        places[real] += size
    assert_same(metric.compute(), expected(case))


def test_order_does_not_matter(case):
    metric = case.make(feature=None)
    generator = torch.Generator().manual_seed(0)
    for side, real in ((REAL, True), (FAKE, False)):
        metric.update(side[torch.randperm(len(side), generator=generator)], real=real)
    if case.uses_order:  # which samples a reservoir keeps depends on their positions
        assert metric.compute() != expected(case)
    else:
        assert_same(metric.compute(), expected(case))


def test_a_mask_is_two_updates(case):
    metric = case.make(feature=None)
    metric.update(TOGETHER, IS_REAL)
    assert_same(metric.compute(), expected(case))
    metric.update(FAKE[:3], real=torch.tensor(False))
    metric.compute()
    assert metric.protocol["sizes"] == {"real": 41, "fake": 40}


def test_forward_is_the_value_of_the_batch(case):
    metric = case.make(feature=None)
    for real, fake in ((REAL[:20], FAKE[:18]), (REAL[20:], FAKE[18:])):
        mask = torch.arange(len(real) + len(fake)) < len(real)
        value = metric(torch.cat([real, fake]), mask)
        assert_same(value, case.expected(real, fake))
    assert_same(metric.compute(), expected(case))
    assert metric.update_count == 2


def test_forward_with_one_side_raises_and_adds_nothing(case):
    metric = filled(case)
    before = copy.deepcopy(metric.metric_state)
    for real in (True, False):
        with pytest.raises(ValueError, match="needs real and fake samples in one batch"):
            metric(REAL, real=real)
    assert str(metric.metric_state) == str(before)
    assert_same(metric.compute(), expected(case))


def test_real_samples_are_kept_and_counted_once(case):
    metric = case.make(feature=None, reset_real_features=False)
    for batch in REAL.split(16):
        metric.update(batch, real=True)
    for _ in range(3):
        for fake in FAKE.split(19):
            assert_same(metric(fake, real=False), case.expected(REAL, fake))
        assert_same(metric.compute(), expected(case))
        assert metric.protocol["sizes"] == {"real": 41, "fake": 37}
        metric.reset()
    with pytest.raises(ValueError, match="`fake` holds no samples"):
        metric.compute()


def test_forward_adds_real_samples_to_those_kept(case):
    metric = case.make(feature=None, reset_real_features=False)
    metric.update(REAL[:20], real=True)
    assert_same(metric(TOGETHER[20:], IS_REAL[20:]), expected(case))
    assert_same(metric.compute(), expected(case))


def test_a_failed_forward_adds_nothing(case):
    metric = case.make(feature=None, reset_real_features=False)
    metric.update(REAL[:20], real=True)
    metric._value = lambda real, fake: 1 / 0
    with pytest.raises(ZeroDivisionError):
        metric(TOGETHER[20:], IS_REAL[20:])
    del metric._value
    assert metric.update_count == 1
    metric.update(TOGETHER[20:], IS_REAL[20:])
    assert_same(metric.compute(), expected(case))


def test_reset_forgets(case):
    metric = filled(case)
    held = metric.metric_state
    seen = str(held)
    metric.reset()
    assert str(held) == seen  # somebody else may still hold the old state
    with pytest.raises(
        ValueError, match=r"`real` holds no samples: call update\(images, real=True"
    ):
        metric.compute()
    metric.update(REAL, real=True)
    with pytest.raises(ValueError, match="`fake` holds no samples"):
        metric.compute()
    metric.update(FAKE, real=False)
    assert_same(metric.compute(), expected(case))


def test_a_bool_of_numpy_is_a_bool(case):
    metric = case.make(feature=None)
    for side, real in ((REAL, True), (FAKE, False)):
        metric.update(side, real=np.bool_(real))
    assert_same(metric.compute(), expected(case))


def read_only(array):
    array.flags.writeable = False
    return array


def mapped(array, path):
    np.save(path, array)
    return np.load(path, mmap_mode="r")


ARRAYS = {
    "plain": lambda array, path: array,
    "read-only": lambda array, path: read_only(array.copy()),
    "mapped": mapped,
    "big-endian": lambda array, path: array.astype(">f8"),
    "reversed": lambda array, path: array[::-1].copy()[::-1],
    "columns first": lambda array, path: np.asfortranarray(array),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_are_taken_as_tensors(case, kind, tmp_path):
    metric = case.make(feature=None)
    together, mask = ARRAYS[kind](TOGETHER.numpy(), tmp_path / "x.npy"), IS_REAL.numpy()
    metric.update(together, real=mask)
    metric.update(together[:0], real=True)
    if kind == "plain":  # the caller's buffer may change
        together = together.copy()
        metric.reset()
        metric.update(together, real=mask)
        together[:] = 0
    assert_same(metric.compute(), expected(case))
    assert_same(case.make(feature=None)(TOGETHER.numpy(), mask), expected(case))


PANDAS = pytest.importorskip("pandas")
SCIPY = pytest.importorskip("scipy.sparse")


@pytest.mark.parametrize(
    ("batch", "remedy"),
    [
        (SCIPY.csr_matrix(REAL.numpy()), "images.toarray()"),
        (SCIPY.coo_array(REAL.numpy()), "images.toarray()"),
        (REAL.to_sparse(), "images.to_dense()"),
        (PANDAS.DataFrame(REAL.numpy()), "images.to_numpy()"),
        (list(REAL), "torch.stack(images)"),
        (tuple(REAL.numpy()), "numpy.stack(images)"),
        (REAL.tolist(), "numpy.array(images)"),
        ({"image": REAL}, 'images["image"]'),
    ],
)
def test_the_remedy_for_what_is_no_array_leads_on(batch, remedy):
    case = CASES["exact"]
    metric = case.make(feature=None)
    with pytest.raises(TypeError, match=f"got (a )?{type(batch).__name__}|sparse") as refused:
        metric.update(batch, real=True)
    assert remedy in str(refused.value)
    metric.update(eval(remedy, {"images": batch, "torch": torch, "numpy": np}), real=True)
    metric.update(FAKE, real=False)
    assert_same(metric.compute(), expected(case), tolerance=0)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (np.ma.masked_greater(REAL.numpy(), 1), "must not be masked"),
        (np.ma.array(REAL.numpy()), "must not be masked"),
        (REAL.numpy().astype(object), "array of object"),
        (REAL.numpy().astype(str), "array of <U"),
        (REAL.numpy().astype(np.longdouble), "array of float128|array of longdouble"),
        ("real/", r"otmetrics.score\(real, fake\)"),
        ([], "numpy.array"),
        (3, "numpy.asarray"),
    ],
)
def test_what_no_tensor_holds_is_refused(batch, message):
    with pytest.raises(TypeError, match=message):
        CASES["exact"].make(feature=None).update(batch, real=True)
    with pytest.raises(TypeError, match="must not be masked"):
        CASES["exact"].make(feature=None).update(REAL, real=np.ma.array(IS_REAL.numpy()[:41]))


@pytest.mark.parametrize("given", [torch.float32, torch.float64])
def test_scores_come_in_the_dtype_of_the_features(case, given):
    metric = case.make(feature=None)
    metric.update(REAL.to(given), real=True)
    metric.update(FAKE.to(given), real=False)
    assert all(value.dtype == given for value in tensors(metric.compute()))
    metric.update(REAL.double(), real=True)
    assert all(value.dtype == torch.float64 for value in tensors(metric.compute()))


@pytest.mark.parametrize("chosen", [torch.float32, torch.float64])
def test_the_dtype_of_scores_can_be_chosen(case, chosen):
    """It holds for a value that was computed before, and survives what copies a metric."""
    real, fake = REAL.float(), FAKE.float()
    metric = case.make(feature=None)
    for _ in range(2):
        metric.update(real, real=True)
        metric.update(fake, real=False)
        metric.compute()
        assert metric.set_dtype(chosen) is metric
        exact = case.expected(real.double(), fake.double())
        found = metric.compute()
        assert all(value.dtype == chosen for value in tensors(found))
        if chosen == torch.float64:
            assert_same(found, exact, tolerance=1e-12)
        metric = copy.deepcopy(metric)
        assert all(value.dtype == chosen for value in tensors(metric.compute()))
        metric.reset()


def test_other_dtypes_of_scores_are_refused(case):
    metric = filled(case)
    for dtype in (torch.float16, torch.bfloat16, torch.int64, "float32"):
        with pytest.raises(ValueError, match=r"must be torch\.float32 or torch\.float64"):
            metric.set_dtype(dtype)
    assert_same(metric.compute(), expected(case))


def test_scores_that_no_dtype_holds_are_refused():
    metric = CASES["frechet"].make(feature=None)
    metric.update(REAL.float() * 1e19, real=True)
    metric.update(FAKE.float() * 1e19 + 3e19, real=False)
    with pytest.raises(ValueError, match=r"does not fit torch.float32: .*set_dtype\(torch.float64"):
        metric.compute()
    wide = metric.set_dtype(torch.float64).compute()
    exact = CASES["frechet"].expected(REAL.float().double(), FAKE.float().double() + 3)
    torch.testing.assert_close(wide / 1e38, exact, rtol=1e-5, atol=0)
    metric.update(REAL * 1e200, real=True)
    with pytest.raises(ValueError, match="`real` must have moments that fit float64"):
        metric.compute()


def test_bad_batches_change_nothing(case):
    metric = filled(case)
    broken = REAL.clone()
    broken[3, 2] = float("nan")
    for images, real, error, message in (
        (broken, True, ValueError, "finite features, got NaN or infinite values in 1 of 41"),
        (torch.full((2, 6), torch.inf), False, ValueError, "2 of 2"),
        (
            REAL[:, :5],
            True,
            ValueError,
            "All batches must have the same number of features D, got 5 and 6",
        ),
        (REAL[0], True, ValueError, r"floating features \(N, D\).* got torch.float64 \(6,\)"),
        (REAL.sum(), True, ValueError, r"floating features \(N, D\).* got torch.float64 \(\)"),
        (REAL.long(), True, ValueError, "floating features"),
        (REAL, 1, ValueError, r"bool tensor \(N,\).*got 1: give real=True"),
        (REAL, None, ValueError, "got nothing: give real=True for real samples"),
        (REAL, torch.ones(3, dtype=torch.bool), ValueError, r"one bool per sample.*got \(3,\)"),
        (REAL, torch.ones(41), ValueError, r"got torch.float32 \(41,\)"),
        (REAL, FAKE.numpy(), ValueError, r"got float64 \(37, 6\): .* in two calls"),
        (REAL.to("meta"), True, ValueError, "must hold values, got a tensor on the device meta"),
        (None, True, TypeError, "`images` .*got None"),
    ):
        with pytest.raises(error, match=message):
            metric.update(images, real)
        assert_same(metric.compute(), expected(case))


def test_the_callers_buffer_may_change(case):
    metric, buffer = case.make(feature=None), torch.empty(41, 6, dtype=torch.float64)
    metric.update(buffer.copy_(REAL), real=True)
    metric.update(buffer[:37].copy_(FAKE), real=False)
    buffer.zero_()
    assert_same(metric.compute(), expected(case))


def test_no_graph_is_kept(case):
    metric = case.make(feature=None)
    metric.update(REAL.clone().requires_grad_(), real=True)
    metric.update(FAKE.clone().requires_grad_(), real=False)
    assert_same(metric.compute(), expected(case))
    both = metric(TOGETHER.clone().requires_grad_(), IS_REAL)
    assert not any(value.requires_grad for value in [*tensors(metric.compute()), *tensors(both)])


def test_low_precision_features_are_upcast(case):
    for dtype in (torch.float16, torch.bfloat16):
        metric = case.make(feature=None)
        metric.update(REAL.to(dtype), real=True)
        metric.update(FAKE.to(dtype), real=False)
        exact = case.expected(REAL.to(dtype).double(), FAKE.to(dtype).double())
        assert_same(metric.compute(), exact, tolerance=1e-4)


def test_dtypes_of_batches_may_differ(case):
    metric = case.make(feature=None)
    metric.update(REAL[:8].float(), real=True)
    metric.update(REAL[8:], real=True)
    metric.update(FAKE.float(), real=False)
    assert_same(metric.compute(), expected(case), tolerance=1e-5)


def test_on_the_cpu(case):
    """Lists go to the CPU after each batch; here they are there already."""
    moved = []
    cls = type(case.make(feature=None))

    class Watched(cls):
        def _move_list_states_to_cpu(self) -> None:
            moved.append(True)
            super()._move_list_states_to_cpu()

    metric = filled(case, compute_on_cpu=True)
    metric.__class__ = Watched
    assert_same(metric.compute(), expected(case))
    assert not moved
    metric.update(REAL[:0], real=True)
    assert moved
    assert_same(metric(TOGETHER, IS_REAL), expected(case))
    metric.reset()
    metric.update(TOGETHER, IS_REAL)
    assert_same(metric.compute(), expected(case))


def test_computed_once_until_it_changes(case):
    metric = filled(case)
    first = metric.compute()
    calls = []
    metric._value = lambda real, fake: calls.append(1) or torch.tensor(1.0)
    assert metric.compute() is first
    metric.update(REAL, real=True)
    metric.compute()
    assert calls == [1]


def test_a_failed_compute_leaves_the_state_of_this_rank(case):
    metric = case.make(feature=None, distributed_available_fn=lambda: True)
    metric.dist_sync_fn = lambda tensor, group: [tensor]  # a world of one rank
    metric.update(REAL, real=True)
    with pytest.raises(ValueError, match="`fake` holds no samples"):
        metric.compute()
    assert not metric._is_synced
    metric.update(FAKE, real=False)
    assert_same(metric.compute(), expected(case))
    metric.sync(metric.dist_sync_fn)
    with pytest.raises(Exception, match=r"between sync\(\) and unsync\(\)"):
        metric.update(FAKE, real=False)
    metric.unsync()
    assert_same(metric.compute(), expected(case))


def test_unknown_options_are_refused(case):
    with pytest.raises(ValueError, match="batch_size"):
        case.make(feature=None, batch_size=3)
    with pytest.raises(ValueError, match="`normalize` must be False where the input is taken"):
        case.make(feature=None, normalize=True)
    with pytest.raises(ValueError, match="`reset_real_features` must be True or False, got 'no'"):
        case.make(feature=None, reset_real_features="no")
    with pytest.raises(
        ValueError, match=r"^`feature`: `vgg` is not an extractor: .*pixels"
    ) as told:
        case.make(feature="vgg")
    assert "none" not in str(told.value)  # None is what a metric takes
    with pytest.raises(ValueError, match=r"^`feature`: .*: did you mean `inception`[?] There are"):
        case.make(feature="incepton")
    for layer in (64, 2048):
        message = f'`feature` must be the name of an extractor.*got {layer}: .*"inception"'
        with pytest.raises(ValueError, match=message):
            case.make(feature=layer)
    for option, message in {
        "subset_size": "all pairs are taken",
        "input_img_size": "images of any size",
        "n_projections": r"otmetrics.Sliced\(num_projections",
    }.items():
        with pytest.raises(ValueError, match=f"`{option}` is not an option of these.*{message}"):
            case.make(feature=None, **{option: 5})


def test_fid_has_one_network():
    for arguments, options in (((), {"feature": 2048}), ((64,), {}), ((), {"feature": "pixels"})):
        with pytest.raises(ValueError, match=r"`feature` is not an option of FID.*leave it out"):
            FrechetInceptionDistance(*arguments, **options)
    with pytest.raises(ValueError, match=r"`input_img_size` is not an option.*any size"):
        FrechetInceptionDistance(input_img_size=(3, 64, 64))


def test_in_and_out_of_inference_mode(case):
    metric = case.make(feature=None)
    for start in range(0, 41, 10):
        with torch.inference_mode(start % 20 == 0):
            metric.update(REAL[start : start + 10], real=True)
            metric.update(FAKE[start : start + 10], real=False)
    assert_same(metric.compute(), expected(case))


def test_forward_leaves_the_sizes_of_compute(case):
    metric = filled(case)
    metric.compute()
    metric(TOGETHER[:60], IS_REAL[:60])
    assert metric.protocol["sizes"] == {"real": 41, "fake": 37}


def test_without_real_samples_reset_forgets_the_dimension(case):
    metric = case.make(feature=None, reset_real_features=False)
    metric.update(FAKE[:, :4], real=False)
    metric.reset()
    metric.update(TOGETHER, IS_REAL)
    assert_same(metric.compute(), expected(case))


@pytest.mark.parametrize("max_samples", [None, 100_000], ids=["all", "reservoir"])
@pytest.mark.parametrize("sizes", [[3], [7, 1, 0, 2], list(range(40, 0, -1))], ids=str)
def test_an_update_takes_as_long_after_thousands_of_others(max_samples, sizes, monkeypatch):
    joined, join = [0], stores.join_chunks

    def counted(chunks):
        joined[0] += sum(map(len, chunks)) if len(chunks) > 1 else 0
        return join(chunks)

    monkeypatch.setattr(stores, "join_chunks", counted)
    metric = KernelFeatureDistance(feature=None, max_samples=max_samples)
    metric.update(FAKE[:, :2], real=False)
    rows, start, snapshots = torch.rand(32_000, 2), 0, []
    for size in itertools.islice(itertools.cycle(sizes), 1500):
        batch = rows[start : start + size]
        metric.update(batch, real=True)
        start += len(batch)
        held = [chunks for chunks in metric.metric_state.values() if isinstance(chunks, list)]
        assert max(map(len, held)) <= 16  # about log2(32 000)
        snapshots.append((start, metric.metric_state["real_features"]))

    # Each number is copied once for each doubling of the tensor that it lies in, at the most.
    assert joined[0] <= 15 * start * len(held) / 2
    for seen, chunks in snapshots[::100]:
        assert torch.equal(join(chunks), rows[:seen])  # states that others hold do not change
    assert torch.equal(
        metric._store.collect(metric._memory(metric.metric_state, "real")), rows[:start]
    )


def test_large_batches_are_not_copied(monkeypatch):
    monkeypatch.setattr(stores, "_JOINED_NUMBERS", 20)
    metric = KernelFeatureDistance(feature=None)
    for batch in torch.rand(40, 3).split(4):
        metric.update(batch, real=True)
        metric.update(batch[:1], real=True)
    assert [len(rows) for rows in metric.real_features] == [4, 5, 5, 5, 5, 5, 5, 5, 5, 5, 1]
