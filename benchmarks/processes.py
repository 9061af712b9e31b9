"""Run measurements and commands in separate processes."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any


def measure_separately(script: str, arguments: Sequence[str]) -> dict[str, Any]:
    """
    Run a script in a separate process, and return the JSON in the last line that it prints.

    Raises:
        RuntimeError: the script failed. The message contains the end of its error output.
    """
    return json.loads(_run([sys.executable, script, *arguments]).splitlines()[-1])


def musicfm(*arguments: str, **variables: str) -> None:
    """
    Run a `musicfm` command with additional environment variables.

    Raises:
        RuntimeError: the command failed. The message contains the end of its error output.
    """
    _run([sys.executable, "-m", "musicfm_hf", *arguments], variables)


def _run(command: Sequence[str], variables: Mapping[str, str] | None = None) -> str:
    """Run a command, and return its output."""
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | (variables or {}), check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr[-2000:]}")
    return done.stdout
