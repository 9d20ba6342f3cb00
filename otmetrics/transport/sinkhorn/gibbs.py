"""The Gibbs kernel exp((f + g - C) / epsilon) and its products, stored or in blocks of rows."""

from collections.abc import Iterator

import torch
from torch import Tensor

from otmetrics.machine import ieee_float32
from otmetrics.transport.costs import refine_cancelled, row_blocks

_CACHED = 2**19  # entries that one step of elementwise work takes, so that they stay in the cache
_BLOCK = 2**25  # most entries of a block of rows where costs or kernel are not stored
# Below this share of |x|^2 + |y|^2 a squared distance has too few digits left for its root.
_CANCELLED = {torch.float32: 1e-5, torch.float64: 1e-9}
# Share of pairs up to which one by one is faster than all at once: that breaks even at 7 to 20 %,
# for 8 to 1024 features.
_FEW = 0.05


class Workspace:
    """Memory for costs and kernels, up to `limit` bytes, that the problems of one call share."""

    def __init__(self, dtype: torch.dtype, device: torch.device, limit: float) -> None:
        self.dtype, self.device, self.limit = dtype, device, limit
        self._parts: dict[str, Tensor] = {}

    def holds(self, num: int, entries: int) -> bool:
        """Whether so many matrices of so many entries may be kept."""
        return num * entries * self.dtype.itemsize <= self.limit

    def take(self, name: str, *shape: int) -> Tensor:
        """Memory of a name, of any contents, that the next taker of the name overwrites."""
        size = torch.Size(shape).numel()
        part = self._parts.get(name)
        if part is None or part.numel() < size:
            self._parts[name] = part = torch.empty(size, dtype=self.dtype, device=self.device)
        return part[:size].view(shape)


class GibbsKernel:
    """K = exp(p + q - C / epsilon) between clouds (B, N, D) and (B, M, D), and its products.

    Costs and kernel are stored where the workspace holds both; where it holds one, the costs are,
    and the kernel is computed from them in blocks of rows whenever it is needed; else the costs are
    computed again too. Vectors are float64, (B, N) or (B, M).
    """

    def __init__(self, x: Tensor, y: Tensor, order: float, workspace: Workspace) -> None:
        self.x, self.y, self.order, self.workspace = x, y, order, workspace
        self.shape = x.shape[0], x.shape[1], y.shape[1]
        self.norms = _squares(x), _squares(y)
        entries = torch.Size(self.shape).numel()

        # Two blocks, of costs and of kernel, keep to the limit too, down to what a cache holds.
        half = int(workspace.limit / (2 * workspace.dtype.itemsize))
        self._block = min(_BLOCK, max(_CACHED, half))

        self.costs = self.kernel = None
        if workspace.holds(1, entries):
            self.costs = workspace.take("costs", *self.shape)
            for rows in self._row_blocks():
                self._costs_into(self.costs[:, rows], rows)
            if workspace.holds(2, entries):
                self.kernel = workspace.take("kernel", *self.shape)

    def build(self, p: Tensor, q: Tensor, epsilon: Tensor) -> tuple[Tensor, Tensor]:
        """Take potentials f / epsilon (B, N) and g / epsilon (B, M) up into the kernel.

        They come back as the kernel has them, rounded to its dtype.
        """
        dtype = self.x.dtype
        self.p, self.q, self.rate = p.to(dtype), q.to(dtype), (1 / epsilon).to(dtype)
        if self.kernel is not None and self.costs is not None:
            self._exponentiate(self.costs, self.kernel, slice(0, self.shape[1]))
        return self.p.double(), self.q.double()

    def rows(self, v: Tensor) -> Tensor:
        """K v (B, N), for v (B, M)."""
        return torch.cat([_product(kernel, v) for *_, kernel in self._kernels()], 1)

    def sweep(self, v: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        """Both halves of a Sinkhorn iteration in one pass.

        For weights v (B, M), scaled, and a (B, N), phi = -log K v and -log K' (a exp(phi)).
        """
        phi, total = [], torch.zeros_like(v)
        for rows, _, kernel in self._kernels():
            part = -logarithm(_product(kernel, v))
            total += _product(kernel.mT, a[:, rows] * part.exp())
            phi.append(part)
        return torch.cat(phi, 1), -logarithm(total)

    def columns(self, u: Tensor) -> Tensor:
        """K' u (B, M), for u (B, N)."""
        total = torch.zeros_like(u[:, :1]).expand(-1, self.shape[2])
        for rows, _, kernel in self._kernels():
            total = total + _product(kernel.mT, u[:, rows])
        return total

    def costs_times(self, v: Tensor) -> Tensor:
        """C v (B, N), for v (B, M)."""
        return torch.cat([_product(costs, v) for _, costs in self.cost_blocks()], 1)

    def transposed_costs_times(self, u: Tensor) -> Tensor:
        """C' u (B, M), for u (B, N)."""
        total = torch.zeros_like(u[:, :1]).expand(-1, self.shape[2])
        for rows, costs in self.cost_blocks():
            total = total + _product(costs.mT, u[:, rows])
        return total

    def gradients(
        self, a: Tensor, b: Tensor, wanted: tuple[bool, bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        """Gradients of sum_ij P_ij C_ij in rows and columns for the fixed plan P_ij = a_i b_j K_ij.

        In the dtype of the clouds, None if not wanted. Overwrites the kernel, so that it has to be
        built again.
        """
        if not any(wanted):
            return None, None
        x, y, order = self.x, self.y, self.order
        a, b = a.to(x.dtype)[..., None], b.to(x.dtype)[..., None]
        by_row = torch.empty_like(x) if wanted[0] else None
        by_column = torch.zeros_like(y) if wanted[1] else None

        # sum_j P_ij (x_i - y_j) is x_i times a row sum less a product: no tensor (N, M, D) is made.
        with ieee_float32(x.device):
            for rows, costs, kernel in self._kernels():
                if order != 2:
                    self._times_slopes(kernel, costs)
                part = a[:, rows]
                if by_row is not None:
                    pull = x[:, rows] * (kernel @ b) - kernel @ (b * y)
                    by_row[:, rows] = pull.mul_(order * part)
                if by_column is not None:
                    by_column += y * (kernel.mT @ part) - kernel.mT @ (part * x[:, rows])
        if by_column is not None:
            by_column *= order * b
        return by_row, by_column

    def _times_slopes(self, kernel: Tensor, costs: Tensor) -> None:
        """Multiply a kernel by |x - y|^(p - 2), and by 0 where points meet, piece by piece."""
        for part in _pieces(costs):
            # Costs are |x - y|^p, so that this power of them is |x - y|^(p - 2).
            apart = costs[:, part] > 0
            slopes = torch.where(apart, costs[:, part], 1.0).pow_((self.order - 2) / self.order)
            kernel[:, part].mul_(slopes.mul_(apart))

    def _kernels(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Blocks of rows, their costs, and their kernel, which the next block overwrites."""
        if self.kernel is not None and self.costs is not None:
            yield slice(0, self.shape[1]), self.costs, self.kernel
            return

        for rows, costs in self.cost_blocks():
            kernel = self._scratch("block of kernel", rows)
            self._exponentiate(costs, kernel, rows)
            yield rows, costs, kernel

    def cost_blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """The costs in blocks of rows: the rows, and costs (B, rows, M), not to be changed."""
        for rows in self._row_blocks():
            if self.costs is not None:
                yield rows, self.costs[:, rows]
            else:
                yield rows, self._costs_into(self._scratch("block of costs", rows), rows)

    def _scratch(self, name: str, rows: slice) -> Tensor:
        """Memory of a block of rows."""
        return self.workspace.take(name, self.shape[0], rows.stop - rows.start, self.shape[2])

    def _row_blocks(self) -> Iterator[slice]:
        """The rows in blocks that keep to the limit."""
        batch, n, m = self.shape
        return row_blocks(n, batch * m, self._block)

    def _costs_into(self, out: Tensor, rows: slice) -> Tensor:
        """Costs of some rows."""
        x, squares = self.x[:, rows], (self.norms[0][:, rows], self.norms[1])
        with ieee_float32(x.device):
            torch.bmm(x, self.y.mT, out=out)

        for part in _pieces(out):
            piece, lengths = out[:, part], squares[0][:, part]
            piece.mul_(-2).add_(lengths[..., None]).add_(squares[1][:, None, :])
            if self.order != 2:  # a root asks for more digits than the product leaves
                norms, few = (lengths, squares[1]), _FEW * piece.numel()
                refine_cancelled(piece, x[:, part], self.y, norms, _CANCELLED[x.dtype], few)
                piece.pow_(self.order / 2)
            piece.clamp_(min=0)

        # Of a self term: a point is exactly at itself, whatever the product says.
        if self.x is self.y:
            out.diagonal(rows.start, -2, -1).zero_()
        return out

    def _exponentiate(self, costs: Tensor, kernel: Tensor, rows: slice) -> None:
        """Write exp(p + q - C / epsilon) of some rows, piece by piece."""
        p, rate = self.p[:, rows, None], self.rate[:, None, None]
        for part in _pieces(costs):
            piece = torch.mul(costs[:, part], -rate, out=kernel[:, part])
            piece.add_(p[:, part]).add_(self.q[:, None, :]).exp_()


def logarithm(products: Tensor) -> Tensor:
    """Logarithms within those of float32: later steps mend kernels that under- or overflow."""
    ends = torch.finfo(torch.float32)
    return products.clamp(ends.tiny, ends.max).log()


def _pieces(costs: Tensor) -> Iterator[slice]:
    """Rows of costs (B, N, M) in pieces that stay in the cache."""
    return row_blocks(costs.shape[1], costs.shape[0] * costs.shape[2], _CACHED)


def _squares(cloud: Tensor) -> Tensor:
    """Squared lengths (B, N)."""
    return torch.linalg.vector_norm(cloud, dim=-1).square()


def _product(matrix: Tensor, vector: Tensor) -> Tensor:
    """Matrices (B, N, M), perhaps transposed, times float64 vectors (B, M), in their dtype."""
    vector = vector.to(matrix.dtype)
    with ieee_float32(matrix.device):
        if len(matrix) == 1:
            return torch.mv(matrix[0], vector[0]).double()[None]
        return torch.bmm(vector[:, None], matrix.mT)[:, 0].double()
