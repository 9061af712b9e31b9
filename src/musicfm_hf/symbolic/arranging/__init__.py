"""Random arrangements of scores."""
