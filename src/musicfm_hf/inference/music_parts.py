"""
Annotation of the parts of a song that are music. Noise, speech and applause have no beats, chords, sections, keys and
tags, whatever the models predict there.

Each part with music is decoded as a song of its own, so that beats found in applause do not shift those of the music
after it. Between the parts are the events of silence, whose probability is that of no music.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..model.configuration_musicfm import MusicFMConfig
from ..tasks import TaskSpec, task_of
from ..tasks.annotations import Beats, Segment
from ..tasks.spans import frames_of


class Part(NamedTuple):
    """A part of a song that is music or not, and the probability of that."""

    segment: Segment
    is_music: bool
    probability: float


def decode_music(
    config: MusicFMConfig, logits: np.ndarray, parts: Sequence[Part]
) -> tuple[Any, np.ndarray | None, np.ndarray]:
    """
    Decode the parts of a song that are music.

    Args:
        config ([`MusicFMConfig`]): Configuration of the model with its head.
        logits (`np.ndarray` of shape `(label frames or clips, num_labels)`): Logits of the whole song.
        parts (`list[Part]`): Parts of the song from its start to its end, at least one of which is music.

    Returns:
        The events, the probability of each (see [`TaskSpec.event_probabilities`]), and logits from which further
        results of the song follow: of label frames, those without music are 0, so that all labels are equally likely
        there; of clips, those without music are left out.
    """
    spec = task_of(config)
    if config.label_rate is None:
        logits = logits[_clips_with_music(len(logits), parts)]
        return spec.decode(config, logits), None, logits
    evidence = np.zeros_like(logits)
    decoded = []
    for part in parts:
        if part.is_music:
            frames = frames_of(part.segment, config.label_rate, len(logits))
            evidence[frames] = logits[frames]
            decoded.append(_decode_part(spec, config, logits, frames, part))
        else:
            decoded.append(_silent_part(spec, part))
    events, probabilities = zip(*decoded, strict=True)
    joined: Any = [segment for segments in events for segment in segments]
    if isinstance(events[0], Beats):
        joined = Beats(*map(np.concatenate, zip(*events, strict=True)))
    known = None if any(values is None for values in probabilities) else np.concatenate(probabilities)
    return joined, known, evidence


def _decode_part(
    spec: TaskSpec, config: MusicFMConfig, logits: np.ndarray, frames: slice, part: Part
) -> tuple[Any, np.ndarray | None]:
    """Decode a part with music, and return events within it, in the time of the song, with their probabilities."""
    start, end, _ = part.segment
    shift = frames.start / (config.label_rate or 1.0)
    events = spec.decode(config, logits[frames])
    probabilities = spec.event_probabilities(config, logits[frames], events)
    if isinstance(events, Beats):
        times = events.times + shift
        inside = (times >= start) & (times < end)
        events = Beats(times[inside], events.positions[inside])
    else:
        moved = [Segment(item.start + shift, item.end + shift, item.label) for item in events]
        moved[:1] = [item._replace(start=start) for item in moved[:1]]
        moved[-1:] = [item._replace(end=end) for item in moved[-1:]]
        inside = np.array([item.end > max(item.start, start) and item.start < end for item in moved], dtype=bool)
        events = [item for item, is_inside in zip(moved, inside, strict=True) if is_inside]
    return events, None if probabilities is None else probabilities[inside]


def _silent_part(spec: TaskSpec, part: Part) -> tuple[Any, np.ndarray]:
    """Return the events of silence in a part without music, with the probability that it is none."""
    start, end, _ = part.segment
    events = spec.silence(end - start)
    if isinstance(events, Beats):
        return events, np.empty(0)
    events = [Segment(item.start + start, item.end + start, item.label) for item in events]
    return events, np.full(len(events), part.probability)


def _clips_with_music(count: int, parts: Sequence[Part]) -> np.ndarray:
    """
    Return the indices of the clips of a song, which are equally long, of which at least half is music; or else those
    with the most music.
    """
    edges = np.linspace(0, parts[-1].segment.end, count + 1)
    music = np.zeros(count)
    for (start, end, _), is_music, _ in parts:
        if is_music:
            music += (np.minimum(edges[1:], end) - np.maximum(edges[:-1], start)).clip(0)
    half = (edges[1] - edges[0]) / 2
    return np.flatnonzero(music >= min(half, music.max()))
