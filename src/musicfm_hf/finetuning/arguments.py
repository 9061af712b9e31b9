"""Settings of fine-tuning."""

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeVar

from ..data.labeled import LabeledSong
from ..tasks import TaskSpec, get_task, load_task_file
from ..tasks.events import comparable
from ..tasks.retrieval import RETRIEVAL_TASKS, get_retrieval_task
from ..training.arguments import BestModelArguments
from ..training.records import commit_of

Arguments = TypeVar("Arguments", bound="HeadArguments")

# Attention and feed-forward layers of every encoder.
LORA_TARGET_MODULES = ["q_proj", "k_proj", "v_proj", "out_proj", "intermediate_dense", "output_dense"]


@dataclass
class FinetuningArguments(BestModelArguments):
    """[`BestModelArguments`] for fine-tuning: `learning_rate` is that of the head."""

    learning_rate: float = field(default=1e-4, metadata={"help": "Learning rate of the head."})
    encoder_learning_rate: float = field(
        default=1e-5, metadata={"help": "Learning rate of the encoder, or of its LoRA matrices."}
    )
    per_device_train_batch_size: int = field(default=16, metadata={"help": "Number of crops per device in a step."})

    @property
    def num_crops(self) -> int:
        """Number of crops in all steps of all processes."""
        return self.max_steps * self.train_batch_size * self.gradient_accumulation_steps * self.world_size


@dataclass
class HeadArguments:
    """Encoder, data and method of training a head."""

    task: str = field(default="", metadata={"help": "Name of the task."})
    model: str = field(default="", metadata={"help": "Folder or repository of the encoder."})
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of that repository."})
    data: str = field(
        default="", metadata={"help": "Labeled data set: a folder from `musicfm prepare`, or a repository."}
    )
    method: str = field(
        default="probe",
        metadata={"help": "probe (frozen encoder), full or lora.", "choices": ["probe", "full", "lora"]},
    )
    layer: int | None = field(
        default=None, metadata={"help": "Hidden state that the head reads; the last by default."}
    )
    weighted_layer_sum: bool = field(default=False, metadata={"help": "Read a learned sum of all hidden states."})
    random_encoder: bool = field(
        default=False, metadata={"help": "Control: start from random weights instead of those of `model`."}
    )
    keep_head: bool = field(
        default=False, metadata={"help": "Start from the head that `model` was saved with, such as a trained probe."}
    )
    probe_steps: int = field(
        default=0,
        metadata={"help": "full and lora: train a probe first, for this many steps, and start from its head."},
    )
    probe_learning_rate: float = field(default=1e-3, metadata={"help": "Learning rate of that probe."})
    probe_batch_size: int = field(default=64, metadata={"help": "Number of crops per device in a step of that probe."})
    window_seconds: float = field(default=30.0, metadata={"help": "Length of the windows for whole songs."})
    head_dropout: float = field(default=0.0, metadata={"help": "Dropout before the last layer of the head."})
    freeze_batch_norm: bool = field(
        default=True, metadata={"help": "Keep the batch-norm statistics of the encoder fixed."}
    )
    speed: int = field(
        default=0,
        metadata={"help": "Play training crops faster or slower by up to this many semitones, such as 3."},
    )
    effects: float = field(
        default=0.0,
        metadata={
            "help": "Share of the training crops that get random audio effects, such as 0.7: equalizer, compression, "
            "reverberation, noise, band limits, clipping, lossy coding, level."
        },
    )
    cache: str = field(default=".features", metadata={"help": "Folder that keeps the features of frozen encoders."})
    lora_r: int = field(default=8, metadata={"help": "Rank of the LoRA matrices."})
    lora_alpha: float = field(default=16, metadata={"help": "LoRA updates are scaled by this value / `lora_r`."})
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout before the LoRA matrices."})
    lora_target_modules: list[str] = field(
        default_factory=lambda: list(LORA_TARGET_MODULES), metadata={"help": "Layers that LoRA adapts."}
    )
    limit: int | None = field(default=None, metadata={"help": "Maximum number of songs to use from each split."})
    max_train_songs: int | None = field(
        default=None,
        metadata={"help": "Train on this many songs, with all versions, drawn at random; fewer are a part of more."},
    )
    songs_seed: int = field(default=0, metadata={"help": "Seed of that draw."})
    results: str = field(default="results", metadata={"help": "Folder for the JSON of scores."})

    @property
    def trains_probe_first(self) -> bool:
        """True if the run trains a probe before the encoder, to start from its head."""
        return self.method != "probe" and self.probe_steps > 0 and not self.keep_head

    def annotation_of(self, song: LabeledSong) -> Any:
        """Return the annotations of a song that the task uses, as values with equal `repr` if they are equal."""
        raise NotImplementedError

    def recorded_settings(self) -> dict[str, Any]:
        """Return all settings, for the record of a run."""
        return dict(vars(self))

    def without_augmentation(self) -> dict[str, Any]:
        """Return the settings to change so that training crops are not augmented."""
        return {"speed": 0, "effects": 0.0} | {name: 0 for name in ("transpose", "tempo") if hasattr(self, name)}

    def check_encoder(self) -> None:
        """Raise a `ValueError` if the encoder or the data is missing, or the method does not fit the encoder."""
        for name in ("model", "data"):
            if not getattr(self, name):
                raise ValueError(f"`--{name}` is required.")
        if self.keep_head and self.random_encoder:
            raise ValueError("`keep_head` starts from a trained head: it cannot be used with `random_encoder`.")
        if self.method == "probe" and self.probe_steps:
            raise ValueError("`probe_steps` is for full fine-tuning and LoRA: the steps of a probe are `--max_steps`.")
        for name in ("probe_steps", "songs_seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` must be at least 0, got {getattr(self, name)}.")
        if not 0 <= self.effects <= 1:
            raise ValueError(f"`effects` must be a probability from 0 to 1, got {self.effects}.")
        if self.effects and self.method == "probe":
            raise ValueError(
                "A probe reads features that were computed once: leave `effects` at 0, or use `--method full` or lora."
            )
        for name in ("limit", "max_train_songs"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        for name in ("label_rate", "crop_seconds"):
            if (value := getattr(self, name, None)) is not None and not value > 0:
                raise ValueError(f"`{name}` must be greater than 0, got {value}.")
        if not getattr(self, "balance", 0) >= 0:
            raise ValueError(f"`balance` must be at least 0, got {getattr(self, 'balance', 0)}.")


@dataclass
class TaskArguments(HeadArguments):
    """Task, encoder, data and method of fine-tuning."""

    RENAMED_FLAGS: ClassVar[dict[str, str]] = {
        "rate": "label_rate",
        "lora_rank": "lora_r",
        "lora_targets": "lora_target_modules",
    }

    task: str = field(default="", metadata={"help": "beat, chord, structure, key, tagging or presence"})
    task_file: str | None = field(default=None, metadata={"help": "Python file that defines a task of your own."})
    vocabulary: str | None = field(
        default=None,
        metadata={
            "help": "Chords: majmin, triads, sevenths or full (with bass); by default majmin. Beats: full for outputs "
            "of the tempo and the meter."
        },
    )
    head_size: int = field(default=512, metadata={"help": "Size of the hidden layer of the head."})
    whiten: bool = field(default=True, metadata={"help": "Train a probe on whitened features, which is faster."})
    log_mel: bool = field(default=False, metadata={"help": "Baseline: a probe of the log-mel spectrogram."})
    label_rate: float | None = field(
        default=None, metadata={"help": "Label frames per second; by default those of the paper."}
    )
    crop_seconds: float | None = field(
        default=None, metadata={"help": "Length of a training crop; by default that of the paper."}
    )
    decoding: str = field(
        default="{}", metadata={"help": "Settings of the task's decoder: a mapping in YAML, JSON here."}
    )
    balance: float = field(
        default=0.0,
        metadata={"help": "Weight of rare classes: 0 has no effect, 1 gives all classes the same total weight."},
    )
    transpose: bool = field(default=False, metadata={"help": "Shift training crops by -5 to 6 semitones."})
    tempo: float = field(
        default=0.0,
        metadata={"help": "Time-stretch training crops, by up to this share faster or slower, such as 0.2."},
    )

    @property
    def spec(self) -> TaskSpec:
        """The task with its vocabulary."""
        return get_task(self.task, self.vocabulary)

    def annotation_of(self, song: LabeledSong) -> Any:
        return comparable(self.spec.annotation_of(song))

    def __post_init__(self) -> None:
        if self.task_file is not None:
            loaded = load_task_file(self.task_file)
            if self.task not in ("", loaded.name):
                raise ValueError(f"{self.task_file} defines the task {loaded.name}, not {self.task}.")
            self.task = loaded.name
        spec = self.spec
        self.check_encoder()
        if self.log_mel and self.method != "probe":
            raise ValueError("`log_mel` is a baseline of probes: use `--method probe`.")
        if (self.transpose or self.tempo or self.speed) and self.method == "probe":
            raise ValueError(
                "A probe reads features that were computed once: leave `transpose`, `tempo` and `speed` at their "
                "defaults, or prepare songs that are already transposed or stretched."
            )
        fits = {"transpose": spec.transpose is not None, "tempo": spec.stretchable, "speed": spec.resamplable}
        for name in fits:
            if getattr(self, name) and not fits[name]:
                raise ValueError(f"`{name}` is not an augmentation for the task {self.task}: leave it at its default.")


@dataclass
class RetrievalArguments(HeadArguments):
    """Task, encoder, data, loss and method of training an embedding head."""

    task: str = field(default="same_song", metadata={"help": "Music to find.", "choices": list(RETRIEVAL_TASKS)})
    loss: str = field(
        default="info_nce",
        metadata={"help": "info_nce (in-batch negatives) or vicreg.", "choices": ["info_nce", "vicreg"]},
    )
    temperature: float = field(default=0.1, metadata={"help": "Temperature of info_nce."})
    embedding_size: int = field(default=256, metadata={"help": "Size of the embeddings."})
    head_frames: int = field(default=32, metadata={"help": "Intervals into which the head divides a clip."})
    head_channels: int = field(default=16, metadata={"help": "Channels of the convolution over the pitch maps."})
    head_kernel: int = field(default=3, metadata={"help": "Its kernel, in intervals; odd."})
    pitch_loss: bool = field(
        default=True,
        metadata={
            "help": "Full fine-tuning and LoRA: the encoder and the pitch maps learn chroma and chords, and only the "
            "rest of the head learns from pairs. If false, the encoder also learns from pairs, and the maps stay."
        },
    )
    crop_seconds: float | None = field(
        default=None, metadata={"help": "Length of a training crop; by default that of the passages of the task."}
    )
    classes_per_song: int = field(
        default=2, metadata={"help": "Kinds of phrases of a song in a row, which are hard negatives of each other."}
    )

    @property
    def learns_pitch(self) -> bool:
        """True if the encoder and the pitch maps are trained on chroma and chords."""
        return self.pitch_loss and self.method != "probe"

    def annotation_of(self, song: LabeledSong) -> Any:
        regions = [region[1:] for region in get_retrieval_task(self.task).regions(song)]
        return song.group, regions, song.chords  # the first part of the head is fitted to chords

    def __post_init__(self) -> None:
        get_retrieval_task(self.task)
        self.check_encoder()
        if self.classes_per_song < 1:
            raise ValueError(f"`classes_per_song` must be at least 1, got {self.classes_per_song}.")
        if self.method == "probe" and self.speed:
            raise ValueError(
                "A probe reads features that were computed once: leave `speed` at its default, or prepare more "
                "versions of the songs."
            )
        if self.method != "probe" and not (self.keep_head or self.trains_probe_first):
            raise ValueError(
                f"`--method {self.method}` continues from a probe, whose head already finds pitch classes: set "
                "`--probe_steps`, or train one with retrieval/probe and pass its folder as `--model`, with "
                "`--keep_head true`."
            )


def pin_revision(arguments: Arguments) -> Arguments:
    """Set `revision` to the commit if the model is a repository, and to `None` if it is a folder."""
    return replace(arguments, revision=commit_of(arguments.model, arguments.revision))
