"""The distance over several processes, the same number as in one.

    python docs/examples/torchrun_eval.py [--feature pixels]
    torchrun --nproc-per-node 2 docs/examples/torchrun_eval.py

Each rank takes every world-th sample, so shares may be uneven. A DistributedSampler would repeat
samples to make them even, and repeated samples move a distance.
"""

import os
from argparse import ArgumentParser, RawTextHelpFormatter

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, Subset, TensorDataset

import otmetrics


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawTextHelpFormatter)
    parser.add_argument("--feature", default="efficientnet_lite0", help="or pixels, inception, ...")
    parser.add_argument("--samples", type=int, default=101, help="images per side (%(default)s)")
    options = parser.parse_args()
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
    if world > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")

    grey = torch.tensor(load_digits().images[: options.samples]) / 16 * 255
    real = grey.round().to(torch.uint8)[:, None].expand(-1, 3, -1, -1)
    # Stands for a generator: noisy copies, the same on every rank.
    noise = torch.randn(real.shape, generator=torch.Generator().manual_seed(0))
    fake = (real + 40 * noise).clamp(0, 255).to(torch.uint8)
    share = Subset(TensorDataset(real, fake), range(rank, options.samples, world))

    metric = otmetrics.WassersteinFeatureDistance(options.feature).to(device)
    for real_batch, fake_batch in DataLoader(share, batch_size=16):
        metric.update(real_batch.to(device), real=True)
        metric.update(fake_batch.to(device), real=False)
    value = metric.compute()  # gathers the ranks; all of them must call it
    print(f"rank {rank}: {value:.6f}, {metric.protocol['sizes']['real']} real samples")
    if world > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
