"""Shared by every training: settings, Trainer, curves, records of a run."""
