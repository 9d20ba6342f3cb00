"""What an evaluation looks at: held-out samples, one noise, pixels or features."""

from typing import Any

import pytest
import torch
from otmetrics.reference_models import evaluation
from otmetrics.reference_models.choosing import better
from otmetrics.reference_models.config import EVALUATED
from otmetrics.reference_models.data import Data, load_data
from otmetrics.reference_models.evaluation import Evaluator
from otmetrics.reference_models.priors import NoisePrior
from otmetrics.reference_models.sampling import Sampler
from torch import Tensor, nn
from training_cases import configured, images, points

from otmetrics import Scoring, Sliced, score_features
from otmetrics.errors import DataError, OptionError

CPU = torch.device("cpu")


class Fixed(nn.Module):
    """A generator whose samples are those of a tensor, and which remembers its noise."""

    def __init__(self, samples: Tensor) -> None:
        super().__init__()
        self.samples, self.noise = samples, []
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, noise: Tensor) -> Tensor:
        self.noise.append(noise)
        return self.samples[: len(noise)]


def sampler(generator: nn.Module) -> Sampler:
    return Sampler(generator, NoisePrior("normal", 2), None)


def test_real_samples_are_held_out_ones() -> None:
    """A generator that repeats them has distance 0, one that repeats training samples has not."""
    data = points()
    config = configured("exact-ot", data, eval_num=100)  # one batch of the generator
    evaluator = Evaluator(config, data, CPU)
    held_out = {tuple(row) for row in data.held_out.tolist()}
    assert {tuple(row) for row in evaluator.real.features.tolist()} <= held_out
    copied = data.to_network(evaluator.real.features)
    scores = evaluator(sampler(Fixed(torch.cat([copied, copied, copied])))).scores
    assert scores["wasserstein"] < 1e-6
    other = evaluator(sampler(Fixed(data.to_network(data.train[:600])))).scores
    assert other["wasserstein"] > 0.01


def test_scores_are_those_of_the_library() -> None:
    data = points()
    evaluator = Evaluator(configured("exact-ot", data, eval_num=100), data, CPU)
    fake = data.to_network(data.train[:600])
    scores = evaluator(sampler(Fixed(fake))).scores
    assert set(EVALUATED) < set(scores)
    expected = Sliced(seed=0).solve(evaluator.real.features, data.from_network(fake[:100])).value
    assert scores["sliced_wasserstein"] == pytest.approx(float(expected), rel=1e-12)
    assert scores["modes"] == 8


@pytest.mark.parametrize("name", ["sliced_wasserstein", "wasserstein", "coverage"])
def test_the_score_that_chooses_has_its_interval(name: str) -> None:
    data = points()
    evaluator = Evaluator(configured("exact-ot", data, eval_num=100, select=name), data, CPU)
    fake = data.to_network(data.train[:600])
    found = evaluator(sampler(Fixed(fake)))
    scoring = Scoring(metrics=(name,), floor=False)
    samples = data.from_network(fake[:100])
    expected = score_features(evaluator.real.features, samples, scoring=scoring).scores[name]
    assert found.scores[name] == expected.value
    assert found.interval == expected.interval
    assert found.contender is not None


def test_the_number_to_report_is_that_of_the_report() -> None:
    data = points()
    evaluator = Evaluator(configured("exact-ot", data, eval_num=100), data, CPU)
    generator = Fixed(data.to_network(data.train[:600]))
    fresh, (report, _) = (
        evaluator.fresh_score(sampler(generator)),
        evaluator.report(sampler(generator)),
    )
    assert (fresh.value, fresh.interval) == (
        report.scores["coverage"].value,
        report.scores["coverage"].interval,
    )
    assert fresh.interval is not None
    assert torch.equal(generator.noise[0], generator.noise[1])


def test_noise_is_the_same_at_each_call_and_another_in_the_end() -> None:
    data = points()
    evaluator = Evaluator(configured("exact-ot", data, eval_num=100), data, CPU)
    generator = Fixed(data.to_network(data.train[:600]))
    torch.manual_seed(5)
    state = torch.get_rng_state()
    evaluator(sampler(generator))
    evaluator(sampler(generator))
    report, modes = evaluator.report(sampler(generator))
    assert torch.equal(generator.noise[0], generator.noise[1])
    assert not torch.equal(generator.noise[0], generator.noise[2])
    assert torch.equal(torch.get_rng_state(), state)
    assert modes is not None
    assert report.scores["recall"].floor is not None


def test_grey_images_reach_the_extractor_as_three_equal_channels() -> None:
    data = images((1, 8, 8))
    config = configured("dcgan", data, eval_num=30, eval_features="pixels")
    evaluator = Evaluator(config, data, CPU)
    assert evaluator.real.features.shape == (30, 3072)
    channels = evaluator.real.features.unflatten(1, (3, -1))
    assert torch.equal(channels[:, 0], channels[:, 2])


def test_digits_are_compared_as_pixels_without_being_asked() -> None:
    pytest.importorskip("sklearn")
    data = load_data("digits")
    evaluator = Evaluator(configured("dcgan", data, eval_num=30), data, CPU)
    assert evaluator.real.extractor["extractor"] == "pixels"


@pytest.mark.parametrize(
    ("name", "scores", "best", "expected"),
    [
        ("recall", {"recall": 0.5}, {"recall": 0.4}, True),
        ("recall", {"recall": 0.3}, {"recall": 0.4}, False),
        ("wasserstein", {"wasserstein": 0.3}, {"wasserstein": 0.4}, True),
        ("wasserstein", {"wasserstein": 0.4}, {"wasserstein": 0.4}, False),
        ("wasserstein", {"wasserstein": float("nan")}, {"wasserstein": 0.4}, False),
        ("wasserstein", {"wasserstein": 0.5}, {}, True),
        ("wasserstein", {"wasserstein": 0.5}, {"wasserstein": float("nan")}, True),
    ],
)
def test_better(name: str, scores: dict, best: dict, expected: bool) -> None:
    assert better(name, scores, best) is expected


def test_too_few_held_out_samples_are_said_before_training() -> None:
    few = Data("few", torch.zeros(20, 2), torch.zeros(11, 2))
    with pytest.raises(DataError, match="holds out 11 samples"):
        Evaluator(configured("exact-ot", few), few, CPU)


@pytest.mark.parametrize("options", [{"eval_features": "pixels"}, {"eval_features": "nope"}])
def test_extractors_that_do_not_fit(options: dict[str, Any]) -> None:
    data = points() if options["eval_features"] == "pixels" else images((1, 8, 8))
    with pytest.raises(OptionError, match="`eval_features`"):
        Evaluator(configured("dcgan", data, **options), data, CPU)


def test_a_mistake_within_an_extractor_is_not_told_as_one_of_options(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its author needs the traceback; only what the catalog says is of `eval_features`."""

    def broken(*args: Any, **options: Any) -> None:
        raise ValueError("not enough values to unpack")

    monkeypatch.setattr(evaluation, "load_extractor", broken)
    data = images((1, 8, 8))
    with pytest.raises(ValueError, match=r"^not enough values to unpack$") as caught:
        Evaluator(configured("dcgan", data), data, CPU)
    assert caught.type is ValueError
