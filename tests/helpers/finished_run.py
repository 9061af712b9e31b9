"""Results of a finished run, for tests of cards and pushes."""

import json
from pathlib import Path

RESULTS = {
    "task": "chord",
    "method": "full",
    "scores": {
        "test": {
            "majmin": {"mean": 0.8125, "songs": 50, "interval": [0.7519, 0.8666]},
            "root": {"mean": float("nan"), "songs": 0, "interval": [float("nan")] * 2},
            "seconds": {"mean": 200.0, "songs": 50},
        }
    },
    "parameters": 123456,
    "trained_parameters": 12345,
    "base": {"name": "small", "revision": None},
    "data": {"name": "pop909", "licence": "MIT", "homepage": "https://example.org/pop909", "citation": "@misc{pop}"},
    "training": {"seed": 42, "learning_rate": 0.001, "bf16": False},
    "seconds": 90.0,
    "versions": {"musicfm_hf": "0.1.0"},
    "machine": "2 cores of a processor",
}


def change_results(folder: Path, **changes) -> None:
    """Change values in the `results.json` of a folder."""
    path = folder / "results.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
