"""Code shared by all training: settings, Trainer, curves, records of a run."""
