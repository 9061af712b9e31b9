"""`musicfm train-quantizer` as a script; `python recipes/train_quantizer.py --help` describes it."""

import sys

from musicfm_hf.cli.main import main

if __name__ == "__main__":
    main(["train-quantizer", *sys.argv[1:]])
