"""`musicfm push` as a script; `python recipes/push.py --help` describes it."""

import sys

from musicfm_hf.cli.main import main

if __name__ == "__main__":
    main(["push", *sys.argv[1:]])
