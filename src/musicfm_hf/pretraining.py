"""Masked pretraining: settings, batches, the Trainer, and what it measures itself against."""

import json
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate.utils import broadcast, gather_object
from torch.utils.data import DataLoader
from transformers import TrainerCallback
from transformers.trainer_utils import speed_metrics
from transformers.utils import logging

from .data.catalogue import list_sources
from .data.crop_reader import AudioProblem, ProblemLog
from .data.crops import CropLoader, FixedCrops, collate_crops, fixed_crops
from .data.sources import ListedSource, Song, StreamedSource, open_source, split_by_name
from .data.statistics import mel_statistics
from .metrics.tokens import TokenStatistics
from .model.configuration_musicfm import MusicFMConfig
from .model.masking_musicfm import fit_length, sample_mask, target_frames
from .model.modeling_musicfm import MusicFMForPreTraining, MusicFMQuantizerModel
from .training import RecipeArguments, ResumableTrainer, refuse_other_settings, selective_checkpointing, write_json

logger = logging.get_logger(__name__)

_NOISE = 0x6E6F697365  # sets the seed of an item's noise apart from that of its mask

# What a configuration has that is no setting of the model.
_NO_SETTINGS = ("_name_or_path", "architectures", "dtype", "transformers_version")

# What a quantizer was made for; a model that takes its tokens must be configured alike.
_QUANTIZER_FIELDS = [
    "quantizer_type",
    "num_codebooks",
    "codebook_size",
    "codebook_dim",
    "sampling_rate",
    "n_fft",
    "hop_length",
    "num_mel_bins",
    "samples_per_frame",
    "kmeans_features",
    "kmeans_mel_bins",
    "kmeans_chroma_bins",
]


@dataclass
class PretrainingArguments(RecipeArguments):
    """[`RecipeArguments`] with defaults for masked pretraining."""

    ignore_data_skip: bool = field(default=True, metadata={"help": "The data know themselves where they were."})
    logging_steps: float = field(default=50, metadata={"help": "Log every so many steps."})
    selective_checkpointing: bool = field(
        default=False, metadata={"help": "Less memory for little time: compute norms, activations and dropout again."}
    )

    def __post_init__(self):
        if self.output_dir is not None and Path(self.output_dir).exists() and not Path(self.output_dir).is_dir():
            raise ValueError(f"`output_dir` must be a folder, but {self.output_dir} is a file.")
        super().__post_init__()
        if not self.average_tokens_across_devices:
            raise ValueError("`average_tokens_across_devices` must be true: the loss is averaged over all processes.")


@dataclass
class ModelArguments:
    """What to pretrain."""

    config: str = field(default="{}", metadata={"help": "Values of MusicFMConfig; a mapping in YAML, JSON here."})
    set: list[str] = field(default_factory=list, metadata={"help": "name=value … of MusicFMConfig, over `config`."})
    model: str | None = field(default=None, metadata={"help": "Go on from this folder or repository instead."})
    quantizer: str | None = field(
        default=None, metadata={"help": "Folder of recipes/train_quantizer.py; needed for kmeans and residual_vq."}
    )
    statistics: str = field(
        default="band",
        metadata={
            "help": "How targets are normalised: band (each mel band of the training music), global (one mean and "
            "standard deviation of it), or config (as `config` says).",
            "choices": ["band", "global", "config"],
        },
    )
    stats: str | None = field(
        default=None,
        metadata={
            "help": "JSON of `recipes/prepare.py stats`; measured on an hour of the training music if not given."
        },
    )
    attn_implementation: str | None = field(default=None, metadata={"help": "eager, sdpa, flash_attention_2, …"})


@dataclass
class DataArguments:
    """What to train on."""

    train: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Folders, .txt lists, saved data sets, .parquet files, .tar shards (and folders and globs of "
            "them), data sets on the Hub."
        },
    )
    weights: list[float] | None = field(default=None, metadata={"help": "How often each of them is drawn."})
    validation: list[str] | None = field(default=None, metadata={"help": "Likewise, listed sources only."})
    validation_fraction: float = field(
        default=0.02, metadata={"help": "Without `validation`: the share of songs kept for it, by name; 0 for none."}
    )
    validation_crops: int = field(default=256, metadata={"help": "Fixed crops that are evaluated."})
    crop_seconds: float = field(default=30.0, metadata={"help": "Length of a crop."})
    streaming: bool = field(default=False, metadata={"help": "Stream data sets on the Hub."})
    audio_column: str = field(default="audio", metadata={"help": "Column that has the audio."})


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


def config_values(values: Any, assignments: list[str]) -> dict[str, Any]:
    """
    Values of [`MusicFMConfig`]: those of a mapping, or of JSON that holds one, and `name=value …` over them.

    Raises:
        ValueError: if one is not of this form.
    """
    if isinstance(values, str):
        try:
            values = json.loads(values)
        except json.JSONDecodeError as error:
            raise ValueError(f"`config` must be JSON, got {values!r}: {error}.") from error
    if not isinstance(values, dict):
        raise ValueError(f"`config` must map names to values, got {values!r}.")
    values = dict(values)
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise ValueError(f"`--set` takes name=value, got {assignment!r}.")
        try:
            values[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ValueError(f"`--set` takes name=value with a value as in YAML, got {assignment!r}.") from error
    return values


def build_model(settings: ModelArguments, data: DataArguments, args: PretrainingArguments) -> MusicFMForPreTraining:
    """
    The model to train, with the statistics of the training music and its quantizer.

    Raises:
        ValueError: if a setting is impossible, or does not fit the quantizer.
    """
    extra = {"attn_implementation": settings.attn_implementation} if settings.attn_implementation else {}
    if settings.model is not None:
        if settings.set:
            raise ValueError("`--set` is for a new model: the one that `--model` names has its configuration.")
        model = MusicFMForPreTraining.from_pretrained(settings.model, **extra)
    else:
        values = config_values(settings.config, settings.set)
        if settings.statistics != "config":
            path = Path(settings.stats or Path(args.output_dir) / "stats.json")
            if settings.stats is not None and not path.is_file():
                raise ValueError(f"There is no file {path}.")
            with args.main_process_first(desc="statistics"):
                sources = [open_source(source, data.streaming, data.audio_column) for source in data.train]
                values = mel_settings(settings.statistics, path, sources, args.seed) | values
        config = MusicFMConfig(**values, **extra)
        if config.quantizer_type != "random_projection" and settings.quantizer is None:
            raise ValueError(
                f"Tokens of `quantizer_type` {config.quantizer_type!r} come from a trained quantizer: make one with "
                "recipes/train_quantizer.py and give its folder as `--quantizer`."
            )
        model = MusicFMForPreTraining(config)
    if settings.quantizer is not None:
        load_quantizer(model, settings.quantizer)
    return model


def mel_settings(kind: str, path: Path, sources: list[ListedSource | StreamedSource], seed: int = 0) -> dict[str, Any]:
    """
    Values of [`MusicFMConfig`] that normalise the spectrogram with the statistics of the training music: the input
    with one mean and standard deviation; the targets likewise (`kind="global"`) or each mel band with its own
    (`"band"`).

    Args:
        path: JSON as `recipes/prepare.py stats` writes it; measured on an hour of `sources` if it is not there.

    Raises:
        ValueError: if it is not there and `sources` are streams, which cannot be measured.
    """
    if not path.is_file():
        if not all(isinstance(source, ListedSource) for source in sources):
            raise ValueError("Streams cannot be measured: give `--stats`, or `statistics: config` in the recipe.")
        songs = [song for source in sources for song in source.songs]
        write_json(path, mel_statistics(songs, max_hours=1.0, seed=seed, progress=False).to_dict())
    measured = json.loads(path.read_text(encoding="utf-8"))
    values = {"mel_mean": measured["melspec_2048_mean"], "mel_std": measured["melspec_2048_std"]}
    if kind == "band":
        # A band that is always silent has no deviation.
        values |= {
            "target_mel_mean": measured["mel_mean"],
            "target_mel_std": [max(v, 1.0) for v in measured["mel_std"]],
        }
    return values


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


def load_quantizer(model: MusicFMForPreTraining, folder: str) -> None:
    """
    Give a model the quantizer that `recipes/train_quantizer.py` saved, or that of another pretrained model.

    Raises:
        ValueError: if it was made for other tokens than `model.config` says; the settings that differ are named.
    """
    source = MusicFMQuantizerModel.from_pretrained(folder)
    ours, theirs = model.config, source.config
    differ = [
        f"`{name}` is {getattr(theirs, name)} there and {getattr(ours, name)} here"
        for name in _QUANTIZER_FIELDS
        if getattr(theirs, name) != getattr(ours, name)
    ]
    if differ:
        raise ValueError(f"The quantizer in {folder} does not fit the model: {'; '.join(differ)}.")
    ours.target_mel_mean = theirs.mel_mean if theirs.target_mel_mean is None else theirs.target_mel_mean
    ours.target_mel_std = theirs.mel_std if theirs.target_mel_std is None else theirs.target_mel_std
    model.quantizer = source.quantizer.to(model.device)
    model.quantizer.config = ours


class PretrainingTrainer(ResumableTrainer):
    """
    A [`Trainer`] for [`MusicFMForPreTraining`] on a [`CropLoader`]. The loss is averaged over all masked tokens that
    an optimizer step sees, on all processes and accumulation steps. It logs what a model must be better than: the
    entropy of the tokens' frequencies, the most frequent token, and copying the nearest frame that is not masked.

    Args:
        loader ([`CropLoader`]): Training batches, with `mask_time_indices`.
        validation ([`FixedCrops`], *optional*): What `evaluate` measures, always with the same masks.
    """

    def __init__(
        self,
        model: MusicFMForPreTraining,
        args: PretrainingArguments,
        loader: CropLoader,
        validation: FixedCrops | None = None,
        **kwargs,
    ):
        super().__init__(model=model, args=args, eval_dataset=validation, **kwargs)
        if args.selective_checkpointing:
            model.gradient_checkpointing_enable(selective_checkpointing())
        self.loader = loader
        self.encoder_config: MusicFMConfig = model.config
        self.statistics = TokenStatistics(model.config.codebook_sizes, args.device)
        self.audio_seconds = 0.0
        self._began = time.perf_counter()  # earlier by the time of the starts before this one
        self._timed = (self._began, 0.0)
        self.add_callback(_ShareAsEpoch())

    def get_train_dataloader(self) -> CropLoader:
        """The endless loader, which knows its rank itself."""
        return self.loader

    def set_initial_training_values(self, args, dataloader):
        """As in [`Trainer`], but of one epoch: a run that had come to its end does not go on for a step."""
        return (1, *super().set_initial_training_values(args, dataloader)[1:])

    @property
    def seconds(self) -> float:
        """How long it took so far, in all starts; without what was lost between a checkpoint and an interruption."""
        return time.perf_counter() - self._began

    def train(self, resume_from_checkpoint: str | None = None, **kwargs):
        """As in [`Trainer`]; data and statistics go on where the checkpoint was, too."""
        if resume_from_checkpoint:
            self.load_progress(Path(resume_from_checkpoint))
        self._timed = (time.perf_counter(), self.audio_seconds)
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Onto the device, and a generator of noise for each item in place of its seed."""
        seeds = inputs["seeds"].tolist()
        inputs = super()._prepare_inputs({name: value for name, value in inputs.items() if name != "seeds"})
        device = inputs["input_values"].device
        generators = [torch.Generator(device).manual_seed(seed ^ _NOISE) for seed in seeds]
        return inputs | {"generator": generators}

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> torch.Tensor:
        """Masked frames with a target, over all processes; never 0."""
        count = torch.zeros((), dtype=torch.int64)
        for batch in batch_samples:
            samples = batch["input_values"].shape[1]
            targets = target_frames(self.encoder_config, lengths(batch), samples)
            count += (fit_length(batch["mask_time_indices"], targets.shape[1]) & targets).sum()
        return self.accelerator.reduce(count.to(device)).clamp(min=1)

    def compute_loss(self, model, inputs, return_outputs: bool = False, num_items_in_batch=None):
        """As in [`Trainer`], looking at what came out."""
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        if model.training:
            with torch.no_grad():
                self.statistics.add(outputs)
            self.audio_seconds += inputs["input_values"].numel() / self.encoder_config.sampling_rate
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As in [`Trainer`]; entries about training get accuracies, code use and audio hours a second."""
        if "loss" in logs and "eval_loss" not in logs:
            logs |= self.statistics.take(self._sum)
            logs |= self.statistics.describe_codes(self._sum(self.statistics.counts.clone()))
            now, (then, seconds) = time.perf_counter(), self._timed
            total = self._sum(torch.tensor([self.audio_seconds, self.audio_seconds - seconds], dtype=torch.float64))
            self._timed = (now, self.audio_seconds)
            logs["audio_hours"] = total[0].item() / 3600
            logs["audio_hours_per_second"] = total[1].item() / 3600 / (now - then)
        super().log(logs, start_time)

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """
        Scores on the fixed crops with their fixed masks. `*_unigram_cross_entropy` and `*_accuracy_most_frequent` are
        those of the frequencies seen in training; before any training, of equal ones.
        """
        crops = self.eval_dataset if eval_dataset is None else eval_dataset
        if crops is None:
            raise ValueError("There is nothing to evaluate on: give the Trainer `validation`.")
        began, paused = time.time(), time.perf_counter()
        rank, ranks, size = self.args.process_index, self.args.world_size, self.args.eval_batch_size
        # All processes make the same number of steps; who has nothing left looks at the first batch again, unmasked.
        mine = [list(range(len(crops)))[start::ranks] for start in range(ranks)]
        steps = math.ceil(len(mine[0]) / size)
        batches = DataLoader(
            crops,
            batch_sampler=[mine[rank][step * size :][:size] or [0] for step in range(steps)],
            collate_fn=_Compose(collate_crops, MaskCrops(self.encoder_config)),
            num_workers=self.args.dataloader_num_workers,
            generator=torch.Generator(),
        )
        counts = self._sum(self.statistics.counts.clone())
        statistics = TokenStatistics(self.encoder_config.codebook_sizes, self.args.device)
        if ranks > 1:
            for buffer in self.model.buffers():
                broadcast(buffer)  # each process has batch statistics of its own; these are the ones that are saved
        self.model.eval()
        for step, batch in enumerate(batches):
            if step * size >= len(mine[rank]):
                batch["mask_time_indices"] = torch.zeros_like(batch["mask_time_indices"])
            inputs = self._prepare_inputs(batch)
            with torch.no_grad(), self.compute_loss_context_manager():
                outputs = self.model(**inputs)
            statistics.add(outputs, counts)
        scores = statistics.take(self._sum)
        metrics = {"loss": scores["cross_entropy"]} | scores
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        metrics |= speed_metrics(metric_key_prefix, began, num_samples=len(crops), num_steps=steps)
        self._timed = (self._timed[0] + time.perf_counter() - paused, self._timed[1])
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def problems(self) -> ProblemLog:
        """Songs that could not be used so far: of training, on all processes, and of validation."""
        log = ProblemLog()
        for problem in gather_object(self.loader.problems.records):
            log.add(problem)
        for problem in self.eval_dataset.problems.records if self.eval_dataset is not None else []:
            log.add(problem)
        return log

    def save_progress(self, folder: Path) -> None:
        """Where this rank's data are, and what was counted."""
        state = {
            "loader": self.loader.state_dict(),
            "problems": self.loader.problems.records,
            "audio_seconds": self.audio_seconds,
            "seconds": self.seconds,
            "config": self.encoder_config.to_dict(),
        }
        (folder / f"data_{self.args.process_index}.json").write_text(json.dumps(state), encoding="utf-8")
        torch.save(self.statistics.counts.cpu(), folder / f"token_counts_{self.args.process_index}.pt")

    def load_progress(self, folder: Path) -> None:
        """
        What [`save_progress`] wrote; `train` does it itself.

        Raises:
            ValueError: if the checkpoint is of another recipe or model, other data or another batch size.
        """
        path = folder / f"data_{self.args.process_index}.json"
        if not path.is_file():
            raise ValueError(f"{folder} was not written by this recipe with {self.args.world_size} processes.")
        state = json.loads(path.read_text(encoding="utf-8"))
        self.loader.load_state_dict(state["loader"])
        config = {name: value for name, value in self.encoder_config.to_dict().items() if name not in _NO_SETTINGS}
        refuse_other_settings(folder, state["config"], config, "--output_dir")
        for problem in state["problems"]:
            self.loader.problems.add(AudioProblem(*problem))
        self.audio_seconds = state["audio_seconds"]
        self._began = time.perf_counter() - state["seconds"]
        counts = torch.load(folder / f"token_counts_{self.args.process_index}.pt", weights_only=True)
        self.statistics.counts = counts.to(self.args.device)

    def _sum(self, values: torch.Tensor) -> torch.Tensor:
        return self.accelerator.reduce(values.to(self.args.device), "sum")


class _Compose:
    """`second(first(x))`, in a worker."""

    def __init__(self, first, second):
        self.first, self.second = first, second

    def __call__(self, items):
        return self.second(self.first(items))


class _ShareAsEpoch(TrainerCallback):
    """The Trainer takes endless data for one epoch, of which each call of `train` would count its own share."""

    def on_step_end(self, args, state, control, **kwargs):
        state.epoch = state.global_step / state.max_steps
