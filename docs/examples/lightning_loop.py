"""Metrics as attributes of a LightningModule, logged by the Trainer.

    python docs/examples/lightning_loop.py [--feature pixels]
    python docs/examples/lightning_loop.py --epochs 1 --save digits.ckpt
    python docs/examples/lightning_loop.py --epochs 2 --resume digits.ckpt

Lightning moves the metrics, computes them once at the end of the validation epoch over all ranks,
and resets them. Update them in `validation_step` and log the objects, never their values. With
several devices also set use_distributed_sampler=False, and give each rank its own share of the data
as torchrun_eval.py does: Lightning's sampler repeats samples.
"""

from argparse import ArgumentParser, RawTextHelpFormatter

import lightning
import torch
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader
from torchmetrics import MetricCollection

import otmetrics


class Generator(lightning.LightningModule):
    """Gaussian pixels, fitted by gradient descent."""

    def __init__(self, feature: str) -> None:
        super().__init__()
        self.mean = torch.nn.Parameter(torch.zeros(3, 8, 8))
        # Leave reset_real_features=True: the sanity check and every epoch bring the real images
        # again. States stay out of checkpoints unless made persistent, so that a resumed run
        # starts from empty metrics and counts nothing twice.
        self.distance = otmetrics.WassersteinFeatureDistance(feature)
        self.others = MetricCollection(
            [otmetrics.FrechetFeatureDistance(feature), otmetrics.KernelFeatureDistance(feature)],
            prefix="val/",
        )
        self.shares = otmetrics.PrecisionRecall(feature)

    def forward(self, count: int, seed: int) -> torch.Tensor:
        noise = torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
        values = self.mean + 0.2 * noise.to(self.device)
        return (values.clamp(0, 1) * 255).round().to(torch.uint8)

    def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
        return (self.mean - batch / 255).square().mean()

    def validation_step(self, batch: torch.Tensor, index: int) -> None:
        # Metrics inside, sides outside: an extractor remembers its two latest batches, and so sees
        # each once.
        for images, real in ((batch, True), (self(len(batch), seed=index), False)):
            for metric in (self.distance, self.others, self.shares):
                metric.update(images, real=real)
        self.log("val/distance", self.distance)
        self.log_dict(self.others)

    def on_validation_epoch_end(self) -> None:
        # Lightning logs objects of one value only: compute and reset those that give several.
        shares = self.shares.compute()
        self.log_dict({f"val/{name}": value for name, value in shares.items()})
        self.shares.reset()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.05)


def main(arguments: list[str] | None = None) -> tuple[Generator, dict[str, torch.Tensor]]:
    parser = ArgumentParser(description=__doc__, formatter_class=RawTextHelpFormatter)
    parser.add_argument("--feature", default="efficientnet_lite0", help="or pixels, inception, ...")
    parser.add_argument("--samples", type=int, default=32, help="images per side (%(default)s)")
    parser.add_argument("--epochs", type=int, default=2, help="in all (%(default)s)")
    parser.add_argument("--save", metavar="PATH", help="checkpoint to write at the end")
    parser.add_argument("--resume", metavar="PATH", help="checkpoint to go on from")
    options = parser.parse_args(arguments)
    lightning.seed_everything(0, verbose=False)
    grey = torch.tensor(load_digits().images[: options.samples]) / 16 * 255
    images = grey.round().to(torch.uint8)[:, None].expand(-1, 3, -1, -1)
    loader = DataLoader(images, batch_size=16)
    model = Generator(options.feature)
    trainer = lightning.Trainer(
        max_epochs=options.epochs,
        accelerator="auto",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, loader, loader, ckpt_path=options.resume)
    if options.save:
        trainer.save_checkpoint(options.save)
    for name, value in sorted(trainer.callback_metrics.items()):
        print(f"{name}: {value:.4f}")
    return model, trainer.callback_metrics


if __name__ == "__main__":
    main()
