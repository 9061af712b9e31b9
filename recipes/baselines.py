"""`musicfm baselines` as a script; `python recipes/baselines.py --help` describes it."""

import sys

from musicfm_hf.cli.main import main

if __name__ == "__main__":
    main(["baselines", *sys.argv[1:]])
