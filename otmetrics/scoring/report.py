"""What scoring returns: each number next to its noise floor, and the protocol that repeats it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

SCHEMA = 1
"""Version of `ScoreReport.to_dict`; it changes when a key changes its meaning or goes away."""


_LABELS = {
    "sliced_wasserstein": "sliced Wasserstein ↓",
    "wasserstein": "exact Wasserstein ↓",
    "sinkhorn_divergence": "Sinkhorn divergence ↓",
    "frechet_distance": "Fréchet distance ↓",
    "kernel_distance": "kernel distance ↓",
    "precision": "precision ↑",
    "recall": "recall ↑",
    "density": "density ↑",
    "coverage": "coverage ↑",
}
HEADER = ("score", "value", "at n", "floor at n", "excess", "n")


@dataclass(frozen=True)
class Floor:
    """The score between two disjoint random parts of the real samples: its noise floor.

    Attributes:
        value: The score between the two parts.
        size: Samples in each part.
        at_floor_size: The score itself on subsamples of that size. Transport distances in many
            dimensions fall with the number of samples, so only scores at one size compare.
        converged: Whether the solver reached its tolerance in both.
    """

    value: float
    size: int
    at_floor_size: float
    converged: bool = True

    @property
    def excess(self) -> float:
        """What the score has above the noise: `at_floor_size - value`."""
        return self.at_floor_size - self.value


@dataclass(frozen=True)
class Score:
    """One number and what is known about it.

    Attributes:
        value: The score.
        sizes: Real and fake samples that it used.
        standard_error: Monte-Carlo error over random directions, where there are any.
        converged: Whether its solver reached its tolerance for the value itself.
        message: What the solver says of its work; where it did not converge, here or in the
            floor, what to raise.
        floor: Its noise floor; None where it was not asked for or the parts are too small.
    """

    value: float
    sizes: tuple[int, int]
    standard_error: float | None = None
    converged: bool = True
    message: str = ""
    floor: Floor | None = None


@dataclass(frozen=True)
class ScoreReport:
    """All scores of one comparison with the protocol that repeats them.

    Attributes:
        scores: By metric name, in the order of `METRICS`.
        protocol: Inputs, extractor, options, seeds and versions, JSON-able.
        notes: What a reader should know, one line each.
        seconds: What took how long: "features", then the first score of each group, floors with
            it. Two reports that differ in nothing else are equal.
    """

    scores: dict[str, Score]
    protocol: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict, compare=False)

    @property
    def converged(self) -> bool:
        """Whether every solver reached its tolerance."""
        return all(
            score.converged and (score.floor is None or score.floor.converged)
            for score in self.scores.values()
        )

    def __str__(self) -> str:
        """The scores as a table in plain text; `repr` shows all that is known."""
        return "\n".join(plain_table(HEADER, self.rows(), left=(0,)))

    def rows(self) -> list[tuple[str, ...]]:
        """The report as a table, with four digits of each number.

        Returns:
            One row of cells for each score, under `HEADER`.
        """
        # Debiased it estimates the square; FID's formula gives an FID only by its own network.
        labels = dict(_LABELS)
        if self.protocol.get("scoring", {}).get("sliced", {}).get("debiased"):
            labels["sliced_wasserstein"] = "sliced, squared ↓"
        if self.protocol.get("features", {}).get("extractor") == "inception":
            labels["frechet_distance"] = "FID ↓"
        return [(labels[name], *_cells(score)) for name, score in self.scores.items()]

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data for JSON, with the version of its schema.

        Returns:
            Keys `schema`, `scores`, `protocol` and `notes`; no `seconds`, so that one seed gives
            one report.
        """
        # `asdict` takes fields only, and the excess is computed.
        scores = {name: asdict(score) for name, score in self.scores.items()}
        for name, score in self.scores.items():
            if score.floor is not None:
                scores[name]["floor"]["excess"] = score.floor.excess
        return {
            "schema": SCHEMA,
            "scores": scores,
            "protocol": self.protocol,
            "notes": self.notes,
        }


def plain_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int]
) -> list[str]:
    """Lines of a table in plain text; the columns in `left` align left, the others right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = []
    for row in (header, *rows):
        cells = [
            cell.ljust(width) if index in left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def _cells(score: Score) -> list[str]:
    """Numbers of one line of the table; "!" marks what did not converge."""
    value = f"{score.value:.4g}"
    if score.standard_error is not None:
        value += f" ± {score.standard_error:.1g}"
    if not score.converged:
        value += " !"
    if score.floor is None:
        return [value, "-", "-", "-", "-"]
    floor = score.floor
    excess = f"{floor.excess:.4g}" + ("" if floor.converged else " !")
    return [value, f"{floor.at_floor_size:.4g}", f"{floor.value:.4g}", excess, str(floor.size)]
