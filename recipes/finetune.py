"""
The command `musicfm finetune` as a script.

    python recipes/finetune.py chord/probe --model musicfm-msd --data data/pop909 --output_dir runs/chord
"""

import sys

from musicfm_hf.cli.main import main

if __name__ == "__main__":
    main(["finetune", *sys.argv[1:]])
