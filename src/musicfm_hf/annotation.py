"""Annotating whole songs: beats, chords, sections, keys and tags, by models with a head that share their encoder."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForAudioClassification, AutoModelForAudioFrameClassification

from .data.examples import COLUMNS
from .features import encoder_settings
from .frames import Window, plan_windows
from .inference import (
    HeadModel,
    WindowSettings,
    checked_waveform,
    embed_songs,
    eval_mode,
    head_logits,
    layer_mix,
    to_module,
)
from .model.classification_musicfm import (
    HUB_ARGUMENTS,
    MusicFMForAudioClassification,
    MusicFMForAudioFrameClassification,
    average_frames,
    label_settings,
)
from .model.configuration_musicfm import MusicFMConfig
from .model.modeling_musicfm import MusicFMModel
from .tasks import decode, event_probabilities, tagging
from .tasks.annotations import Beats, Segment, write_beats, write_segments
from .tasks.key import song_key

FORMATS = ("json", "beats", "lab", "tags")
PART_SECONDS = 600.0  # about as much audio has its frames in memory at once
SILENCE = 1e-4  # of full scale: -80 dB
LIKELY = 0.5  # the probability from which a tag is written to a `.tags` file


@dataclass(eq=False)  # arrays have no one truth
class SongAnnotation:
    """
    What was found in a song. What no model was asked for is `None`.

    Attributes:
        duration (`float`): Seconds of audio.
        beats (`Beats`): Times in seconds, and positions in the bar from 1.
        chords (`list[Segment]`): Seconds, and labels such as `A:min`, `N` for none.
        sections (`list[Segment]`): Seconds, and functions such as verse.
        keys (`list[Segment]`): Seconds, and keys such as `F#:min`, `N` for none.
        key (`str`): Of the whole song.
        tags (`dict[str, float]`): Probabilities, the highest first.
        probabilities (`dict[str, np.ndarray]`): How sure the models are of each of the `beats`, `chords`, `sections`
            and `keys`, as [`musicfm_hf.tasks.event_probabilities`] says. Of silence there are none, and where the
            number of events was changed since they are left out.
    """

    duration: float
    beats: Beats | None = None
    chords: list[Segment] | None = None
    sections: list[Segment] | None = None
    keys: list[Segment] | None = None
    key: str | None = None
    tags: dict[str, float] | None = None
    probabilities: dict[str, np.ndarray] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """All that is not `None`, as JSON has it. Times in seconds, to the microsecond; `probability` where known."""
        values: dict[str, Any] = {"duration": round(self.duration, 6)}
        if self.beats is not None:
            values["beats"] = [
                {"time": round(float(time), 6), "position": int(position)}
                for time, position in zip(*self.beats, strict=True)
            ]
        for name in ("chords", "sections", "keys"):
            if (segments := getattr(self, name)) is not None:
                values[name] = [
                    {"start": round(start, 6), "end": round(end, 6), "label": label} for start, end, label in segments
                ]
        for name, probabilities in self.probabilities.items():
            if len(values.get(name, [])) != len(probabilities):
                continue
            for event, probability in zip(values[name], probabilities, strict=True):
                event["probability"] = round(float(probability), 4)
        if self.key is not None:
            values["key"] = self.key
        if self.tags is not None:
            values["tags"] = dict(self.tags)
        return values

    def save(self, folder: str | os.PathLike, name: str, formats: Iterable[str] = FORMATS) -> list[Path]:
        """
        Write what there is of `name.json`, `name.beats`, `name.chords.lab`, `name.sections.lab`, `name.keys.lab` and
        `name.tags`, as [`musicfm_hf.tasks.annotations`] reads them. A `.tags` file has the tags whose probability is
        at least one half; JSON has all.

        Args:
            folder: Where to write; made if it is not there.
            name (`str`): Of the song; may contain `/`.
            formats: Some of `FORMATS`, or one.

        Returns:
            The files that were written.

        Raises:
            ValueError: there is no such format.
        """
        formats = {formats} if isinstance(formats, str) else set(formats)
        if unknown := formats - set(FORMATS):
            raise ValueError(f"Formats are {', '.join(FORMATS)}, got {', '.join(sorted(unknown))}.")
        start = Path(folder) / name
        start.parent.mkdir(parents=True, exist_ok=True)
        files = {}
        if "json" in formats:
            files["json"] = json.dumps(self.to_dict(), ensure_ascii=False, indent=1) + "\n"
        if "beats" in formats and self.beats is not None:
            files["beats"] = self.beats
        for kind in ("chords", "sections", "keys"):
            if "lab" in formats and getattr(self, kind) is not None:
                files[f"{kind}.lab"] = getattr(self, kind)
        if "tags" in formats and self.tags is not None:
            files["tags"] = "".join(f"{tag}\n" for tag, probability in self.tags.items() if probability >= LIKELY)
        paths = []
        for ending, content in files.items():
            path = start.with_name(f"{start.name}.{ending}")
            if isinstance(content, str):
                path.write_text(content, encoding="utf-8")
            else:
                (write_beats if ending == "beats" else write_segments)(path, content)
            paths.append(path)
        return paths

    def draw(self, path: str | os.PathLike, waveform: np.ndarray, sampling_rate: int, title: str = "") -> None:
        """
        Draw the song as PNG, in rows like the systems of a score: spectrogram, sections, bars and beats, chords, keys;
        tags at the top. Audio of more than a quarter of an hour is drawn as an overview without beats and chords.

        Args:
            path: The file to write.
            waveform (`np.ndarray` of shape `(samples,)`), sampling_rate (`int`): The audio that was annotated.
            title (`str`): Above the picture; the name of the file by default.

        Raises:
            ValueError: if the waveform is not mono or has another duration than the annotation.
        """
        from .picture import draw_annotation

        draw_annotation(self, path, waveform, sampling_rate, title or Path(path).stem)


def annotate(
    models: HeadModel | Sequence[HeadModel] | Mapping[str, HeadModel],
    audio: np.ndarray | torch.Tensor,
    sampling_rate: int,
    window_seconds: float = 30.0,
    overlap_seconds: float | None = None,
    batch_size: int = 1,
) -> SongAnnotation:
    """
    Annotate audio of any length in bounded memory. Models whose encoders are equal, in settings that matter and in
    every weight, are served by one pass through it; adapted ones run on their own.

    Audio shorter than the encoder can work with is padded with silence. Audio that is silent throughout has no beats
    and no tags, and N for chords and keys, whatever models make of silence. Of more than ten minutes, parts of about
    ten minutes are encoded one by one; where `config.do_normalize` is set, each is normalised by itself.

    Args:
        models: A model with a head whose `config.task` is set, a list of them, or a dictionary from names to them. In
            any dtype, on any device. They are used in eval mode and left as they were.
        audio (`np.ndarray` or `torch.Tensor` of shape `(samples,)`): A mono waveform.
        sampling_rate (`int`): Its rate in Hz; resampled to the models' if it differs.
        window_seconds, overlap_seconds, batch_size: As for [`musicfm_hf.embed`].

    Returns:
        [`SongAnnotation`].

    Raises:
        ValueError: before any work, if there is no model, one has no task, two have the same, the audio has several
            channels, is empty or not finite, or a setting is out of range.
        TypeError: if a model is none with a head, or the audio is not numeric.
    """
    heads = _by_task(models)
    settings = WindowSettings(None, window_seconds, overlap_seconds, batch_size)
    for model in heads.values():
        settings.frames(model.config)
    rates = {model.config.sampling_rate for model in heads.values()}
    waveforms = {rate: checked_waveform(audio, sampling_rate, rate) for rate in rates}
    rate, waveform = next(iter(waveforms.items()))
    annotation = SongAnnotation(len(waveform) / rate)
    if waveform.max() - waveform.min() < 2 * SILENCE:  # a constant is not heard
        for task in heads:
            _set_silence(annotation, task)
        return annotation
    for group in _with_shared_encoder(list(heads.values())):
        waveform = waveforms[group[0].config.sampling_rate]
        for model, logits in zip(group, _logits(group, waveform, settings), strict=True):
            _set_events(annotation, model.config, logits)
    return annotation


def load_models(folders: Iterable[str | os.PathLike], **kwargs) -> dict[str, HeadModel]:
    """
    Load models with a head, each by the Auto class that its configuration asks for; of encoders that are equal, one is
    kept in memory.

    Args:
        folders: Folders or repositories of models, or of adapters of peft with the configuration of the whole model.
        **kwargs: For `from_pretrained`, such as `dtype` or `revision`.

    Returns:
        The models in eval mode, by folder.

    Raises:
        ValueError: if one has no task, or two have the same.
        OSError: if there is no such model.
    """
    folders = [str(folder) for folder in folders]
    hub = {name: value for name, value in kwargs.items() if name in HUB_ARGUMENTS}
    configs = {folder: AutoConfig.from_pretrained(folder, **hub) for folder in folders}
    _check_tasks([(folder, configs[folder]) for folder in folders])
    models: dict[str, HeadModel] = {}
    for folder, config in configs.items():
        named = config.architectures or []
        of_clips = config.label_rate is None and "MusicFMForAudioFrameClassification" not in named
        auto = AutoModelForAudioClassification if of_clips else AutoModelForAudioFrameClassification
        model = auto.from_pretrained(folder, **kwargs).eval()
        for other in models.values():
            if _same_encoder(model.musicfm, other.musicfm):
                model.musicfm = other.musicfm
                break
        models[folder] = model
    return models


def _by_task(models: HeadModel | Sequence[HeadModel] | Mapping[str, HeadModel]) -> dict[str, HeadModel]:
    if isinstance(models, torch.nn.Module):
        models = [models]
    if not isinstance(models, Mapping):
        models = {f"model {number}": model for number, model in enumerate(models, 1)}
    if not models:
        raise ValueError("There is no model to annotate with; give one for each task.")
    models = {
        name: model.get_base_model() if hasattr(model, "get_base_model") else model for name, model in models.items()
    }
    for name, model in models.items():
        if not isinstance(model, MusicFMForAudioFrameClassification | MusicFMForAudioClassification):
            raise TypeError(
                f"{name} is a {type(model).__name__}; annotating needs MusicFMForAudioFrameClassification or "
                "MusicFMForAudioClassification."
            )
    _check_tasks([(name, model.config) for name, model in models.items()])
    return {model.config.task: model for model in models.values()}


def _check_tasks(configs: list[tuple[str, MusicFMConfig]]) -> None:
    names: dict[str, str] = {}
    for name, config in configs:
        task = getattr(config, "task", None)
        if task is None:
            raise ValueError(
                f"{name} does not say what its head was trained for: `config.task` is None. Set it to beat, chord, "
                "structure, key or tagging."
            )
        if task in names:
            raise ValueError(f"{names[task]} and {name} are both for the task {task}; give one of them.")
        names[task] = name


def _with_shared_encoder(models: list[HeadModel]) -> list[list[HeadModel]]:
    """Models whose encoders give the same, together."""
    groups: list[list[HeadModel]] = []
    for model in models:
        for group in groups:
            if _same_encoder(model.musicfm, group[0].musicfm):
                group.append(model)
                break
        else:
            groups.append([model])
    return groups


def _same_encoder(first: MusicFMModel, second: MusicFMModel) -> bool:
    if first is second:
        return True
    if encoder_settings(first.config) != encoder_settings(second.config):
        return False
    # Equal weights of adapters would not be enough: they have a scale, and may be switched off.
    if any(type(module).__module__.startswith("peft.") for model in (first, second) for module in model.modules()):
        return False
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(_same_tensor(ours[name], theirs[name]) for name in ours)


def _same_tensor(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Values of offloaded weights are not known here."""
    alike = first.device == second.device and first.dtype == second.dtype and not first.is_meta
    return alike and torch.equal(first, second)


def _logits(models: list[HeadModel], waveform: np.ndarray, settings: WindowSettings) -> list[np.ndarray]:
    """Logits of heads on one encoder, of a whole song; float32 `(label frames or clips, num_labels)` each."""
    encoder = models[0].musicfm
    config = encoder.config
    if len(waveform) < config.min_samples:
        waveform = np.pad(waveform, (0, config.min_samples - len(waveform)))
    mixes = [layer_mix(model) for model in models]
    distinct = torch.unique(torch.stack(mixes), dim=0)
    readers = [next(i for i, row in enumerate(distinct) if row.equal(mix)) for mix in mixes]
    num_frames = encoder.output_frames(len(waveform))
    streams = [(_Clips if model.config.label_rate is None else _LabelFrames)(model, num_frames) for model in models]
    parts = _parts(config, len(waveform), num_frames, settings)
    songs = ((part, waveform[part.start_sample : part.stop_sample]) for part in parts)
    # Parts come in their order: all windows but the last are of one length.
    for part, embeddings in embed_songs(encoder, songs, settings, distinct):
        kept = embeddings.frames[part.first_kept :][: part.stop_frame - part.start_frame]
        for stream, reader in zip(streams, readers, strict=True):
            stream.add(kept[:, reader])
    return [torch.cat(stream.logits).numpy() for stream in streams]


def _parts(config: MusicFMConfig, num_samples: int, num_frames: int, settings: WindowSettings) -> list[Window]:
    """
    Runs of the windows in which [`embed_songs`] encodes a whole song. Of such a run alone it makes the same windows,
    so that the frames of all parts are those of the song.
    """
    window_frames, overlap_frames = settings.frames(config)
    windows = plan_windows(
        num_samples,
        num_frames,
        config.samples_per_frame,
        window_frames,
        overlap_frames,
        config.window_samples(window_frames),
    )
    in_part = max(1, int(PART_SECONDS * config.frame_rate - overlap_frames) // (window_frames - overlap_frames))
    runs = [windows[first : first + in_part] for first in range(0, len(windows), in_part)]
    return [
        Window(run[0].start_sample, run[-1].stop_sample, run[0].start_frame, run[-1].stop_frame, run[0].first_kept)
        for run in runs
    ]


class _LabelFrames:
    """Logits of label frames, of a song whose frames come part by part."""

    def __init__(self, model: HeadModel, num_frames: int):
        self.model = model
        self.logits: list[torch.Tensor] = []
        self._missing = num_frames
        self._left: torch.Tensor | None = None  # frames that are still needed
        self._first = 0  # where in the song they begin
        self._done = 0  # label frames

    def add(self, frames: torch.Tensor) -> None:
        """The next frames of the song, `(frames, width)`."""
        self._missing -= len(frames)
        frames = frames if self._left is None else torch.cat([self._left, frames])
        frame_rate, label_rate, frame_offset, centered = label_settings(self.model.config)
        step = frame_rate / label_rate
        offset = frame_offset + self._first - self._done * step  # time is counted from the next label frame
        pooled = average_frames(frames[None], frame_rate, label_rate, offset, centered)[0]
        if self._missing:  # the last ones are not complete
            complete = (len(frames) - 0.5 + offset) / step + 0.5 * centered
            pooled = pooled[: max(0, int(complete + 1e-6))]
        self.logits.append(_score(self.model.classifier, pooled))
        self._done += len(pooled)
        needed = (self._done - 0.5 * centered) * step - (frame_offset - 0.5)
        # One frame more than is needed: the first one counts from time 0 on only.
        unneeded = min(max(0, int(needed + 1e-9) - 1 - self._first), len(frames))
        self._first += unneeded
        self._left = frames[unneeded:].clone()


class _Clips:
    """Logits of the clips into which [`head_logits`] cuts a song, whose frames come part by part."""

    def __init__(self, model: HeadModel, num_frames: int):
        self.model = model
        self.logits: list[torch.Tensor] = []
        count = max(1, round(num_frames / model.config.frame_rate / tagging.CROP_SECONDS))
        self._sizes = [len(clip) for clip in torch.arange(num_frames).tensor_split(count)]
        self._left: torch.Tensor | None = None

    def add(self, frames: torch.Tensor) -> None:
        """The next frames of the song, `(frames, width)`."""
        frames = frames if self._left is None else torch.cat([self._left, frames])
        while self._sizes and len(frames) >= self._sizes[0]:
            clip, frames = frames.split([self._sizes[0], len(frames) - self._sizes.pop(0)])
            self.logits.append(torch.from_numpy(head_logits(self.model.classifier, clip)))
        self._left = frames.clone()


def _score(classifier: torch.nn.Module, pooled: torch.Tensor) -> torch.Tensor:
    with torch.no_grad(), eval_mode(classifier):
        return classifier.score(to_module(pooled, classifier)).float().cpu()


def _set_events(annotation: SongAnnotation, config: MusicFMConfig, logits: np.ndarray) -> None:
    """Decode what a head gives."""
    events = decode(config, logits)
    if config.task == "tagging":
        annotation.tags = events
        return
    probabilities = event_probabilities(config, logits, events)
    name = COLUMNS[config.task]
    if config.task == "beat":
        inside = events.times <= annotation.duration
        inside &= inside.sum() > 1  # one alone, in a moment of sound, is no beat
        annotation.beats, probabilities = Beats(events.times[inside], events.positions[inside]), probabilities[inside]
    else:  # the last label frame ends a little before or after the audio
        segments = [segment for segment in events if segment.start < annotation.duration]
        segments[-1:] = [segment._replace(end=annotation.duration) for segment in segments[-1:]]
        setattr(annotation, name, segments)
        probabilities = probabilities[: len(segments)]
    annotation.probabilities[name] = probabilities
    if config.task == "key":
        annotation.key = song_key(logits)


def _set_silence(annotation: SongAnnotation, task: str) -> None:
    if task == "beat":
        annotation.beats = Beats(np.empty(0), np.empty(0, dtype=np.int64))
    elif task == "tagging":
        annotation.tags = {}
    elif task == "structure":
        annotation.sections = [Segment(0.0, annotation.duration, "silence")]
    elif task == "chord":
        annotation.chords = [Segment(0.0, annotation.duration, "N")]
    else:
        annotation.keys, annotation.key = [Segment(0.0, annotation.duration, "N")], "N"
