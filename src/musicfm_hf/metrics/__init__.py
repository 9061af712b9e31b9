"""Scores of the five tasks, as modules of the `evaluate` library."""
