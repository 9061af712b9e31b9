"""Annotation of whole songs with beats, chords, sections, keys and tags, by models that may share an encoder."""

from collections.abc import Mapping, Sequence, Sized
from typing import Any

import numpy as np

from ..audio.waveform import to_waveform
from ..model.configuration_musicfm import MusicFMConfig
from ..tasks import get_task, label_names, task_of
from ..tasks.calibration import is_uncertain
from ..tasks.events import fit_to_audio
from .annotators import by_task, group_by_encoder
from .embedding import HeadModel, WindowSettings
from .music_parts import Part, decode_music
from .song_annotation import SongAnnotation
from .streaming import stream_logits
from .zero_shot import ZeroShotTagger

SILENCE = 1e-4  # of full scale: -80 dB


def annotate(
    models: HeadModel | Sequence[HeadModel] | Mapping[str, HeadModel],
    audio: Any,
    sampling_rate: int | None = None,
    window_seconds: float | None = None,
    overlap_seconds: float | None = None,
    batch_size: int = 1,
    tagger: ZeroShotTagger | None = None,
) -> SongAnnotation:
    """
    Annotate audio of any length in bounded memory. Models whose encoders have equal weights and equal settings that
    affect the output share one pass through the encoder; adapted encoders run separately.

    Audio shorter than the encoder needs is padded with silence. Audio that is silent throughout gets no beats, no
    tags, one section "silence", and N for chords and keys, whatever the models predict. If one of the models detects
    music, this also holds for the parts without music; see [`musicfm_hf.inference.music_parts`]. Audio longer than ten
    minutes is encoded in parts of about ten minutes; if `config.do_normalize` is set, each part is normalized
    separately.

    Args:
        models: A model with a head whose `config.task` is set, a list of such models, or a dictionary from names to
            them, in any dtype and on any device. They are used in eval mode, and their mode is restored.
        audio: A waveform `(samples,)` with its `sampling_rate`; or a path, `bytes`, or a row of a data set. See
            [`musicfm_hf.audio.waveform.to_waveform`].
        sampling_rate (`int`, *optional*): Rate of a waveform in Hz; resampled to that of the models if it differs.
        window_seconds, overlap_seconds, batch_size: As for [`musicfm_hf.embed`].
        tagger ([`ZeroShotTagger`], *optional*): Computes `similarities` with tags in words. With it, `models` may be
            empty.

    Returns:
        [`SongAnnotation`].

    Raises:
        ValueError: before any work, if no model is given, a model has no task or an unknown task, two models have the
            same task, the audio has several channels, is empty or not finite, or a setting is out of range.
        TypeError: if a model does not have a head, or the audio is not numeric.
    """
    heads = {} if tagger is not None and isinstance(models, Sized) and not len(models) else by_task(models)
    settings = WindowSettings(None, window_seconds, overlap_seconds, batch_size)
    for task, model in heads.items():
        get_task(task)
        settings.frames(model.config)
    rates = {model.config.sampling_rate for model in heads.values()}
    rates |= set() if tagger is None else {tagger.sampling_rate}
    waveforms = {rate: to_waveform(audio, sampling_rate, rate) for rate in rates}
    rate, waveform = next(iter(waveforms.items()))
    annotation = SongAnnotation(len(waveform) / rate)
    if waveform.max() - waveform.min() < 2 * SILENCE:  # a constant offset is silent too
        for model in heads.values():
            _set_silence(annotation, model.config)
        annotation.similarities = None if tagger is None else {}
        return annotation
    if tagger is not None:
        annotation.similarities = tagger(waveforms[tagger.sampling_rate], tagger.sampling_rate)
    computed = []
    for group in group_by_encoder(list(heads.values())):
        waveform = waveforms[group[0].config.sampling_rate]
        of_group = stream_logits(group, waveform, settings)
        computed += [(model.config, logits) for model, logits in zip(group, of_group, strict=True)]
    computed.sort(key=lambda item: task_of(item[0]).music_parts is None)  # music is detected first
    for config, logits in computed:
        _set_events(annotation, config, logits, _find_parts(annotation, computed[0][0]))
    return annotation


def _find_parts(annotation: SongAnnotation, config: MusicFMConfig) -> list[Part] | None:
    """Return the parts of a song with and without music, or `None` if they are unknown, or all of it is music."""
    spec = task_of(config)
    segments = annotation.get(spec.column)
    if spec.music_parts is None or segments is None:
        return None
    is_music = spec.music_parts(segments)
    probabilities = annotation.probabilities[spec.column].tolist()
    return None if all(is_music) else list(map(Part, segments, is_music, probabilities))


def _set_events(
    annotation: SongAnnotation, config: MusicFMConfig, logits: np.ndarray, parts: list[Part] | None = None
) -> None:
    """Decode the logits of a song, or those of its music, and add the events to its annotation."""
    spec = task_of(config)
    if parts is not None and not any(part.is_music for part in parts):
        _set_silence(annotation, config)
        return
    if parts is None:
        events = spec.decode(config, logits)
        probabilities = spec.event_probabilities(config, logits, events)
    else:
        events, probabilities, logits = decode_music(config, logits, parts)
    events, probabilities = fit_to_audio(spec.calibrate(config, events), probabilities, annotation.duration)
    _set_result(annotation, config, spec.column, events, probabilities)
    _set_further_results(annotation, config, logits, events)


def _set_silence(annotation: SongAnnotation, config: MusicFMConfig) -> None:
    """Add the events of a silent song to its annotation."""
    spec = task_of(config)
    events = spec.silence(annotation.duration)
    annotation.set(spec.column, events)
    _set_further_results(annotation, config, np.empty((0, len(label_names(config)))), events)


def _set_further_results(annotation: SongAnnotation, config: MusicFMConfig, logits: np.ndarray, events: Any) -> None:
    """Add the further results of a task to the annotation. Segments end with the audio at the latest."""
    for name, (value, probabilities) in task_of(config).further_results(config, logits, events).items():
        if isinstance(value, list):
            value = [segment._replace(end=min(segment.end, annotation.duration)) for segment in value]
        _set_result(annotation, config, name, value, probabilities)


def _set_result(
    annotation: SongAnnotation, config: MusicFMConfig, name: str, events: Any, probabilities: np.ndarray | None
) -> None:
    """Add a result to the annotation, and mark its uncertain events."""
    scaling = task_of(config).scaling(config, name)
    uncertain = None if probabilities is None else is_uncertain(probabilities, scaling)
    annotation.set(name, events, probabilities, uncertain)
