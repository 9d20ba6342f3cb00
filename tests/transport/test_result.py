"""The result that every solver shares."""

import pytest
import torch
from cases import ORDERS

from otmetrics.functional import TransportResult
from otmetrics.transport.result import root, stack_results


def result(value: float, **fields: object) -> TransportResult:
    return TransportResult(torch.tensor(value), torch.tensor(value) ** 2, **fields)  # type: ignore[arg-type]


def test_gap_needs_both_bounds() -> None:
    low, high = torch.tensor(1.0), torch.tensor(1.5)
    assert result(1.0, lower_bound=low).gap is None
    assert result(1.0, upper_bound=high).gap is None
    gap = result(1.0, lower_bound=low, upper_bound=high).gap
    assert gap is not None
    assert gap.item() == 0.5


@pytest.mark.parametrize("order", ORDERS)
def test_root(order: float) -> None:
    cost = torch.tensor([-1e-12, 0.0, 1e-300, 4.0], dtype=torch.float64, requires_grad=True)
    value = root(cost, order)
    expected = torch.tensor([0.0, 0.0, 1e-300, 4.0], dtype=torch.float64) ** (1 / order)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    value.sum().backward()
    assert cost.grad is not None
    assert cost.grad.isfinite().all()
    assert cost.grad[0] == 0
    assert cost.grad[3].item() == pytest.approx(4 ** (1 / order - 1) / order)


def test_stacked_says_what_failed() -> None:
    good = result(1.0, num_iterations=3, message="fine")
    bad = result(2.0, num_iterations=9, converged=False, message="raise it")
    both = stack_results([good, bad])
    assert both.value.tolist() == [1, 2]
    assert both.cost.tolist() == [1, 4]
    assert both.num_iterations == 9
    assert not both.converged
    assert both.message == "raise it"
    assert both.lower_bound is both.plan is both.potentials is both.standard_error is None
    assert stack_results([good, good]).message == "fine"


@pytest.mark.parametrize("order", [1.0, 2.0])
def test_root_of_nan_is_nan(order: float) -> None:
    assert root(torch.tensor([float("nan"), 4.0]), order).isnan().tolist() == [True, False]
