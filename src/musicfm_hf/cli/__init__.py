"""The `musicfm` command, with one file for each of its subcommands."""
