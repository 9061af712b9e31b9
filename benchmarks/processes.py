"""Measurements and commands in processes of their own."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any


def measure_separately(script: str, arguments: Sequence[str]) -> dict[str, Any]:
    """
    Run a script in a process of its own, and return the JSON in the last line that it prints.

    Raises:
        RuntimeError: the script failed; has the end of its messages.
    """
    return json.loads(_run([sys.executable, script, *arguments]).splitlines()[-1])


def musicfm(*arguments: str, threads: int | None = None) -> None:
    """
    Run a `musicfm` command, on a number of threads.

    Raises:
        RuntimeError: the command failed; has the end of its messages.
    """
    _run(
        [sys.executable, "-m", "musicfm_hf", *arguments], {} if threads is None else {"OMP_NUM_THREADS": f"{threads}"}
    )


def _run(command: Sequence[str], environment: dict[str, str] | None = None) -> str:
    """Output of a command."""
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | (environment or {}), check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr[-2000:]}")
    return done.stdout
