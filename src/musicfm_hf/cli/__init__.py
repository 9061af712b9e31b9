"""The `musicfm` command, one file for each of its commands."""
