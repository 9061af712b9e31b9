"""Results of training runs."""

import json
from pathlib import Path

from safetensors.torch import load_file

CLOCK = ("_runtime", "_per_second")  # ends of the names of what a clock measures


def results(folder: Path) -> dict:
    """The results file of a run."""
    return json.loads((folder / "results.json").read_text())


def without_clock(entries: list[dict]) -> list[dict]:
    """A log without what depends on the clock, and without the last entry of training, which is of one start."""
    entries = [entry for entry in entries if "train_loss" not in entry]
    return [{name: value for name, value in entry.items() if not name.endswith(CLOCK)} for entry in entries]


def history(folder: Path) -> list[dict]:
    """The log of a run, without what depends on the clock or on the number of starts."""
    return without_clock(results(folder)["history"])


def losses(folder: Path) -> list[float]:
    """The training losses of a run."""
    return [entry["loss"] for entry in history(folder) if "loss" in entry]


def assert_same_run(folder: Path, other: Path) -> None:
    """Check that two runs have the same history and the same weights, to the last bit."""
    expected, found = history(other), history(folder)
    assert [entry["step"] for entry in found] == [entry["step"] for entry in expected]
    for entry, wanted in zip(found, expected, strict=True):
        assert entry == wanted
    ours, theirs = (load_file(path / "model.safetensors") for path in (folder, other))
    assert ours.keys() == theirs.keys()
    assert all(ours[name].equal(theirs[name]) for name in ours)
