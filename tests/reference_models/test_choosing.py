"""The best evaluation: paired differences with closed forms, drifts up and down, the best set."""

import math
from pathlib import Path

import pytest
import torch
from otmetrics.reference_models import saving
from otmetrics.reference_models.choosing import BestSet, Contender, contender
from otmetrics.reference_models.evaluation import Evaluator
from training_cases import configured, points, run

from otmetrics import Sliced
from otmetrics.inference.estimates import sliced_estimate
from otmetrics.inference.intervals import Estimate, Subsamples

GENERATOR = torch.Generator().manual_seed(0)
REAL, FAKE, OTHER, PARTS = torch.randn(4, 1, 400, generator=GENERATOR, dtype=torch.float64)


def known(centre: float, shift: float = 0.0, **more) -> Contender:
    """A contender whose effects differ from those of another by `shift` times those of `OTHER`."""
    effects = {"real": REAL + shift * OTHER, "fake": FAKE - shift * OTHER}
    return Contender("score", centre, more.pop("error", 0.0), effects | more)


def centred(effects: torch.Tensor) -> torch.Tensor:
    return effects - effects.mean()


@pytest.mark.parametrize("name", ["wasserstein", "coverage"])
def test_a_difference_is_told_from_its_own_error(name: str) -> None:
    """Both sides are paired: of the errors that evaluations share nothing is left."""
    sign = -1 if name == "wasserstein" else 1
    error = 0.01 * float(OTHER.square().mean() * 2 / 399) ** 0.5
    for share, told in ((1.6, False), (1.69, True), (-9.0, False)):
        new, old = known(sign * share * error, 0.01), known(0.0)
        assert new.beats(old, name) is told
    assert float(FAKE.std()) / 20 > 20 * error  # next to the error of either


def test_parts_and_directions_are_paired_too() -> None:
    values = PARTS[0]

    def halved(centre: float, values: torch.Tensor) -> Contender:
        return Contender("score", centre, 0.0, {"parts": values})

    other = values + 0.01 * OTHER[0]
    error = 0.01 * float(OTHER.std())
    assert not halved(1.6 * error, other).beats(halved(0.0, values), "coverage")
    assert halved(1.69 * error, other).beats(halved(0.0, values), "coverage")

    # Directions: 3-4-5 with an error that is each one's own.
    drawn = torch.tensor([5.0, 7.0]).double()
    one = known(-1.0, drawn=drawn + torch.tensor([0.3, 0.4]), error=0.3)
    two = known(0.0, drawn=drawn, error=0.4)
    least = 1.645 * math.hypot(0.5, 0.5)
    assert not one.beats(two, "wasserstein")
    assert known(-least - 0.01, drawn=one.effects["drawn"], error=0.3).beats(two, "wasserstein")


def test_the_error_of_a_difference_is_that_of_new_samples() -> None:
    """Two generators near each other, on many draws of real samples and noise."""
    generator = torch.Generator().manual_seed(1)
    solver = Sliced(num_projections=64)

    def estimates() -> tuple[Contender, Contender]:
        real, noise = torch.randn(2, 150, 3, generator=generator, dtype=torch.float64)
        fakes = 1.3 * noise + 0.3, 1.25 * noise + 0.1 * noise.sin() + 0.3
        found = []
        for fake in fakes:
            estimate = sliced_estimate(real, fake, solver, solver.solve(real, fake))
            one = contender(estimate, "score")
            assert one is not None
            found.append(one)
        return found[0], found[1]

    pairs = [estimates() for _ in range(50)]
    differences = [one.minus(two) for one, two in pairs]
    spread = float(torch.tensor([difference.centre for difference in differences]).std())
    errors = [difference.standard_error() for difference in differences]
    assert sum(errors) / len(errors) == pytest.approx(spread, rel=0.25)
    alone = float(torch.tensor([one.centre for one, _ in pairs]).std())
    assert spread < 0.5 * alone


def chosen(centres: list[float], shift: float = 0.01) -> tuple[list[int], BestSet]:
    """The best step after each of some evaluations, lower ones better, each of shift more."""
    best_set, best, kept = BestSet(), {}, []
    for step, centre in enumerate(centres):
        new = known(centre, step * shift)
        if best_set.choose("score", step, {"score": centre}, new, best):
            best = {"score": centre, "step": float(step)}
        kept.append(int(best["step"]))
    return kept, best_set


ERROR = 0.01 * float(OTHER.square().mean() * 2 / 399) ** 0.5


def test_small_improvements_add_up() -> None:
    """Each is half an error; the noise of a difference grows with its steps, and more slowly."""
    centres = [-step * ERROR * 2.0 for step in range(9)]
    kept, _ = chosen(centres)
    assert kept == list(range(9))
    small = [-(step**2) * ERROR * 0.3 for step in range(12)]
    kept, best_set = chosen(small)
    assert kept[1:4] == [0, 0, 0]
    assert kept[-1] > 8
    assert small[kept[-1]] - small[-1] <= 1.645 * ERROR * (11 - kept[-1])
    assert 11 in best_set.members


def test_a_slow_decline_takes_nothing_along() -> None:
    kept, best_set = chosen([step * ERROR * 2.0 for step in range(9)])
    assert kept == [0] * 9
    assert best_set.members.keys() == {0}


def test_the_luckiest_of_equal_ones_is_not_chosen() -> None:
    kept, best_set = chosen([0.0, -ERROR, -1.5 * 2 * ERROR, 4 * 3 * ERROR])
    assert kept == [0] * 4
    assert best_set.members.keys() == {0, 1, 2}


def test_a_new_best_leaves_those_it_does_not_beat_in_the_set() -> None:
    best_set = BestSet()
    best_set.members = {1: known(0.0, 0.0), 2: known(-1.5 * ERROR, 0.01)}
    best = {"score": 0.0, "step": 1.0}
    new = known(-2.5 * ERROR, 0.01)
    assert best_set.choose("score", 3, {"score": -2.5 * ERROR}, new, best)
    # The second has the same effects as the new one, so that any difference is told.
    assert best_set.members.keys() == {3}
    best_set.members = {1: known(0.0, 0.0), 2: known(-1.5 * ERROR, 0.02)}
    assert best_set.choose("score", 3, {"score": -2.5 * ERROR}, new, best)
    assert best_set.members.keys() == {2, 3}


def test_without_errors_the_score_alone_decides() -> None:
    best_set, best = BestSet(), {"score": 1.0, "step": 5.0}
    assert best_set.choose("score", 6, {"score": 0.9}, None, best)
    assert best_set.members == {}
    assert best_set.choose("score", 6, {"score": 0.9}, known(0.9), best)
    assert best_set.members.keys() == {6}
    # Other samples, or effects of another kind: nothing is paired.
    best = {"score": 0.9, "step": 6.0}
    near = known(0.9 - ERROR, 0.01)
    assert not best_set.choose("score", 7, {"score": 0.8}, near, best)
    others = Contender("other", near.centre, 0.0, near.effects), known(0.89, drawn=REAL[0])
    for other in others:
        best_set.members = {6: known(0.9)}
        assert best_set.choose("score", 7, {"score": 0.8}, other, best)
        assert best_set.members == {7: other}
    best = {"score": 0.8, "step": 7.0}
    assert not best_set.choose("score", 7, {"score": math.nan}, None, best)


def test_no_contender_without_a_finite_error() -> None:
    values = torch.tensor([1.0, math.inf])
    assert contender(Estimate(1.0, Subsamples(values, "both"), "limit"), "score") is None
    assert (
        contender(Estimate(math.nan, Subsamples(values[:1].repeat(3), "both"), "limit"), "") is None
    )


@pytest.mark.parametrize("name", ["sliced_wasserstein", "frechet_distance", "coverage"])
def test_the_set_survives_a_checkpoint(name: str, tmp_path: Path) -> None:
    data = points()
    config = configured("exact-ot", data, steps=4, eval_every=1, select=name)
    state = run(config, data, tmp_path)
    stored = saving.load(tmp_path / saving.LAST)["best_set"]
    again = BestSet()
    again.load(stored, last=4)
    assert again.members.keys() == state.best_set.members.keys()
    for step, one in again.members.items():
        other = state.best_set.members[step]
        assert (one.of, one.centre, one.error) == (other.of, other.centre, other.error)
        assert one.compares(other)
        assert all(torch.equal(one.effects[key], other.effects[key]) for key in one.effects)
    with pytest.raises(ValueError, match="no step"):
        again.load(stored, last=0)


def test_what_is_compared_is_a_matter_of_all_that_decides_it() -> None:
    data = points()
    options = ({}, {"seed": 1}, {"eval_num": 41}, {"select": "recall"})
    speak = [
        Evaluator(configured("exact-ot", data, **option), data, torch.device("cpu"))._of
        for option in options
    ]
    assert len(set(speak)) == len(speak)
