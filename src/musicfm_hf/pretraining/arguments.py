"""Settings of masked pretraining."""

from dataclasses import dataclass, field
from pathlib import Path

from ..training.arguments import RecipeArguments


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
