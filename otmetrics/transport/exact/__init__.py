"""Exact transport: plan, potentials, and bounds that prove them."""
