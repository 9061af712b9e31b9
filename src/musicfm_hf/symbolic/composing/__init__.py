"""Composition of songs in the manner of others."""
