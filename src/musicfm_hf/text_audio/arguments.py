"""Settings of the training of models of music and text."""

import json
from dataclasses import dataclass, field, replace
from typing import Any

from ..training.arguments import BestModelArguments
from ..training.records import commit_of

METHODS = ("towers", "full", "lora")


@dataclass
class TextAudioTrainingArguments(BestModelArguments):
    """[`BestModelArguments`] for models of music and text: `learning_rate` is that of the towers."""

    learning_rate: float = field(
        default=1e-4, metadata={"help": "Learning rate of the towers, and of the factor of the similarities."}
    )
    encoder_learning_rate: float = field(
        default=1e-5, metadata={"help": "Learning rate of both encoders, or of their LoRA matrices."}
    )
    per_device_train_batch_size: int = field(
        default=32,
        metadata={"help": "Number of pairs per device in a step; pairs of all devices are each other's negatives."},
    )
    max_grad_norm: float = field(default=1.0, metadata={"help": "Gradients are scaled down to this norm."})


@dataclass
class TextAudioArguments:
    """Model, data and method of a training on songs with captions."""

    model: str = field(
        default="", metadata={"help": "Folder or repository of a model of music and text to start from; or:"}
    )
    audio_model: str = field(
        default="", metadata={"help": "Folder or repository of an encoder of music, for a model with new towers."}
    )
    text_model: str = field(
        default="", metadata={"help": "Folder or repository of an XLM-RoBERTa, for a model with new towers."}
    )
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of `model`."})
    train: str = field(
        default="",
        metadata={"help": "Songs to train on: a .jsonl, .csv or .parquet file, or a data set of `datasets`."},
    )
    validation: str = field(default="", metadata={"help": "Songs that select the best checkpoint."})
    test: str | None = field(default=None, metadata={"help": "Songs that are scored once, at the end."})
    audio_column: str = field(default="audio", metadata={"help": "Column of the audio or its path."})
    caption_column: str = field(default="caption", metadata={"help": "Column of the text, or of a list of texts."})
    id_column: str | None = field(
        default=None, metadata={"help": "Column with the ID of a song, if its rows do not share a path."}
    )
    method: str = field(
        default="towers",
        metadata={"help": "towers (both encoders are frozen), full or lora.", "choices": list(METHODS)},
    )
    freeze_text_encoder: bool = field(
        default=False, metadata={"help": "Keep the text encoder frozen in full training, as MuQ-MuLan does."}
    )
    audio_layer: int | None = field(
        default=None,
        metadata={"help": "Hidden state of the audio encoder for a new tower; the last by default."},
    )
    audio_transformer: str = field(
        default="{}", metadata={"help": "Settings of a new audio tower: a mapping in YAML, JSON here."}
    )
    text_transformer: str = field(default="{}", metadata={"help": "Settings of a new text tower."})
    projection_dim: int | None = field(default=None, metadata={"help": "Width of the space of new towers."})
    clip_seconds: float | None = field(default=None, metadata={"help": "Length of the clips of a new model."})
    lora_r: int = field(default=8, metadata={"help": "Rank of the LoRA matrices."})
    lora_alpha: float = field(default=16, metadata={"help": "LoRA updates are scaled by this value / `lora_r`."})
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout before the LoRA matrices."})
    lora_target_modules: list[str] | None = field(
        default=None, metadata={"help": "Layers that LoRA adapts; by default all of encoders and towers."}
    )
    limit: int | None = field(default=None, metadata={"help": "Maximum number of songs to use from each split."})

    def __post_init__(self) -> None:
        for name in ("train", "validation"):
            if not getattr(self, name):
                raise ValueError(f"`--{name}` is required: a table or a data set of songs with captions.")
        has_encoders = bool(self.audio_model or self.text_model)
        if bool(self.model) == has_encoders or (has_encoders and not (self.audio_model and self.text_model)):
            raise ValueError(
                "Pass either `--model`, a model of music and text, or both `--audio_model` and `--text_model`, two "
                "encoders for new towers."
            )
        if self.method not in METHODS:
            raise ValueError(f"`method` must be one of {', '.join(METHODS)}, got {self.method!r}.")
        if self.method == "lora" and not self.model:
            raise ValueError(
                "LoRA adapts a saved model of music and text. Train its towers first, with `musicfm train-text-audio "
                "towers`, and pass that folder as `--model`."
            )
        if self.freeze_text_encoder and self.method != "full":
            raise ValueError("`freeze_text_encoder` is for `--method full`: other methods freeze both encoders.")
        self.model_settings()

    def model_settings(self) -> dict[str, Any]:
        """
        Return the settings of a new model, as arguments of [`MusicFMTextAudioConfig`], without those left out.

        Raises:
            ValueError: the settings of a tower are not a mapping.
        """
        names = ("audio_layer", "projection_dim", "clip_seconds")
        settings = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        for name in ("audio_transformer", "text_transformer"):
            text = getattr(self, name)
            try:
                value = json.loads(text)
            except json.JSONDecodeError as error:
                raise ValueError(f"`{name}` must be a mapping, got {text!r} ({error}).") from error
            if not isinstance(value, dict):
                raise ValueError(f"`{name}` must be a mapping, got {text!r}.")
            if value:
                settings[name] = value
        return settings


def pin_revision(arguments: TextAudioArguments) -> TextAudioArguments:
    """Set `revision` to the commit if the model is a repository, and to `None` if it is a folder or new."""
    return replace(arguments, revision=commit_of(arguments.model, arguments.revision) if arguments.model else None)
