"""`musicfm pretrain` as a script; `python recipes/pretrain.py --help` describes it."""

import sys

from musicfm_hf.cli.main import main

if __name__ == "__main__":
    main(["pretrain", *sys.argv[1:]])
