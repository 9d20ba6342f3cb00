"""Scores that transport nothing: Fréchet, kernel distance, precision, recall and their kin."""
