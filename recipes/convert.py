"""`musicfm convert` as a script; `python recipes/convert.py --help` describes it."""

import sys

from musicfm_hf.cli.main import main

if __name__ == "__main__":
    main(["convert", *sys.argv[1:]])
