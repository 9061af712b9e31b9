"""`musicfm train-text-audio` as a script; `python recipes/train_text_audio.py --help` describes it."""

import sys

from musicfm_hf.cli.main import main

if __name__ == "__main__":
    main(["train-text-audio", *sys.argv[1:]])
