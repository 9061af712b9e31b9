"""Scores of the five tasks as modules of the library `evaluate`."""
