"""What stands next to the scores of a report, in the terminal and on a page: words, not numbers."""

from typing import Any

from otmetrics.scoring.comparison import Comparison
from otmetrics.scoring.inventory import read_line
from otmetrics.scoring.report import ScoreReport, listed

ARROWS = "↓ lower is better, ↑ higher is better"


def score_legend(report: ScoreReport) -> list[str]:
    """What the columns mean, a line each."""
    scores, lines = report.scores.values(), []
    limits, targets = [], set()
    for row, score in zip(report.rows(), scores, strict=True):
        if score.interval is not None:
            targets.add(score.interval.target)
            limits += [row[0][:-2]] if score.interval.target == "limit" else []
    if targets:
        over = "" if report.protocol["scoring"]["over"] == "both" else ", these real samples fixed"
        lines.append(f"interval: where the score may lie in other samples{over}; {ARROWS}")
    if limits:
        others = "" if len(targets) == 1 else "; of the others for the mean at these sizes"
        lines.append(
            f"of {listed(limits)} it is for the distance between the distributions, without the "
            f"bias of few samples{others}"
        )

    floors = [score.floor.size for score in scores if score.floor is not None]
    if floors:
        sizes = f"{min(floors)}" if len(set(floors)) == 1 else f"{min(floors)} to {max(floors)}"
        lines.append(
            f"floor: the score between two parts of real, {sizes} samples each; excess: the score "
            "at that size minus the floor"
        )
    if any(score.test is not None for score in scores):
        lines.append("p: share of random labels of the samples that differ at least as much")
    return lines or [ARROWS]


def comparison_legend() -> list[str]:
    """What the columns of a comparison mean, a line each."""
    return [
        "estimate: the score without the bias of few samples, where that is known",
        f"tied: models that share a letter are not told apart; {ARROWS}",
    ]


def read_lines(report: ScoreReport | Comparison) -> list[str]:
    """What was read, one line per side, as the notes of the report have it, too."""
    dimension = report.protocol["features"]["dimension"]
    inputs = report.protocol["inputs"].items()
    return [f"{name}: {read_line(source, dimension)}" for name, source in inputs]


def sample_lines(report: ScoreReport) -> list[str]:
    """One line with the sample sizes behind the column `value`, where not all were used."""
    used = {name: item["used"] for name, item in report.protocol["inputs"].items()}
    whole = (used["real"], used["fake"])
    fewer = [
        f"{name} {' and '.join(str(size or 'unknown') for size in score.sizes)}"
        for name, score in report.scores.items()
        if None not in whole and score.sizes != whole
    ]
    return [f"samples: {', '.join(fewer)}"] if fewer else []


def provenance(protocol: dict[str, Any]) -> str:
    """One line that says which features and options the numbers rest on."""
    features, scoring = protocol["features"], protocol["scoring"]
    name = "given" if features["extractor"] == "none" else features["extractor"]
    resize = features.get("resize") or {}
    mode = f", {resize['mode']} to {resize['size']} px" if resize.get("size") else ""

    names, used = scoring["metrics"], []
    if "sliced_wasserstein" in names:
        sliced = scoring["sliced"]
        text = f"{sliced['num_projections']} directions"
        if sliced["tolerance"] is not None:
            text += f" and more to an error of {100 * sliced['tolerance']:g} %"
        used.append(text + (" along split halves" if sliced["debiased"] else ""))
    if "sinkhorn_divergence" in names:
        sinkhorn = scoring["sinkhorn"]
        text = f"epsilon {sinkhorn['epsilon']:g} of the mean cost"
        used.append(text + (", extrapolated" if sinkhorn["richardson"] else ""))
    if {"precision", "recall", "density", "coverage"} & set(names):
        used.append(f"k = {scoring['num_neighbors']}")
    used.append(f"seed {scoring['seed']}")
    return f"features: {name} ({features['dimension']}-d{mode}); {', '.join(used)}"
