"""Whole songs through a model: embeddings and annotations."""
