"""
Smoothing of chords over time: a hidden Markov model over chords, whose parameters are learned from annotations.

In each frame a chord goes on, or gives way to another one. The probability of a change follows from the mean duration
of a chord. The next chord has any root, and a kind (quality and bass) with the share of the chords that have it. The
best sequence is that with the highest sum of log-probabilities of frames and transitions (Viterbi). All chords share
the probability of a change, so that a frame takes time proportional to the number of chords, not to its square.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from .annotations import Segment


def learn_changes(annotations: Iterable[Sequence[Segment]], parse: Callable[[str], str | None]) -> dict[str, Any]:
    """
    Learn the parameters of [`smooth`] from annotated songs.

    Args:
        annotations: Chords of each song.
        parse: Text of a chord → its label in the vocabulary, or `None` to ignore it.

    Returns:
        chord_seconds (`float`): Mean duration of a chord, with equal neighbors counted as one.
        kinds (`dict[str, float]`): Share of the chords that have each kind, the part of a label after the root; `N` is
            a kind. An empty mapping if no song has chords.
    """
    counts: dict[str, int] = {}
    seconds = 0.0
    for chords in annotations:
        previous: Segment | None = None
        for chord in chords:
            label = parse(chord.label)
            if label is None:
                previous = None
                continue
            seconds += chord.end - chord.start
            if previous is None or previous.label != label or previous.end < chord.start:
                kind = kind_of(label)
                counts[kind] = counts.get(kind, 0) + 1
            previous = Segment(chord.start, chord.end, label)
    total = sum(counts.values())
    if not total:
        return {}
    shares = {kind: round(counts[kind] / total, 6) for kind in sorted(counts, key=lambda kind: (-counts[kind], kind))}
    return {"chord_seconds": round(seconds / total, 4), "kinds": shares}


def kind_of(label: str) -> str:
    """Return the part of a label after the root, or the whole label if it has no root: `min7/b3`, `N`."""
    return label.partition(":")[2] or label


def log_shares(kinds: Mapping[str, float] | None, names: Sequence[str], roots: Sequence[int]) -> np.ndarray:
    """
    Return the log-probability that a change leads to each chord.

    Args:
        kinds: Shares of kinds, as [`learn_changes`] returns them. Kinds that it lacks get half of the smallest share.
            `None` for equal shares of all chords.
        names: Kind of each chord.
        roots: Number of chords that have the kind of each chord.

    Returns:
        float64 `(chords,)`.

    Raises:
        ValueError: if a share is not a positive number.
    """
    if not kinds:
        return np.full(len(names), -np.log(max(1, len(names))))
    if not all(isinstance(share, int | float) and 0 < share <= 1 for share in kinds.values()):
        raise ValueError(f"`kinds` must map kinds of chords to shares between 0 and 1, got {kinds}.")
    smallest = min(kinds.values()) / 2
    shares = np.array([kinds.get(name, smallest) for name in names]) / np.array(roots)
    return np.log(shares / shares.sum())


def smooth(
    log_probabilities: Iterable[np.ndarray], frame_rate: float, chord_seconds: float | None, changes: np.ndarray
) -> np.ndarray:
    """
    Find the best sequence of chords.

    Args:
        log_probabilities: Blocks `(frames, chords)` of the song, in order.
        frame_rate (`float`): Frame rate in Hz.
        chord_seconds (`float`, *optional*): Mean duration of a chord. `None`: no smoothing, the best chord of each
            frame.
        changes (`np.ndarray` of shape `(chords,)`): Output of [`log_shares`].

    Returns:
        int64 `(frames,)`: indices of chords.

    Raises:
        ValueError: if a number is out of range.
    """
    if not 0 < frame_rate < np.inf or not (chord_seconds is None or 0 < chord_seconds < np.inf):
        raise ValueError(
            f"Need a positive frame rate and `chord_seconds` > 0, got {frame_rate} Hz and {chord_seconds} s."
        )
    if chord_seconds is None:
        best = [block.argmax(axis=1) for block in log_probabilities]
        return np.concatenate(best) if best else np.empty(0, dtype=np.int64)
    change = 1 - np.exp(-1 / (frame_rate * chord_seconds))
    stays, enters = np.log1p(-change), (np.log(change) + changes)
    scores: np.ndarray | None = None
    changed, sources = [], []  # for each frame after the first: the chords that begin, and the best chord before it
    for frame in _frames(log_probabilities):
        if scores is None:
            scores = changes + frame
            continue
        source = int(scores.argmax())
        entered = enters + scores[source]
        scores = scores + stays
        changed.append(entered > scores)
        sources.append(source)
        scores = np.maximum(scores, entered)
        scores += frame
    if scores is None:
        return np.empty(0, dtype=np.int64)
    states = np.empty(len(sources) + 1, dtype=np.int64)
    states[-1] = scores.argmax()
    for index in range(len(sources) - 1, -1, -1):
        after = states[index + 1]
        states[index] = sources[index] if changed[index][after] else after
    return states


def to_segments(states: np.ndarray, frame_rate: float, name: Callable[[int], str]) -> list[Segment]:
    """Return the runs of equal states, from 0 to the end of the last frame; `name` returns the label of a state."""
    if not len(states):
        return []
    edges = [0, *(np.flatnonzero(np.diff(states)) + 1).tolist(), len(states)]
    return [
        Segment(float(first / frame_rate), float(last / frame_rate), name(int(states[first])))
        for first, last in pairwise(edges)
    ]


def _frames(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield the frames of blocks."""
    for block in blocks:
        yield from block
