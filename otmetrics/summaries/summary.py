"""A summary: what one side of a comparison leaves behind, however many samples it had."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from otmetrics.checks import as_tensor, checked_cloud
from otmetrics.errors import Argument, DataError, OptionError
from otmetrics.safe_files import check_target
from otmetrics.statistics.frechet import Moments, merged_moments
from otmetrics.summaries.chosen import (
    ChosenSamples,
    digests_of,
    keys_of_names,
    keys_of_places,
    order_of,
)
from otmetrics.summaries.files import read_fields, write_fields, write_foreign
from otmetrics.summaries.keeping import PARTS, Keeping
from otmetrics.summaries.records import checked_record, merged_records
from otmetrics.summaries.stores import GaussianMoments
from otmetrics.transport.sliced.sketch import Sketch, merged_sketches

_ROWS_AT_A_TIME = 4096
FORMS = ("pytorch-fid", "clean-fid")
"""Other programs whose files `Summary.export` writes."""

_LARGEST = 2**64  # of fingerprints, which wrap around


@dataclass(frozen=True, eq=False)
class Summary:
    """What one side of a comparison leaves behind: it merges, it is saved, it is scored.

    Merging is associative and commutative, and gives what one pass over all samples gives: moments
    to rounding, histograms and the chosen samples to the bit, if samples have names.

    Attributes:
        count: Samples that it stands for; None where a file does not say.
        mean: Their mean (D,) in float64.
        covariance: Their covariance (D, D) in float64, with divisor count - 1; zeros for one.
        sketch: Histograms along directions; None where they are not kept.
        samples: The chosen samples; None where none are kept.
        keeping: What is kept, and how it is chosen.
        extractor: Protocol of the extractor; {"extractor": "none"} for bare features.
        source: The record of the input, JSON-able.
        fingerprint: What tells data apart: the same for the same samples in any order.

    Example:
        >>> features = torch.randn(1000, 4, generator=torch.Generator().manual_seed(0))
        >>> names = [f"{i}.png" for i in range(1000)]
        >>> parts = [Summary.of(features[i::3], names=names[i::3]) for i in range(3)]
        >>> merged = parts[2].merged(parts[0]).merged(parts[1])
        >>> merged.count, merged.fingerprint == Summary.of(features, names=names).fingerprint
        (1000, True)
    """

    count: int | None
    mean: Tensor
    covariance: Tensor
    sketch: Sketch | None = None
    samples: ChosenSamples | None = None
    keeping: Keeping = Keeping()
    extractor: dict[str, Any] = field(default_factory=lambda: {"extractor": "none"})
    source: dict[str, Any] = field(default_factory=dict)
    fingerprint: int = 0

    @classmethod
    def of(
        cls,
        features: Tensor | np.ndarray,
        *,
        names: Sequence[str] | None = None,
        labels: Sequence[str] | None = None,
        keeping: Keeping = Keeping(),
        extractor: dict[str, Any] | None = None,
        source: dict[str, Any] | None = None,
    ) -> "Summary":
        """Summarise features, in blocks: they may be mapped from a file larger than the memory.

        Args:
            features: Features (N, D), finite; N may be 0.
            names: Name of each sample, by which parts of the data agree on the samples to keep, as
                one pass would choose them. They must differ in all that is merged: samples of one
                name are kept together or not at all. Without names each call chooses for itself:
                as evenly, but other samples.
            labels: Class of each sample.
            keeping: What to keep.
            extractor: Protocol of the extractor.
            source: The record of the input.

        Returns:
            The summary. Time O(N D (D + L)), memory that of what is kept and of a few blocks.

        Raises:
            TypeError: If `features` are not floating.
            ValueError: If shapes do not match, or a value is not finite.
        """
        features = as_tensor("features", features, floating=True).detach()
        if features.ndim != 2 or not features.shape[1]:
            raise ValueError(f"`features` must have shape (N, D), got {tuple(features.shape)}.")
        if not isinstance(keeping, Keeping):
            raise TypeError(f"`keeping` must be a Keeping, got {type(keeping).__name__}.")
        names, labels = _texts("names", names, features), _texts("labels", labels, features)
        _check_records(extractor, source)

        moments, store = GaussianMoments(), keeping.histograms
        found, histograms, digests = moments.empty(), store.of(features[:0].cpu()), []
        for block in features.split(_ROWS_AT_A_TIME) if len(features) else ():
            rows = checked_cloud("features", block.cpu())
            found = moments.merge(found, moments.of(rows))
            digests.append(digests_of(rows))
            if keeping.sketch:
                histograms = store.merge(histograms, store.of(rows))

        told = torch.cat(digests) if digests else torch.empty(0, dtype=torch.int64)
        made = cls._of_moments(moments.collect(found), features.shape[1])
        return replace(
            made,
            sketch=store.collect(histograms) if keeping.sketch else None,
            samples=_chosen(features, told, names, labels, keeping) if keeping.samples else None,
            keeping=keeping,
            extractor=extractor or {"extractor": "none"},
            source=source or {},
            fingerprint=sum(told.tolist()) % _LARGEST,
        )

    @classmethod
    def _of_moments(cls, found: Moments, dimension: int) -> "Summary":
        """A summary of moments alone; those of nothing have no dimension."""
        count = int(found.num_samples)
        if not count:
            mean = torch.zeros(dimension, dtype=torch.float64)
            return cls(0, mean, torch.zeros(dimension, dimension, dtype=torch.float64))
        return cls(count, found.mean, found.scatter / max(count - 1, 1))

    def __repr__(self) -> str:
        parts = ["moments"]
        if self.sketch is not None:
            parts.append(f"histograms along {len(self.sketch.counts)} directions")
        if self.samples is not None:
            parts.append(f"{len(self.samples)} samples")
        number = "an unknown number of" if self.count is None else self.count
        name = self.extractor["extractor"]
        return f"<Summary of {number} samples, {self.dimension}-d of {name}: {', '.join(parts)}>"

    @property
    def moments(self) -> Moments:
        """Count, mean and scatter, as moments are merged; of an unknown number there are none."""
        scatter = self.covariance * max(self.known_count - 1, 0)
        return Moments(torch.tensor(self.known_count), self.mean, scatter)

    @property
    def known_count(self) -> int:
        """The number of samples; a ValueError where a file does not say."""
        if self.count is None:
            raise ValueError(
                "`count` must say how many samples a summary is of, got None: give "
                "dataclasses.replace(summary, count=N)."
            )
        return self.count

    @property
    def dimension(self) -> int:
        """The number D of features."""
        return len(self.mean)

    @property
    def is_whole(self) -> bool:
        """Whether every sample is kept."""
        return self.samples is not None and len(self.samples) == self.count

    def merged(self, other: "Summary") -> "Summary":
        """The summary of both sides' samples together; it keeps what both keep.

        Args:
            other: A summary by the same extractor, with the same seed and directions.

        Returns:
            The summary. Time O(D^2 + L K + K D).

        Raises:
            ValueError: If the summaries differ in dimension, extractor, seed or directions, or one
                does not say how many samples it is of.
        """
        self._check_mergeable(other)
        keeping = replace(
            self.keeping,
            samples=min(self.keeping.samples, other.keeping.samples),
            sketch=self.keeping.sketch and other.keeping.sketch,
            seed=min(self.keeping.seed, other.keeping.seed),
        )
        both = (self, other)
        filled = [one for one in both if one.known_count] or [self]
        found = reduce(merged_moments, [one.moments for one in filled])
        sketches = [one.sketch for one in filled if one.sketch is not None]
        chosen = [one.samples for one in filled if one.samples is not None]
        made = self._of_moments(found, self.dimension)
        return replace(
            made,
            sketch=reduce(merged_sketches, sketches) if keeping.sketch else None,
            samples=_joined(chosen, keeping) if keeping.samples else None,
            keeping=keeping,
            extractor=self.extractor,
            source=merged_records(self.source, other.source),
            fingerprint=(self.fingerprint + other.fingerprint) % _LARGEST,
        )

    def _check_mergeable(self, other: "Summary") -> None:
        """Raise unless both are of samples that one pass could have seen."""
        if not isinstance(other, Summary):
            raise TypeError(f"`other` must be a Summary, got {type(other).__name__}.")
        alike = {
            "dimension": (self.dimension, other.dimension),
            "extractor": (self.extractor, other.extractor),
        }
        sketched = self.keeping.sketch and other.keeping.sketch
        if sketched or (self.keeping.samples and other.keeping.samples):
            alike["seed"] = self.keeping.seed, other.keeping.seed
        if sketched:
            alike["num_projections"] = self.keeping.num_projections, other.keeping.num_projections
            alike["orthogonal"] = self.keeping.orthogonal, other.keeping.orthogonal
        for name, (mine, others) in alike.items():
            if mine != others:
                raise ValueError(
                    f"`other` must have the {name} {mine!r} to be merged, got {others!r}: "
                    "summarise both alike."
                )

    def only(self, *parts: str) -> "Summary":
        """The summary without what is not named.

        Args:
            *parts: Of "moments", which always stay, "sketch" and "samples".

        Returns:
            The smaller summary.

        Raises:
            ValueError: If there is no part of that name.
        """
        for part in parts:
            if part not in PARTS:
                raise ValueError(f"`parts` must be of {', '.join(PARTS)}, got {part!r}.")
        made = self
        if "sketch" not in parts:
            made = replace(made, sketch=None, keeping=replace(made.keeping, sketch=False))
        if "samples" not in parts:
            made = replace(made, samples=None, keeping=replace(made.keeping, samples=0))
        return made

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the summary as an `.npz` file, which appears only when it is complete.

        Its entries `mu` and `sigma` are those of pytorch-fid, so that others read it as theirs.
        Equal summaries give equal bytes.

        Args:
            path: The file, ending in .npz.
            overwrite: Replace a file that is there.

        Raises:
            DataError: If the file cannot be written.
        """
        check_target(Path(path), (".npz",), overwrite=overwrite)
        write_fields(vars(self), Path(path))

    def export(
        self,
        path: str | Path,
        form: Literal["pytorch-fid", "clean-fid"] = "pytorch-fid",
        *,
        overwrite: bool = False,
    ) -> None:
        """Write the file of another program, which says nothing of the features it is of.

        Args:
            path: The file, ending in .npz.
            form: "pytorch-fid", `mu` and `sigma` alone; "clean-fid", the samples as `feats` too.
            overwrite: Replace a file that is there.

        Raises:
            DataError: If there are fewer than two samples, or the file cannot be written.
            ValueError: If there is no such form, or no samples are kept for it.
        """
        if form not in FORMS:
            raise OptionError(Argument("form"), f" must be {' or '.join(FORMS)}, got {form!r}.")
        check_target(Path(path), (".npz",), overwrite=overwrite)
        if self.count is not None and self.count < 2:
            raise DataError(f"`{path}` would have no covariance: summarise two samples or more.")
        features = None
        if form == "clean-fid":
            if self.samples is None:
                raise OptionError(Argument("form"), " clean-fid needs samples: keep some.")
            features = self.samples.features
        write_foreign(self.mean, self.covariance, features, Path(path))

    @classmethod
    def load(cls, path: str | Path) -> "Summary":
        """Read the file of a summary, or a mean and covariance of another program.

        Nothing is unpickled, and every entry is checked. Files of others (pytorch-fid, EDM, ADM,
        StyleGAN and the like) do not say of what features they are, and most of them not of how
        many samples: `dataclasses.replace(summary, count=N)` makes such a summary one that merges.

        Args:
            path: The file.

        Returns:
            The summary, equal to the one that was saved.

        Raises:
            DataError: If the file is missing or damaged, or holds nothing of the kind.
        """
        return cls(**read_fields(Path(path)))


def _texts(name: str, texts: Sequence[str] | None, features: Tensor) -> list[str] | None:
    """Names or classes, one for each sample."""
    if texts is None:
        return None
    if isinstance(texts, str):
        raise TypeError(f"`{name}` must be a sequence of texts, got one text.")
    found = list(texts)
    if len(found) != len(features):
        raise ValueError(f"`{name}` must be {len(features)}, one per sample, got {len(found)}.")
    return [str(text.item() if isinstance(text, Tensor) else text) for text in found]


def _check_records(extractor: dict[str, Any] | None, source: dict[str, Any] | None) -> None:
    """Raise where a summary would be saved with a record that is not read back."""
    given = {"extractor": extractor, "source": source}
    try:
        checked_record({name: one for name, one in given.items() if one is not None}, "")
    except DataError as error:
        problem = str(error).partition(": ")[2].partition(". Leave")[0]
        raise ValueError(
            f"`extractor` and `source` must be records as otmetrics makes them: {problem}."
        ) from error


def _chosen(
    features: Tensor,
    digests: Tensor,
    names: Sequence[str] | None,
    labels: Sequence[str] | None,
    keeping: Keeping,
) -> ChosenSamples:
    """The samples to keep; only these are read again."""
    keys = keys_of_places(digests) if names is None else keys_of_names(map(str, names))
    rows = order_of(keys, keeping.seed, lambda: digests)[: keeping.samples]
    # Read from front to back, for the features may be in a file.
    ascending, places = rows.sort()
    kept = torch.empty(len(rows), features.shape[1], dtype=features.dtype)
    kept[places] = features[ascending.to(features.device)].cpu()
    chosen = rows.tolist()
    return ChosenSamples(
        kept.to(torch.promote_types(kept.dtype, torch.float32)),
        keys[rows],
        None if names is None else tuple(str(names[row]) for row in chosen),
        None if labels is None else tuple(str(labels[row]) for row in chosen),
    )


def _joined(chosen: list[ChosenSamples], keeping: Keeping) -> ChosenSamples:
    """The samples to keep of one or two choices."""
    if len(chosen) == 1:
        return chosen[0].lowest(keeping.samples, keeping.seed)
    return chosen[0].merged(chosen[1], keeping.samples, keeping.seed)
