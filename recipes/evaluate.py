"""`musicfm evaluate` as a script; `python recipes/evaluate.py --help` describes it."""

import sys

from musicfm_hf.cli.main import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
