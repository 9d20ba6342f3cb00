"""Where the inputs of generators come from: noise, or codes that transport brings noise to."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from otmetrics.errors import Argument, OptionError, unconverged_untold
from otmetrics.functional import ExtendedMap, SemiDiscreteStart, extended_map, neighbour_angles
from otmetrics.transport.semidiscrete.extended_map import ExtendedOptions, face_normals
from otmetrics.transport.semidiscrete.heights import ROUND
from otmetrics.transport.semidiscrete.semidiscrete import SemiDiscrete
from otmetrics.transport.semidiscrete.sources import random_samples

_FAR = 1e9  # where the centre of an empty cell is put: a checkpoint must be finite
_TRIED = 10_000  # samples that the share of kept ones is measured by
_LEAST = 0.02  # share of kept samples below which drawing some would take too long


class Prior(nn.Module):
    """Where the inputs of a generator come from."""

    @property
    def begun(self) -> bool:
        """Whether it has codes."""
        return False

    @property
    def known(self) -> bool:
        """Whether it can be sampled."""
        return True

    def sample(self, num: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw inputs, float32 (num, latent), by a CPU generator; None for torch's own."""
        raise NotImplementedError

    def check(self) -> None:
        """Raise ValueError if what came from a file cannot be the state of a prior."""

    def kept_share(self, seed: int) -> float:
        """The share of the noise that is kept; raise OptionError if it is nearly none."""
        return 1.0


class NoisePrior(Prior):
    """Standard normal noise, or uniform on [-1, 1]; `law` is "normal" or "uniform"."""

    def __init__(self, law: str, latent: int) -> None:
        super().__init__()
        self.law, self.latent = law, latent

    def sample(self, num: int, generator: torch.Generator | None = None) -> Tensor:
        """Noise, on the CPU."""
        if self.law == "uniform":
            return 2 * torch.rand(num, self.latent, generator=generator) - 1
        return torch.randn(num, self.latent, generator=generator)


class TransportPrior(Prior):
    """The distribution of codes: noise mapped to codes of training samples, and between them.

    It is solved for in rounds: `begin` gives it codes, and each `advance` is a round, until it is
    `known`. All that it finds lies in buffers: a checkpoint between two rounds goes on with the
    next one.
    """

    ids: Tensor  # int64 (M,): which training samples they are of
    points: Tensor  # float32 (M, D)
    heights: Tensor  # float64 (M,)
    centres: Tensor  # float32 (M, D)
    angles: Tensor  # float64 (M,): with the fifth nearest code
    progress: Tensor  # float64 (3,): steps, -1 before the first heights; rate; whether it is known

    def __init__(
        self,
        solver: SemiDiscrete,  # of the heights, with the most rounds; seeds come with `begin`
        map_options: ExtendedOptions,  # how codes are mixed
        angle: float,  # largest one of two faces, in units of `angles`; 0 for no filter
        num_codes: int,  # M
        latent: int,  # D, their dimension
    ) -> None:
        super().__init__()
        self.solver, self.map_options, self.angle = solver, map_options, angle
        self.num_codes = num_codes
        self._normals: Tensor | None = None  # of the points, once they are known
        self.register_buffer("ids", torch.zeros(num_codes, dtype=torch.int64))
        self.register_buffer("points", torch.zeros(num_codes, latent))
        self.register_buffer("heights", torch.zeros(num_codes, dtype=torch.float64))
        self.register_buffer("centres", torch.zeros(num_codes, latent))
        self.register_buffer("angles", torch.zeros(num_codes, dtype=torch.float64))
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
        """Raise ValueError if no transport has such numbers."""
        steps, rate, known = self.progress.tolist()
        whole = steps == int(steps) and -1 <= steps < 2**53 and rate >= 0 and known in (0, 1)
        if not whole or bool((self.ids < 0).any()):
            raise ValueError("prior holds no transport")

    def take(self, state: dict[str, Tensor]) -> None:
        """Take over the state of another process."""
        self.load_state_dict(state)
        self._normals = None  # of other points, if only in the last digits

    def begin(self, ids: Tensor, codes: Tensor, seed: int) -> dict[str, Tensor]:
        """Take codes (M, D), and solve for the first heights; what to log.

        Raises OptionError if all codes are equal, or the angle rejects nearly all noise.
        """
        self.ids.copy_(ids)
        self.points.copy_(codes)
        if len(codes) < 2:
            raise OptionError(f"transport needs at least 2 training samples, got {len(codes)}.")
        if bool((self.points == self.points[0]).all()):
            raise OptionError(
                "the autoencoder gives all samples one code: give it more steps, or a lower ",
                Argument("lr_autoencoder"),
                ".",
            )

        # Once for all rounds: codes stay where they are from now on.
        self.angles.copy_(neighbour_angles(self.points, source=self.solver.source))
        return self._solve(None, 0, seed)

    def advance(self, seed: int) -> dict[str, Tensor]:
        """Improve the heights by one round, with the seed of `begin`, and raise as it does."""
        steps, rate = int(self.progress[0]), float(self.progress[1])
        start = SemiDiscreteStart(self.heights, rate, steps)
        return self._solve(start, steps // ROUND + 1, seed)

    def _solve(self, start: SemiDiscreteStart | None, rounds: int, seed: int) -> dict[str, Tensor]:
        """Solve for so many rounds in all, and measure what is kept at the end."""
        solver = replace(self.solver, max_rounds=rounds, seed=seed)
        with unconverged_untold():  # training says it, of the last one
            found = solver.solve(self.points, start=start)
        self.heights.copy_(found.heights)
        self.centres.copy_(found.centres.nan_to_num(_FAR))

        # Within the noise of the measurement more rounds would not be seen to help.
        within = found.residual <= max(solver.tolerance, found.residual_error)
        known = (within and not found.num_empty) or rounds >= self.solver.max_rounds
        numbers = [found.num_iterations, found.rate, known]
        self.progress.copy_(torch.tensor(numbers, dtype=torch.float64))

        logs = {
            "transport": float(found.value),
            "misfit": found.residual,
            "misfit_noise": found.residual_error,
            "empty_cells": float(found.num_empty),
        }
        if known:
            logs["kept"] = self.kept_share(seed)
        device = self.points.device
        return {name: torch.tensor(value, device=device) for name, value in logs.items()}

    def kept_share(self, seed: int) -> float:
        """The share of 10 000 samples of the noise that are kept; OptionError if nearly none."""
        kept = self.map_noise(_TRIED, torch.Generator().manual_seed(seed)).kept.double().mean()
        if kept < _LEAST:
            raise OptionError(
                Argument("angle"),
                f" {self.angle:g} keeps {float(kept):.2%} of the noise: give a larger one, or 0 "
                "for no filter.",
            )
        return float(kept)

    def map_noise(
        self, num: int, generator: torch.Generator | None = None, *, filtered: bool = True
    ) -> ExtendedMap:
        """Draw noise and map it to the codes of what is kept; `filtered` rejects it near breaks."""
        source = self.map_options.source
        # One generator for noise and shares: without any the map would seed its own with 0.
        generator = generator or torch.default_generator
        if self._normals is None or self._normals.device != self.points.device:
            self._normals = face_normals(self.points, source=source)

        noise = random_samples(source, self.points.shape[1], num, generator=generator)
        return extended_map(
            noise.to(self.points),
            self.points,
            self.heights,
            centres=self.centres.where(self.centres != _FAR, float("nan")),
            max_angle=self.angle * self.angles if filtered and self.angle else 0.0,
            normals=self._normals,
            generator=generator,
            **vars(self.map_options),
        )

    def sample(self, num: int, generator: torch.Generator | None = None) -> Tensor:
        """Codes, on the device of the prior."""
        assert self.known, "noise is not transported yet"
        found, missing = [], num
        # What is rejected is drawn again; `kept_share` has seen that this ends.
        while missing > 0:
            found.append(self.map_noise(num, generator).codes)
            missing -= len(found[-1])
        return torch.cat(found)[:num]
