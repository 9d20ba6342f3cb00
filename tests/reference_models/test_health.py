"""Early signs: each is said where it should be, once, and not elsewhere."""

from pathlib import Path

import pytest
import torch
from otmetrics.reference_models.health import Health

from otmetrics.errors import DivergedError


def scalars(**values: float) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(value) for name, value in values.items()}


def test_a_number_that_is_not_finite_ends_the_run_at_the_next_row(tmp_path: Path) -> None:
    health = Health(tmp_path)
    health.note(scalars(loss=1.0))
    assert health.check_step(1, scalars(loss=1.0)) == ({"loss": 1.0}, [])
    health.note(scalars(loss=float("nan")))
    health.note(scalars(loss=1.0))
    with pytest.raises(DivergedError, match="a loss since the last row of the log is not finite"):
        health.check_step(3, scalars(loss=1.0))


def test_it_names_what_is_not_finite(tmp_path: Path) -> None:
    health = Health(tmp_path)
    logs = scalars(critic_loss=float("inf"), generator_loss=1.0)
    health.note(logs)
    with pytest.raises(DivergedError, match="critic_loss is not finite at step 2"):
        health.check_step(2, logs)


def test_weights_are_looked_at_before_they_are_saved(tmp_path: Path) -> None:
    health = Health(tmp_path)
    health.check_weights(1, {"a": [torch.zeros(3)], "step": 1, "ids": torch.arange(3)})
    with pytest.raises(DivergedError, match="a weight is not finite"):
        health.check_weights(1, {"a": {"b": [torch.tensor([1.0, float("nan")])]}})


def test_spread_is_said_once_until_it_changes(tmp_path: Path) -> None:
    health = Health(tmp_path)
    spreads = (0.03, 1.0, 0.01, 0.01, 0.9, 0.01, 30.0)  # a new generator is narrow
    said = [health.check_step(1, scalars(spread=spread))[1] for spread in spreads]
    assert [len(lines) for lines in said] == [0, 0, 1, 0, 0, 1, 0]
    assert "collapse" in said[2][0]
    assert "diverging" in Health(tmp_path).check_step(1, scalars(spread=30.0))[1][0]
    assert "collapse" in Health(tmp_path).check_step(5000, scalars(spread=0.03))[1][0]


def test_a_run_that_goes_on_knows_its_best_scores(tmp_path: Path) -> None:
    health = Health(tmp_path)
    rows = [{"step": 1, "spread": 1.0}, {"step": 2, "score/modes": 8.0, "score/recall": 0.9}]
    health.remember(rows)
    assert len(health.judge_scores({"modes": 1.0, "recall": 0.1})) == 2
    assert "collapse" in health.check_step(3, scalars(spread=0.01))[1][0]
    said = Health(tmp_path)
    said.remember([*rows, {"step": 3, "score/modes": 1.0, "score/recall": 0.1}])
    assert said.judge_scores({"modes": 1.0, "recall": 0.1}) == []  # before the run was stopped


def test_scores_that_turn_bad_are_said(tmp_path: Path) -> None:
    health = Health(tmp_path)
    good = {"sliced_wasserstein": 0.1, "recall": 0.9, "modes": 8.0, "precision": 0.5}
    assert health.judge_scores(good) == []
    assert health.judge_scores(good | {"sliced_wasserstein": 0.2, "recall": 0.6}) == []
    bad = {"sliced_wasserstein": 0.5, "recall": 0.2, "modes": 1.0, "precision": 0.0}
    lines = health.judge_scores(bad)
    assert len(lines) == 3
    assert health.judge_scores(bad) == []  # once
    assert health.judge_scores(good) == []
    assert len(health.judge_scores(bad)) == 3
    assert "5.0 times its best" in lines[0]
    assert "modes has fallen from 8 to 1" in lines[1]


def test_codes_without_their_share_of_the_noise_are_said(tmp_path: Path) -> None:
    health = Health(tmp_path)
    logs = {"misfit": 0.4, "misfit_noise": 0.2, "empty_cells": 0.0}
    told = [
        health.check_step(5, {k: torch.tensor(v) for k, v in (logs | more).items()})[1]
        for more in ({}, {"misfit": 2.0}, {}, {"misfit": 2.0, "misfit_noise": 3.0})
    ]
    assert [len(lines) for lines in told] == [0, 1, 0, 0]
    assert "off by up to 200%, 0 have none" in told[1][0]
    empty = {k: torch.tensor(v) for k, v in (logs | {"empty_cells": 3.0}).items()}
    (line,) = health.check_step(6, empty)[1]
    assert "3 have none: the transport needs a higher `max_rounds`" in line
