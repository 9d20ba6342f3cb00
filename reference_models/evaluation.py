"""How good the averaged generator is: the library's own scores against held-out samples."""

import math
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from otmetrics.errors import Argument, ConvergenceWarning, DataError, OptionError
from otmetrics.features import (
    DEFAULT_EXTRACTOR,
    FrozenExtractor,
    is_installed,
    is_known,
    load_extractor,
)
from otmetrics.hashing import hash_counters
from otmetrics.scoring.feature_set import FeatureSet
from otmetrics.scoring.options import Scoring
from otmetrics.scoring.report import ScoreReport
from otmetrics.scoring.score import score_features

from .codes import CodeScores, code_scores, reconstruction
from .config import EVALUATED, HIGHER_IS_BETTER, TrainConfig
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
        self.classifier: nn.Module | None = None
        if data.name == "stacked_mnist":
            self.classifier = _stacked_classifier(data, config.seed)

    def __call__(self, sampler: Sampler) -> dict[str, float]:
        """Scores by name, without floors, exact and Sinkhorn ones of 1000 samples; see `report`.

        Of an autoencoder whose codes have no distribution yet only the error of rebuilt samples.
        """
        if not sampler.prior.known:
            return {"reconstruction": reconstruction(sampler, self.data, self.held_out)}
        report, modes = self.report(sampler, floor=False, most=_QUICK, again=False)
        values = {name: score.value for name, score in report.scores.items()}
        if sampler.encoder is not None:
            values["reconstruction"] = reconstruction(sampler, self.data, self.held_out)

        if modes is None:
            return values
        found = {"high_quality": modes.high_quality, "modes_kl": modes.kl}
        known = {name: value for name, value in found.items() if value is not None}
        return values | {"modes": float(modes.covered)} | known

    def report(
        self, sampler: Sampler, *, floor: bool = True, most: int = 10_000, again: bool = True
    ) -> tuple[ScoreReport, ModeScores | None]:
        """All scores of a generator, and the modes where the data has known ones.

        `most` is the largest number of samples per side of exact and Sinkhorn distances; `again`
        takes other noise than the evaluations that chose the generator.
        """
        # Two numbers for those that choose the generator, and two for `again`.
        streams = torch.arange(2) + _STREAM + 2 * again
        seed, other = hash_counters(streams, self.config.seed).tolist()
        fake = generate_samples(sampler, self.data, len(self.real), seed)

        scoring = Scoring(
            metrics=EVALUATED,
            floor=floor,
            seed=self.config.seed,
            device=str(self.device),
            exact_max=most,
            sinkhorn_max=most,
        )
        name = f"<samples of {self.config.preset}>"
        report = score_features(self.real, self._features(fake, name), scoring=scoring)
        return report, self._modes(sampler, fake, other)

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


def better(name: str, scores: dict[str, float], best: dict[str, float]) -> bool:
    """Whether new scores beat the best ones so far in one of them, or are the first to have it."""
    if name not in best:
        return True
    one, two = scores[name], best[name]
    # A score that is not finite is worse than any other, also where higher is better.
    if not (math.isfinite(one) and math.isfinite(two)):
        return math.isfinite(one)
    return one > two if name in HIGHER_IS_BETTER else one < two


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
