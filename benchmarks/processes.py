"""Measurements and commands in processes of their own."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any


def measure_separately(script: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Run a script in a fresh process, and return the JSON of the last line that it prints."""
    done = subprocess.run([sys.executable, script, *arguments], check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def musicfm(*arguments: str, threads: int | None = None) -> None:
    """
    Run a `musicfm` command.

    Raises:
        RuntimeError: it failed; has the end of what it printed.
    """
    command = [sys.executable, "-m", "musicfm_hf", *arguments]
    environment = os.environ | ({} if threads is None else {"OMP_NUM_THREADS": str(threads)})
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr[-2000:]}")
