"""Train an embedding head for retrieval on an encoder: as a probe, with the whole encoder, or with LoRA."""

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from transformers import AutoConfig, TrainerCallback

from ..data.catalog import describe_source
from ..data.examples import ReadWaveform
from ..data.labeled import LabeledSong
from ..data.labeled_dataset import load_songs, split_names
from ..data.pairs import PairCrops, limit_groups
from ..evaluation.retrieval import average_searches, score_vectors, searches_with_intervals
from ..hub.licenses import license_of
from ..inference.embedding import WindowSettings
from ..inference.excerpts import embed_excerpts
from ..inference.feature_cache import EncoderFeatures, FeatureCache
from ..model.configuration_musicfm import MusicFMConfig
from ..model.modeling_musicfm import MusicFMForXVector
from ..tasks.retrieval import METRIC, SCORES, Excerpt, get_retrieval_task
from .arguments import FinetuningArguments, RetrievalArguments
from .heads import add_lora, retrieval_config
from .pitch_maps import ChromaFeatures, PitchMaps, PitchTargets, fit_pitch_maps, songs_to_fit
from .run import Finetuned, build_on_device, collect_results, draw_training_songs, final_ratings, start_run
from .starting_head import Splits, starting_head
from .trainer import EarlyStopping, FinetuningTrainer, fill_cache

Embed = Callable[[Sequence[Excerpt]], np.ndarray]


class RetrievalTrainer(FinetuningTrainer):
    """
    A [`FinetuningTrainer`] whose `logits` function embeds excerpts, and which scores the search of the retrieval task
    `config.task` among the songs of a split.
    """

    logits: Any  # Embed

    def main_score(self, config: MusicFMConfig) -> str:
        return METRIC

    def score_names(self, config: MusicFMConfig, songs: Sequence[Any]) -> Sequence[str]:
        return list(SCORES)

    def average(self, scores: dict[str, dict[str, Any]]) -> dict[str, float]:
        return average_searches(scores)

    def score_songs(self, songs: Sequence[LabeledSong]) -> dict[str, dict[str, Any]]:
        """
        Search among songs, in the precision of training. The excerpts are divided among processes.

        Returns:
            Song → scores, on every process.
        """
        search = get_retrieval_task(self.config.task).search(songs)
        excerpts = [*search.queries, *search.gallery]
        # Excerpts of one song stay together, because songs are encoded whole.
        names = list(dict.fromkeys(excerpt.song.id for excerpt in excerpts))
        own = set(names[self.args.process_index :: self.args.world_size])
        places = [index for index, excerpt in enumerate(excerpts) if excerpt.song.id in own]
        self.model.eval()
        with self.accelerator.autocast():
            embedded = self.logits([excerpts[index] for index in places]) if places else []
        pairs = list(zip(places, embedded, strict=True))
        vectors = dict(gather_object(pairs) if self.args.world_size > 1 else pairs)
        ordered = np.array([vectors[index] for index in range(len(excerpts))])
        return score_vectors(search, ordered[: len(search.queries)], ordered[len(search.queries) :])


def read_versions(arguments: RetrievalArguments) -> dict[str, list[LabeledSong]]:
    """
    Read the training and validation songs, and the test songs if the data set has them, in all their versions.

    Raises:
        ValueError: The data set has no such split, or none of its songs has what the task searches for.
        FileNotFoundError: The data set does not exist.
    """
    names = [
        name for name in ("train", "validation", "test") if name != "test" or "test" in split_names(arguments.data)
    ]
    splits = {name: limit_groups(load_songs(arguments.data, name), arguments.limit) for name in names}
    task = get_retrieval_task(arguments.task)
    for name, songs in splits.items():
        check = task.classes if name == "train" else task.search
        check(songs)
    return splits


def finetune_retrieval(
    task: RetrievalArguments,
    arguments: FinetuningArguments,
    splits: Splits | None = None,
    callbacks: Iterable[TrainerCallback] = (),
) -> Finetuned:
    """
    Train an embedding head as the settings specify, and score the searches among validation and test songs with the
    model that scored best on validation songs. As [`finetune`], it resumes from its last checkpoint.

    Args:
        splits: Songs for `train`, `validation` and optionally `test`; by default those that [`read_versions`] returns.
        callbacks: Callbacks for the [`Trainer`].

    Raises:
        ValueError: Before training, if the settings contradict each other, or do not match the songs, the encoder, or
            the checkpoint in the output folder; or the batch size is odd.
    """
    started, source = time.perf_counter(), describe_source(task.data)
    if arguments.train_batch_size % 2:
        raise ValueError(f"Crops come in pairs: the batch size must be even, got {arguments.train_batch_size}.")
    splits = read_versions(task) if splits is None else splits
    task, fingerprint, checkpoint, earlier_seconds = start_run(task, arguments, splits)
    started -= earlier_seconds
    base_license = license_of(task.model, task.revision)
    head = starting_head(finetune_retrieval, task, arguments, splits, checkpoint)
    splits = draw_training_songs(task, splits)
    base = AutoConfig.from_pretrained(task.model, revision=task.revision)
    config = retrieval_config(task, base, splits["train"])
    model, trained, maps = _build(task, arguments, config, splits, head)
    crops = _crops(task, arguments, splits, config, maps)
    callbacks = list(callbacks)
    if arguments.early_stopping_patience:
        callbacks.append(EarlyStopping(arguments.early_stopping_patience))
    whole = model if maps is None else trained
    embed = partial(embed_excerpts, whole, settings=_windows(task, arguments), cache=maps)
    trainer = RetrievalTrainer(
        trained, arguments, crops, splits["validation"], embed, config, fingerprint, started, callbacks=callbacks
    )
    trainer.train(resume_from_checkpoint=checkpoint)
    rated = final_ratings(trainer, splits, is_cached=maps is not None)
    scores = {name: of_songs for name, (of_songs, _) in rated.items()}
    summary = {name: searches_with_intervals(rows) for name, rows in scores.items()}
    about = {"base_licence": base_license, "data": source}
    results = collect_results(task, trainer, model, splits, summary, about) | {"scores_of_songs": scores}
    return Finetuned(model, trained, trainer, scores, results)


def _windows(task: RetrievalArguments, arguments: FinetuningArguments) -> WindowSettings:
    return WindowSettings(window_seconds=task.window_seconds, batch_size=arguments.per_device_eval_batch_size)


def _build(
    task: RetrievalArguments,
    arguments: FinetuningArguments,
    config: MusicFMConfig,
    splits: Splits,
    starting_head: torch.nn.Module | None,
) -> tuple[MusicFMForXVector, Any, PitchMaps | None]:
    """Build the model with its head, its trained part and, for a probe, the pitch maps of all songs."""
    settings = _windows(task, arguments)
    settings.frames(config)  # raises if windows are too short
    model = build_on_device(task, arguments, config, splits["train"])
    head = model.classifier
    if starting_head is not None:
        head.load_state_dict(starting_head.state_dict())
    if task.method != "probe":
        trained = add_lora(model, task) if task.method == "lora" else model
        for name, parameter in trained.named_parameters():
            if not task.learns_pitch and "classifier." in name and ".embedding." not in name:
                parameter.requires_grad = False
        return model, trained, None
    model.freeze_base_model()
    cache = FeatureCache(task.cache, EncoderFeatures(model.musicfm, config.classifier_layers, settings))
    songs = [song for part in splits.values() for song in part]
    fill_cache(cache, songs, arguments)
    if not task.keep_head:
        fitted = songs_to_fit(splits["train"], arguments.seed)
        fit_pitch_maps(head.float(), cache, _pitch_targets(task, arguments, config, fitted), fitted)
    return model, head.embedding, PitchMaps(head, cache, songs)


def _pitch_targets(
    task: RetrievalArguments, arguments: FinetuningArguments, config: MusicFMConfig, songs: Sequence[LabeledSong]
) -> PitchTargets:
    """Return the targets of the pitch maps of songs, whose chroma is computed once and kept in the cache."""
    cache = FeatureCache(task.cache, ChromaFeatures(config))
    fill_cache(cache, songs, arguments)
    return PitchTargets(cache, config.pitch_maps)


def _crops(
    task: RetrievalArguments,
    arguments: FinetuningArguments,
    splits: Splits,
    config: MusicFMConfig,
    maps: PitchMaps | None,
) -> PairCrops:
    """Return the training crops of all steps."""
    retrieval_task = get_retrieval_task(task.task)
    crops = PairCrops(
        config,
        retrieval_task,
        splits["train"],
        maps or ReadWaveform(config, speed=task.speed, effects=task.effects),
        arguments.num_crops,
        task.crop_seconds or retrieval_task.passage_seconds,
        arguments.seed,
        task.classes_per_song,
        _pitch_targets(task, arguments, config, splits["train"]) if task.learns_pitch else None,
    )
    crops[0]  # raises before training if the settings do not match the songs
    return crops
