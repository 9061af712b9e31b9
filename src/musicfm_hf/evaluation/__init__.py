"""Scores of whole songs, intervals, baselines."""
