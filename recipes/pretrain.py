"""
The command `musicfm pretrain` as a script.

    python recipes/pretrain.py small --train music/ --output_dir runs/small
    accelerate launch --config_file recipes/accelerate/ddp.yaml recipes/pretrain.py fm7 \
        --train '/data/shards/*.tar' --validation valid/ --stats stats.json --output_dir runs/fm7
"""

import sys

from musicfm_hf.cli.main import main

if __name__ == "__main__":
    main(["pretrain", *sys.argv[1:]])
