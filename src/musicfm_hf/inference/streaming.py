"""Logits of several heads for a song of any length, computed part by part."""

import numpy as np
import torch

from ..audio.windows import Window
from ..model.configuration_musicfm import MusicFMConfig
from ..model.frames_musicfm import average_frames, label_settings
from ..model.modeling_musicfm import MusicFMClassifier
from .embedding import HeadModel, WindowSettings, cast_to_module, embed_songs, eval_mode
from .logits import clip_sizes, head_logits, layer_mixes

PART_SECONDS = 600.0  # approximate duration of audio whose frames are in memory at once


def stream_logits(models: list[HeadModel], waveform: np.ndarray, settings: WindowSettings) -> list[np.ndarray]:
    """
    Compute the logits of several heads on one encoder for a whole song, in one pass and in bounded memory.

    Args:
        models: Models with equal encoders; the encoder of the first one is run.
        waveform (`np.ndarray` of shape `(samples,)`): float32 at the rate of the models. Padded with silence if it is
            shorter than the encoder needs.
        settings ([`WindowSettings`]): Windows and batch size; the layer is not used.

    Returns:
        For each model float32 `(label frames, num_labels)`, or `(clips, num_labels)`; see [`head_logits`].
    """
    encoder = models[0].musicfm
    config = encoder.config
    if len(waveform) < config.min_samples:
        waveform = np.pad(waveform, (0, config.min_samples - len(waveform)))
    mixes, rows = layer_mixes(models)
    num_frames = encoder.output_frames(len(waveform))
    streams = [
        (_ClipLogits if model.config.label_rate is None else _FrameLogits)(model, num_frames) for model in models
    ]
    parts = _parts(config, len(waveform), num_frames, settings)
    songs = ((part, waveform[part.start_sample : part.stop_sample]) for part in parts)
    # Parts arrive in order, because all windows except the last have the same length.
    for part, embeddings in embed_songs(encoder, songs, settings, mixes):
        frames = embeddings.frames[part.first_kept :][: part.stop_frame - part.start_frame]
        for stream, row in zip(streams, rows, strict=True):
            stream.add(frames[:, row])
    return [torch.cat(stream.logits).numpy() for stream in streams]


def _parts(config: MusicFMConfig, num_samples: int, num_frames: int, settings: WindowSettings) -> list[Window]:
    """
    Group the windows of a song into parts. [`embed_songs`] cuts each part into the same windows, so the frames of all
    parts together are those of the song.
    """
    window_frames, overlap_frames = settings.frames(config)
    windows = settings.plan(config, num_samples, num_frames)
    in_part = max(1, int(PART_SECONDS * config.frame_rate - overlap_frames) // (window_frames - overlap_frames))
    runs = [windows[first : first + in_part] for first in range(0, len(windows), in_part)]
    return [
        Window(run[0].start_sample, run[-1].stop_sample, run[0].start_frame, run[-1].stop_frame, run[0].first_kept)
        for run in runs
    ]


class _FrameLogits:
    """Computes the logits of the label frames of a song whose encoder frames arrive part by part."""

    def __init__(self, model: HeadModel, num_frames: int):
        self.model = model
        self.logits: list[torch.Tensor] = []
        self._missing = num_frames
        self._remainder: torch.Tensor | None = None  # frames that are still needed
        self._first = 0  # index of the first of these frames in the song
        self._done = 0  # number of label frames that are done

    def add(self, frames: torch.Tensor) -> None:
        """Add the next frames of the song, `(frames, width)`."""
        self._missing -= len(frames)
        frames = frames if self._remainder is None else torch.cat([self._remainder, frames])
        frame_rate, label_rate, frame_offset, centered = label_settings(self.model.config)
        step = frame_rate / label_rate
        offset = frame_offset + self._first - self._done * step  # from the time of the next label frame
        pooled = average_frames(frames[None], frame_rate, label_rate, offset, centered)[0]
        if self._missing:  # the last label frames are incomplete
            complete = (len(frames) - 0.5 + offset) / step + 0.5 * centered
            pooled = pooled[: max(0, int(complete + 1e-6))]
        self.logits.append(_score(self.model.classifier, pooled))
        self._done += len(pooled)
        needed = (self._done - 0.5 * centered) * step - (frame_offset - 0.5)
        # Keep one more frame than needed, because the first frame of `frames` counts only from time 0.
        unneeded = min(max(0, int(needed + 1e-9) - 1 - self._first), len(frames))
        self._first += unneeded
        self._remainder = frames[unneeded:].clone()


class _ClipLogits:
    """Computes the logits of the clips of [`head_logits`] for a song whose encoder frames arrive part by part."""

    def __init__(self, model: HeadModel, num_frames: int):
        self.model = model
        self.logits: list[torch.Tensor] = []
        self._sizes = clip_sizes(model.config, num_frames)
        self._remainder: torch.Tensor | None = None

    def add(self, frames: torch.Tensor) -> None:
        """Add the next frames of the song, `(frames, width)`."""
        frames = frames if self._remainder is None else torch.cat([self._remainder, frames])
        while self._sizes and len(frames) >= self._sizes[0]:
            clip, frames = frames.split([self._sizes[0], len(frames) - self._sizes.pop(0)])
            self.logits.append(torch.from_numpy(head_logits(self.model.classifier, clip)))
        self._remainder = frames.clone()


def _score(classifier: MusicFMClassifier, pooled: torch.Tensor) -> torch.Tensor:
    """Compute the logits of label frames `(label frames, width)`."""
    with torch.no_grad(), eval_mode(classifier):
        return classifier.score(cast_to_module(pooled, classifier)).float().cpu()
