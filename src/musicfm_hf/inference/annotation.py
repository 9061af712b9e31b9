"""Annotating whole songs: beats, chords, sections, keys and tags, by models with a head that share their encoder."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from ..audio.windows import Window, plan_windows
from ..data.examples import COLUMNS
from ..model.configuration_musicfm import MusicFMConfig
from ..model.frames_musicfm import average_frames, label_settings
from ..tasks import decode, event_probabilities, tagging
from ..tasks.annotations import Beats, Segment
from ..tasks.key import song_key
from .annotators import by_task, group_by_encoder
from .embedding import HeadModel, WindowSettings, checked_waveform, embed_songs, eval_mode, to_module
from .heads import head_logits, layer_mix
from .song import SongAnnotation

PART_SECONDS = 600.0  # about as much audio has its frames in memory at once

SILENCE = 1e-4  # of full scale: -80 dB


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
    heads = by_task(models)
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
    for group in group_by_encoder(list(heads.values())):
        waveform = waveforms[group[0].config.sampling_rate]
        for model, logits in zip(group, _logits(group, waveform, settings), strict=True):
            _set_events(annotation, model.config, logits)
    return annotation


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
