"""Training heads: probes, full fine-tuning, LoRA."""
