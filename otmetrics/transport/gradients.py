"""Whether there are derivatives, and gradients that are known without a graph, and only once."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad


def is_differentiated(value: Tensor) -> bool:
    """Whether derivatives pass a tensor, backward or forward."""
    backward = value.requires_grad and torch.is_grad_enabled()
    return backward or forward_ad.unpack_dual(value).tangent is not None


def with_gradient(
    value: Tensor, variable: Tensor, gradient: Tensor, *sources: Tensor | None
) -> Tensor:
    """A value with a gradient in one more variable, next to those that it has.

    `gradient` is the derivative of each value in its part of `variable`, whose leading dimensions
    are those of the values. It has no graph and depends on `sources`: to differentiate it in one of
    these raises.
    """
    return _WithGradient.apply(value, variable, gradient, *sources)


def differentiable_once(value: Tensor, *sources: Tensor | None) -> Tensor:
    """A value whose gradients raise where they are differentiated in one of the sources.

    For values whose graph holds some of what they depend on as constants: their gradient is right
    by the envelope theorem, but not the derivative of this gradient.
    """
    return _Once.apply(value, *sources)


def constant(gradient: Tensor, *sources: Tensor | None) -> Tensor:
    """A gradient without a graph that raises where it is differentiated in one of its sources.

    Without these edges to its sources autograd would take it for a constant and differentiate the
    rest, in silence; `once_differentiable` leaves them out.
    """
    return _Refusing.apply(gradient, *sources) if torch.is_grad_enabled() else gradient


def detach_weights(weights: Tensor | None) -> Tensor | None:
    """Weights without their graph, or None."""
    return None if weights is None else weights.detach()


class _Refusing(torch.autograd.Function):
    """The identity, which has no derivative."""

    @staticmethod
    def forward(gradient: Tensor, *sources: Tensor | None) -> Tensor:
        return gradient.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> None:
        raise RuntimeError(
            "This cost is differentiable once (once_differentiable), and its gradient was "
            "differentiated: leave it out of gradient penalties and second-order methods, or take "
            "one that holds nothing constant, `unrolled_sinkhorn_divergence` with `relative=False`."
        )


class _Once(torch.autograd.Function):
    """The identity, whose gradient depends on the sources in a way that is not known."""

    @staticmethod
    def forward(value: Tensor, *sources: Tensor | None) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, *sources = inputs
        ctx.save_for_backward(*_differentiable(sources))
        ctx.rest = [None] * len(sources)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            # Nothing but edges to the sources, where a second derivative is refused.
            gradient = gradient + constant(torch.zeros_like(gradient), *ctx.saved_tensors)
        return gradient, *ctx.rest


class _WithGradient(torch.autograd.Function):
    """The identity, with a gradient in a second variable."""

    @staticmethod
    def forward(value: Tensor, variable: Tensor, known: Tensor, *sources: Tensor | None) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, variable, known, *sources = inputs
        ctx.save_for_backward(known, *_differentiable(sources))
        ctx.dtype, ctx.rest = variable.dtype, [None] * (1 + len(sources))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        known, *sources = ctx.saved_tensors
        # The gradient in the values, with one dimension for each that only the variable has.
        ones = [1] * (known.ndim - gradient.ndim)
        factor = gradient.to(known.dtype).reshape([*gradient.shape, *ones])
        return gradient, (factor * constant(known, *sources)).to(ctx.dtype), *ctx.rest


def _differentiable(sources: list[Tensor | None]) -> list[Tensor]:
    """The sources that a second derivative could be asked in."""
    return [one for one in sources if one is not None and one.requires_grad]
