"""The file of a summary: a plain `.npz`, of which others read the mean and covariance."""

import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from otmetrics.checks import checked_cloud
from otmetrics.errors import DataError
from otmetrics.images.arrays import entry_names, loaded_entries
from otmetrics.images.damage import name_errors
from otmetrics.images.opening import open_input
from otmetrics.images.statistics import Statistics, checked_statistics
from otmetrics.safe_files import replace_file, writing
from otmetrics.summaries.chosen import ChosenSamples, keys_of_names
from otmetrics.summaries.keeping import Keeping
from otmetrics.summaries.records import checked_record
from otmetrics.transport.sliced.sketch import NUM_BINS, Sketch

_RECORD = "summary"  # the entry that no other program writes
_VERSION = 1
_COMPRESSED = ("sketch_counts", "names", "labels", _RECORD)  # features hardly shrink
_BORN = (1980, 1, 1, 0, 0, 0)  # the date of all entries: equal summaries give equal bytes
_MOST = 2**53  # samples, that float64 counts
_FORMAT_REMEDY = "write it again with `otmetrics summarize`"


def write_fields(fields: Mapping[str, Any], path: Path) -> None:
    """Write the fields of a summary in place of what is there."""
    with writing(path), replace_file(path) as file, zipfile.ZipFile(file, "w") as archive:
        for name, array in entries_of(fields).items():
            _add_entry(archive, name, array)


def entries_of(fields: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The fields of a summary as arrays."""
    entries = {"mu": fields["mean"].numpy(), "sigma": fields["covariance"].numpy()}
    sketch, samples = fields["sketch"], fields["samples"]
    if sketch is not None:
        entries["sketch_counts"] = sketch.counts.numpy()
        entries["sketch_window"] = sketch.window.numpy()
    if samples is not None:
        entries["samples"] = samples.features.numpy()
        entries["keys"] = samples.keys.numpy()
        for name in ("names", "labels"):
            texts = getattr(samples, name)
            if texts is not None:
                # Arrays of text lose the NULs that a text ends in.
                entries[name] = np.array(json.dumps(texts, ensure_ascii=False))
    record = {
        "version": _VERSION,
        "keeping": asdict(fields["keeping"]),
        "fingerprint": f"{fields['fingerprint']:016x}",
    }
    record |= {name: fields[name] for name in ("count", "extractor", "source")}
    entries[_RECORD] = np.array(json.dumps(record, default=int))  # numbers of numpy
    return entries


def _add_entry(archive: zipfile.ZipFile, name: str, array: np.ndarray) -> None:
    """Add an array as numpy does, under a date that does not change."""
    info = zipfile.ZipInfo(f"{name}.npy", _BORN)
    info.compress_type = zipfile.ZIP_DEFLATED if name in _COMPRESSED else zipfile.ZIP_STORED
    info.external_attr = 0o600 << 16
    with archive.open(info, "w", force_zip64=True) as entry:
        np.lib.format.write_array(entry, np.asarray(array, order="C"), allow_pickle=False)


def write_foreign(mean: Tensor, covariance: Tensor, features: Tensor | None, path: Path) -> None:
    """Write mean and covariance alone, as pytorch-fid does; with features as clean-fid does."""
    entries: dict[str, Any] = {"mu": mean.numpy(), "sigma": covariance.numpy()}
    if features is not None:
        entries["feats"] = features.numpy()
    with writing(path), replace_file(path) as file:
        np.savez(file, **entries)


def is_summary(path: Path) -> bool:
    """Whether a file is the summary of this library, by what it holds."""
    return path.is_file() and _RECORD in entry_names(path)


def read_fields(path: Path) -> dict[str, Any]:
    """The fields of a summary, from a file that any program may have written."""
    if not is_summary(path):
        return _fields_of_others(path)
    entries = loaded_entries(path)
    with name_errors(path, "is no summary that otmetrics wrote", _FORMAT_REMEDY):
        return fields_of(entries, path)


def _fields_of_others(path: Path) -> dict[str, Any]:
    """What is known of a mean and covariance in a file of another program."""
    found: Any = getattr(open_input(path), "moments", None)
    if found is None:
        raise DataError(f"`{path}` is no summary: {_FORMAT_REMEDY}.")
    return {
        "count": found.count,
        "mean": torch.from_numpy(found.mean),
        "covariance": torch.from_numpy(found.covariance),
        "keeping": Keeping(samples=0, sketch=False),
        "source": {"path": str(path), "kind": "statistics"},
    }


def fields_of(entries: Mapping[str, np.ndarray], path: str | Path = "") -> dict[str, Any]:
    """The fields that arrays hold; whatever they break is an error of any kind."""
    record = json.loads(str(entries[_RECORD]))
    if not isinstance(record, dict) or record.get("version") != _VERSION:
        raise DataError(f"is a summary of another version than {_VERSION}: {_FORMAT_REMEDY}.")
    count = record["count"]
    if count is not None and (type(count) is not int or not 0 <= count <= _MOST):
        raise DataError(f"says that it is of {count!r} samples: {_FORMAT_REMEDY}.")

    extractor, source = checked_record(record, path)
    keeping = Keeping(**record["keeping"])
    told = Statistics(entries["mu"], entries["sigma"], count, "a summary")
    statistics = checked_statistics(told)
    mean, covariance = statistics.mean, statistics.covariance
    return {
        "count": count,
        "mean": torch.from_numpy(mean),
        "covariance": torch.from_numpy(covariance),
        "sketch": _sketch(entries, keeping, count),
        "samples": _samples(entries, keeping, count, len(mean)),
        "keeping": keeping,
        "extractor": extractor,
        "source": source,
        "fingerprint": int(record["fingerprint"], 16) % 2**64,
    }


def _sketch(
    entries: Mapping[str, np.ndarray], keeping: Keeping, count: int | None
) -> Sketch | None:
    """The histograms, if they are of so many samples along so many directions."""
    if not keeping.sketch:
        return None
    memory = {
        "counts": torch.from_numpy(entries["sketch_counts"]),
        "window": torch.from_numpy(entries["sketch_window"]),
    }
    store = keeping.histograms
    forms = {
        "counts": ((keeping.num_projections, NUM_BINS), torch.int32),
        "window": ((keeping.num_projections, 3), torch.int64),
    }
    for name, value in memory.items():
        if (tuple(value.shape), value.dtype) != forms[name]:
            raise DataError(f"has histograms of another form: {_FORMAT_REMEDY}.")
    store.check(memory)
    if count is not None and store.count(memory) != count:
        raise DataError(f"has histograms of other samples than it says: {_FORMAT_REMEDY}.")
    return store.collect(memory)


def _samples(
    entries: Mapping[str, np.ndarray], keeping: Keeping, count: int | None, dimension: int
) -> ChosenSamples | None:
    """The chosen samples, as many as there must be, in their order."""
    if not keeping.samples:
        return None
    features, keys = torch.from_numpy(entries["samples"]), torch.from_numpy(entries["keys"])
    size = len(features)
    texts = {name: _texts(entries.get(name)) for name in ("names", "labels")}
    whole = count is None or size == min(count, keeping.samples)
    is_sound = (
        features.ndim == 2
        and features.shape[1] == dimension
        and features.dtype in (torch.float32, torch.float64)
        and whole
        and (keys.shape, keys.dtype) == ((size,), torch.int64)
        and (size == 0 or int(keys.min()) >= 0)
        and all(text is None or len(text) == size for text in texts.values())
    )
    if not is_sound:
        raise DataError(f"has samples that do not fit the rest: {_FORMAT_REMEDY}.")
    if size:
        checked_cloud("samples", features)
    if texts["names"] is not None and not torch.equal(keys_of_names(texts["names"]), keys):
        raise DataError(f"has keys that are not those of its names: {_FORMAT_REMEDY}.")
    return ChosenSamples(features, keys, **texts).lowest(size, keeping.seed)


def _texts(entry: np.ndarray | None) -> tuple[str, ...] | None:
    """Names or classes, where there are any."""
    if entry is None:
        return None
    texts = json.loads(str(entry))
    if not isinstance(texts, list) or not all(isinstance(one, str) for one in texts):
        raise DataError(f"has names or labels that are no text: {_FORMAT_REMEDY}.")
    return tuple(texts)
