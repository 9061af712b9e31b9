"""Masked pretraining."""
