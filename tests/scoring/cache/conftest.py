"""Images that count as settled though they were just written, and a cache of their own."""

import pytest
from cache_checks import PIXELS, age, features
from PIL import Image

from otmetrics.images import files


@pytest.fixture(autouse=True)
def _settled():
    """The time of a file's record, unlike that of its content, cannot be set back."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "SETTLED_SECONDS", 0.0)
        yield


@pytest.fixture
def folder(tmp_path):
    """Forty images that nobody has touched for a minute."""
    path = tmp_path / "images"
    path.mkdir()
    for index, pixels in enumerate(PIXELS):
        Image.fromarray(pixels).save(path / f"{index:02d}.png")
    age(path)
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    path = tmp_path / "cache"
    monkeypatch.setenv("OTMETRICS_CACHE", str(path))
    return path


@pytest.fixture
def expected(folder):
    return features(folder, cache=False).features
