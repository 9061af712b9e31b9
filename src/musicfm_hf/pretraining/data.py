"""Training batches with masks, and validation crops."""

import torch

from ..data.catalogue import list_sources
from ..data.crops import CropLoader, FixedCrops, fixed_crops
from ..data.sources import ListedSource, Song, StreamedSource, open_source
from ..data.splits import split_by_name
from ..model.configuration_musicfm import MusicFMConfig
from ..model.masking_musicfm import sample_mask
from .arguments import DataArguments, PretrainingArguments


def build_data(
    data: DataArguments, args: PretrainingArguments, config: MusicFMConfig
) -> tuple[CropLoader, FixedCrops | None]:
    """
    Training batches and validation crops.

    Raises:
        ValueError: before anything is trained, if a source has nothing that can be used, or a setting is out of range.
        FileNotFoundError: if a source is not there.
    """
    if not data.train:
        raise ValueError("There is nothing to train on: give `--train`.")
    sources = [open_source(source, data.streaming, data.audio_column) for source in data.train]
    validation = []
    if data.validation:
        validation = [song for source in data.validation for song in list_sources(source, data.audio_column)]
    elif data.validation_fraction > 0:
        sources, validation = keep_for_validation(sources, data.validation_fraction)
    if not validation and args.eval_strategy != "no":
        raise ValueError("There is nothing to evaluate on: give `--validation`, or `--eval_strategy no`.")
    needed = {"sampling_rate": config.sampling_rate, "min_samples": max(config.min_samples, config.n_fft // 2 + 1)}
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
        **needed,
    )
    loader.check()
    crops = fixed_crops(validation, data.crop_seconds, data.validation_crops, **needed) if validation else None
    return loader, crops


def keep_for_validation(
    sources: list[ListedSource | StreamedSource], fraction: float
) -> tuple[list[ListedSource | StreamedSource], list[Song]]:
    """The sources without a share of the songs of each listed one, chosen by name, and those songs."""
    left, kept = [], []
    for source in sources:
        if isinstance(source, ListedSource):
            songs, own = split_by_name(source.songs, fraction)
            source = ListedSource(songs, source.name)
            kept += own
        left.append(source)
    return left, kept


class MaskCrops:
    """Adds `mask_time_indices` to a batch of crops, of each item from its own seed. Runs in the loader's workers."""

    def __init__(self, config: MusicFMConfig):
        self.config = config

    def __call__(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        generators = [torch.Generator().manual_seed(int(seed)) for seed in batch["seeds"]]
        samples = batch["input_values"].shape[1]
        return batch | {"mask_time_indices": sample_mask(self.config, lengths(batch), samples, generators)}


def lengths(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Samples of each item `(batch,)`."""
    if "attention_mask" in batch:
        return batch["attention_mask"].sum(-1)
    return torch.full((len(batch["input_values"]),), batch["input_values"].shape[1])


class _Compose:
    """`second(first(x))`, in a worker."""

    def __init__(self, first, second):
        self.first, self.second = first, second

    def __call__(self, items):
        return self.second(self.first(items))
