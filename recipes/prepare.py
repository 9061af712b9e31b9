"""`musicfm prepare` as a script; `python recipes/prepare.py --help` describes it."""

import sys

from musicfm_hf.cli.prepare import main

if __name__ == "__main__":
    main(sys.argv[1:])
