"""Recipes of pretraining and fine-tuning as YAML, and scripts that run the commands of `musicfm`."""
