"""Tables of the scores that benchmarks/peers.py recorded."""

from pathlib import Path


def write_table(store: Path) -> None:
    pass
