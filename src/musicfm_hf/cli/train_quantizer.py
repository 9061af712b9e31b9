"""
Train the quantizer for a pretraining recipe whose `quantizer_type` is kmeans or residual_vq.

  musicfm train-quantizer muq --train music/ --output_dir quantizers/muq
  musicfm pretrain muq --train music/ --quantizer quantizers/muq --output_dir runs/muq

Only `config` and `statistics` are read from the recipe. The command measures code use and reconstruction error on
held-out songs, prints them, and writes them to `report.json`.
"""

import json

from ..hub.push import hub_target
from ..pretraining.arguments import QuantizerArguments
from ..pretraining.quantizers import train_quantizer
from .flags import add_hub_flags, share_result, user_errors
from .training import parse_command

RENAMED_FLAGS = {"--output": "--output_dir"}


def main(argv: list[str]) -> None:
    """Run `musicfm train-quantizer`."""
    with user_errors("Not trained"):
        arguments, hub = parse_command(
            "train-quantizer",
            "pretrain",
            (QuantizerArguments,),
            argv,
            __doc__,
            keys=("config", "statistics"),
            renamed=RENAMED_FLAGS,
            add_flags=add_hub_flags,
        )
        target = hub_target(hub, arguments.output_dir)
        recipe = argv[0] if argv and not argv[0].startswith("-") else None
        report = train_quantizer(arguments, recipe)
    print(json.dumps(report["validation"], indent=1))
    share_result(arguments.output_dir, target)
