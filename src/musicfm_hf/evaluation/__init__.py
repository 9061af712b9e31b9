"""Evaluation on whole songs: scores, intervals, baselines."""
