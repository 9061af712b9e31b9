"""`musicfm evaluate` as a script; `python recipes/evaluate.py --help` describes it."""

import sys

from musicfm_hf.cli.evaluate import main

if __name__ == "__main__":
    main(sys.argv[1:])
