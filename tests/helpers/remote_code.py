"""Processes that cannot import the package, and load the code of a saved model in its place."""

import os
import subprocess
import sys
from pathlib import Path

NO_PACKAGE = """
import sys

class NoPackage:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "musicfm_hf":
            raise ModuleNotFoundError(f"No module named {name!r} (hidden for this test)")

sys.meta_path.insert(0, NoPackage())
try:
    import musicfm_hf
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("the package could be imported")

from safetensors.torch import load_file, save_file
"""


def run_without_the_package(tmp_path: Path, code: str, *arguments) -> None:
    """Run code in such a process; `tmp_path` holds the copies of the code that it loads."""
    environment = os.environ | {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", NO_PACKAGE + code, *map(str, arguments)],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr.decode()
