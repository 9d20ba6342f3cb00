"""Files of a mean and covariance instead of samples, as pytorch-fid, EDM and ADM write them."""

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
from command import Runner, write_images

import otmetrics

FRECHET = ("--metrics", "frechet_distance")


@pytest.fixture
def run(monkeypatch, capsys):
    return Runner(monkeypatch, capsys)


def cloud(count: int, seed: int, scale: float = 1.0, dimension: int = 8) -> np.ndarray:
    return scale * np.random.default_rng(seed).normal(size=(count, dimension)) + 0.1 * seed


def moments(x: np.ndarray) -> dict[str, np.ndarray]:
    return {"mu": x.mean(0), "sigma": np.cov(x, rowvar=False)}


def published(x: dict[str, np.ndarray], y: dict[str, np.ndarray]) -> float:
    """The formula as the published code has it, by a matrix square root."""
    root = scipy.linalg.sqrtm(x["sigma"] @ y["sigma"]).real
    shift = ((x["mu"] - y["mu"]) ** 2).sum()
    return shift + np.trace(x["sigma"]) + np.trace(y["sigma"]) - 2 * np.trace(root)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("names", [("mu", "sigma"), ("ref_mu", "ref_sigma")])
@pytest.mark.parametrize("dtype", ["f8", "f4", ">f8"])
def test_statistics_give_the_distance_of_their_moments(tmp_path, run, save, names, dtype):
    x, y = moments(cloud(300, 0)), moments(cloud(200, 1, 1.2))
    for path, found in (("a.npz", x), ("b.npz", y)):
        values = (value.astype(dtype) for value in found.values())
        save(tmp_path / path, **dict(zip(names, values, strict=True)))
    done = run("score", tmp_path / "a.npz", tmp_path / "b.npz", *FRECHET, "--json")
    assert done.code == 0, done.stderr
    report = json.loads(done.stdout)
    tolerance = 1e-4 if dtype == "f4" else 1e-8
    value = report["scores"]["frechet_distance"]["value"]
    assert value == pytest.approx(published(x, y), rel=tolerance)
    assert report["scores"]["frechet_distance"]["floor"] is None
    assert report["protocol"]["inputs"]["real"]["kind"] == "statistics"
    assert any("no floor" in note for note in report["notes"])


@pytest.mark.parametrize("order", ["statistics first", "features first"])
def test_statistics_compare_with_features(tmp_path, run, order):
    x, y = cloud(9000, 0), cloud(50, 1)  # more than one block of rows
    np.savez(tmp_path / "x.npz", **moments(x))
    np.save(tmp_path / "y.npy", y)
    inputs = [tmp_path / "x.npz", tmp_path / "y.npy"]
    if order == "features first":
        np.savez(tmp_path / "x.npz", **moments(y))
        np.save(tmp_path / "y.npy", x)
        inputs.reverse()
    done = run("score", *inputs, *FRECHET, "--json")
    value = json.loads(done.stdout)["scores"]["frechet_distance"]["value"]
    assert value == pytest.approx(published(moments(x), moments(y)), rel=1e-8)


def test_statistics_compare_with_images_of_the_network_that_the_user_names(tmp_path, run):
    images = write_images(tmp_path / "fake", 12, seed=1)
    real = write_images(tmp_path / "real", 12, seed=0)
    (features,) = otmetrics.extracted([real], otmetrics.Extraction())
    np.savez(tmp_path / "real.npz", **moments(features.features.double().numpy()))
    refused = run("score", tmp_path / "real.npz", images, *FRECHET)
    assert refused.code == 3
    assert "what network made them: name it with --features" in refused.stderr
    named = ("--features", "efficientnet_lite0", "--no-floor", "--json")
    done = run("score", tmp_path / "real.npz", images, *FRECHET, *named)
    assert done.code == 0, done.stderr
    plain = run("score", real, images, *FRECHET, *named)
    values = [json.loads(o.stdout)["scores"]["frechet_distance"]["value"] for o in (done, plain)]
    assert values[0] == pytest.approx(values[1], rel=1e-6)
    features = json.loads(done.stdout)["protocol"]["features"]
    assert features["extractor"] == "efficientnet_lite0"
    assert "as declared by the user" in done.stdout


def test_other_scores_need_samples_and_say_so_before_an_image_is_read(tmp_path, run):
    np.savez(tmp_path / "a.npz", **moments(cloud(30, 0)))
    np.save(tmp_path / "b.npy", cloud(30, 1))
    done = run("score", tmp_path / "a.npz", tmp_path / "b.npy")
    assert done.code == 3
    assert "only frechet_distance can be computed: ask for it alone with --metrics" in done.stderr
    done = run("score", tmp_path / "a.npz", tmp_path / "b.npy", *FRECHET, "--num", 10)
    assert done.code == 0  # of the other side
    assert "fake: 10 of 30 features" in done.stdout


def test_samples_next_to_statistics_serve_the_other_scores(tmp_path, run):
    """As in ADM's files, which hold a part of the samples that mu and sigma are of."""
    x, y = cloud(500, 0), cloud(80, 1)
    whole = moments(x)
    np.savez(tmp_path / "ref.npz", features=x[:60], **whole, mu_s=whole["mu"])
    np.save(tmp_path / "samples.npy", y)
    inputs = tmp_path / "ref.npz", tmp_path / "samples.npy"
    done = run("score", *inputs, "--metrics", "frechet_distance,kernel_distance", "--json")
    assert done.code == 0, done.stderr
    report = json.loads(done.stdout)
    scores = report["scores"]
    assert scores["frechet_distance"]["value"] == pytest.approx(published(whole, moments(y)))
    assert scores["frechet_distance"]["sizes"] == [0, 80]  # the file does not say how many
    assert scores["kernel_distance"]["sizes"] == [60, 80]
    # Floors compare samples: two halves of those at hand.
    parts = scores["frechet_distance"]["floor"]
    assert parts["size"] == 30
    assert "frechet_distance is of all samples, all else of those at hand" in report["notes"]


def test_statistics_of_another_network_count_for_the_frechet_distance_alone(tmp_path, run):
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "ref.npz", arr_0=images, **moments(cloud(99, 0)))
    np.savez(tmp_path / "samples.npz", images[::-1] // 2)
    inputs = tmp_path / "ref.npz", tmp_path / "samples.npz"
    refused = run("score", *inputs, "--features", "pixels", *FRECHET)
    assert refused.code == 3
    assert "holds a mean and covariance of 8 features, but its samples have" in refused.stderr
    done = run("score", *inputs, "--features", "pixels", "--metrics", "kernel_distance", "--json")
    assert done.code == 0
    direct = run(
        "score", *inputs[::-1], "--features", "pixels", "--metrics", "kernel_distance", "--json"
    )
    values = [
        json.loads(one.stdout)["scores"]["kernel_distance"]["value"] for one in (done, direct)
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-9)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sigma": np.eye(7)}, "must have the shapes"),
        ({"mu": np.zeros((8, 1))}, "must have the shapes"),
        ({"mu": np.zeros(8, complex)}, "must be real floating numbers"),
        ({"mu": np.array(["a"] * 8)}, "must be real floating numbers"),
        ({"mu": np.full(8, np.nan)}, "NaN or infinite"),
        ({"sigma": np.triu(np.ones((8, 8)))}, "not symmetric"),
        ({"sigma": -np.eye(8)}, "not positive semi-definite"),
        ({"mu": np.zeros(0), "sigma": np.zeros((0, 0))}, "must have the shapes"),
        ({"mu": np.zeros(5), "sigma": np.eye(5)}, "extract both alike"),
    ],
)
def test_statistics_that_cannot_be_are_refused(tmp_path, run, change, said):
    np.savez(tmp_path / "a.npz", **moments(cloud(30, 0)) | change)
    np.save(tmp_path / "b.npy", cloud(30, 1))
    done = run("score", tmp_path / "a.npz", tmp_path / "b.npy", *FRECHET)
    assert done.code == 3
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_trainer_wants_samples(tmp_path: Path, run):
    np.savez(tmp_path / "a.npz", **moments(cloud(30, 0)))
    data = f"npz:{tmp_path / 'a.npz'}"
    done = run("train", "wgan-gp", "--data", data, "--out", tmp_path / "run", "--steps", 1)
    assert done.code == 3
    assert "holds a mean and covariance: give the samples themselves" in done.stderr
