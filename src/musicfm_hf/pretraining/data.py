"""Training batches with masks, and validation crops."""

import os
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from transformers.utils import logging

from ..data.catalog import list_sources
from ..data.crops import CropLoader, FixedCrops, collate_crops, fixed_crops
from ..data.sources import ListedSource, Song, StreamedSource, open_source
from ..data.splits import is_held_out, split_by_name
from ..model.configuration_musicfm import MusicFMConfig
from ..model.masking_musicfm import sample_mask
from .arguments import DataArguments, PretrainingArguments, QuantizerArguments

logger = logging.get_logger(__name__)

_NOISE = 0x6E6F697365  # makes the seed of the noise of an item different from that of its mask


def build_data(
    data: DataArguments, args: PretrainingArguments, config: MusicFMConfig
) -> tuple[CropLoader, FixedCrops | None]:
    """
    Open the sources of music, and create training batches and validation crops.

    Returns:
        The loader of training batches, with `mask_time_indices`; and the validation crops, or `None`.

    Raises:
        ValueError: Nothing in a source can be used, or a setting is out of range.
        FileNotFoundError: A source does not exist.
    """
    if not data.train:
        raise ValueError("There is no music to train on: pass `--train`.")
    sources, validation = open_music(data)
    if not validation and args.eval_strategy != "no":
        raise ValueError("There is no music to evaluate on: pass `--validation`, or `--eval_strategy no`.")
    requirements = {
        "sampling_rate": config.sampling_rate,
        "min_samples": max(config.min_samples, config.n_fft // 2 + 1),
    }
    loader = CropLoader(
        sources,
        data.weights,
        crop_seconds=data.crop_seconds,
        batch_size=args.per_device_train_batch_size,
        seed=args.seed if args.data_seed is None else args.data_seed,
        rank=args.process_index,
        world_size=args.world_size,
        num_workers=args.dataloader_num_workers,
        prefetch=args.dataloader_prefetch_factor or 2,
        collate=MaskCrops(config),
        effects=data.effects,
        **requirements,
    )
    loader.check()
    crops = fixed_crops(validation, data.crop_seconds, data.validation_crops, **requirements) if validation else None
    return loader, crops


def open_music(data: DataArguments | QuantizerArguments) -> tuple[list[ListedSource | StreamedSource], list[Song]]:
    """
    Open the sources of music, and divide them into training sources and validation songs. Errors are those of
    [`build_data`].
    """
    sources = [open_source(source, data.streaming, data.audio_column) for source in data.train]
    if data.validation:
        songs = [song for source in data.validation for song in list_sources(source, data.audio_column)]
        if any(_path_of(song) is None for song in songs):
            logger.warning(
                "Rows of data sets are not compared with the training songs: make sure that `--validation` has others."
            )
        return [without_songs(source, songs) for source in sources], songs
    if data.validation_fraction > 0:
        return hold_out_validation(sources, data.validation_fraction)
    return sources, []


def without_songs(source: ListedSource | StreamedSource, songs: Iterable[Song]) -> ListedSource | StreamedSource:
    """Return a source without the files of songs. Streams and rows of data sets are returned unchanged."""
    if not isinstance(source, ListedSource):
        return source
    files = {path for song in songs if (path := _path_of(song)) is not None}
    others = [song for song in source.songs if _path_of(song) not in files]
    if len(others) == len(source.songs):
        return source
    if not others:
        logger.warning(
            f"All songs of {source.name} are validation songs too: their scores are those of training songs."
        )
        return source
    logger.warning(f"{len(source.songs) - len(others)} songs of {source.name} are validation songs: not trained on.")
    return ListedSource(others, source.name)


def _path_of(song: Song) -> str | None:
    """Return the real path of the file of a song; `None` for a row of a data set."""
    return os.path.realpath(song[1]) if isinstance(song[1], str | os.PathLike) else None


def hold_out_validation(
    sources: Sequence[ListedSource | StreamedSource], fraction: float
) -> tuple[list[ListedSource | StreamedSource], list[Song]]:
    """
    Hold out a share of the songs of each listed source for validation, chosen by name. Streams are not divided. A file
    that several sources have is trained on in all of them or in none, as the first of them decides.

    Returns:
        The sources without these songs, and the songs, each file once.

    Raises:
        ValueError: no song of a source is left to train on.
    """
    training: list[ListedSource | StreamedSource] = []
    validation: list[Song] = []
    decided: dict[str | None, bool] = {}  # real path → whether it is a validation song
    for source in sources:
        if not isinstance(source, ListedSource):
            training.append(source)
            continue
        paths = [_path_of(song) for song in source.songs]
        if decided.keys().isdisjoint(paths):
            split_by_name(source.songs, fraction)  # raises an error if one side is empty
        songs = []
        for song, path in zip(source.songs, paths, strict=True):
            held_out = decided.get(path, is_held_out(song[0], fraction))
            if not held_out:
                songs.append(song)
            elif path not in decided:
                validation.append(song)
            if path is not None:
                decided[path] = held_out
        if not songs:
            raise ValueError(
                f"All songs of {source.name} are held out for validation. Leave it out, or pass other songs as "
                "`--validation`."
            )
        training.append(ListedSource(songs, source.name))
    return training, validation


class MaskCrops:
    """Adds `mask_time_indices`, drawn from the seed of each item, to a batch of crops. Runs in loader workers."""

    def __init__(self, config: MusicFMConfig):
        self.config = config

    def __call__(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        generators = [torch.Generator().manual_seed(int(seed)) for seed in batch["seeds"]]
        samples = batch["input_values"].shape[1]
        return batch | {"mask_time_indices": sample_mask(self.config, sample_counts(batch), samples, generators)}


def noise_generators(seeds: Iterable[int], device: torch.device | str) -> list[torch.Generator]:
    """Create the generators of the masking noise, one for each seed, independent of the generators of the masks."""
    return [torch.Generator(device).manual_seed(seed ^ _NOISE) for seed in seeds]


def sample_counts(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the number of samples in each item, without padding: int64 `(batch,)`."""
    if "attention_mask" in batch:
        return batch["attention_mask"].sum(-1)
    return torch.full((len(batch["input_values"]),), batch["input_values"].shape[1])


class CollateMasked:
    """Collates crops into a batch with `mask_time_indices`. Runs in loader workers."""

    def __init__(self, config: MusicFMConfig):
        self.mask = MaskCrops(config)

    def __call__(self, items: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        return self.mask(collate_crops(items))
