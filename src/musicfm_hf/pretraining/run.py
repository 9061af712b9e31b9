"""Masked pretraining, from settings to a folder with the model and its results."""

from pathlib import Path
from typing import Any, NamedTuple

from transformers import set_seed

from ..data.catalog import describe_source
from ..hub.licenses import license_of
from ..model.feature_extraction_musicfm import MusicFMFeatureExtractor
from ..training.curves import CurveCallback
from ..training.files import complete_files, write_json
from ..training.records import RECORDED_ARGUMENTS, commit_of, environment, strip_absolute_paths
from ..training.trainer import find_checkpoint
from .arguments import DataArguments, ModelArguments, PretrainingArguments
from .data import build_data
from .model import build_model
from .trainer import PretrainingTrainer

PANELS = {
    "cross-entropy (nats)": ["cross_entropy", "eval_cross_entropy", "eval_unigram_cross_entropy"],
    "accuracy": ["accuracy", "eval_accuracy", "eval_accuracy_copy", "eval_accuracy_most_frequent"],
    "gradient norm": ["grad_norm"],
}


class PretrainingRun(NamedTuple):
    """
    A run that is ready to start or to resume.

    Attributes:
        trainer ([`PretrainingTrainer`]): The Trainer, with the model and the data.
        checkpoint: The checkpoint to resume from, or `None`.
        settings: Descriptions of the music and the settings, for `results.json`.
    """

    trainer: PretrainingTrainer
    checkpoint: str | None
    settings: dict[str, Any]

    def train(self) -> dict[str, Any]:
        """
        Train and evaluate, and write the output folder: the model with its feature extractor, `curves.png`,
        `results.json`, and `problems.tsv`, which lists the songs that could not be used.

        Returns:
            The contents of `results.json`.
        """
        trainer = self.trainer
        trainer.train(resume_from_checkpoint=self.checkpoint)
        scores = trainer.evaluate() if trainer.eval_dataset is not None else {}
        trainer.save_model()
        problems = trainer.problems()
        results = {
            "task": "masked pretraining",
            "scores": scores,
            "parameters": trainer.model.num_parameters(),
            **self.settings,
            "training": {name: getattr(trainer.args, name) for name in RECORDED_ARGUMENTS},
            "problems": dict(problems.counts),
            "seconds": round(trainer.seconds),
            **environment(),
            "history": trainer.state.log_history,
        }
        if trainer.args.should_save:
            output = Path(trainer.args.output_dir)
            problems.write(output / "problems.tsv")
            with complete_files(output) as temporary:
                MusicFMFeatureExtractor.from_model_config(trainer.encoder_config).save_pretrained(temporary)
            write_json(output / "results.json", results)
        return results


def base_of(model: str | None) -> dict[str, Any]:
    """Return what `results.json` has of the model that pretraining continues from: its name and its license."""
    if model is None:
        return {}
    commit = commit_of(model)
    base = strip_absolute_paths({"name": model, "revision": commit})
    return {"base": base, "base_licence": license_of(model, commit)}


def prepare_pretraining(
    model_arguments: ModelArguments, data_arguments: DataArguments, arguments: PretrainingArguments
) -> PretrainingRun:
    """
    Build the model, the data and the Trainer of a run, and find the checkpoint to resume from.

    Raises:
        ValueError: A setting is invalid, nothing in a source can be used, or the checkpoint belongs to another run.
        OSError: A file or a repository cannot be read.
    """
    set_seed(arguments.seed)
    music = [describe_source(source) for source in data_arguments.train]
    model = build_model(model_arguments, data_arguments, arguments)
    loader, validation = build_data(data_arguments, arguments, model.config)
    trainer = PretrainingTrainer(model, arguments, loader, validation, callbacks=[CurveCallback(PANELS)])
    checkpoint = arguments.resume_from_checkpoint or find_checkpoint(arguments.output_dir)
    if checkpoint is not None:
        trainer.load_progress(Path(checkpoint))  # raises before training if the checkpoint does not match
    settings = {
        "music": music,
        **base_of(model_arguments.model),
        "data": strip_absolute_paths(vars(data_arguments)),
        "model": strip_absolute_paths(vars(model_arguments)),
    }
    return PretrainingRun(trainer, checkpoint, settings)


def pretrain(
    model_arguments: ModelArguments, data_arguments: DataArguments, arguments: PretrainingArguments
) -> dict[str, Any]:
    """
    Pretrain as the settings specify, resuming from the last checkpoint in the output folder. For errors, see
    [`prepare_pretraining`]; for output files and the return value, see [`PretrainingRun.train`].
    """
    return prepare_pretraining(model_arguments, data_arguments, arguments).train()
