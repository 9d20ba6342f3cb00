"""Train a small generator in plain PyTorch and watch its distance to the data fall.

    python docs/examples/plain_loop.py
    python docs/examples/plain_loop.py --feature pixels --samples 32

The generator learns the 8 x 8 digits of scikit-learn; its loss is the sliced cost between pixels,
its score the distance between features. Read the score next to that of real images against other
real images, the first line: no generator is expected to get below it.
"""

from argparse import ArgumentParser, RawTextHelpFormatter

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import otmetrics


def to_images(grey: Tensor) -> Tensor:
    """Grey values (N, 64) in [0, 1] as uint8 images (N, 3, 8, 8); any size is welcome."""
    return (grey.reshape(-1, 1, 8, 8) * 255).round().to(torch.uint8).expand(-1, 3, -1, -1)


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawTextHelpFormatter)
    parser.add_argument("--feature", default="efficientnet_lite0", help="or pixels, inception, ...")
    parser.add_argument("--samples", type=int, default=48, help="images per side (%(default)s)")
    parser.add_argument("--epochs", type=int, default=3, help="of training (%(default)s)")
    options = parser.parse_args()
    torch.manual_seed(0)
    digits = torch.tensor(load_digits().data, dtype=torch.float32) / 16
    digits = digits[torch.randperm(len(digits))]
    generator = nn.Sequential(nn.Linear(16, 128), nn.ReLU(), nn.Linear(128, 64), nn.Sigmoid())
    optimizer = torch.optim.Adam(generator.parameters(), lr=3e-3)

    # Real features are extracted here, once: `reset` forgets the fake side only.
    metric = otmetrics.WassersteinFeatureDistance(options.feature, reset_real_features=False)
    for batch in digits[: options.samples].split(32):
        metric.update(to_images(batch), real=True)
    for batch in digits[options.samples : 2 * options.samples].split(32):
        metric.update(to_images(batch), real=False)
    print(f"other real images: {metric.compute():.4f}")

    # One set of latents for all epochs: a change of the score is then one of the generator.
    latents = torch.randn(options.samples, 16)
    for epoch in range(1, options.epochs + 1):
        for step, batch in enumerate(digits.split(64)):
            fake = generator(torch.randn(len(batch), 16))
            # Fresh directions each step; the cost, unlike its root, has a gradient at zero.
            sliced = otmetrics.Sliced(num_projections=64, seed=1000 * epoch + step)
            optimizer.zero_grad()
            sliced.solve(batch, fake).cost.backward()
            optimizer.step()
        metric.reset()
        with torch.no_grad():
            for latent in latents.split(32):
                metric.update(to_images(generator(latent)), real=False)
        print(f"epoch {epoch}: {metric.compute():.4f}")
    result = metric.result()  # of the same samples; nothing is solved again
    print(f"{result.value:.4f} ± {result.standard_error:.4f}, {result.message}")


if __name__ == "__main__":
    main()
