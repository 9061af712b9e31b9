"""
Train a model of music and text on songs with captions, and score how well songs and captions find each other.

  musicfm train-text-audio towers --audio_model runs/small --text_model xlm-roberta-base \\
      --train train.jsonl --validation valid.jsonl --test test.jsonl --output_dir runs/text
  musicfm train-text-audio lora --model muq-mulan --train train.jsonl --validation valid.jsonl \\
      --output_dir runs/text-lora

The model is one with both towers (`--model`), or gets new towers on an encoder of music and one of texts. A recipe is
a method: towers (both encoders are frozen), full or lora. Recipes that begin with small/ override it for encoders with
a few million weights, as in `towers small/towers`. Flags override all recipes.

Songs are the rows of a .jsonl, .csv or .parquet file with the columns `audio` (a path, relative to the folder of the
file) and `caption` (a text, or a list of texts of which one is drawn each time), or of a data set of `datasets`.

To resume an interrupted run from its last checkpoint, repeat the command. The output folder holds the model or the
adapter, its processor, `curves.png`, `results.json`, TensorBoard logs and checkpoints, and `problems.tsv`, which lists
songs that could not be used.
"""

from pathlib import Path

from ..hub.push import hub_target
from ..text_audio.arguments import TextAudioArguments, TextAudioTrainingArguments
from ..text_audio.run import prepare_training
from .flags import share_result, user_errors
from .training import parse_command, prepare_process


def main(argv: list[str]) -> None:
    """Run `musicfm train-text-audio`."""
    classes = (TextAudioArguments, TextAudioTrainingArguments)
    with user_errors("Not trained"):
        settings, arguments = parse_command("train-text-audio", "text_audio", classes, argv, __doc__)
        prepare_process(arguments)
        if arguments.push_to_hub and settings.method == "lora" and Path(settings.model).is_dir():
            raise ValueError(
                f"Nobody else can use an adapter for {settings.model}, a folder on this machine. Push that folder and "
                "pass its repository as `--model`, or push the adapter later, with `musicfm push` and `--base_model`."
            )
        target = hub_target(arguments, arguments.output_dir)
        run = prepare_training(settings, arguments)
    results = run.train()
    if not arguments.should_save:
        return
    for split, scores in results["scores"].items():
        for name, score in scores.items():
            low, high = score["interval"]
            shown = f"{score['mean']:.3f} ({low:.3f} to {high:.3f}; chance {score['chance']:.3f})"
            print(f"{split}: {name.replace('_', ' ')} {shown}")
    share_result(arguments.output_dir, target)
