"""Modules that a fresh process imports."""

import subprocess
import sys
from functools import cache

import transformers
from packaging.version import Version


def modules_after(code: str, *words: str) -> set[str]:
    """Names of all modules that a fresh process has imported after running some code with these arguments."""
    code += "\nimport sys; print(' '.join(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, *words, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


@cache
def heavy_modules() -> set[str]:
    """
    Modules that take long to import, and that embedding does not need. The pipelines of Transformers import some of
    them on their own before version 5.23.
    """
    heavy = {
        "transformers.trainer",
        "transformers.training_args",
        "matplotlib",
        "librosa",
        "peft",
        "datasets",
        "evaluate",
        "sklearn",
        "onnx",
        "onnxruntime",
        "openvino",
    }
    if Version(transformers.__version__) >= Version("5.23"):
        return heavy
    return heavy - modules_after("import transformers.pipelines, transformers.processing_utils")
