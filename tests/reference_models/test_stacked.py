"""Stacked MNIST: triples, the classifier of digits, the published scores."""

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from otmetrics.reference_models.data import load_data
from otmetrics.reference_models.evaluation import Evaluator
from otmetrics.reference_models.modes import (
    NUM_SCORED,
    accuracy,
    divergence_floor,
    fit_digit_classifier,
    read_digits,
    stacked_scores,
    triples,
    uniform_divergence,
)
from otmetrics.reference_models.presets import config_for
from otmetrics.reference_models.priors import NoisePrior
from otmetrics.reference_models.sampling import Sampler
from torch import nn

MNIST = Path(__file__).parents[3] / "shared" / "data"
needs_mnist = pytest.mark.skipif(
    not (MNIST / "MNIST").is_dir(), reason=f"needs the files of MNIST in {MNIST}"
)


class CornerReader(nn.Module):
    """Reads the digit that `written` wrote."""

    def forward(self, images):
        return nn.functional.one_hot(images[:, 0, 0, 0].long(), 10).float()


def written(digits):
    """Images (N, C, 28, 28) whose corners are digits (N, C)."""
    images = torch.full((*digits.shape, 28, 28), 200, dtype=torch.uint8)
    images[:, :, 0, 0] = digits.to(torch.uint8)
    return images


def random_digits(num, channels, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(10, (num, channels), generator=generator)


def bars(num, seed):
    """Easy digits: digit d is a bright column at 2 d + 4, in noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(10, (num,), generator=generator)
    images = torch.randint(0, 40, (num, 1, 28, 28), dtype=torch.uint8, generator=generator)
    images[torch.arange(num), 0, :, 2 * labels + 4] = 255
    return images, labels


# --- triples ----------------------------------------------------------------------------------


def test_triples_are_digits_with_their_mode():
    digits = random_digits(40, 1)
    images, modes = triples(
        written(digits), digits[:, 0], num=300, generator=torch.Generator().manual_seed(0)
    )
    assert images.shape == (300, 3, 28, 28)
    assert images.dtype == torch.uint8
    for image, mode in zip(images, modes.tolist(), strict=True):
        a, b, c = image[:, 0, 0].tolist()
        assert mode == 100 * a + 10 * b + c


# --- scores -----------------------------------------------------------------------------------


@pytest.mark.parametrize("num", [1, 7, 2003])
def test_scores_are_those_of_the_naive_count(num):
    digits = random_digits(num, 3)
    found = Counter(map(tuple, digits.tolist()))
    kl = sum(n / num * math.log(n / num * 1000) for n in found.values())
    scores = stacked_scores(written(digits), CornerReader())
    assert scores == (len(found), 1000, None, pytest.approx(kl, abs=1e-12))


def test_channels_are_not_exchangeable():
    """123 and 321 are two modes."""
    digits = torch.tensor([[1, 2, 3], [3, 2, 1]])
    assert stacked_scores(written(digits), CornerReader()).covered == 2


def test_collapse_on_one_mode():
    scores = stacked_scores(
        written(torch.tensor([[4, 0, 9]])).expand(50, -1, -1, -1), CornerReader()
    )
    assert scores == (1, 1000, None, pytest.approx(math.log(1000), abs=1e-12))


def test_uniform_modes_reach_the_floor_of_the_divergence():
    """2 N KL is nearly chi-square with 999 degrees of freedom; the exact mean is .01934."""
    generator = torch.Generator().manual_seed(0)
    modes = torch.randint(1000, (20, NUM_SCORED), generator=generator)
    values = [uniform_divergence(torch.bincount(row, minlength=1000)) for row in modes]
    error = math.sqrt(2 * 999 / 20) / (2 * NUM_SCORED)
    assert sum(values) / 20 == pytest.approx(0.01934, abs=5 * error)
    assert divergence_floor(1000, NUM_SCORED) == pytest.approx(0.01934, rel=0.01)


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(2, 3, 28, 28),
        torch.zeros(2, 1, 28, 28, dtype=torch.uint8),
        torch.zeros(3, 28, 28, dtype=torch.uint8),
        torch.zeros(0, 3, 28, 28, dtype=torch.uint8),
    ],
)
def test_other_images_raise(images):
    with pytest.raises(ValueError, match=r"`images` must be uint8 \(N, 3, 28, 28\)"):
        stacked_scores(images, CornerReader())


# --- the classifier ---------------------------------------------------------------------------


def test_accuracy_is_the_share_that_is_read():
    labels = torch.arange(10)
    assert accuracy(CornerReader(), written(labels[:, None]), labels) == 1
    assert accuracy(CornerReader(), written(labels[:, None]), labels.clamp(max=7)) == 0.8


def test_easy_digits_are_learned(device):
    images, labels = bars(600, seed=0)
    classifier = fit_digit_classifier(images.to(device), labels.to(device), seed=0)
    assert not classifier.training
    assert accuracy(classifier, *bars(300, seed=1)) > 0.99


def test_a_seed_is_a_classifier_and_the_global_state_stays():
    images, labels = bars(200, seed=0)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one = fit_digit_classifier(images, labels, seed=0)
    assert torch.equal(torch.rand(3), expected)
    same, other = (fit_digit_classifier(images, labels, seed) for seed in (0, 1))
    for name, weight in one.state_dict().items():
        assert torch.equal(weight, same.state_dict()[name])
        assert not torch.equal(weight, other.state_dict()[name])


def test_few_images_are_enough_to_run():
    fit_digit_classifier(*bars(1, seed=0), seed=0)


@pytest.mark.parametrize("labels", [torch.zeros(3), torch.full((4,), 10), torch.full((4,), -1)])
def test_labels_that_do_not_fit_raise(labels):
    with pytest.raises(ValueError, match="`labels` must be 4 digits from 0 to 9"):
        fit_digit_classifier(bars(4, seed=0)[0], labels.long(), seed=0)


@pytest.fixture(scope="module")
def evaluated() -> tuple[Evaluator, list[float]]:
    """An evaluator of stacked MNIST, and what shares of held-out digits it found it reads.

    Its classifier learns from a third of the digits that an evaluation takes: 98 % instead of 99.
    """
    data = load_data("stacked_mnist", root=MNIST)
    assert data.labels is not None
    few = 20_000
    data = replace(data, train=data.train[:few], labels=(data.labels[0][:few], data.labels[1]))
    config = config_for("dcgan", data, {"eval_features": "pixels", "eval_num": 20}, {})
    read = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "otmetrics.reference_models.evaluation.accuracy",
            lambda *a: read.append(accuracy(*a)) or read[0],
        )
        return Evaluator(config, data, torch.device("cpu")), read


@needs_mnist
@pytest.mark.slow
def test_evaluations_count_the_modes_of_a_generator(evaluated):
    """By the classifier that an evaluation fits to the triples themselves."""
    evaluator, read = evaluated
    data = evaluator.data
    assert read[0] > 0.98

    class Copies(nn.Module):
        """Gives triples of three of the digits that are held out."""

        def __init__(self):
            super().__init__()
            self.unused = nn.Parameter(torch.zeros(()))

        def forward(self, noise):
            rows = (noise[:, 0].abs() * 1e6).long() % len(data.held_out)
            known = data.labels[1] // 100 < 3
            for place in (10, 1):
                known &= data.labels[1] // place % 10 < 3
            kept = data.held_out[known]
            return data.to_network(kept[rows % len(kept)])

    scores = evaluator(
        Sampler(Copies(), NoisePrior("normal", evaluator.config.latent), None)
    ).scores
    # 27 modes own most samples; a digit in two hundred is misread.
    assert scores["modes"] >= 27
    assert scores["modes_kl"] == pytest.approx(math.log(1000 / 27), abs=0.2)


@needs_mnist
def test_triples_of_mnist_are_read_and_score_their_floor(evaluated):
    evaluator, _ = evaluated
    labels = load_data("stacked_mnist", root=MNIST).labels
    for part, floor, known in zip(("train", "held_out"), (0.0236, 0.0246), labels, strict=True):
        images = getattr(evaluator.data, part)[:1000]
        digits = read_digits(evaluator.classifier, images.reshape(-1, 1, 28, 28)).view(-1, 3)
        modes = digits @ torch.tensor([100, 10, 1])
        assert (modes == known[:1000]).double().mean() > 0.93  # three digits of 98 % each
        counts = torch.bincount(known[:NUM_SCORED], minlength=1000)
        assert (counts > 0).all()
        # Six standard errors of one set, sqrt(2 * 999) / (2 N).
        error = math.sqrt(2 * 999) / (2 * NUM_SCORED)
        assert uniform_divergence(counts) == pytest.approx(floor, abs=6 * error)
