"""
Chords of the vocabulary `full`, after McFee and Bello, *Structured Training for Large-Vocabulary Chord Recognition*,
ISMIR 2017: the model predicts the root, the quality and the bass in separate outputs, so that a rare chord shares
what is learned about its root, its quality and its bass with frequent ones. They are decoded together.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from . import spans
from .annotations import PITCH_NAMES, Segment
from .chord_smoothing import learn_changes, log_shares, smooth, to_segments
from .chord_vocabularies import QUALITIES, label_full, parse_full, spell_chord, spell_kind

_ROOTS = (*PITCH_NAMES, "N")  # of roots and basses, which are pitch classes
_NAMES = (*QUALITIES, "N", "X")
_SIZES = (len(_ROOTS), len(_NAMES), len(_ROOTS))
LABELS = (
    *(f"root {name}" for name in _ROOTS),
    *(f"quality {name}" for name in _NAMES),
    *(f"bass {name}" for name in _ROOTS),
)
OUTPUTS = tuple(
    {"name": name, "size": size, "problem_type": "single_label_classification", "loss_weight": 1.0}
    for name, size in zip(("root", "quality", "bass"), _SIZES, strict=True)
)
# Chords in the order of decoding: roots × qualities × semitones from the root to the bass, then N and X.
_SHAPE = (12, len(QUALITIES), 12)
_NUM_CHORDS = 12 * len(QUALITIES) * 12
_N, _X = _NUM_CHORDS, _NUM_CHORDS + 1
_BLOCK = 512  # frames whose chords are scored at once


def targets(annotation: Sequence[Segment], num_frames: int, frame_rate: float, start: float = 0.0) -> np.ndarray:
    """
    Compute the root, the quality and the bass with the most time in each frame. Chords with a quality that the
    vocabulary does not have are X, with their root and bass; for X itself, root and bass are ignored.

    Args:
        annotation (`list[Segment]`): Chords in Harte's syntax.
        num_frames (`int`): Number of rows.
        frame_rate (`float`): Frame rate in Hz.
        start (`float`): Start of the first frame in seconds.

    Returns:
        float32 `(num_frames, 42)`: one-hot roots from C, qualities and basses from C, each with N; -100 where most of
        a frame has no chord.

    Raises:
        ValueError: if segments are not in order, a label is not a chord, or a number is out of range.
    """
    parts = zip((_root_name, _quality_name, _bass_name), (_ROOTS, _NAMES, _ROOTS), strict=True)
    return np.concatenate(
        [spans.frame_targets(annotation, parse, names, num_frames, frame_rate, start) for parse, names in parts],
        axis=1,
    )


def transpose(frames: np.ndarray, semitones: int) -> np.ndarray:
    """Transpose targets `(…, 42)`: roots and basses move, qualities stay."""
    roots, qualities, basses = np.split(frames, np.cumsum(_SIZES)[:-1], axis=-1)

    def move(part: np.ndarray) -> np.ndarray:
        return np.concatenate([np.roll(part[..., :12], semitones, -1), part[..., 12:]], axis=-1)

    return np.concatenate([move(roots), qualities, move(basses)], axis=-1)


def events(
    logits: np.ndarray,
    frame_rate: float,
    chord_seconds: float | None = None,
    kinds: Mapping[str, float] | None = None,
) -> list[Segment]:
    """
    Decode the chords of a whole song. The score of a chord in a frame is the product of the probabilities of its root,
    its quality and its bass; that of X, of the likeliest root and bass.

    Args:
        logits (`np.ndarray` of shape `(frames, 42)`): Scores before the three softmaxes.
        frame_rate (`float`): Frame rate in Hz.
        chord_seconds (`float`, *optional*): Mean duration of a chord, for smoothing; see [`chord_smoothing.smooth`].
            By default, chords are not smoothed.
        kinds (`dict[str, float]`, *optional*): Share of the chords with each quality and bass, such as `min7/b3`.

    Returns:
        `list[Segment]`: from 0 to the end of the last frame, without gaps; labels in Harte's syntax.

    Raises:
        ValueError: if logits have another shape or are not finite, or settings are out of range.
    """
    blocks = (_flatten(block) for block in _scores(logits))
    names, counts = _kinds()
    return to_segments(smooth(blocks, frame_rate, chord_seconds, log_shares(kinds, names, counts)), frame_rate, _name)


def probabilities(
    logits: np.ndarray, segments: Sequence[Segment], labels: Sequence[str], frame_rate: float
) -> np.ndarray:
    """
    Return the probability of each chord among all chords, averaged over its frames, float64 `(segments,)`.

    Args:
        logits (`np.ndarray` of shape `(frames, 42)`): Logits of the whole song.
        segments (`list[Segment]`): Output of [`events`].
        labels: Not used.
        frame_rate (`float`): Frame rate in Hz.
    """
    places = [spans.frames_of(segment, frame_rate, len(logits)) for segment in segments]
    chords = np.zeros(len(logits), dtype=np.int64)
    for segment, place in zip(segments, places, strict=True):
        chords[place] = _indices()[segment.label]
    of_frames = np.empty(len(logits))
    for number, parts in enumerate(_scores(logits)):
        scores = np.exp(_flatten(parts))
        block = slice(number * _BLOCK, number * _BLOCK + len(scores))
        of_frames[block] = np.take_along_axis(scores, chords[block, None], 1)[:, 0] / scores.sum(axis=1)
    return np.array([of_frames[place].mean() for place in places])


def learn_decoding(annotations: Sequence[Sequence[Segment]]) -> dict[str, Any]:
    """Learn `chord_seconds` and `kinds` of [`events`] from annotations; see [`chord_smoothing.learn_changes`]."""
    return learn_changes(annotations, _known_label)


def _known_label(text: str) -> str | None:
    """Return the label of a chord in the vocabulary, or `None` for X."""
    label = label_full(text)
    return None if label == "X" else label


def _root_name(text: str) -> str | None:
    root, quality, _ = parse_full(text)
    return _ROOTS[root] if quality != "X" or root >= 0 else None


def _quality_name(text: str) -> str:
    return parse_full(text)[1]


def _bass_name(text: str) -> str | None:
    root, quality, bass = parse_full(text)
    if root < 0:
        return None if quality == "X" else "N"
    return PITCH_NAMES[(root + bass) % 12]


def _scores(logits: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield the log-probabilities of roots, qualities and basses, float32 `(frames, …)`, of blocks of frames."""
    logits = np.asarray(logits)
    if logits.ndim != 2 or logits.shape[1] != len(LABELS):
        raise ValueError(f"Logits must have the shape (frames, {len(LABELS)}), got {logits.shape}.")
    parts = []
    for part, size in zip(np.split(logits, np.cumsum(_SIZES)[:-1], axis=1), _SIZES, strict=True):
        parts.append(np.log(spans.softmax(part, range(size)) + 1e-12).astype(np.float32))  # type: ignore[arg-type]
    for first in range(0, len(logits), _BLOCK):
        yield tuple(part[first : first + _BLOCK] for part in parts)  # type: ignore[misc]


def _flatten(parts: tuple[np.ndarray, np.ndarray, np.ndarray]) -> np.ndarray:
    """Return the log-probability of all chords, float32 `(frames, 2018)`."""
    roots, qualities, basses = parts
    pitches = (np.arange(12)[:, None] + np.arange(12)) % 12  # (root, semitones to the bass) → bass
    chords = (roots[:, :12, None] + basses[:, pitches])[:, :, None] + qualities[:, None, :-2, None]
    none = roots[:, 12] + qualities[:, -2] + basses[:, 12]
    other = roots.max(axis=1) + qualities[:, -1] + basses.max(axis=1)
    return np.concatenate([chords.reshape(len(roots), _NUM_CHORDS), none[:, None], other[:, None]], axis=1)


@lru_cache(maxsize=1)
def _kinds() -> tuple[list[str], list[int]]:
    """Return the kind of each chord, and the number of chords of that kind."""
    of_root = [spell_kind(quality, bass) for quality in QUALITIES for bass in range(12)]
    return [*of_root * 12, "N", "X"], [12] * _NUM_CHORDS + [1, 1]


def _name(index: int) -> str:
    """Return the label of a chord."""
    if index >= _NUM_CHORDS:
        return "N" if index == _N else "X"
    root, quality, bass = (int(part) for part in np.unravel_index(index, _SHAPE))
    return spell_chord(root, tuple(QUALITIES)[quality], bass)


@lru_cache(maxsize=1)
def _indices() -> dict[str, int]:
    """Return the index of each label that [`_name`] writes."""
    return {_name(index): index for index in range(_NUM_CHORDS + 2)}
