"""Train a model of music and text on songs with captions: its towers, the whole model, or LoRA matrices."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from transformers import set_seed

from ..data.captions import CaptionedSong, read_captions
from ..data.catalog import describe_source
from ..data.crop_reader import AudioProblem, ProblemLog
from ..finetuning.heads import save_finetuned
from ..finetuning.trainer import EarlyStopping
from ..hub.card_scores import MUSIC_AND_TEXT
from ..hub.licenses import license_of
from ..model.configuration_text_audio_musicfm import MusicFMTextAudioConfig
from ..training.curves import CurveCallback
from ..training.files import complete_files, matching_files, write_json
from ..training.records import (
    OPTIMIZER_ARGUMENTS,
    RECORDED_ARGUMENTS,
    commit_of,
    environment,
    require_same_settings,
    strip_absolute_paths,
)
from ..training.trainer import find_checkpoint
from .arguments import TextAudioArguments, TextAudioTrainingArguments, pin_revision
from .data import CaptionCrops, WholeSongs
from .model import add_lora, build_model
from .scores import scores_with_intervals
from .trainer import PROGRESS, TextAudioTrainer

PANELS = {
    "loss": ["loss"],
    "validation: recall at 10": ["eval_text_to_music_recall_at_10", "eval_music_to_text_recall_at_10"],
    "validation: mean average precision": ["eval_text_to_music_map", "eval_music_to_text_map"],
}

# Fields of TextAudioTrainingArguments that results depend on.
_FINGERPRINT_ARGUMENTS = [
    *RECORDED_ARGUMENTS,
    "encoder_learning_rate",
    *OPTIMIZER_ARGUMENTS,
    "eval_steps",
    "load_best_model_at_end",
    "early_stopping_patience",
]

_FREE_TO_CHANGE = ("max_steps", "early_stopping_patience")  # settings that may change when a run resumes

Splits = Mapping[str, Sequence[CaptionedSong]]


class TextAudioRun(NamedTuple):
    """
    A run that is ready to start or to resume.

    Attributes:
        trainer ([`TextAudioTrainer`]): The Trainer, with the model and the data.
        splits: Songs for `train`, `validation` and optionally `test`.
        checkpoint: The checkpoint to resume from, or `None`.
        settings: Entries of `results.json` that are known before the training.
    """

    trainer: TextAudioTrainer
    splits: Splits
    checkpoint: str | None
    settings: dict[str, Any]

    def train(self) -> dict[str, Any]:
        """
        Train, score validation and test songs with the best checkpoint, and write the output folder: the model or the
        adapter, its processor, `curves.png`, `results.json`, and `problems.tsv`, which lists songs that could not be
        used.

        Returns:
            The contents of `results.json`.
        """
        trainer = self.trainer
        model, trained = trainer.text_audio_model, trainer.model
        trainer.train(resume_from_checkpoint=self.checkpoint)
        scores, of_songs = self._final_scores()
        problems = trainer.problems()
        results = {
            "task": MUSIC_AND_TEXT,
            "scores": scores,
            **self.settings,
            **trainer.fingerprint,
            "steps": {"run": trainer.state.global_step, "best": trainer.state.best_global_step},
            "problems": dict(problems.counts),
            "seconds": round(trainer.seconds, 1),
            **environment(),
            "history": trainer.state.log_history,
            "scores_of_songs": of_songs,
        }
        if trainer.args.should_save:
            output = Path(trainer.args.output_dir)
            save_finetuned(model, trained, output)  # type: ignore[arg-type]  # a model with towers instead of a head
            with complete_files(output) as temporary:
                trainer.processor.save_pretrained(temporary)
            problems.write(output / "problems.tsv")
            write_json(output / "results.json", results)
        return results

    def _final_scores(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the scores of validation and test songs with intervals, and those of each song."""
        summaries, of_songs = {}, {}
        state, keeps_best = self.trainer.state, self.trainer.args.load_best_model_at_end
        best = (state.best_global_step if keeps_best else state.global_step) or -1  # may be from an earlier start
        for split in ("validation", "test"):
            if split in self.splits:
                scored = self.trainer.evaluated.get(best) if split == "validation" else None
                scores, is_caption, names = scored or self.trainer.score_songs(self.splits[split], split)
                summaries[split] = scores_with_intervals(scores, is_caption)
                rows = {score: values.tolist() for score, values in scores.items()}
                of_songs[split] = [
                    strip_absolute_paths({"song": name} | {score: values[index] for score, values in rows.items()})
                    for index, name in enumerate(names)
                ]
        return summaries, of_songs


def prepare_training(settings: TextAudioArguments, arguments: TextAudioTrainingArguments) -> TextAudioRun:
    """
    Read the songs, build the model and the Trainer, and find the checkpoint to resume from.

    Raises:
        ValueError: A setting is invalid, nothing in a source can be used, or the checkpoint belongs to another run.
        OSError: A file or a repository cannot be read.
    """
    set_seed(arguments.seed)
    settings = pin_revision(settings)
    splits, problems = read_splits(settings)
    fingerprint = _fingerprint(settings, arguments, splits)
    checkpoint: Any = arguments.resume_from_checkpoint
    if checkpoint in (None, True):
        checkpoint = find_checkpoint(arguments.output_dir)
    progress: dict[str, Any] = (
        _check_checkpoint(Path(checkpoint), fingerprint) if checkpoint else {"seconds": 0.0, "problems": []}
    )
    model, processor = build_model(settings)
    crops = _build_crops(model.config, splits["train"], arguments)
    _check_audio(crops, splits, model.config)
    trained = add_lora(model, settings) if settings.method == "lora" else model
    callbacks: list[Any] = [CurveCallback(PANELS)]
    if arguments.early_stopping_patience:
        callbacks.append(EarlyStopping(arguments.early_stopping_patience))
    trainer = TextAudioTrainer(
        trained,
        arguments,
        crops,
        splits["validation"],
        processor,
        model,
        fingerprint,
        progress["seconds"],
        callbacks=callbacks,
    )
    for problem in [*problems.records, *(AudioProblem(*problem) for problem in progress["problems"])]:
        trainer.problem_log.add(problem)
    base = settings.model or settings.audio_model
    names = strip_absolute_paths({name: getattr(settings, name) for name in ("model", "audio_model", "text_model")})
    known = {
        "method": settings.method,
        "parameters": model.num_parameters(),
        "trained_parameters": sum(weight.numel() for weight in trained.parameters() if weight.requires_grad),
        "base": {"name": names["model"] or None, "revision": settings.revision},
        "encoders": {"audio": names["audio_model"], "text": names["text_model"]} if not settings.model else None,
        "base_licence": license_of(base, commit_of(base, settings.revision)),
        "data": describe_source(settings.train) | {"songs": {name: len(songs) for name, songs in splits.items()}},
        "test_data": describe_source(settings.test) if settings.test else None,
    }
    return TextAudioRun(trainer, splits, checkpoint or None, known)


def train_text_audio(settings: TextAudioArguments, arguments: TextAudioTrainingArguments) -> dict[str, Any]:
    """
    Train a model of music and text as the settings specify, resuming from the last checkpoint in the output folder.
    For errors, see [`prepare_training`]; for output files and the return value, see [`TextAudioRun.train`].
    """
    return prepare_training(settings, arguments).train()


def read_splits(settings: TextAudioArguments) -> tuple[dict[str, list[CaptionedSong]], ProblemLog]:
    """
    Read the songs of `train`, `validation` and, if given, `test`, and log those that cannot be used.

    Raises:
        ValueError: a source is malformed or has no usable song, or validation or test songs are also trained on.
        FileNotFoundError: a source does not exist.
    """
    splits, log = {}, ProblemLog()
    for split in ("train", "validation", "test"):
        source = getattr(settings, split)
        if source:
            songs, problems = read_captions(
                source, split, settings.audio_column, settings.caption_column, settings.id_column
            )
            splits[split] = songs[: settings.limit]
            for problem in problems.records:
                log.add(problem)
    paths = {os.path.realpath(song.audio) for song in splits["train"] if isinstance(song.audio, str)}
    for split in splits.keys() - {"train"}:
        others = [song for song in splits[split] if isinstance(song.audio, str)]
        shared = [song.name for song in others if os.path.realpath(song.audio) in paths]
        if shared:
            raise ValueError(
                f"{len(shared)} songs of `--{split}` are also in `--train`, such as {shared[0]}: scores of songs that "
                "were trained on mean nothing. Remove them from one of the tables."
            )
    return splits, log


def _build_crops(
    config: MusicFMTextAudioConfig, songs: Sequence[CaptionedSong], arguments: TextAudioTrainingArguments
) -> CaptionCrops:
    """Return the training pairs of all steps."""
    return CaptionCrops(
        songs,
        config.clip_samples,
        config.sampling_rate,
        config.audio_config.min_samples,
        batch_size=arguments.train_batch_size * arguments.world_size,
        batches=arguments.max_steps * arguments.gradient_accumulation_steps,
        seed=arguments.seed,
    )


def _check_audio(crops: CaptionCrops, splits: Splits, config: MusicFMTextAudioConfig) -> None:
    """Raise a `ValueError` unless two training songs, and one song of every other split, can be read."""
    _require_readable("train", 2, (crops.pair(0, index)["problem"] for index in range(len(crops.songs))))
    for split, songs in splits.items():
        if split != "train":
            whole = WholeSongs(songs, split, config.sampling_rate, config.audio_config.min_samples)
            _require_readable(split, 1, (whole[index][1] for index in range(len(whole))))


def _require_readable(split: str, needed: int, outcomes: Iterable[AudioProblem | None]) -> None:
    """Raise a `ValueError` unless the needed number of songs, which are read one by one, have no problem."""
    problems, readable = ProblemLog(), 0
    for problem in outcomes:
        if problem is None:
            readable += 1
            if readable == needed:
                return
        else:
            problems.add(problem)
    raise ValueError(
        f"`--{split}` needs at least {needed} songs that can be read, got {readable}. {problems.summary()}"
    )


def _fingerprint(
    settings: TextAudioArguments, arguments: TextAudioTrainingArguments, splits: Splits
) -> dict[str, dict[str, Any]]:
    """Return everything that the results of a run depend on: settings, and digests of models and captions."""
    digests = {}
    for name in ("model", "audio_model", "text_model"):
        folder = Path(getattr(settings, name))
        if getattr(settings, name) and folder.is_dir():
            digest = hashlib.blake2b(digest_size=8)
            for path in (folder / "config.json", *matching_files(folder, "*.safetensors")):
                with path.open("rb") as file:
                    digest.update(hashlib.file_digest(file, "blake2b").digest())
            digests[f"{name}_digest"] = digest.hexdigest()
    rows = {split: [[song.name, *song.captions] for song in songs] for split, songs in splits.items()}
    digests["captions_digest"] = hashlib.blake2b(json.dumps(rows).encode(), digest_size=8).hexdigest()
    training = {name: getattr(arguments, name) for name in _FINGERPRINT_ARGUMENTS}
    training["metric_for_best_model"] = arguments.chosen_score
    return {"settings": strip_absolute_paths(vars(settings)), "training": training, "inputs": digests}


def _check_checkpoint(checkpoint: Path, fingerprint: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Check that a run may resume from a checkpoint, and return its progress; see `prepare_training` for errors."""
    path = checkpoint / PROGRESS
    if not path.is_file():
        raise ValueError(f"{checkpoint} was not written by `musicfm train-text-audio`. Pass another `--output_dir`.")
    progress = json.loads(path.read_text(encoding="utf-8"))
    max_steps = fingerprint["training"]["max_steps"]
    if max_steps < progress["steps"]:
        raise ValueError(f"{checkpoint} has already taken more than {max_steps} steps.")
    before: dict[str, Any] = {}
    now: dict[str, Any] = {}
    for group in fingerprint:
        before |= progress.get(group, {})
        now |= fingerprint[group]
    now = {name: value for name, value in now.items() if name not in _FREE_TO_CHANGE}
    require_same_settings(checkpoint, before, now, "--output_dir")
    return progress
