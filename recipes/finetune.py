"""`musicfm finetune` as a script; `python recipes/finetune.py --help` describes it."""

import sys

from musicfm_hf.cli.finetune import main

if __name__ == "__main__":
    main(sys.argv[1:])
