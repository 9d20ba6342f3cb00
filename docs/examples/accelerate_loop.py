"""Evaluate under Hugging Face Accelerate, on one process or many.

    python docs/examples/accelerate_loop.py
    torchrun --nproc-per-node 2 docs/examples/accelerate_loop.py --cpu
    accelerate launch --num_processes 2 docs/examples/accelerate_loop.py

The last is for two GPUs: without MPI, `accelerate launch --cpu` starts one process whatever number
it is given. Each process updates with its own batches and `compute` brings the processes together.
"""

from argparse import ArgumentParser, RawTextHelpFormatter

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

import otmetrics


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawTextHelpFormatter)
    parser.add_argument("--feature", default="efficientnet_lite0", help="or pixels, inception, ...")
    parser.add_argument("--samples", type=int, default=101, help="images per side (%(default)s)")
    parser.add_argument("--cpu", action="store_true", help="even where there is a GPU")
    options = parser.parse_args()
    # By default Accelerate repeats samples until all processes have equally many, and repeated
    # samples move a distance.
    accelerator = Accelerator(
        cpu=options.cpu, dataloader_config=DataLoaderConfiguration(even_batches=False)
    )
    grey = torch.tensor(load_digits().images[: options.samples]) / 16 * 255
    real = grey.round().to(torch.uint8)[:, None].expand(-1, 3, -1, -1)
    # Stands for a generator: noisy copies, the same on every process.
    noise = torch.randn(real.shape, generator=torch.Generator().manual_seed(0))
    fake = (real + 40 * noise).clamp(0, 255).to(torch.uint8)
    loader = accelerator.prepare(DataLoader(TensorDataset(real, fake), batch_size=16))

    metric = otmetrics.WassersteinFeatureDistance(options.feature).to(accelerator.device)
    for real_batch, fake_batch in loader:
        # No gather_for_metrics: each process would add all samples, and `compute`, which brings
        # the processes together itself, would count every sample once a process.
        metric.update(real_batch, real=True)
        metric.update(fake_batch, real=False)
    value = metric.compute()
    sizes = metric.protocol["sizes"]
    # All processes have the same value; in your code accelerator.print says it once.
    print(f"process {accelerator.process_index}: {value:.6f}, {sizes['real']} real samples")
    accelerator.end_training()


if __name__ == "__main__":
    main()
