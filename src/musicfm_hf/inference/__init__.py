"""Inference on whole songs: embeddings and annotations."""
