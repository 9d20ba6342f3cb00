"""Optimal transport: one wing for each kind of problem, each with its solver class."""

from otmetrics.transport.exact.exact import Exact
from otmetrics.transport.result import TransportResult
from otmetrics.transport.semidiscrete.semidiscrete import SemiDiscrete
from otmetrics.transport.sinkhorn.sinkhorn import Sinkhorn
from otmetrics.transport.sliced.max_sliced import MaxSliced
from otmetrics.transport.sliced.sliced import Sliced

__all__ = ["Exact", "MaxSliced", "SemiDiscrete", "Sinkhorn", "Sliced", "TransportResult"]
