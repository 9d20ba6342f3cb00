"""Options that do not exist: the message says which was meant, and nothing else changes."""

import inspect
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch

from otmetrics import Extraction, Scoring, functional, score, score_features
from otmetrics.metrics import (
    DensityCoverage,
    FrechetFeatureDistance,
    PrecisionRecall,
    WassersteinFeatureDistance,
)
from otmetrics.transport.exact.exact import Exact
from otmetrics.transport.semidiscrete.semidiscrete import SemiDiscrete
from otmetrics.transport.sinkhorn.sinkhorn import Sinkhorn
from otmetrics.transport.sliced.sliced import Sliced

FUNCTIONS = [
    getattr(functional, name)
    for name in functional.__all__
    if inspect.isfunction(getattr(functional, name))
] + [score, score_features]
X = torch.zeros(3, 2)

UNKNOWN: list[tuple[Callable[..., Any], str, str]] = [
    (functional.sinkhorn_divergence, "blur", "`sinkhorn_divergence` .* take `epsilon`; at p = 2"),
    (functional.entropic_cost, "richardson", "`entropic_cost` has no option `richardson`"),
    (functional.sliced_wasserstein, "blur", "`sliced_wasserstein` has no option `blur`. Its opt"),
    (functional.sliced_wasserstein, "n_projections", "take `num_projections`. Its options are rea"),
    (functional.random_directions, "seed", r"take `generator`; give .*manual_seed\(0\)"),
    (functional.kernel_distance, "generator", "nothing is drawn at random here"),
    (functional.monge_inception_distance, "generator", "take `seed`"),
    (functional.precision_recall, "k", "take `num_neighbors`"),
    (functional.exact_wasserstein, "weights", "take `real_weights` and `fake_weights`"),
    (functional.exact_wasserstein, "realweights", "take `real_weights`"),
    (Sliced(), "weights", "^`Sliced.* has no option `weights`; take `real_weights` and `fake_wei"),
    (Exact().solve, "weights", "^`Exact.solve` has .* take `real_weights` and `fake_weights`"),
    (Sinkhorn(), "p", "^`Sinkhorn.* has no option `p`. Its options are real, fake, real_weights"),
    (SemiDiscrete(), "real_weights", "take `weights`"),
    (Scoring, "metric", "Scoring has no option `metric`; take `metrics`"),
    (Scoring, "generator", "take `seed`"),
    (Extraction, "feature", "Extraction has no option `feature`; take `features`"),
    (Extraction, "extractor", "take `features`"),
    (Sliced, "weights", "weights belong to the call: .*, real_weights=..., fake_weights=...[)]"),
    (SemiDiscrete, "weights", r"weights belong to the call: solver\(\.\.\., weights=\.\.\.\)"),
]


@pytest.mark.parametrize(("call", "name", "told"), UNKNOWN)
def test_the_option_that_was_meant(call: Callable[..., Any], name: str, told: str) -> None:
    with pytest.raises(TypeError, match=told):
        call(**{name: 1})


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda one: one.__name__)
def test_every_function_tells_its_options_and_keeps_its_signature(function: Any) -> None:
    listed = ", ".join(inspect.signature(function).parameters)
    with pytest.raises(TypeError) as caught:
        function(X, X, nonsense=1)
    assert str(caught.value).startswith(f"`{function.__name__}` has no option `nonsense`")
    assert str(caught.value).endswith(f"Its options are {listed}.")
    assert pickle.loads(pickle.dumps(function)) is function
    assert function.__doc__


def test_an_argument_that_is_missing_is_still_told_by_its_name() -> None:
    with pytest.raises(TypeError, match="fake"):
        functional.sliced_wasserstein(X)


@pytest.mark.parametrize(
    ("made", "name", "told"),
    [
        (PrecisionRecall, "k", "PrecisionRecall has no option `k`; take `num_neighbors`. Its opt"),
        (DensityCoverage, "nearest_k", "take `num_neighbors`"),
        (WassersteinFeatureDistance, "solver", "take `method`"),
        (WassersteinFeatureDistance, "extractor", "take `feature`"),
        (FrechetFeatureDistance, "reset_real", "take `reset_real_features`"),
        (FrechetFeatureDistance, "nonsense", "no option `nonsense`. Its options are feature, "),
    ],
)
def test_metrics(made: type, name: str, told: str) -> None:
    options = {"feature": None, name: 1} if name != "extractor" else {name: None}
    with pytest.raises(ValueError, match=told):  # as torchmetrics raises
        made(**options)


def test_options_of_torchmetrics_are_known_and_checked_by_it() -> None:
    assert PrecisionRecall(feature=None, sync_on_compute=False).sync_on_compute is False
    with pytest.raises(ValueError, match="`sync_on_compute` to be a `bool`"):
        PrecisionRecall(feature=None, sync_on_compute="no")
