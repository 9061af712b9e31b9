"""Measurements and commands in processes of their own."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any


def measure_separately(script: str, arguments: Sequence[str]) -> dict[str, Any]:
    """
    Run a script in a process of its own, and return the JSON in the last line that it prints.

    Raises:
        RuntimeError: the script failed; has the end of its messages.
    """
    return json.loads(_run([sys.executable, script, *arguments]).splitlines()[-1])


def musicfm(*arguments: str, **variables: str) -> None:
    """
    Run a `musicfm` command, with further environment variables.

    Raises:
        RuntimeError: the command failed; has the end of its messages.
    """
    _run([sys.executable, "-m", "musicfm_hf", *arguments], variables)


def _run(command: Sequence[str], variables: Mapping[str, str] | None = None) -> str:
    """Output of a command."""
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | (variables or {}), check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr[-2000:]}")
    return done.stdout
