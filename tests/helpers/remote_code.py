"""Processes that cannot import the package, and load the code of a saved model in its place."""

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
