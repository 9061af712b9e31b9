"""
Further outputs of models of beats: the tempo and the meter in each frame, each as a softmax, after Böck and Davies,
*Deconstruct, Analyse, Reconstruct: How To Improve Tempo, Beat, and Downbeat Estimation* (ISMIR 2020), who train tempi
beside beats. Activations of beats can fit half or twice the tempo and several meters about equally well; these outputs
decide.
"""

import numpy as np

from ..model.losses_musicfm import IGNORED
from . import meter, spans
from .annotations import Beats
from .bar_positions import bar_lengths

_PER_OCTAVE = 8
TEMPI = 40.0 * 2 ** (np.arange(22) / _PER_OCTAVE)  # beats per minute, from 40 to 247, evenly on a logarithmic scale
TEMPO_LABELS = tuple(f"tempo {tempo:.0f}" for tempo in TEMPI)
METER_LABELS = tuple(f"meter {beats}" for beats in meter.METERS)


def tempo_targets(annotation: Beats, num_frames: int, frame_rate: float, start: float = 0.0) -> np.ndarray:
    """
    Compute the share of each tempo in each frame: the local tempo (see [`meter.tempo_curve`]), interpolated between
    beats, is divided between the two tempi around it. Tempi outside the range count as the slowest or the fastest.

    Args:
        annotation (`Beats`): Beats of the whole song.
        num_frames (`int`): Number of rows.
        frame_rate (`float`): Frame rate in Hz.
        start (`float`): Center of the first frame, in seconds.

    Returns:
        float32 `(num_frames, 22)`; rows sum to 1, and are -100 before the first and after the last beat.
    """
    shares = np.full((num_frames, len(TEMPI)), IGNORED, dtype=np.float32)
    curve = meter.tempo_curve(annotation.times)
    if not len(curve):
        return shares
    times = start + np.arange(num_frames) / frame_rate
    steps = _PER_OCTAVE * np.log2(np.interp(times, curve[:, 0], curve[:, 1]) / TEMPI[0])
    distances = np.abs(steps.clip(0, len(TEMPI) - 1)[:, None] - np.arange(len(TEMPI)))
    inside = (times >= curve[0, 0]) & (times <= curve[-1, 0])
    shares[inside] = (1 - distances[inside]).clip(0)
    return shares


def meter_targets(annotation: Beats, num_frames: int, frame_rate: float, start: float = 0.0) -> np.ndarray:
    """
    Compute the meter in each frame: the number of beats in the bar of the beat that sounds.

    Args:
        annotation, num_frames, frame_rate, start: As for [`tempo_targets`].

    Returns:
        float32 `(num_frames, 6)`, one-hot meters from 2 to 7; -100 before the first and after the last beat, and in
        bars with another number of beats or unknown positions.
    """
    shares = np.full((num_frames, len(METER_LABELS)), IGNORED, dtype=np.float32)
    if len(annotation.times) < 2:
        return shares
    times = start + np.arange(num_frames) / frame_rate
    beats = np.searchsorted(annotation.times, times, side="right") - 1
    inside = (times >= annotation.times[0]) & (times <= annotation.times[-1])
    lengths = np.where(annotation.positions > 0, bar_lengths(annotation.positions), 0)[beats.clip(0)]
    known = inside & np.isin(lengths, meter.METERS)
    shares[known] = np.eye(len(METER_LABELS), dtype=np.float32)[lengths[known] - meter.METERS[0]]
    return shares


def log_probabilities(logits: np.ndarray, labels: tuple[str, ...]) -> np.ndarray:
    """Return log-probabilities, float64, of logits `(frames, labels)`. For errors, see [`spans.softmax`]."""
    return np.log(spans.softmax(logits, labels) + np.finfo(np.float64).tiny)
