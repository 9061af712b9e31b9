"""`musicfm annotate` as a script; `python recipes/annotate.py --help` describes it."""

import sys

from musicfm_hf.cli.main import main

if __name__ == "__main__":
    main(["annotate", *sys.argv[1:]])
