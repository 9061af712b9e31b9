"""`musicfm finetune` as a script; `python recipes/finetune.py --help` describes it."""

import sys

from musicfm_hf.cli.main import main

if __name__ == "__main__":
    main(["finetune", *sys.argv[1:]])
