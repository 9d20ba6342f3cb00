"""A plain PyTorch loop that watches the distance of a generator to its data fall.

    python docs/examples/plain_loop.py [--feature pixels]

The generator is a Gaussian with learnt mean and deviation a pixel, its data the 8 x 8 digits of
scikit-learn. Real features are extracted once and kept over all epochs.
"""

import argparse

import torch
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader

import otmetrics


def digits() -> torch.Tensor:
    """uint8 images (1797, 3, 8, 8)."""
    grey = torch.tensor(load_digits().images) / 16 * 255
    return grey.round().to(torch.uint8)[:, None].expand(-1, 3, -1, -1)


def samples(mean: torch.Tensor, deviation: torch.Tensor, count: int) -> torch.Tensor:
    """uint8 images, what the generator would save."""
    values = mean + deviation * torch.randn(count, *mean.shape)
    return (values.clamp(0, 1) * 255).round().to(torch.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--feature", default="efficientnet_lite0", help="or pixels, inception, ...")
    parser.add_argument("--samples", type=int, default=128, help="images a side")
    parser.add_argument("--epochs", type=int, default=3)
    options = parser.parse_args()
    torch.manual_seed(0)
    images = digits()[: options.samples]
    loader = DataLoader(images, batch_size=32)

    metric = otmetrics.WassersteinFeatureDistance(options.feature, reset_real_features=False)
    for batch in loader:
        metric.update(batch, real=True)

    mean, deviation = torch.zeros(3, 8, 8), torch.ones(3, 8, 8)
    target = images / 255
    for epoch in range(options.epochs):
        mean = mean.lerp(target.mean(0), 0.5)  # stands for an epoch of training
        deviation = deviation.lerp(target.std(0), 0.5)
        metric.reset()  # forgets the fake side only
        for batch in loader:
            metric.update(samples(mean, deviation, len(batch)), real=False)
        print(f"epoch {epoch}: {metric.compute():.4f}")
    result = metric.result()
    print(f"{result.value:.4f} ± {result.standard_error:.4f}, {result.message}")


if __name__ == "__main__":
    main()
