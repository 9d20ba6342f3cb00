"""Laws of what generators are given: noise, or codes that transport brings noise to."""

from typing import cast

import torch
from torch import Tensor, nn

from otmetrics.errors import OptionError, unconverged_untold
from otmetrics.functional import (
    ExtendedMap,
    SemiDiscreteStart,
    extended_map,
    neighbour_angles,
    semidiscrete_result,
)
from otmetrics.transport.semidiscrete.extended_map import face_normals
from otmetrics.transport.semidiscrete.heights import ROUND
from otmetrics.transport.semidiscrete.sources import random_samples

from .config import TrainConfig
from .objectives import AEOT

_FAR = 1e9  # where the centre of an empty cell is put
_TRIED = 10_000  # samples that the share of kept ones is measured by
_LEAST = 0.02  # share of kept samples below which drawing some would take too long


class NoisePrior(nn.Module):
    """Standard normal noise, or uniform on [-1, 1].

    Args:
        law: "normal" or "uniform".
        latent: Its dimension.
    """

    known = True

    def __init__(self, law: str, latent: int) -> None:
        super().__init__()
        self.law, self.latent = law, latent

    def sample(self, num: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw noise.

        Args:
            num: How much.
            generator: A CPU generator; None for torch's own.

        Returns:
            float32 (num, latent), on the CPU.
        """
        if self.law == "uniform":
            return 2 * torch.rand(num, self.latent, generator=generator) - 1
        return torch.randn(num, self.latent, generator=generator)


class TransportPrior(nn.Module):
    """The law of codes: noise mapped to the codes of training samples, and between them.

    `begin` gives it codes and first heights, each `advance` a round of steps, until it is `known`.
    All of it lies in buffers: a checkpoint between two rounds goes on with the next one.

    Args:
        objective: Whose options the map has.
        num: Codes M.
        latent: Their dimension D.
    """

    ids: Tensor  # int64 (M,): which training samples they are of
    points: Tensor  # float32 (M, D)
    heights: Tensor  # float64 (M,)
    centres: Tensor  # float32 (M, D)
    angles: Tensor  # float64 (M,): with the fifth nearest code
    progress: Tensor  # float64 (3,): steps, -1 before the first heights; rate; whether it is known

    def __init__(self, objective: AEOT, num: int, latent: int) -> None:
        super().__init__()
        self.objective = objective
        self._normals: Tensor | None = None  # of the points, once they are known
        self.register_buffer("ids", torch.zeros(num, dtype=torch.int64))
        self.register_buffer("points", torch.zeros(num, latent))
        self.register_buffer("heights", torch.zeros(num, dtype=torch.float64))
        self.register_buffer("centres", torch.zeros(num, latent))
        self.register_buffer("angles", torch.zeros(num, dtype=torch.float64))
        self.register_buffer("progress", torch.tensor([-1.0, 0.0, 0.0], dtype=torch.float64))

    @property
    def begun(self) -> bool:
        """Whether it has codes."""
        return bool(self.progress[0] >= 0)

    @property
    def known(self) -> bool:
        """Whether it can be sampled."""
        return bool(self.progress[2])

    def check(self) -> None:
        """Look at what came from a file.

        Raises:
            ValueError: If no transport has such numbers.
        """
        steps, rate, known = self.progress.tolist()
        whole = steps == int(steps) and -1 <= steps < 2**53 and rate >= 0 and known in (0, 1)
        if not whole or bool((self.ids < 0).any()):
            raise ValueError("prior holds no transport")

    def take(self, state: dict[str, Tensor]) -> None:
        """Take over the state of another process.

        Args:
            state: Its `state_dict`.
        """
        self.load_state_dict(state)
        self._normals = None

    def begin(self, ids: Tensor, codes: Tensor, seed: int) -> dict[str, Tensor]:
        """Take codes, and solve for the first heights.

        Args:
            ids: Which training samples they are of, (M,).
            codes: The codes (M, D).
            seed: Decides the samples of the source.

        Returns:
            Numbers to log.

        Raises:
            OptionError: If all codes are equal, or `angle` rejects nearly all noise.
        """
        self.ids.copy_(ids)
        self.points.copy_(codes)
        if len(codes) < 2:
            raise OptionError(f"transport needs at least 2 training samples, got {len(codes)}.")
        if bool((self.points == self.points[0]).all()):
            raise OptionError(
                "the autoencoder gives all samples one code: give it more steps, or a lower "
                "`lr_autoencoder`."
            )
        self.angles.copy_(neighbour_angles(self.points, source=self.objective.source))
        return self._solve(None, 0, seed)

    def advance(self, seed: int) -> dict[str, Tensor]:
        """Improve the heights by one round.

        Args:
            seed: That of `begin`.

        Returns:
            Numbers to log.

        Raises:
            OptionError: If `angle` rejects nearly all noise.
        """
        steps, rate = int(self.progress[0]), float(self.progress[1])
        start = SemiDiscreteStart(self.heights, rate, steps)
        return self._solve(start, steps // ROUND + 1, seed)

    def _solve(self, start: SemiDiscreteStart | None, rounds: int, seed: int) -> dict[str, Tensor]:
        """Solve, and measure what is kept at the end."""
        options = self.objective
        with unconverged_untold():  # training says it, of the last one
            found = semidiscrete_result(
                self.points,
                source=options.source,
                tolerance=options.tolerance,
                max_rounds=rounds,
                start=start,
                generator=torch.Generator().manual_seed(seed),
            )
        self.heights.copy_(found.heights)
        self.centres.copy_(found.centres.nan_to_num(_FAR))
        within = found.residual <= max(options.tolerance, found.residual_error)
        known = (within and not found.num_empty) or rounds >= options.max_rounds
        numbers = [found.num_iterations, found.rate, known]
        self.progress.copy_(torch.tensor(numbers, dtype=torch.float64))
        logs = {
            "transport": float(found.value),
            "misfit": found.residual,
            "misfit_noise": found.residual_error,
            "empty_cells": float(found.num_empty),
        }
        if known:
            logs["kept"] = self.checked_share(seed)
        device = self.points.device
        return {name: torch.tensor(value, device=device) for name, value in logs.items()}

    def checked_share(self, seed: int) -> float:
        """The share of the noise that is kept.

        Args:
            seed: Decides the noise.

        Returns:
            The share of 10 000 samples.

        Raises:
            OptionError: If `angle` rejects nearly all noise.
        """
        kept = self.map_noise(_TRIED, torch.Generator().manual_seed(seed)).kept.double().mean()
        if kept < _LEAST:
            raise OptionError(
                f"`angle` {self.objective.angle:g} keeps {float(kept):.2%} of the noise: give a "
                "larger one, or 0 for no filter."
            )
        return float(kept)

    def map_noise(
        self, num: int, generator: torch.Generator | None = None, *, filtered: bool = True
    ) -> ExtendedMap:
        """Map noise by the extended map.

        Args:
            num: How much noise.
            generator: A CPU generator; None for torch's own.
            filtered: Whether to reject what is near breaks.

        Returns:
            The codes of what is kept.
        """
        options = self.objective
        generator = generator or torch.default_generator
        if self._normals is None or self._normals.device != self.points.device:
            self._normals = face_normals(self.points, source=options.source)
        centres = self.centres.where(self.centres != _FAR, float("nan"))
        noise = random_samples(options.source, self.points.shape[1], num, generator=generator)
        return extended_map(
            noise.to(self.points),
            self.points,
            self.heights,
            centres=centres,
            source=options.source,
            max_angle=options.angle * self.angles if filtered and options.angle else 0.0,
            num_faces=options.num_faces,
            rule=options.rule,
            share=options.share,
            normals=self._normals,
            generator=generator,
        )

    def sample(self, num: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw codes.

        Args:
            num: How many.
            generator: A CPU generator; None for torch's own.

        Returns:
            float32 (num, latent), on the device of the prior.
        """
        assert self.known, "noise is not transported yet"
        found, missing = [], num
        while missing > 0:
            found.append(self.map_noise(num, generator).codes)
            missing -= len(found[-1])
        return torch.cat(found)[:num]


Prior = NoisePrior | TransportPrior


def prior_of(config: TrainConfig, num: int) -> Prior:
    """The prior of a run, before its first step.

    Args:
        config: The run.
        num: Training samples, or codes where they are known.

    Returns:
        Noise, or the transport of noise to as many codes as the objective asks for.
    """
    if not config.objective.coding_steps(config.steps):
        return NoisePrior(config.noise, config.latent)
    objective = cast(AEOT, config.objective)
    return TransportPrior(objective, min(num, objective.num_codes), config.latent)
