"""Transport from a continuous distribution to weighted points."""
