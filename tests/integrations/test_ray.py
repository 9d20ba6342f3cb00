"""A local cluster of Ray gives the summary of one process."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from otmetrics.summaries.keeping import Keeping
from otmetrics.summaries.summary import Summary

# In a process of its own: Ray's threads and warnings are not those of the other tests.
SCRIPT = """
import sys
import numpy as np
import ray
import ray.data
from otmetrics.integrations.ray import Summarize
from otmetrics.summaries.keeping import Keeping

ray.init(num_cpus=2, include_dashboard=False)
features = np.load("features.npy")
rows = [
    {"features": row, "path": f"{i}.png", "class": i % 3} for i, row in enumerate(features)
]
dataset = ray.data.from_items(rows, override_num_blocks=5)
keeping = Keeping(samples=40, num_projections=16)
aggregate = Summarize("features", names="path", labels="class", keeping=keeping)
dataset.aggregate(aggregate)["summary"].save("parts.npz")
"""


@pytest.mark.ray
def test_summary_of_a_dataset_is_that_of_one_process(tmp_path):
    pytest.importorskip("ray.data", reason="ray is not installed")
    features = np.random.default_rng(0).normal(size=(500, 6)).astype(np.float32)
    np.save(tmp_path / "features.npy", features)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr

    found = Summary.load(tmp_path / "parts.npz")
    one = Summary.of(
        torch.from_numpy(features),
        names=[f"{i}.png" for i in range(500)],
        labels=[str(i % 3) for i in range(500)],
        keeping=Keeping(samples=40, num_projections=16),
    )
    assert found.count == one.count
    assert found.fingerprint == one.fingerprint
    torch.testing.assert_close(found.mean, one.mean, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.covariance, one.covariance, rtol=0, atol=1e-12)
    assert torch.equal(found.sketch.counts, one.sketch.counts)
    assert torch.equal(found.samples.features, one.samples.features)
    assert found.samples.names == one.samples.names
    assert found.samples.labels == one.samples.labels
