"""Entropic transport, and the Sinkhorn divergence made of it."""
