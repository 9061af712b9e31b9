"""
Masked pretraining of any variant of the paper, from a YAML file and flags over it.

    python recipes/pretrain.py recipes/pretrain/small.yaml --train music/ --output_dir runs/small
    accelerate launch --config_file recipes/accelerate/ddp.yaml recipes/pretrain.py recipes/pretrain/fm7.yaml \
        --train '/data/shards/*.tar' --validation valid/ --stats stats.json --output_dir runs/fm7

A run that was interrupted goes on where its last checkpoint was: give the same command again. The output folder has
the model, `curves.png`, `results.json`, TensorBoard logs, and `problems.tsv`, the songs that could not be used.
"""

import logging
from pathlib import Path

from transformers import set_seed

from musicfm_hf import MusicFMFeatureExtractor
from musicfm_hf.cli.flags import share_result
from musicfm_hf.data.catalogue import describe_source
from musicfm_hf.hub.push import hub_target
from musicfm_hf.pretraining.arguments import DataArguments, ModelArguments, PretrainingArguments
from musicfm_hf.pretraining.data import build_data
from musicfm_hf.pretraining.model import build_model
from musicfm_hf.pretraining.trainer import PretrainingTrainer
from musicfm_hf.training.arguments import parse_recipe
from musicfm_hf.training.curves import CurveCallback
from musicfm_hf.training.records import RECORDED_ARGUMENTS, environment, recorded, write_json
from musicfm_hf.training.trainer import find_checkpoint

PANELS = {
    "cross-entropy (nats)": ["cross_entropy", "eval_cross_entropy", "eval_unigram_cross_entropy"],
    "accuracy": ["accuracy", "eval_accuracy", "eval_accuracy_copy", "eval_accuracy_most_frequent"],
    "gradient norm": ["grad_norm"],
}


def main() -> None:
    try:
        model_arguments, data_arguments, arguments = parse_recipe(
            (ModelArguments, DataArguments, PretrainingArguments), description=__doc__
        )
        logging.basicConfig(format="%(message)s")
        logging.getLogger("musicfm_hf").setLevel(logging.INFO if arguments.should_log else logging.WARNING)
        target = hub_target(arguments, arguments.output_dir)
        set_seed(arguments.seed)
        music = [describe_source(source) for source in data_arguments.train]
        model = build_model(model_arguments, data_arguments, arguments)
        loader, validation = build_data(data_arguments, arguments, model.config)
        trainer = PretrainingTrainer(model, arguments, loader, validation, callbacks=[CurveCallback(PANELS)])
        checkpoint = arguments.resume_from_checkpoint or find_checkpoint(arguments.output_dir)
        if checkpoint is not None:
            trainer.load_progress(Path(checkpoint))  # so that what does not fit is said here
    except (ValueError, OSError) as error:
        raise SystemExit(f"Not trained: {error}") from error

    trainer.train(resume_from_checkpoint=checkpoint)
    final = trainer.evaluate() if validation is not None else {}
    trainer.save_model()

    output = Path(arguments.output_dir)
    problems = trainer.problems()
    if arguments.should_save:
        problems.write(output / "problems.tsv")
        config = model.config
        MusicFMFeatureExtractor(
            sampling_rate=config.sampling_rate, min_samples=config.min_samples, do_normalize=config.do_normalize
        ).save_pretrained(output)
        results = {
            "task": "masked pretraining",
            "scores": final,
            "parameters": model.num_parameters(),
            "music": music,
            "data": recorded(vars(data_arguments)),
            "model": recorded(vars(model_arguments)),
            "training": {name: getattr(arguments, name) for name in RECORDED_ARGUMENTS},
            "problems": dict(problems.counts),
            "seconds": round(trainer.seconds),
            **environment(),
            "history": trainer.state.log_history,
        }
        write_json(output / "results.json", results)
        trainer.log_metrics("eval", final)
        share_result(output, target)


if __name__ == "__main__":
    main()
