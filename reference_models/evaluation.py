"""How good the averaged generator is: the library's own scores against held-out samples."""

import hashlib
import warnings
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from otmetrics.errors import (
    Argument,
    ConvergenceWarning,
    DataError,
    OptionError,
    unconverged_untold,
)
from otmetrics.features import (
    DEFAULT_EXTRACTOR,
    FrozenExtractor,
    is_installed,
    is_known,
    load_extractor,
)
from otmetrics.hashing import hash_counters
from otmetrics.inference.intervals import Interval
from otmetrics.scoring.clouds import Draws, clouds_of
from otmetrics.scoring.families import Measured, families_of
from otmetrics.scoring.feature_set import FeatureSet
from otmetrics.scoring.options import Scoring
from otmetrics.scoring.report import Score, ScoreReport
from otmetrics.scoring.score import score_features

from .choosing import LEVEL, Contender, contender
from .codes import CodeScores, code_scores, reconstruction
from .config import EVALUATED, TrainConfig
from .data import NAMES, Data
from .modes import (
    NUM_SCORED,
    ModeScores,
    accuracy,
    fit_digit_classifier,
    stacked_scores,
)
from .sampling import Sampler, generate_samples

_BATCH = 250
_FEWEST = 12  # held-out samples, so that halves have floors
_QUICK = 1000  # samples of an exact distance that training waits for
_FITTED = 60_000  # digits that the classifier learns from
_READS = 0.98  # of the held-out digits, below which scores of modes say little
_STREAM = 0xE7A1  # any number: noise of evaluations, apart from that of training


class Evaluation(NamedTuple):
    """What an evaluation between steps found.

    Attributes:
        scores: Scores by name.
        interval: Of the score that chooses, given the samples; None where it has none.
        contender: What later evaluations are compared with; None alike.
    """

    scores: dict[str, float]
    interval: Interval | None = None
    contender: Contender | None = None


class Evaluator:
    """Scores generators against the same held-out samples, whose features are computed once.

    Points are their own features, digits of 8 pixels are compared as pixels, other images by the
    default extractor, unless `eval_features` names another one. Noise, samples and directions are
    the same at each call.

    Its `eval_num` held-out samples are taken, or all if there are fewer. A DataError says that too
    few are held out or that weights are missing; an OptionError that an extractor is named for
    points.
    """

    def __init__(
        self, config: TrainConfig, data: Data, device: torch.device, download: bool = False
    ) -> None:
        self.config, self.data, self.device = config, data, device
        if len(data.held_out) < _FEWEST:
            raise DataError(
                f"`{data.name}` holds out {len(data.held_out)} samples, and an evaluation needs "
                f"{_FEWEST}: give more."
            )

        self.extractor = _extractor(config.eval_features, data, device, download)
        # Drawn, not the first ones: the files of a folder are sorted, often by class.
        order = torch.Generator().manual_seed(config.seed)
        ids = torch.randperm(len(data.held_out), generator=order)[: config.eval_num]
        self.held_out = data.held_out[ids.sort().values]
        self.real = self._features(self.held_out, f"<{data.name}, held out>")
        self._name = f"<samples of {config.preset}>"
        self._scoring = Scoring(
            metrics=EVALUATED, confidence_level=LEVEL, seed=config.seed, device=str(device)
        )
        # All that decides what is compared, next to the generator. Not by features, whose last
        # digits may be others where a run goes on.
        digest = hashlib.sha256(self.held_out.contiguous().numpy().data).hexdigest()[:12]
        self._of = f"{config.select} by {config.eval_features}, seed {config.seed}, of {digest}"
        self.classifier: nn.Module | None = None
        if data.name == "stacked_mnist":
            self.classifier = _stacked_classifier(data, config.seed)

    def __call__(self, sampler: Sampler) -> Evaluation:
        """Scores without floors, exact and Sinkhorn ones of 1000 samples; see `report`.

        Of an autoencoder whose codes have no distribution yet only the error of rebuilt samples.
        """
        if not sampler.prior.known:
            rebuilt = reconstruction(sampler, self.data, self.held_out)
            return Evaluation({"reconstruction": rebuilt})
        fake, other = self._samples(sampler, again=False)
        measured = self._measure(self._features(fake, self._name))
        scores = {name: one.value for name, one in measured.items()}
        if sampler.encoder is not None:
            scores["reconstruction"] = reconstruction(sampler, self.data, self.held_out)

        modes = self._modes(sampler, fake, other)
        if modes is not None:
            found = {"high_quality": modes.high_quality, "modes_kl": modes.kl}
            known = {name: value for name, value in found.items() if value is not None}
            scores |= {"modes": float(modes.covered)} | known

        estimate = measured[self.config.select].estimate
        own = None if estimate is None else contender(estimate, self._of)
        if estimate is None or own is None:
            return Evaluation(scores)
        return Evaluation(scores, estimate.interval(LEVEL), own)

    def report(self, sampler: Sampler) -> tuple[ScoreReport, ModeScores | None]:
        """All scores of a generator, and the modes where the data has known ones.

        The noise is another one than that of the evaluations that chose the generator.
        """
        fake, other = self._samples(sampler, again=True)
        features = self._features(fake, self._name)
        report = score_features(self.real, features, scoring=self._scoring)
        return report, self._modes(sampler, fake, other)

    def fresh_score(self, sampler: Sampler) -> Score:
        """The score that chooses, as in `report`, without its floor."""
        fake, _ = self._samples(sampler, again=True)
        scoring = replace(self._scoring, metrics=(self.config.select,), floor=False)
        report = score_features(self.real, self._features(fake, self._name), scoring=scoring)
        return report.scores[self.config.select]

    def _samples(self, sampler: Sampler, *, again: bool) -> tuple[Tensor, int]:
        """Samples as in `Data`, and a seed for more; `again` takes other noise than it chose by."""
        # Two numbers for those that choose the generator, and two for `again`.
        streams = torch.arange(2) + _STREAM + 2 * again
        seed, other = hash_counters(streams, self.config.seed).tolist()
        return generate_samples(sampler, self.data, len(self.real), seed), other

    def _measure(self, fake: FeatureSet) -> dict[str, Measured]:
        """All scores of samples, an estimate with the one that chooses."""
        scoring = replace(self._scoring, floor=False, exact_max=_QUICK, sinkhorn_max=_QUICK)
        draws = Draws(clouds_of({"real": self.real, "fake": fake}, scoring), scoring)
        found: dict[str, Measured] = {}
        with unconverged_untold():
            for family in families_of(scoring):
                # With intervals of all scores an evaluation would take several times as long.
                own = replace(scoring, interval=self.config.select in family.names)
                real, other = (draws.of_family(side, family) for side in ("real", "fake"))
                measured = family.measure(real, other, own, True)
                found |= zip(family.names, measured, strict=True)
        return found

    def code_scores(self, sampler: Sampler) -> CodeScores | None:
        """What the codes of a generator say, see `codes.CodeScores`; None for one of noise."""
        if sampler.encoder is None:
            return None
        return code_scores(sampler, self.data, self.held_out, self.config.seed)

    def _features(self, samples: Tensor, name: str) -> FeatureSet:
        """Features of samples as `Data` holds them, and what they are called."""
        num = len(samples)
        source = {"path": name, "kind": "tensor", "used": num, "available": num}
        if self.extractor is None:
            return FeatureSet(samples.double(), {"extractor": "none"}, source)
        # Extractors take three channels; grey has the same in all.
        images = samples.expand(-1, 3, -1, -1) if samples.shape[1] == 1 else samples
        with torch.no_grad():
            parts = [self.extractor(part).cpu() for part in images.split(_BATCH)]
        return FeatureSet(torch.cat(parts), self.extractor.protocol, source)

    def _modes(self, sampler: Sampler, fake: Tensor, seed: int) -> ModeScores | None:
        """The published scores of mixtures, and of stacked MNIST on its 26 000 samples."""
        if self.data.mixture is not None:
            return self.data.mixture.mode_scores(fake)
        if self.classifier is None:
            return None
        images = generate_samples(sampler, self.data, NUM_SCORED, seed)
        return stacked_scores(images, self.classifier)


def check_data_claim(name: str, run: Path) -> None:
    """Raise where a run would decide which path is read: its folder may be anybody's."""
    if name not in NAMES:
        raise OptionError(
            f"`{run}` says that it learned from `{name}`, and nothing is read on its word: name "
            "the data yourself, with ",
            Argument("data"),
            f" {name} if they are still there.",
        )


def check_extractor_claim(name: str, run: Path) -> None:
    """Raise where a run would decide what is imported or fetched: its folder may be anybody's."""
    if name != "auto" and not is_known(name):
        raise OptionError(
            f"`{run}` says that it was evaluated by `{name}`, which otmetrics does not know: "
            "choose an extractor yourself, with ",
            Argument("eval_features"),
            ".",
        )
    if name != "auto" and not is_installed(name):
        raise OptionError(
            f"`{run}` says that it was evaluated by `{name}`, which is not installed with "
            "otmetrics, and nothing is loaded on its word: name the extractor yourself, with ",
            Argument("eval_features"),
            f" {name} if you trust it.",
        )


def _extractor(
    name: str, data: Data, device: torch.device, download: bool
) -> FrozenExtractor | None:
    """The extractor for the data, None for points."""
    if len(data.shape) == 1:
        if name not in ("auto", "none"):
            raise OptionError(
                Argument("eval_features"), f" must be auto or none for points, got {name!r}."
            )
        return None

    # The default extractor was trained on photographs, which 64 pixels of a digit are not.
    if name == "auto":
        name = "pixels" if data.shape[1] == 8 else DEFAULT_EXTRACTOR
    if name == "none":
        raise OptionError(Argument("eval_features"), " must be an extractor of images, got 'none'.")
    try:
        return load_extractor(name, download=download).to(device)
    except OptionError as error:
        raise OptionError(Argument("eval_features"), ": ", *error.args) from error


def _stacked_classifier(data: Data, seed: int) -> nn.Module:
    """A classifier of digits, fitted to the first channels of the training triples."""
    assert data.labels is not None
    images, modes = data.train[:_FITTED, :1], data.labels[0][:_FITTED]
    # Any of the three channels shows plain digits; the hundreds are those of the first.
    classifier = fit_digit_classifier(images, modes // 100, seed)

    read = accuracy(classifier, data.held_out[:, :1], data.labels[1] // 100)
    if read < _READS:
        warnings.warn(
            f"the classifier reads {read:.1%} of the held-out digits, published ones 98 % and "
            "more: scores of modes cannot be compared with theirs.",
            ConvergenceWarning,
            stacklevel=2,
        )
    return classifier
