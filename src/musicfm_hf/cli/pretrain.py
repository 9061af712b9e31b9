"""
Pretrain an encoder on music without labels. Settings come from a recipe; flags override them.

  musicfm pretrain small --train music/ --output_dir runs/small
  accelerate launch --config_file ddp.yaml -m musicfm_hf pretrain fm7 \\
      --train '/data/shards/*.tar' --validation valid/ --stats stats.json --output_dir runs/fm7

To resume an interrupted run from its last checkpoint, repeat the command. The output folder holds the model,
`curves.png`, `results.json`, TensorBoard logs, and `problems.tsv`, which lists songs that could not be used.
"""

from ..hub.push import hub_target
from ..pretraining.arguments import DataArguments, ModelArguments, PretrainingArguments
from ..pretraining.run import prepare_pretraining
from .flags import share_result, user_errors
from .training import parse_command, prepare_process


def main(argv: list[str]) -> None:
    """Run `musicfm pretrain`."""
    classes = (ModelArguments, DataArguments, PretrainingArguments)
    with user_errors("Not trained"):
        model_arguments, data_arguments, arguments = parse_command("pretrain", "pretrain", classes, argv, __doc__)
        prepare_process(arguments)
        target = hub_target(arguments, arguments.output_dir)
        run = prepare_pretraining(model_arguments, data_arguments, arguments)
    results = run.train()
    if arguments.should_save:
        if results["scores"]:
            run.trainer.log_metrics("eval", results["scores"])
        share_result(arguments.output_dir, target)
