"""How far generated data is from real data, measured by optimal transport in feature space."""
