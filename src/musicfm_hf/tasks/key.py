"""
Keys: 12 major, 12 minor and none, one of them in each frame; one key for a song.

A song's score is `mir_eval.key.weighted_score`. Keys are written as `F#:min`; `parse_key` reads other spellings.

Conventions: frame j covers [j, j + 1) / rate seconds.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from . import spans
from .annotations import PITCH_NAMES, Segment

LABELS = (*(f"{name}:maj" for name in PITCH_NAMES), *(f"{name}:min" for name in PITCH_NAMES), "N")
OUTPUTS = (
    {
        "name": "key",
        "size": len(LABELS),
        "problem_type": "single_label_classification",
        "loss_weight": 1.0,
    },
)
PAPER_RATE = 0.5
README_RATE = 0.5
CROP_SECONDS = 12.0
METRIC = "key_weighted"

_SEMITONES = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
# A letter, sharps or flats, and a mode after a separator or none; which kind of minor does not matter.
_KEY = re.compile(r"([A-Ga-g])((?:#|b|[ -]?(?i:sharp|flat)\b)*)[ :_-]*(?:(?:natural|harmonic|melodic)[ _-]?)?(.*)")
# Modes by their third. M and m are told apart before the rest is lower-cased.
_MAJOR = {"M", "maj", "major", "ion", "ionian", "lyd", "lydian", "mix", "mixolydian"}
_MINOR = {"m", "min", "minor", "aeo", "aeolian", "dor", "dorian", "phr", "phrygian", "loc", "locrian"}
_OTHER = {"other", "modal"}
_NONE = {"n", "none", "silence", "no key", "nokey", "no_key"}
_UNDECIDED = {"x", "unknown", "atonal"}


@lru_cache(maxsize=4096)
def parse_key(text: str) -> str | None:
    """
    The key that a text names: `C`, `Am`, `c# minor`, `F♯:min`, `Cb major` (B), `Eb:dorian` (by its third: minor).

    The case of the letter tells nothing if a mode follows; alone, a small letter is minor: `a` is A:min.

    Returns:
        One of `LABELS`: N for none and silence; `None` for what is a key but neither major nor minor, or undecided:
        `X`, `D other`, `atonal`.

    Raises:
        ValueError: if it is no key.
    """
    plain = " ".join(text.replace("♯", "#").replace("♭", "b").replace("\N{MUSIC SHARP SIGN}", "#").split())
    if plain.lower() in _NONE:
        return "N"
    if plain.lower() in _UNDECIDED:
        return None
    if match := _KEY.fullmatch(plain):
        letter, accidentals, mode = match.groups()
        mode = mode if mode in ("M", "m") else mode.lower()
        sharps = accidentals.count("#") + accidentals.lower().count("sharp")
        flats = accidentals.count("b") + accidentals.lower().count("flat")
        tonic = PITCH_NAMES[(_SEMITONES[letter.upper()] + sharps - flats) % 12]
        if mode in _MAJOR or (not mode and letter.isupper()):
            return f"{tonic}:maj"
        if mode in _MINOR or not mode:
            return f"{tonic}:min"
        if mode in _OTHER:
            return None
    raise ValueError(f"{text!r} is no key. Keys are written as in C, F#:min, Bb major, D dorian; none as N.")


def targets(keys: Sequence[Segment], num_frames: int, frame_rate: float, start: float = 0.0) -> np.ndarray:
    """
    The key with most time in each frame.

    Args:
        keys (`list[Segment]`): Seconds, and keys in any spelling of `parse_key`.
        num_frames (`int`): How many frames follow `start`.
        frame_rate (`float`): In Hz.
        start (`float`): Seconds at which the first frame begins.

    Returns:
        One-hot float32 `(num_frames, 25)`; rows of -1 where most of a frame has no label (after the end, too) or one
        that is neither major nor minor nor none: they are not trained on.

    Raises:
        ValueError: if segments are not in order, a label is no key, or there are no such frames.
    """
    return spans.frame_targets(keys, parse_key, LABELS, num_frames, frame_rate, start)


def events(logits: np.ndarray, frame_rate: float, min_seconds: float = 0.0) -> list[Segment]:
    """
    Keys over time: runs of the likeliest label.

    Args:
        logits (`np.ndarray` of shape `(frames, 25)`): Of the whole song.
        frame_rate (`float`): In Hz.
        min_seconds (`float`): The likeliest keys are found of which none is shorter than this.

    Returns:
        Segments from 0 to the end of the last frame, without gaps.

    Raises:
        ValueError: if logits have another shape or are not finite, or a setting is out of range.
    """
    return spans.decode(logits, LABELS, frame_rate, min_seconds)


def song_key(logits: np.ndarray) -> str:
    """
    The key of a song: the label of the highest probability, averaged over its frames. Probabilities rather than their
    logarithms, so that no single frame rules a key out.

    Args:
        logits (`np.ndarray` of shape `(frames, 25)`): Of the whole song.

    Returns:
        One of `LABELS`; N without frames.

    Raises:
        ValueError: if logits have another shape or are not finite.
    """
    probabilities = spans.softmax(logits, LABELS)
    return LABELS[probabilities.mean(axis=0).argmax()] if len(probabilities) else "N"


def main_key(keys: Sequence[Segment]) -> str | None:
    """
    The key with most seconds, the first of equal ones; N if no key is named; `None` if nothing is, or if all is
    undecided.

    Raises:
        ValueError: if a label is no key.
    """
    seconds: dict[str, float] = {}
    for segment in keys:
        if label := parse_key(segment.label):
            seconds[label] = seconds.get(label, 0.0) + segment.end - segment.start
    named = [label for label in seconds if label != "N"]
    return max(named or seconds, key=seconds.__getitem__, default=None)


def score(reference: Sequence[Segment], estimate: Sequence[Segment], key: str | None = None) -> dict[str, float]:
    """
    How near the keys of a song are, as `mir_eval.key.weighted_score` measures it: 1 for the same, 0.5 for a fifth
    above, 0.3 relative, 0.2 parallel; N against N is 1, against a key 0.

    Args:
        reference (`list[Segment]`): Keys in any spelling of `parse_key`. What is neither major nor minor nor none is
            not scored.
        estimate (`list[Segment]`): Keys over time. Time without one counts as N.
        key (`str`, *optional*): The key of the song, as from `song_key`; by default the one with most seconds in
            `estimate`.

    Returns:
        key_weighted (`float`): Of the song's key; the reference is its key with most seconds.
        key_frame (`float`): Mean over the time that has a reference. Both are nan where nothing has.

    Raises:
        ValueError: if segments are not in order, or a label is no key.
    """
    from mir_eval.key import weighted_score

    song = _mir_eval_key(main_key(estimate) if key is None else parse_key(key))
    main = main_key(reference)
    if main is None:
        return {"key_weighted": float("nan"), "key_frame": float("nan")}
    seconds, names, estimated_names = spans.pair(reference, estimate, "X", "N")
    labels = [parse_key(name) for name in names]
    labelled = np.array([label is not None for label in labels])
    scores = [
        weighted_score(_mir_eval_key(label), _mir_eval_key(parse_key(name)))
        for label, name in zip(labels, estimated_names, strict=True)
    ]
    return {
        "key_weighted": float(weighted_score(_mir_eval_key(main), song)),
        "key_frame": float(np.average(np.array(scores)[labelled], weights=seconds[labelled])),
    }


def _mir_eval_key(label: str | None) -> str:
    """As mir_eval writes it."""
    if label in (None, "N"):
        return "X"
    tonic, mode = label.split(":")
    return f"{tonic} {mode}or" if mode == "maj" else f"{tonic} minor"
