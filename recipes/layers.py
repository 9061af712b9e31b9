"""
The command `musicfm layers` as a script.

    python recipes/layers.py --models runs/small --tasks beat chord --data data/pop909 --output_dir results/layers
"""

import sys

from musicfm_hf.cli.main import main

if __name__ == "__main__":
    main(["layers", *sys.argv[1:]])
