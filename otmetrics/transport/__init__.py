"""Optimal transport: one wing for each kind of problem, each with its solver class."""
