"""Images a second from files to features, and what each part may take: Markdown on stdout.

    python docs/benchmarks/extract.py --cifar ../shared/data/cifar10_12k.npz [--repeats 3]

Folders of real images: 2000 of 32 x 32 as PNG (CIFAR-10 by `--cifar`, an `.npz` with an entry of
uint8 images; without it, crops of photographs), and 500 crops each of 256 x 256 and of 400 x 300 of
two photographs as JPEG. Two networks: `efficientnet_lite0` with its weights, and `inception` with
random ones, as speed does not depend on them. All in one process, in turns, medians of the rounds;
no loading of weights in any of them, but in its own line.

- peer: for `efficientnet_lite0` timm's model in eager mode behind timm's own transform; for
  `inception` torch-fidelity's own extraction. Both with their DataLoader of two workers.
- ours: from files to features as `otmetrics extract --no-cache` does it, but for the list of files.
- bare: our runtime on inputs that lie in memory, without reading, decoding or resizing.
"""

import argparse
import contextlib
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch.utils.data import DataLoader, Dataset

from otmetrics import load_extractor
from otmetrics.features import FrozenExtractor, pipeline
from otmetrics.images import ImageFolder, Readers, batches

BATCH = 32
PARTS = {"efficientnet_lite0": 500, "inception": 150}  # images that the slower ones get a round


class Files(Dataset):
    """The files of a folder through a transform, for a DataLoader."""

    def __init__(self, folder: Path, transform: Callable, num: int) -> None:
        self.paths, self.transform = sorted(folder.iterdir())[:num], transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.transform(Image.open(self.paths[index]).convert("RGB"))


def write_images(root: Path, cifar: Path | None, num: int) -> dict[str, Path]:
    """Real images: `num` small ones as PNG, a quarter as many of each larger size as JPEG."""
    generator = np.random.default_rng(0)

    def crop(height: int, width: int) -> np.ndarray:
        image = photographs[generator.integers(len(photographs))]
        top = generator.integers(image.shape[0] - height + 1)
        left = generator.integers(image.shape[1] - width + 1)
        return image[top : top + height, left : left + width]

    photographs = load_sample_images().images
    if cifar is not None:
        with np.load(cifar, allow_pickle=False) as archive:
            images = next(a for a in map(archive.get, archive.files) if a.ndim == 4)[:num]
    else:
        images = [crop(32, 32) for _ in range(num)]
    folders = {
        name: root / name for name in ("32 x 32 png", "256 x 256 jpg", "400 x 300 jpg", "weights")
    }
    for folder in folders.values():
        folder.mkdir()
    for index, image in enumerate(images):
        Image.fromarray(image).save(folders["32 x 32 png"] / f"{index:05d}.png")
    for index in range(num // 4):
        name = f"{index:05d}.jpg"
        Image.fromarray(crop(256, 256)).save(folders["256 x 256 jpg"] / name, quality=95)
        Image.fromarray(crop(300, 400)).save(folders["400 x 300 jpg"] / name, quality=95)
    return folders


def random_inception(path: Path) -> None:
    """Weights of the right shapes, with the classifier that torch-fidelity asks for."""
    from torch_fidelity import feature_extractor_inceptionv3 as blocks

    from otmetrics.features.inception import _network

    torch.manual_seed(0)
    state = _network(blocks).state_dict()
    torch.save(state | {"fc.weight": torch.randn(1008, 2048), "fc.bias": torch.zeros(1008)}, path)


def timm_extraction(extractor: FrozenExtractor, folder: Path, num: int) -> Callable[[], int]:
    """timm's network as it comes, on the same weights."""
    import timm

    network = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0).eval()
    network.load_state_dict(extractor.network.state_dict())
    config = timm.data.resolve_model_data_config(network)
    files = Files(folder, timm.data.create_transform(**config, is_training=False), num)

    @torch.inference_mode()
    def extract() -> int:
        loader = DataLoader(files, batch_size=BATCH, num_workers=2)
        return len(torch.cat([network(images) for images in loader]))

    return extract


def fidelity_extraction(weights: Path, folder: Path, num: int) -> Callable[[], int]:
    """torch-fidelity's extraction, on its own network."""
    from torch_fidelity.datasets import TransformPILtoRGBTensor
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    from torch_fidelity.utils import get_featuresdict_from_dataset

    network = FeatureExtractorInceptionV3(
        "inception", ["2048"], feature_extractor_weights_path=str(weights)
    ).eval()
    files = Files(folder, TransformPILtoRGBTensor(), num)

    def extract() -> int:
        found = get_featuresdict_from_dataset(files, network, BATCH, False, False, False)
        return len(found["2048"])

    return extract


def our_extraction(extractor: FrozenExtractor, folder: Path, num: int) -> Callable[[], int]:
    """Reading threads, pipeline and network, as the command line runs them."""

    def extract() -> int:
        source, work = ImageFolder(folder), pipeline(extractor, BATCH)
        stream = batches(
            source,
            transform=work.prepare,
            batch_size=BATCH,
            indices=range(min(num, len(source))),
            readers=Readers(work.num_threads),
            uniform=work.uniform,
        )
        return sum(map(len, work.features(stream)))

    return extract


def bare_network(extractor: FrozenExtractor, num: int) -> Callable[[], int]:
    """The runtime alone."""
    size = extractor.preprocessing.size
    inputs = torch.rand(min(num, 256), 3, size, size) * 2 - 1

    @torch.no_grad()
    def extract() -> int:
        return sum(len(extractor.features(inputs)) for _ in range(max(1, num // len(inputs))))

    return extract


def rate(call: Callable[[], int]) -> float:
    """Images a second."""
    start = time.perf_counter()
    return call() / (time.perf_counter() - start)


@contextlib.contextmanager
def folders(cifar: Path | None, num: int) -> Iterator[dict[str, Path]]:
    """Folders of images and one of weights, for as long as they are needed."""
    with tempfile.TemporaryDirectory() as root:
        made = write_images(Path(root), cifar, num)
        random_inception(made["weights"] / "inception.pth")
        yield made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cifar", type=Path, help=".npz with real images of 32 x 32")
    parser.add_argument("--num", type=int, default=2000, help="small images (%(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="rounds (%(default)s)")
    parser.add_argument("--networks", default="efficientnet_lite0,inception")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print("| network | images | peer | ours | bare | ours / peer | ours / bare |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    starts = []
    with folders(options.cifar, options.num) as images:
        weights = images.pop("weights") / "inception.pth"
        for name in options.networks.split(","):
            start = time.perf_counter()
            extractor = load_extractor(name, weights=weights if name == "inception" else None)
            extractor(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
            starts.append(f"{name} {time.perf_counter() - start:.1f} s, {extractor.runtime_name}")
            part = PARTS[name]
            for kind, folder in images.items():
                if name == "inception":
                    peer = fidelity_extraction(weights, folder, part)
                    ours = our_extraction(extractor, folder, 2 * part)
                else:
                    peer = timm_extraction(extractor, folder, part)
                    ours = our_extraction(extractor, folder, options.num)
                calls = (peer, ours, bare_network(extractor, 2 * part))
                rounds = [[rate(call) for call in calls] for _ in range(options.repeats)]
                them, us, net = (statistics.median(one) for one in zip(*rounds, strict=True))
                ratios = f"{us / them:.1f} | {us / net:.2f}"
                print(
                    f"| {name} | {kind} | {them:.1f}/s | {us:.1f}/s | {net:.1f}/s | {ratios} |",
                    flush=True,
                )
    print("\nFrom nothing to the first features: " + "; ".join(starts) + ".")


if __name__ == "__main__":
    main()
