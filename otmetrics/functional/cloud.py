"""Points less their centre, in float64 whatever they are kept in, a part of them at a time."""

from collections.abc import Iterator

import torch
from torch import Tensor

_PART = 2**17  # numbers at a time: 1 MB, of the size of a cache; fresh memory would cost more


class Cloud:
    """Points x_i - c; only `whole` keeps all of them in float64.

    Args:
        points: Features (N, D) in float32 or float64.
        centre: Centre (D,) in float64; None for the origin.
    """

    def __init__(self, points: Tensor, centre: Tensor | None = None) -> None:
        self._points = points
        self._centre = points.new_zeros(points.shape[1:], dtype=torch.float64)
        if centre is not None:
            self._centre = centre
        self.shape = points.shape
        self.device = points.device

    def __len__(self) -> int:
        return len(self._points)

    def at(self, ids: Tensor) -> Tensor:
        """Some points (K, D)."""
        return self._points[ids].double().sub_(self._centre)

    def plain(self) -> "Cloud":
        """The points as they are."""
        return Cloud(self._points)

    def whole(self) -> Tensor:
        """All points (N, D)."""
        return self._points.double() - self._centre

    def single(self, scale: float) -> Tensor:
        """All points (N, D) times a scale, in float32."""
        found = torch.empty(self.shape, dtype=torch.float32, device=self.device)
        for rows, part in self._parts():
            found[rows] = part.mul_(scale)
        return found

    def norms(self) -> Tensor:
        """Their norms (N,)."""
        return torch.cat([torch.linalg.vector_norm(part, dim=1) for _, part in self._parts()])

    def along(self, direction: Tensor) -> Tensor:
        """Their products (N,) with a direction (D,)."""
        return torch.cat([part @ direction for _, part in self._parts()])

    def mean(self, weights: Tensor) -> Tensor:
        """Their weighted sum (D,), for weights (N,) of sum 1."""
        return torch.stack([weights[rows] @ part for rows, part in self._parts()]).sum(0)

    def _parts(self) -> Iterator[tuple[slice, Tensor]]:
        """Consecutive points, and where they are."""
        size = max(1, _PART // self.shape[1])
        for start in range(0, len(self), size):
            rows = slice(start, min(start + size, len(self)))
            yield rows, self._points[rows].double() - self._centre
