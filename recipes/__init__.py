"""Training recipes in YAML, which the `musicfm` command finds by name, and scripts that run its subcommands."""
