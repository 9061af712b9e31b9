"""
Train a head for beats, chords, structure, key or tags on a pretrained encoder, and score it on whole songs.

    python recipes/finetune.py recipes/chord/probe.yaml --model musicfm-msd --data data/pop909 --output_dir runs/chord
    python recipes/finetune.py recipes/chord/lora.yaml recipes/small/lora.yaml --model runs/small --data data/pop909 \
        --output_dir runs/chord-lora

Methods differ by YAML: a probe (frozen encoder, features computed once), the whole encoder, or LoRA. Each YAML goes
over the one before, and flags over all. A run that was interrupted goes on: give the same command again. The output
folder has the model (or the adapter), `curves.png`, TensorBoard logs and checkpoints; scores are in
`results/<name of the folder>.json`.
"""

import logging
from pathlib import Path

from transformers import set_seed

from musicfm_hf import MusicFMFeatureExtractor
from musicfm_hf.finetuning.arguments import FinetuningArguments, TaskArguments
from musicfm_hf.finetuning.fingerprint import FREE_TO_CHANGE, results_if_done
from musicfm_hf.finetuning.heads import save_finetuned
from musicfm_hf.finetuning.run import finetune, read_splits
from musicfm_hf.hub.push import hub_target, publish
from musicfm_hf.tasks import get_task
from musicfm_hf.training.arguments import parse_recipe
from musicfm_hf.training.curves import CurveCallback
from musicfm_hf.training.records import write_json


def main() -> None:
    try:
        task, arguments = parse_recipe((TaskArguments, FinetuningArguments), description=__doc__)
        logging.basicConfig(format="%(message)s")
        logging.getLogger("musicfm_hf").setLevel(logging.INFO if arguments.should_log else logging.WARNING)
        if arguments.push_to_hub and task.method == "lora" and Path(task.model).is_dir():
            raise ValueError(
                f"An adapter for {task.model}, a folder, is of use to nobody else: push that, and name it as "
                "`--model`; or push the adapter later, with recipes/push.py and `--base_model`."
            )
        path = Path(task.results) / f"{Path(arguments.output_dir).resolve().name}.json"
        splits = read_splits(task)
        # Those of another run of this name are not written over.
        results_if_done(path, task, arguments, splits, "--results", FREE_TO_CHANGE)
        target = hub_target(arguments, arguments.output_dir)
        set_seed(arguments.seed)
        panels = {"loss": ["loss"], "validation songs": [f"eval_{get_task(task.task).metric}"]}
        model, trained, _, _, results = finetune(task, arguments, splits, [CurveCallback(panels)])
    except (ValueError, OSError) as error:
        raise SystemExit(f"Not trained: {error}") from error

    if arguments.should_save:
        output = Path(arguments.output_dir)
        if model is not None:
            save_finetuned(model, trained, output)
            config = model.config
            MusicFMFeatureExtractor(
                sampling_rate=config.sampling_rate, min_samples=config.min_samples, do_normalize=config.do_normalize
            ).save_pretrained(output)
        for file in (output / "results.json", path):
            write_json(file, results)
        for split, averages in results["scores"].items():
            print(f"{split}: " + ", ".join(f"{name} {value['mean']:.3f}" for name, value in averages.items()))
        if model is not None:
            publish(output, target)


if __name__ == "__main__":
    main()
