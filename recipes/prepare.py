"""`musicfm prepare` as a script; `python recipes/prepare.py --help` describes it."""

import sys

from musicfm_hf.cli.main import main

if __name__ == "__main__":
    main(["prepare", *sys.argv[1:]])
