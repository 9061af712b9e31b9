"""The `musicfm` command."""
