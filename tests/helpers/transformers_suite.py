"""
The tests that Transformers runs over each of its own models, to run them over ours.

They are in the source distribution of Transformers only, so that of the installed version is downloaded once.
`python tests/helpers/transformers_suite.py` does nothing but that.
"""

import importlib
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from types import ModuleType
from unittest import mock

import pytest
import transformers

CACHE = Path(__file__).resolve().parents[2] / ".cache"
PACKAGE = "transformers_tests"  # not `tests`, which is ours

# What the source distribution leaves out, with the names that the rest imports from there. Generation and export go
# without tests; for the configuration, a value for each argument that all configurations have.
LEFT_OUT = {
    "exporters.test_export": {"ExportTesterMixin": type("ExportTesterMixin", (), {})},
    "generation.test_utils": {"GenerationTesterMixin": type("GenerationTesterMixin", (), {})},
    "utils.test_configuration_utils": {
        "config_common_kwargs": {
            "architectures": ["SomeModel"],
            "chunk_size_feed_forward": 3,
            "dtype": "float16",
            "id2label": {0: "drums", 1: "voice", 2: "strings"},
            "is_encoder_decoder": True,
            "label2id": {"drums": 0, "voice": 1, "strings": 2},
            "name_or_path": "somebody/some-model",
            "output_attentions": True,
            "output_hidden_states": True,
            "problem_type": "multi_label_classification",
            "return_dict": False,
        }
    },
}


def fetch() -> Path:
    """The folder `tests` of the installed Transformers, downloaded where it is not there yet."""
    release = f"transformers-{transformers.__version__}"
    target = CACHE / release
    if not target.is_dir():
        CACHE.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            pip = [
                sys.executable,
                "-m",
                "pip",
                "download",
                "--no-deps",
                "--no-binary",
                "transformers",
                "--dest",
                folder,
            ]
            subprocess.run([*pip, f"transformers=={transformers.__version__}"], check=True)
            unpacked = Path(folder, release)
            with tarfile.open(unpacked.with_name(f"{release}.tar.gz")) as archive:
                prefix = f"{release}/tests/"
                archive.extractall(folder, [m for m in archive if m.name.startswith(prefix)], filter="data")
            (unpacked / "tests" / "__init__.py").touch()  # the configuration tests execute it
            try:
                os.replace(unpacked, target)
            except OSError:
                if not target.is_dir():  # else another process was faster
                    raise
    return target / "tests"


def load(module: str) -> ModuleType:
    """Import a module of the suite, such as `test_modeling_common`."""
    if PACKAGE not in sys.modules:
        tests = fetch()
        _add_package(PACKAGE, tests)
        for name, content in LEFT_OUT.items():
            folder = name.split(".")[0]
            if not (tests / folder).is_dir():
                _add_package(f"{PACKAGE}.{folder}")
                stub = ModuleType(f"{PACKAGE}.{name}")
                stub.__dict__.update(content)
                sys.modules[stub.__name__] = stub
    with mock.patch.object(pytest, "mark", _NoMarks()):
        return importlib.import_module(f"{PACKAGE}.{module}")


class _NoMarks:
    """In place of `pytest.mark`: the suite has marks that `--strict-markers` does not know, and needs none of them."""

    def __getattr__(self, name):
        return lambda *args, **kwargs: args[0] if args and callable(args[0]) else lambda test: test


def _add_package(name: str, *folders: Path) -> None:
    package = ModuleType(name)
    package.__path__ = [str(folder) for folder in folders]
    sys.modules[name] = package


if __name__ == "__main__":
    print(fetch())
