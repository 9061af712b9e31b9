"""
Chords of the vocabulary `full`, after McFee and Bello, *Structured Training for Large-Vocabulary Chord Recognition*,
ISMIR 2017: the model predicts the root, the bass and the tones in separate outputs, and here also the quality, so that
a rare chord shares what is learned about its parts with frequent ones; and the chord itself, because a quality depends
on the root. They are decoded together.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np

from ..model.losses_musicfm import IGNORED
from . import spans
from .annotations import PITCH_NAMES, Segment
from .chord_smoothing import learn_changes, log_shares, smooth, to_segments
from .chord_syntax import chord_tones
from .chord_vocabularies import QUALITIES, label_full, parse_full, spell_chord, spell_kind

_ROOTS = (*PITCH_NAMES, "N")  # of roots and basses, which are pitch classes
_NAMES = (*QUALITIES, "N", "X")
_CHORDS = (*(f"{root}:{quality}" for root in PITCH_NAMES for quality in QUALITIES), "N", "X")
_SIZES = (len(_ROOTS), len(_NAMES), len(_ROOTS), len(_CHORDS), len(PITCH_NAMES))
LABELS = (
    *(f"root {name}" for name in _ROOTS),
    *(f"quality {name}" for name in _NAMES),
    *(f"bass {name}" for name in _ROOTS),
    *(f"chord {name}" for name in _CHORDS),
    *(f"tone {name}" for name in PITCH_NAMES),
)
OUTPUTS = (
    *(
        {"name": name, "size": size, "problem_type": "single_label_classification", "loss_weight": 1.0}
        for name, size in zip(("root", "quality", "bass", "chord"), _SIZES, strict=False)
    ),
    # The loss of a tone is averaged over twelve of them.
    {"name": "tones", "size": 12, "problem_type": "multi_label_classification", "loss_weight": 6.0},
)
# Chords in the order of decoding: roots × qualities × semitones from the root to the bass, then N and X.
_SHAPE = (12, len(QUALITIES), 12)
_NUM_CHORDS = 12 * len(QUALITIES) * 12
_N, _X = _NUM_CHORDS, _NUM_CHORDS + 1
_PARTS_WEIGHT = 0.5  # of log-probabilities of root, quality and tones beside those of chord and bass
_BLOCK = 512  # frames whose chords are scored at once


def targets(annotation: Sequence[Segment], num_frames: int, frame_rate: float, start: float = 0.0) -> np.ndarray:
    """
    Compute the root, the quality, the bass, the chord without its bass, and the tones that have the most time in a
    frame. Chords with a quality that the vocabulary does not have are X, with their root, bass and tones; for X
    itself, these are ignored.

    Args:
        annotation (`list[Segment]`): Chords in Harte's syntax.
        num_frames (`int`): Number of rows.
        frame_rate (`float`): Frame rate in Hz.
        start (`float`): Start of the first frame in seconds.

    Returns:
        float32 `(num_frames, 224)`: one-hot roots from C, qualities, basses from C and chords, each with N, and 1 for
        the pitch classes of the tones, including the bass; -100 where most of a frame has no chord.

    Raises:
        ValueError: if segments are not in order, a label is not a chord, or a number is out of range.
    """
    outputs = ((_root_name, _ROOTS), (_quality_name, _NAMES), (_bass_name, _ROOTS), (_chord_name, _CHORDS))
    parts = [spans.frame_targets(annotation, parse, names, num_frames, frame_rate, start) for parse, names in outputs]
    sets = list(dict.fromkeys(_tone_names(segment.label) or "" for segment in annotation))
    most = spans.frame_targets(annotation, _tone_names, sets, num_frames, frame_rate, start)
    tones = np.array([[name in tone_set.split() for name in PITCH_NAMES] for tone_set in sets], dtype=np.float32)
    known = (most >= 0).all(axis=1, keepdims=True) & bool(sets)
    parts.append(np.where(known, most @ tones.reshape(len(sets), 12), np.float32(IGNORED)))
    return np.concatenate(parts, axis=1)


def transpose(frames: np.ndarray, semitones: int) -> np.ndarray:
    """Transpose targets `(…, 224)`: roots, basses, chords and tones move, qualities stay."""
    roots, qualities, basses, chords, tones = np.split(frames, np.cumsum(_SIZES)[:-1], axis=-1)

    def move(part: np.ndarray, size: int = 1) -> np.ndarray:
        return np.concatenate([np.roll(part[..., : 12 * size], semitones * size, -1), part[..., 12 * size :]], axis=-1)

    return np.concatenate([move(roots), qualities, move(basses), move(chords, len(QUALITIES)), move(tones)], axis=-1)


def events(
    logits: np.ndarray,
    frame_rate: float,
    chord_seconds: float | None = None,
    kinds: Mapping[str, float] | None = None,
) -> list[Segment]:
    """
    Decode the chords of a whole song. The score of a chord in a frame is the product of its probability, that of its
    bass and, with a lower weight, those of its root, its quality, its tones, and the absence of other tones. X has the
    score of the likeliest root, bass and tones.

    Args:
        logits (`np.ndarray` of shape `(frames, 224)`): Scores before four softmaxes and twelve sigmoids.
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
        logits (`np.ndarray` of shape `(frames, 224)`): Logits of the whole song.
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
        scores = _flatten(parts)
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
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


def _chord_name(text: str) -> str:
    root, quality, _ = parse_full(text)
    return quality if quality in ("N", "X") else f"{PITCH_NAMES[root]}:{quality}"


def _bass_name(text: str) -> str | None:
    root, quality, bass = parse_full(text)
    if root < 0:
        return None if quality == "X" else "N"
    return PITCH_NAMES[(root + bass) % 12]


def _tone_names(text: str) -> str | None:
    """Return the names of the tones of a chord, separated by spaces, or `None` for X."""
    return None if text == "X" else " ".join(PITCH_NAMES[tone] for tone in chord_tones(text))


def _scores(logits: np.ndarray) -> Iterator[list[np.ndarray]]:
    """
    Yield the log-probabilities of roots, qualities, basses and chords, and the logits of tones, float32
    `(frames, …)`, of blocks of frames.
    """
    logits = np.asarray(logits)
    if logits.ndim != 2 or logits.shape[1] != len(LABELS):
        raise ValueError(f"Logits must have the shape (frames, {len(LABELS)}), got {logits.shape}.")
    *classes, tones = np.split(logits, np.cumsum(_SIZES)[:-1], axis=1)
    if not np.isfinite(tones).all():
        raise ValueError("Logits must be finite, but those of tones are not.")
    parts = [np.log(spans.softmax(part, ("",) * part.shape[1]) + 1e-12).astype(np.float32) for part in classes]
    parts.append(tones.astype(np.float32))
    for first in range(0, len(logits), _BLOCK):
        yield [part[first : first + _BLOCK] for part in parts]


def _flatten(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Return the log-score of all chords, float32 `(frames, 2018)`, up to a constant for each frame."""
    roots, qualities, basses, chords, tones = parts
    pitches = (np.arange(12)[:, None] + np.arange(12)) % 12  # (root, semitones to the bass) → bass
    scores = (tones @ _tone_sets().T).reshape(-1, *_SHAPE)  # relative to the absence of all tones
    scores += roots[:, :12, None, None] + qualities[:, None, :-2, None]
    scores *= _PARTS_WEIGHT
    scores += chords[:, :-2].reshape(-1, 12, len(QUALITIES), 1) + basses[:, pitches][:, :, None]
    none = chords[:, -2] + basses[:, 12] + _PARTS_WEIGHT * (roots[:, 12] + qualities[:, -2])
    likeliest = roots.max(axis=1) + qualities[:, -1] + np.maximum(tones, 0).sum(axis=1)
    other = chords[:, -1] + basses.max(axis=1) + _PARTS_WEIGHT * likeliest
    return np.concatenate([scores.reshape(-1, _NUM_CHORDS), none[:, None], other[:, None]], axis=1)


@lru_cache(maxsize=1)
def _tone_sets() -> np.ndarray:
    """Return 1 for the pitch classes of each chord, including its bass, float32 `(2016, 12)`."""
    tones = np.zeros((*_SHAPE, 12), dtype=np.float32)
    for root, (number, steps), bass in product(range(12), enumerate(QUALITIES.values()), range(12)):
        tones[root, number, bass, [(root + step) % 12 for step in (*steps, bass)]] = 1
    return tones.reshape(_NUM_CHORDS, 12)


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
