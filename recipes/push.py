"""`musicfm push` as a script; `python recipes/push.py --help` describes it."""

import sys

from musicfm_hf.cli.push import main

if __name__ == "__main__":
    main(sys.argv[1:])
