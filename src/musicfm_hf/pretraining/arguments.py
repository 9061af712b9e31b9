"""Settings of masked pretraining and of training quantizers."""

from dataclasses import dataclass, field
from pathlib import Path

from ..training.arguments import RecipeArguments


@dataclass
class PretrainingArguments(RecipeArguments):
    """[`RecipeArguments`] with defaults for masked pretraining."""

    ignore_data_skip: bool = field(
        default=True, metadata={"help": "Must be true: checkpoints hold the position in the data."}
    )
    logging_steps: float = field(default=50, metadata={"help": "Steps between two log entries."})
    selective_checkpointing: bool = field(
        default=False,
        metadata={"help": "Save memory at a small cost in time: recompute norms, activations and dropout."},
    )

    def __post_init__(self) -> None:
        if Path(self.output_dir).exists() and not Path(self.output_dir).is_dir():
            raise ValueError(f"`output_dir` must be a folder, but {self.output_dir} is a file.")
        super().__post_init__()
        if not self.average_tokens_across_devices:
            raise ValueError("`average_tokens_across_devices` must be true: the loss is averaged over all processes.")


@dataclass
class ModelArguments:
    """Configuration, target tokens and statistics of the model to pretrain."""

    config: str = field(default="{}", metadata={"help": "Values of MusicFMConfig: a mapping in YAML, JSON here."})
    set: list[str] = field(
        default_factory=list, metadata={"help": "Values of MusicFMConfig as name=value …; they override `config`."}
    )
    model: str | None = field(
        default=None, metadata={"help": "Folder or repository of a pretrained model to continue training instead."}
    )
    quantizer: str | None = field(
        default=None,
        metadata={"help": "Folder from `musicfm train-quantizer`; needed for kmeans and residual_vq tokens."},
    )
    statistics: str = field(
        default="band",
        metadata={
            "help": "Statistics that normalize the targets: band (of each mel band of the training music), global "
            "(one mean and standard deviation for all bands), or config (the values in `config`).",
            "choices": ["band", "global", "config"],
        },
    )
    stats: str | None = field(
        default=None,
        metadata={"help": "JSON from `musicfm prepare stats`; by default, an hour of the training music is measured."},
    )
    attn_implementation: str | None = field(
        default=None, metadata={"help": "eager, sdpa or flash_attention_2 (not run so far), …"}
    )


@dataclass
class DataArguments:
    """Music to train and validate on."""

    train: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Folders, .txt lists, saved data sets, .parquet files, .tar shards (or folders and globs of "
            "them), or data sets on the Hub."
        },
    )
    weights: list[float] | None = field(
        default=None, metadata={"help": "Relative frequencies at which these sources are drawn."}
    )
    validation: list[str] | None = field(
        default=None, metadata={"help": "Music to validate on, in the same forms except streams."}
    )
    validation_fraction: float = field(
        default=0.02,
        metadata={"help": "Share of the songs to hold out, by name, if `validation` is not given; 0 for none."},
    )
    validation_crops: int = field(default=256, metadata={"help": "Number of fixed crops to evaluate on."})
    crop_seconds: float = field(default=30.0, metadata={"help": "Length of a crop."})
    effects: float = field(
        default=0.0,
        metadata={
            "help": "Share of the training crops that get random audio effects, such as 0.5: equalizer, compression, "
            "reverberation, noise, band limits, clipping, lossy coding, level. The targets are those of the changed "
            "crops."
        },
    )
    streaming: bool = field(default=False, metadata={"help": "Stream data sets on the Hub."})
    audio_column: str = field(default="audio", metadata={"help": "Column that holds the audio."})


@dataclass
class QuantizerArguments:
    """Settings for training a quantizer. Names shared with [`ModelArguments`] and [`DataArguments`] mean the same."""

    train: list[str] = field(default_factory=list, metadata={"help": "Music, as for `musicfm pretrain`."})
    output_dir: str = field(default="", metadata={"help": "Folder for the quantizer."})
    weights: list[float] | None = field(
        default=None, metadata={"help": "Relative frequencies at which these sources are drawn."}
    )
    validation: list[str] | None = field(
        default=None, metadata={"help": "Songs to report on; by default a share of `train`."}
    )
    validation_fraction: float = field(
        default=0.02,
        metadata={"help": "Share of the songs to hold out, by name, if `validation` is not given; 0 for no report."},
    )
    streaming: bool = field(default=False, metadata={"help": "Stream data sets on the Hub."})
    audio_column: str = field(default="audio", metadata={"help": "Column that holds the audio."})
    config: str = field(default="{}", metadata={"help": "Values of MusicFMConfig: a mapping in YAML, JSON here."})
    set: list[str] = field(
        default_factory=list, metadata={"help": "Values of MusicFMConfig as name=value …, over `config`."}
    )
    statistics: str = field(
        default="band",
        metadata={
            "help": "Normalization of the spectrogram, as for `musicfm pretrain`.",
            "choices": ["band", "global", "config"],
        },
    )
    stats: str | None = field(
        default=None,
        metadata={"help": "JSON from `musicfm prepare stats`; by default, an hour of the training music is measured."},
    )
    steps: int = field(default=10000, metadata={"help": "Number of batches to train a residual VQ on."})
    hours: float = field(default=5.0, metadata={"help": "Audio for k-means; its features stay in memory."})
    batch_size: int = field(default=32, metadata={"help": "Number of crops in a batch."})
    crop_seconds: float = field(default=5.0, metadata={"help": "Length of a crop."})
    learning_rate: float = field(default=1e-4, metadata={"help": "Learning rate of a residual VQ."})
    device: str = field(default="cpu", metadata={"help": "Device to train on, for example cpu or cuda:1."})
    num_workers: int = field(default=1, metadata={"help": "Processes that read audio."})
    seed: int = field(default=0, metadata={"help": "Seed of crops, clusters and stale codes."})

    def __post_init__(self) -> None:
        for name in ("train", "output_dir"):
            if not getattr(self, name):
                raise ValueError(f"`--{name}` is required.")
