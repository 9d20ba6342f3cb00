"""One number whichever door: command line, functions, and the libraries people compare with."""

import json

import numpy as np
import ot
import prdc
import pytest
import torch
from click.testing import CliRunner
from command import write_features, write_images
from otmetrics.cli.main import cli

from otmetrics import functional as otf
from otmetrics.transport.sinkhorn.sinkhorn import Sinkhorn
from otmetrics.transport.sliced.directions import direction_generator

RELATIVE = 1e-6


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    """Features of images by the command line, in float64, and the files that hold them."""
    from otmetrics.scoring.extraction import Extraction, extracted
    from otmetrics.scoring.feature_set import save_features

    folder = tmp_path_factory.mktemp("agreement")
    clouds, files = [], []
    for seed, count in enumerate((90, 80)):
        images = write_images(folder / str(seed), count, seed=seed)
        (found,) = extracted([images], Extraction(features="pixels"))
        save_features(found, folder / f"{seed}.npz")
        clouds.append(found.features.double())
        files.append(folder / f"{seed}.npz")
    return clouds, files


@pytest.fixture(scope="module")
def scores(features):
    arguments = ["score", *map(str, features[1]), "--json", "--no-floor", "-q"]
    finished = CliRunner().invoke(cli, arguments)
    assert finished.exit_code == 0, finished.output
    report = json.loads(finished.stdout)["scores"]
    return {name: score["value"] for name, score in report.items()}


def test_command_line_equals_functions(scores, features):
    real, fake = features[0]
    manifold = otf.manifold_scores(real, fake)
    expected = {
        "sliced_wasserstein": otf.sliced_wasserstein(real, fake),
        "wasserstein": otf.exact_wasserstein(real, fake),
        "sinkhorn_divergence": otf.sinkhorn_divergence(real, fake),
        "frechet_distance": otf.frechet_distance(real, fake),
        "kernel_distance": otf.kernel_distance(real, fake),
        **manifold._asdict(),
    }
    assert scores == pytest.approx({name: float(value) for name, value in expected.items()})


def test_exact_and_sliced_equal_pot(scores, features):
    real, fake = (cloud.numpy() for cloud in features[0])
    directions = otf.random_directions(real.shape[1], 1024, generator=direction_generator(0))
    plain = ot.sliced_wasserstein_distance(real, fake, projections=directions.numpy())
    ours = otf.sliced_wasserstein(*features[0], directions=directions)
    exact = ot.emd2([], [], ot.dist(real, fake)) ** 0.5
    assert ours.item() == pytest.approx(plain, rel=RELATIVE)
    # Control variates take off the error that the plain mean has, here one percent.
    assert scores["sliced_wasserstein"] == pytest.approx(plain, rel=0.03)
    assert scores["wasserstein"] == pytest.approx(exact, rel=RELATIVE)


def test_sinkhorn_equals_pot(scores, features):
    real, fake = (cloud.numpy() for cloud in features[0])
    epsilon = Sinkhorn().epsilon * ot.dist(real, fake).mean()

    def entropic(x, y):
        cost = ot.dist(x, y)
        a, b = np.full(len(x), 1 / len(x)), np.full(len(y), 1 / len(y))
        plan = ot.sinkhorn(a, b, cost, epsilon, "sinkhorn_log", numItermax=10_000, stopThr=1e-10)
        return (plan * cost).sum() + epsilon * (plan * np.log(plan / np.outer(a, b))).sum()

    divergence = entropic(real, fake) - (entropic(real, real) + entropic(fake, fake)) / 2
    assert scores["sinkhorn_divergence"] == pytest.approx(divergence, rel=RELATIVE)


def test_frechet_equals_torchmetrics(scores, features):
    from torchmetrics.image.fid import _compute_fid

    # In the span of both, where all distances are the same: torchmetrics' formula takes D^3.
    basis = torch.linalg.qr(torch.cat(features[0]).T).Q
    clouds = [cloud @ basis for cloud in features[0]]
    moments = [m for cloud in clouds for m in (cloud.mean(0), cloud.T.cov())]
    # Fewer samples than dimensions: the square roots of noise eigenvalues cost torchmetrics'
    # formula about seven digits (ours keeps them, see tests/statistics/test_frechet.py).
    expected = float(_compute_fid(*moments))
    assert scores["frechet_distance"] == pytest.approx(expected, rel=1e-5)


def test_manifold_scores_equal_prdc(scores, features, capsys):
    real, fake = (cloud.numpy() for cloud in features[0])
    expected = prdc.compute_prdc(real, fake, nearest_k=5)
    capsys.readouterr()  # prdc prints
    for name, value in expected.items():
        assert scores[name] == pytest.approx(float(value), rel=RELATIVE), name


def test_full_rank_frechet_and_kernel_equal_torchmetrics(otmetrics, tmp_path):
    from torchmetrics.image.fid import _compute_fid
    from torchmetrics.image.kid import poly_mmd

    files = [
        write_features(tmp_path / f"{seed}.npy", 200, seed=seed, dimension=16, shift=0.2 * seed)
        for seed in range(2)
    ]
    finished = otmetrics("score", *files, "--json", "-q", "--no-floor")
    scores = json.loads(finished.stdout)["scores"]
    real, fake = (torch.from_numpy(np.load(file)) for file in files)
    moments = [m for cloud in (real, fake) for m in (cloud.mean(0), cloud.T.cov())]
    frechet, kernel = float(_compute_fid(*moments)), float(poly_mmd(real, fake))
    assert scores["frechet_distance"]["value"] == pytest.approx(frechet, rel=RELATIVE)
    assert scores["kernel_distance"]["value"] == pytest.approx(kernel, rel=RELATIVE)
