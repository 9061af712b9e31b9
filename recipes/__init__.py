"""Settings of trainings as YAML, which the `musicfm` command finds by name, and scripts that run its commands."""
