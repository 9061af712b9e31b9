"""The former name of recipes/layers.py."""

import sys
import warnings

from musicfm_hf.cli.main import main

if __name__ == "__main__":
    warnings.warn("This script is now `musicfm layers`; it will be removed in 0.3.", FutureWarning, stacklevel=1)
    main(["layers", *sys.argv[1:]])
