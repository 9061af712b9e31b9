"""Support of names and spellings of earlier releases."""

REMOVED_IN = "0.3"  # the release without them
