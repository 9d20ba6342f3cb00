"""From numbers to decisions: intervals, tests and comparisons of scores."""
