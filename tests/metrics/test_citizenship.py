"""What every metric owes to torchmetrics and PyTorch: merged, saved, copied, cast, wrapped."""

import copy
import io
import json
import pickle

import pytest
import torch
from metric_cases import CASES, FAKE, IS_REAL, REAL, TOGETHER, Case, assert_same, expected, filled
from torch import nn
from torchmetrics import MetricCollection, MetricTracker
from torchmetrics.wrappers import BootStrapper, Running

from otmetrics import DensityCoverage, KernelFeatureDistance, PrecisionRecall


@pytest.fixture(params=CASES)
def case(request) -> Case:
    return CASES[request.param]


def test_merging_parts_is_one_run(case):
    parts = [case.make(feature=None) for _ in range(3)]
    parts[0].update(REAL[:10], real=True)
    parts[1].update(REAL[10:30], real=True)
    parts[1].update(FAKE[:12], real=False)
    parts[2].update(torch.cat([REAL[30:], FAKE[12:]]), torch.arange(36) < 11)
    fresh = case.make(feature=None)
    for part in (parts[0], parts[1].metric_state, parts[2]):
        fresh.merge_state(part)
    if case.uses_order:  # drawn anew, as the parts chose without knowing of each other
        kept = fresh._store.collect(fresh._memory(fresh.metric_state, "real"))
        assert len({tuple(row) for row in kept.tolist()} & {tuple(r) for r in REAL.tolist()}) == 12
    else:
        assert_same(fresh.compute(), expected(case))


def test_merging_into_a_fresh_metric_copies(case):
    fresh = case.make(feature=None)
    fresh.merge_state(filled(case))
    assert_same(fresh.compute(), expected(case))


def test_merging_renews_the_value(case):
    metric = filled(case)
    metric.compute()
    metric.merge_state(filled(case))
    metric.compute()
    assert metric.protocol["sizes"] == {"real": 82, "fake": 74}


def test_only_like_is_merged(case):
    metric = filled(case)
    with pytest.raises(ValueError, match="must be a"):
        metric.merge_state(Running(filled(case), window=2))
    with pytest.raises(ValueError, match="must come from a metric with the features and options"):
        metric.merge_state(case.make(feature=nn.Flatten()))
    with pytest.raises(ValueError, match="must hold"):
        metric.merge_state({"origin": metric.origin})
    for other in (2, None, "metric", torch.ones(3), [filled(case)], MetricCollection([metric])):
        with pytest.raises(ValueError, match=f"must be a .* got {type(other).__name__}") as refused:
            metric.merge_state(other)
        assert ("one after the other" in str(refused.value)) == isinstance(other, list)
    assert_same(metric.compute(), expected(case))


def changed_states(state):
    """A state with each of its fields damaged in several ways."""
    for name, value in state.items():
        rows = value[0] if isinstance(value, list) else value
        wrong = [None, 3, "x", rows.to_sparse(), {"a": rows}, rows.bool(), rows[None]]
        if isinstance(value, list):
            wrong += [[*value, 3], [value[0].bool()], [value[0][None]], value[0], [rows.sum()]]
            wrong += [[rows * float("nan")]] if rows.is_floating_point() else [[rows - 1000]]
        elif rows.is_floating_point():
            wrong += [rows * float("inf"), rows.float(), [rows], rows[1:]]
            wrong += [-1 - rows.abs()] if name.endswith("scatter") else []
        elif name != "origin":
            wrong += [rows - 2**20, [rows], rows.double()]
        for broken in wrong:
            yield state | {name: broken}


def test_damaged_states_are_refused_in_one_line(case):
    metric = filled(case)
    for state in changed_states(metric.metric_state):
        with pytest.raises(ValueError, match=r"\.|damaged") as refused:
            metric.merge_state(state)
        assert "\n" not in str(refused.value)
        with pytest.raises(RuntimeError, match="in loading state_dict"):
            case.make(feature=None).load_state_dict(state)
    assert_same(metric.compute(), expected(case))


def test_samples_without_a_dimension_are_counted():
    metric = KernelFeatureDistance(feature=None)
    state = metric.metric_state | {"real_features": [torch.ones(2, 3), torch.ones(1, 3)]}
    with pytest.raises(ValueError, match="real_features` must be empty, got 2 tensors"):
        metric.merge_state(state)
    with pytest.raises(ValueError, match="real_features` must be a list of tensors, got dict"):
        metric.merge_state(state | {"real_features": {}})


def test_state_dict_resumes(case):
    metric = case.make(feature=None)
    metric.update(REAL[:25], real=True)
    metric.update(FAKE[:11], real=False)
    assert metric.state_dict() == {}
    metric.persistent(True)
    file = io.BytesIO()
    torch.save(nn.ModuleDict({"metric": metric}).state_dict(), file)
    file.seek(0)
    resumed = case.make(feature=None)
    nn.ModuleDict({"metric": resumed}).load_state_dict(torch.load(file, weights_only=True))
    assert resumed.update_called
    assert_same(resumed.compute(), metric.compute(), tolerance=0)
    for one in (metric, resumed):
        one.update(REAL[25:], real=True)
        one.update(FAKE[11:], real=False)
        assert_same(one.compute(), expected(case))


def test_a_state_of_other_features_is_refused(case):
    metric, other = filled(case), case.make(feature=nn.Flatten())
    metric.persistent(True)
    with pytest.raises(RuntimeError, match="features and options of"):
        other.load_state_dict(metric.state_dict())
    with pytest.raises(RuntimeError, match="must hold"):
        case.make(feature=None).load_state_dict({"layout": metric.layout})
    with pytest.raises(ValueError, match="`real` holds no samples"):
        other.compute()


@pytest.mark.parametrize(
    "copied",
    [lambda m: pickle.loads(pickle.dumps(m)), copy.deepcopy, lambda m: m.clone()],
    ids=["pickle", "deepcopy", "clone"],
)
def test_copies_live_on_their_own(case, copied):
    metric = filled(case)
    metric.compute()
    other = copied(metric)
    assert_same(other.compute(), expected(case))
    other.update(REAL, real=False)
    other.compute()
    assert_same(metric.compute(), expected(case))
    other.reset()
    other.update(TOGETHER, IS_REAL)
    assert_same(other.compute(), expected(case))


@pytest.mark.parametrize(
    "changed",
    [
        lambda parent: parent.half(),
        lambda parent: parent.double(),
        lambda parent: parent.float(),
        lambda parent: parent.to(torch.bfloat16),
        lambda parent: parent.to("cpu"),
        lambda parent: parent.train(),
        lambda parent: parent["metric"].half(),
        lambda parent: parent["metric"].float(),
        lambda parent: parent["metric"].double(),
        lambda parent: parent["metric"].set_dtype(torch.float64),
    ],
    ids=[
        *("half", "double", "float", "bfloat16", "cpu", "train"),
        *("own half", "own float", "own double", "set_dtype"),
    ],
)
def test_a_parents_dtype_changes_nothing(case, changed):
    parent = nn.ModuleDict({"metric": filled(case), "layer": nn.Linear(2, 2)})
    changed(parent)
    metric = parent["metric"]
    for state in (*metric.metric_state.values(), *metric._defaults.values()):
        for tensor in state if isinstance(state, list) else [state]:
            assert tensor.dtype in (torch.float64, torch.int64, torch.int32)
    assert_same(metric.compute(), expected(case))


def test_follows_a_parent_to_another_device(case):
    metric = filled(case)
    nn.ModuleDict({"metric": metric}).to("meta")
    assert metric.device.type == "meta"
    for state in metric.metric_state.values():
        for tensor in state if isinstance(state, list) else [state]:
            assert tensor.device.type == "meta"


def test_devices_that_are_not_here_are_refused(case):
    metric = filled(case)
    for device in ("gpu", "cuda:99", torch.device("cuda:99")):
        with pytest.raises(ValueError, match='`device` must be "cpu", "cuda" or "cuda:i"'):
            metric.to(device)
    assert_same(metric.to("cpu").to(device="cpu").compute(), expected(case))


def scalar(case: Case):
    """The metric, or its first value: torchmetrics' wrappers take scalars."""
    metric = case.make(feature=None)
    return metric[next(iter(expected(case)))] if isinstance(expected(case), dict) else metric


def test_bootstrap(case):
    torch.manual_seed(0)
    metric = BootStrapper(scalar(case), num_bootstraps=4)
    metric.update(REAL, real=True)
    metric.update(FAKE, real=False)
    found = metric.compute()
    assert found["std"] > 0
    assert torch.isfinite(found["mean"])


def test_tracker(case):
    is_share = isinstance(expected(case), dict)
    tracker = MetricTracker(scalar(case), maximize=is_share)
    for shift in (2.0, 0.0, 1.0):
        tracker.increment()
        tracker.update(REAL, real=True)
        tracker.update(REAL + shift, real=False)
    best, step = tracker.best_metric(return_step=True)
    assert step == 1
    assert best == tracker.compute_all()[1]


def test_tracker_of_a_collection():
    metrics = [PrecisionRecall(feature=None), DensityCoverage(feature=None)]
    tracker = MetricTracker(MetricCollection(metrics), maximize=True)
    for shift in (2.0, 0.0, 1.0):
        tracker.increment()
        tracker.update(REAL, real=True)
        tracker.update(REAL + shift, real=False)
    best, step = tracker.best_metric(return_step=True)
    assert set(best) == {"precision", "recall", "density", "coverage"}
    assert set(step.values()) == {1}


def test_a_running_window(case):
    """It merges states through `_reduce_states`."""
    running = Running(case.make(feature=None), window=2)
    for start in (0, 10, 25):
        batch = torch.cat([REAL[start : start + 15], FAKE[start : start + 12]])
        running.update(batch, torch.arange(27) < 15)
    found = running.compute()
    if not case.uses_order:
        assert_same(found, case.expected(REAL[10:40], torch.cat([FAKE[10:22], FAKE[25:]])))


def test_constants_and_identity(case):
    metric, other = case.make(feature=None), case.make(feature=None)
    assert metric.full_state_update is False
    assert metric.is_differentiable is False
    assert metric.higher_is_better is isinstance(expected(case), dict)
    with pytest.raises(RuntimeError, match="Can't change const"):
        metric.higher_is_better = True
    assert hash(metric) != hash(other)


def test_says_what_it_is(case):
    metric = filled(case)
    assert repr(metric).startswith(f"{type(metric).__name__}(feature=None, ")
    assert "\n" not in repr(metric)
    assert metric.protocol["sizes"] is None
    metric.compute()
    protocol = json.loads(json.dumps(metric.protocol))
    assert protocol["metric"] == type(metric).__name__
    assert protocol["features"]["extractor"] == "none"
    assert {"otmetrics", "torch", "torchmetrics"} <= protocol["versions"].keys()
    for name in protocol["options"]:
        assert f" {name}=" in repr(metric)
    assert "reset_real_features=False" in repr(case.make(feature=None, reset_real_features=False))


def test_plot(case):
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    metric = filled(case)
    _, axes = metric.plot()
    assert axes.lines
    values = [metric.compute(), metric.compute(), metric.compute()]
    _, axes = metric.plot(values)
    assert len(axes.lines[0].get_xdata()) == 3
    pyplot.close("all")
