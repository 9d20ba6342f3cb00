"""What processes of the cache's tests run: a small network, shards of a few images."""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from otmetrics import Scoring, score_features
from otmetrics.features import FrozenExtractor, Preprocessing
from otmetrics.images import files, open_input
from otmetrics.scoring import cache
from otmetrics.scoring import image_features as module
from otmetrics.scoring.cache import cache_folder

NUM = 40
PIXELS = np.random.default_rng(0).integers(0, 256, (NUM, 6, 7, 3), dtype=np.uint8)


def age(folder, seconds=60):
    """Let files look settled."""
    for path in Path(folder).rglob("*"):
        os.utime(path, (time.time() - seconds,) * 2)


def shards():
    """All files of the cache."""
    return sorted(cache_folder().glob("*/*.safetensors"))


class Slow(nn.Module):
    """A network that takes a moment an image, so that a kill finds it at work."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 16))
        self.seconds = seconds

    def forward(self, images):
        time.sleep(self.seconds * len(images))
        return self.layers(images)


def extractor(seconds: float = 0.0) -> FrozenExtractor:
    return FrozenExtractor(Slow(seconds), Preprocessing(size=8), "slow")


def features(folder: Path, *, seconds: float = 0.0, shard: int = 8, progress=None, **options):
    """Features of a folder, kept in shards of a few images."""
    cache.SHARD_IMAGES = shard
    source = open_input(folder)
    reading = module.Reading(**{"batch_size": 4, "cache": True} | options)
    pick = list(range(len(source)))
    return module.image_features(source, folder, pick, extractor(seconds), reading, progress)


def scores(found: torch.Tensor) -> dict[str, float]:
    """Scores of features against others."""
    other = torch.randn(NUM, 16, generator=torch.Generator().manual_seed(0))
    names = ("sliced_wasserstein", "frechet_distance")
    # Quick ones: those who kill this process want to meet it among the images.
    scoring = Scoring(metrics=names, floor=False, interval=False)
    report = score_features(found, other, scoring=scoring)
    return {name: score.value for name, score in report.scores.items()}


def main(folder: str, cache: str, result: str, seconds: float) -> None:
    """Extract, and write what came of it; how many images are done stands beside it meanwhile."""
    torch.set_num_threads(1)
    files.SETTLED_SECONDS = 0.0
    os.environ["OTMETRICS_CACHE"] = cache
    done = Path(result).with_suffix(".done")
    found = features(
        Path(folder),
        seconds=seconds,
        progress=lambda task, count, total: done.write_text(f"{count}"),
    )
    content = {"features": found.features.tolist(), "cached": found.num_cached}
    content["scores"] = scores(found.features)
    partial = Path(result).with_suffix(".partial")
    partial.write_text(json.dumps(content))
    partial.replace(result)


if __name__ == "__main__":
    main(*sys.argv[1:4], seconds=float(sys.argv[4]))
