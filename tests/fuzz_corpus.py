"""One small, sound input of every kind that the command line takes, and how it is run."""

import io
import json
import pickle
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

NUM = 6
SIDE = 16
PIXELS = ("--features", "pixels")
SLICED = ("--metrics", "sliced_wasserstein", "--num-projections", "16", "--no-floor", "--json")
TIMM = "timm:test_vit"


@dataclass(frozen=True)
class Kind:
    """A kind of input.

    Attributes:
        name: What to call it.
        build: Writes a sound input into a folder; what is mutated is one of its files.
        arguments: Of the command line, run beside the folder `in`; `{shared}` is where files
            lie that are never mutated.
        pattern: Which files are mutated.
        checked: Whether damage can be known from the file, by checksums or otherwise: then another
            value must come with another note or count.
        same: Whether the value must be that of the sound input whatever happens.
        weight: Its share of the cases.
        environment: Variables of the run.
        refused: Whether the sound input is refused, by design.
    """

    name: str
    build: Callable[[Path], None]
    arguments: tuple[str, ...]
    pattern: str = "*"
    checked: bool = False
    same: bool = False
    weight: float = 1.0
    environment: dict[str, str] = field(default_factory=dict)
    refused: bool = False


def pictures(count: int, seed: int) -> np.ndarray:
    """Smooth random pictures (N, H, W, 3)."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 4, 4, 3))
    return np.repeat(np.repeat(coarse, SIDE // 4, 1), SIDE // 4, 2).astype(np.uint8)


def features(count: int, seed: int) -> np.ndarray:
    """Gaussian features (N, 5)."""
    return np.random.default_rng(seed).normal(0.1 * seed, 1, (count, 5)).astype(np.float32)


def encoded(pixels: np.ndarray, kind: str, index: int = 0) -> bytes:
    """A file of one picture, in one of several modes."""
    image = Image.fromarray(pixels)
    options: dict[str, object] = {}
    if kind in {"PNG", "TIFF", "BMP", "GIF"} and index % 3 == 1:
        image = image.convert("L" if index % 2 else "P")
    if kind in {"PNG", "WEBP", "TIFF"} and index % 3 == 2:
        image = image.convert("RGBA")
    if kind in {"PNG", "JPEG", "WEBP"} and index % 2:
        exif = Image.Exif()
        exif[0x0112] = 6
        options["exif"] = exif
    if kind == "TIFF":
        options["compression"] = ("tiff_lzw", "raw", "tiff_adobe_deflate")[index % 3]
    if kind == "GIF" and index == 0:
        options |= {"save_all": True, "append_images": [Image.fromarray(255 - pixels)]}
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def members(suffix: str = "png") -> list[tuple[str, bytes]]:
    """Names and contents of picture files in classes."""
    files = enumerate(pictures(NUM, 2))
    return [(f"{'ab'[i % 2]}/{i:03d}.{suffix}", encoded(image, "PNG", i)) for i, image in files]


def _folder(suffix: str, kind: str) -> Callable[[Path], None]:
    def build(place: Path) -> None:
        for index, image in enumerate(pictures(NUM, 2)):
            (place / f"{index:03d}.{suffix}").write_bytes(encoded(image, kind, index))

    return build


def _zip(packed: int) -> Callable[[Path], None]:
    def build(place: Path) -> None:
        with zipfile.ZipFile(place / "x.zip", "w") as archive:
            for name, content in members():
                info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
                info.compress_type = packed
                archive.writestr(info, content)

    return build


def _tar(name: str, files: list[tuple[str, bytes]], mode: str = "w") -> Callable[[Path], None]:
    def build(place: Path) -> None:
        with tarfile.open(place / name, mode) as archive:
            for member, content in files:
                info = tarfile.TarInfo(member)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))

    return build


def _shards(place: Path) -> None:
    for shard in range(2):
        files = []
        for index, (_, content) in enumerate(members()[shard::2]):
            files += [(f"{index:04d}.png", content), (f"{index:04d}.cls", str(index % 2).encode())]
            files.append((f"{index:04d}.json", b'{"caption": "a"}'))
        _tar(f"{shard:02d}.tar", files)(place)


def _rows() -> list[dict[str, object]]:
    return [{"bytes": content, "path": name} for name, content in members()]


def _parquet(place: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({"image": _rows(), "label": [i % 2 for i in range(NUM)]})
    pyarrow.parquet.write_table(table, place / "train-00000-of-00001.parquet", row_group_size=4)


def _dataset(place: Path) -> None:
    import datasets

    kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])}
    columns = {"image": _rows(), "label": [i % 2 for i in range(NUM)]}
    table = datasets.Dataset.from_dict(columns, features=datasets.Features(kinds))
    table.save_to_disk(place)


def _list(place: Path) -> None:
    (place / "pictures").mkdir()
    names = [f"pictures/{index:03d}.png" for index in range(NUM)]
    for index, (name, image) in enumerate(zip(names, pictures(NUM, 2), strict=True)):
        (place / name).write_bytes(encoded(image, "PNG", index))
    (place / "list.txt").write_text("".join(f"{name}\n" for name in names))


def _npy(array: np.ndarray) -> Callable[[Path], None]:
    return lambda place: np.save(place / "x.npy", array)


def _npz(write: Callable[..., None], *arrays: object, **entries: object) -> Callable[[Path], None]:
    return lambda place: write(place / "x.npz", *arrays, **entries)


def _extracted(place: Path) -> None:
    """Features of pixels with their protocol and classes, as `extract` writes them."""
    from otmetrics.scoring.extraction import Extraction, extracted
    from otmetrics.scoring.feature_set import save_features

    options = Extraction(features="pixels", cache=False, device="cpu")
    (found,) = extracted([Path("../../shared/pictures")], options)
    save_features(found, place / "x.npz")


def _statistics(mean: str, covariance: str) -> dict[str, np.ndarray]:
    """Mean and covariance of features under two names."""
    cloud = features(40, 2).astype(np.float64)
    return {mean: cloud.mean(0), covariance: np.cov(cloud, rowvar=False)}


def _sums(all_features: bool) -> dict[str, object]:
    """What StyleGAN3 keeps."""
    cloud = features(40, 2).astype(np.float64)
    sums: dict[str, object] = {"raw_mean": cloud.sum(0), "raw_cov": cloud.T @ cloud}
    kept = [cloud[:30], cloud[30:]] if all_features else []
    return sums | {"num_items": 40, "num_features": 5, "all_features": kept}


def _pickled(value: object, protocol: int) -> Callable[[Path], None]:
    return lambda place: (place / "x.pkl").write_bytes(pickle.dumps(value, protocol)) and None


def _saved_by_torch(
    name: str, value: dict[str, np.ndarray], zipped: bool
) -> Callable[[Path], None]:
    def build(place: Path) -> None:
        import torch

        tensors = {key: torch.from_numpy(one) if zipped else one for key, one in value.items()}
        torch.save(tensors, place / name, _use_new_zipfile_serialization=zipped)

    return build


def _summary(count: int, seed: int) -> Callable[[Path], None]:
    """What is left of features with names and classes."""

    def build(place: Path) -> None:
        from otmetrics.summaries.keeping import Keeping
        from otmetrics.summaries.summary import Summary

        names = [f"{seed}/{index}.png" for index in range(count)]
        labels = [str(index % 2) for index in range(count)]
        keeping = Keeping(samples=20, num_projections=16)
        found = Summary.of(features(count, seed), names=names, labels=labels, keeping=keeping)
        found.save(place / "x.npz")

    return build


def _weights(suffix: str) -> Callable[[Path], None]:
    def build(place: Path) -> None:
        import timm
        import torch
        from safetensors.torch import save_file

        torch.manual_seed(0)
        state = timm.create_model(TIMM[5:], pretrained=False).state_dict()
        if suffix == "pth":
            torch.save(state, place / "x.pth")
        else:
            save_file(state, place / "x.safetensors")

    return build


def _cache(place: Path) -> None:
    """What a score of the shared pictures keeps."""
    from otmetrics.scoring.extraction import Extraction, extracted

    with _variable("OTMETRICS_CACHE", str(place)):
        options = Extraction(
            features=TIMM,
            weights="../../shared/x.pth",
            runtime="torch",
            cache=True,
            cache_verify=True,
            device="cpu",
        )
        extracted([Path("../../shared/pictures")], options)


class _variable:  # noqa: N801 - a with-statement reads better so
    """An environment variable for a while."""

    def __init__(self, name: str, value: str) -> None:
        self.name, self.value = name, value

    def __enter__(self) -> None:
        import os

        os.environ[self.name] = self.value

    def __exit__(self, *_: object) -> None:
        import os

        del os.environ[self.name]


def _run(stop: int | None) -> Callable[[Path], None]:
    """A run of a preset on points, whole or stopped behind a checkpoint."""

    def build(place: Path) -> None:
        from training_cases import Stopped, configured, points, run

        data = points()
        config = configured("swg", data, steps=6, width=8, eval_num=20, eval_every=3)
        try:
            run(config, data, place, stop=stop)
        except Stopped:
            assert stop

    return build


def _score(*inputs: str, options: tuple[str, ...] = PIXELS) -> tuple[str, ...]:
    return ("score", *inputs, *options, *SLICED)


FRESH = (*PIXELS, "--no-cache")
FOLDERS = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP", "bmp": "BMP", "tif": "TIFF", "gif": "GIF"}
RUN = ("--device", "cpu")


def _images(name: str, build: Callable[[Path], None], place: str, **rest: Any) -> Kind:
    """A kind that is scored as images against other ones."""
    return Kind(name, build, _score("{shared}/real.npy", place, options=FRESH), **rest)


def _features(name: str, build: Callable[[Path], None], *inputs: str, **rest: Any) -> Kind:
    """A kind that holds features."""
    return Kind(name, build, _score(*inputs, options=("--no-cache",)), checked=True, **rest)


def _moments(name: str, build: Callable[[Path], None], file: str, **rest: Any) -> Kind:
    """A kind that holds a mean and covariance."""
    inputs = ("{shared}/real_features.npy", f"in/{file}")
    options = ("--metrics", "frechet_distance", "--no-floor", "--json", "--no-cache")
    return Kind(name, build, ("score", *inputs, *options), weight=0.5, **rest)


def _network(weights: str, *more: str) -> tuple[str, ...]:
    """A score of few pictures by a small network."""
    named = ("--features", TIMM, "--weights", weights, "--runtime", "torch", *more)
    return _score("{shared}/two.npy", "{shared}/pictures", options=named)


def _kinds() -> Iterator[Kind]:
    """All kinds."""
    for suffix, kind in [*FOLDERS.items(), ("ppm", "PPM")]:
        yield _images(suffix, _folder(suffix, kind), "in", checked=kind == "PNG")
    skipping = _score("{shared}/real.npy", "in", options=(*FRESH, "--skip-corrupt"))
    yield Kind("skipped", _folder("png", "PNG"), skipping, checked=True)

    plain, labels = pictures(NUM, 2), np.array(list("aabbab"))
    packed = _npz(np.savez_compressed, images=plain, labels=labels)
    yield _images("npy", _npy(plain), "in/x.npy")
    yield _images("npz", packed, "in/x.npz", checked=True)
    yield _images("npz_stored", _npz(np.savez, plain), "in/x.npz", checked=True)

    cloud, real = features(40, 2), "{shared}/real_features.npy"
    yield Kind("npy_features", _npy(cloud), _score(real, "in/x.npy", options=()))
    yield _features("npz_features", _npz(np.savez, features=cloud), real, "in/x.npz")
    yield _features("npz_extracted", _extracted, "{shared}/extracted.npz", "in/x.npz")
    yield _features("summary", _summary(40, 2), real, "in/x.npz")
    merged = ("merge", "in/x.npz", "{shared}/summary/x.npz", "out.npz")
    yield Kind("summary_merged", _summary(40, 2), merged, weight=0.5)
    yield _features("npz_names_extractor", _extracted, "in/x.npz", "{shared}/pictures")

    pair, names = _statistics("mu", "sigma"), ("mean", "cov")
    spatial = {"mu_s": pair["mu"][:2], "sigma_s": pair["sigma"][:2, :2]}
    edm2 = {"num_images": 40, "fid": pair, "other": pair}
    legacy = _saved_by_torch("x.pth", _statistics(*names), zipped=False)
    yield _moments("npz_moments", _npz(np.savez, **pair, **spatial), "x.npz", checked=True)
    yield _moments("pt_moments", _saved_by_torch("x.pt", pair, zipped=True), "x.pt", checked=True)
    yield _moments("pth_moments", legacy, "x.pth")
    yield _moments("pkl_edm2", _pickled(edm2, 4), "x.pkl[fid]")
    yield _moments("pkl_sums", _pickled(_sums(False), 2), "x.pkl")
    every = _pickled(_sums(True) | {"raw_mean": None}, 5)
    yield Kind("pkl_features", every, _score(real, "in/x.pkl", options=("--no-cache",)))

    yield _images("zip", _zip(zipfile.ZIP_STORED), "in/x.zip", checked=True)
    yield _images("zip_deflated", _zip(zipfile.ZIP_DEFLATED), "in/x.zip", checked=True)
    yield _images("tar", _tar("x.tar", members()), "in/x.tar", checked=True)
    yield _images("tar_gz", _tar("x.tar.gz", members(), "w:gz"), "in/x.tar.gz", refused=True)
    yield _images("shards", _shards, "in/{{00..01}}.tar", checked=True)
    yield _images("parquet", _parquet, "in", checked=True)
    yield _images("dataset", _dataset, "in", checked=True)
    yield _images("list", _list, "in/list.txt", pattern="*.txt")

    pth, safe = (_network(f"in/x.{suffix}", "--no-cache") for suffix in ("pth", "safetensors"))
    yield Kind("weights_pth", _weights("pth"), pth, checked=True, weight=0.3)
    yield Kind("weights_safetensors", _weights("safetensors"), safe, weight=0.3)

    kept = {"OTMETRICS_CACHE": "in"}
    cached = _network("{shared}/x.pth", "--cache-verify")
    yield Kind("cache", _cache, cached, same=True, weight=0.3, environment=kept)
    yield Kind("cache_info", _cache, ("cache", "info"), weight=0.3, environment=kept)

    resumed = ("train", "swg", "--data", "ring8", "--out", "in", "--resume", "--no-tensorboard")
    one = {"pattern": "generator.safetensors"}
    files = "*[tnl]"  # checkpoint.pt, config.json, log.jsonl
    yield Kind("run_resumed", _run(4), (*resumed, *RUN), files, checked=True, weight=0.3)
    yield Kind("run_evaluated", _run(None), ("evaluate", "in", "--json", *RUN), weight=0.15, **one)
    yield Kind("run_sampled", _run(None), ("sample", "in", "out.npz", "--num", "10"), **one)


KINDS = list(_kinds())


def write_shared(place: Path) -> None:
    """Files that no case changes."""
    place.mkdir()
    np.save(place / "real.npy", pictures(8, 1))
    np.save(place / "two.npy", pictures(2, 3))
    np.save(place / "real_features.npy", features(30, 1))
    for name, content in members():
        path = place / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (place / "canary").mkdir()
    (place / "canary" / "fuzz_canary.py").write_text(
        "import os, pathlib\npathlib.Path(os.environ['FUZZ_CANARY']).touch()\n"
        "def net(*a, **k):\n    raise RuntimeError\n"
    )
    _weights("pth")(place)
    (place / "summary").mkdir()
    _summary(30, 1)(place / "summary")
    _extracted_shared(place)


def _extracted_shared(place: Path) -> None:
    from otmetrics.scoring.extraction import Extraction, extracted
    from otmetrics.scoring.feature_set import save_features

    options = Extraction(features="pixels", cache=False, device="cpu")
    (found,) = extracted([place / "real.npy"], options)
    save_features(found, place / "extracted.npz")


def summary(kind: Kind, out: str) -> tuple[dict[str, float], str] | None:
    """Scores of a run and all else that it says, without times and paths; None for no scores."""
    if "--json" not in kind.arguments:
        return None
    report = json.loads(out)
    scores = {name: score["value"] for name, score in report["scores"].items()}
    said = {"notes": report.get("notes"), "protocol": report.get("protocol", {}).get("inputs")}
    return scores, json.dumps(said, sort_keys=True)
