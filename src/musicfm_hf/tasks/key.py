"""
Keys: one of 12 major keys, 12 minor keys and none in each frame, and one key for the whole song. Frame j covers
[j, j + 1) / rate seconds.

Keys are written like `F#:min`; `parse_key` reads other spellings. The score of a song is
`mir_eval.key.weighted_score`, which counts fifths above the reference, but not fifths below it.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from . import spans
from .annotations import PITCH_NAMES, Segment
from .spec import Score, Strip, TaskSpec

LABELS = (*(f"{name}:maj" for name in PITCH_NAMES), *(f"{name}:min" for name in PITCH_NAMES), "N")

_SEMITONES = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
# A letter, sharps or flats, and a mode, with or without a separator. The variant of minor is ignored.
_KEY = re.compile(r"([A-Ga-g])((?:#|b|[ -]?(?i:sharp|flat)\b)*)[ :_-]*(?:(?i:natural|harmonic|melodic)[ _-]?)?(.*)")
_FLAT_OR_SEPARATOR = re.compile(r"[A-Ga-g]-(?:[ :].*)?")
_SIGNS = str.maketrans({"♯": "#", "♭": "b"} | dict.fromkeys("\N{HYPHEN}\N{NON-BREAKING HYPHEN}–—\N{MINUS SIGN}", "-"))
# Modes, grouped by their third. M and m are distinguished before the rest is lower-cased.
_MAJOR = {"M", "maj", "major", "ion", "ionian", "lyd", "lydian", "mix", "mixolydian"}
_MINOR = {"m", "min", "minor", "aeo", "aeolian", "dor", "dorian", "phr", "phrygian", "loc", "locrian"}
_OTHER = {"other", "modal"}
_NONE = {"n", "none", "silence", "no key", "nokey", "no_key"}
_UNDECIDED = {"x", "unknown", "atonal"}


@lru_cache(maxsize=4096)
def parse_key(text: str) -> str | None:
    """
    Parse a key: `C`, `Am`, `c# minor`, `F♯:min`, `Cb major` (B), `Eb:dorian` (minor, because of its third). The case
    of the letter matters only if no mode follows: `a` is A:min.

    Returns:
        One of `LABELS`, with N for no key and silence; `None` for keys that are undecided or neither major nor minor:
        `X`, `D other`, `atonal`.

    Raises:
        ValueError: if the text is not a key, or if a `-` after the letter may be a flat: `E- major`.
    """
    plain = " ".join(text.translate(_SIGNS).split())
    if plain.lower() in _NONE:
        return "N"
    if plain.lower() in _UNDECIDED:
        return None
    if _FLAT_OR_SEPARATOR.fullmatch(plain):
        raise ValueError(
            f"{text!r} may be {plain[0]} or, as in music21, {plain[0]} flat: write {plain[0]} or {plain[0]}b, and the "
            "mode after a space or a colon."
        )
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
    raise ValueError(f"{text!r} is not a key. Keys are written like C, F#:min, Bb major, D dorian, or N for none.")


def song_key(logits: np.ndarray) -> str:
    """
    Return the key of a song: the label with the highest mean probability over its frames. Probabilities are averaged
    instead of their logarithms, so that no single frame rules out a key.

    Args:
        logits (`np.ndarray` of shape `(frames, 25)`): Logits of the whole song.

    Returns:
        One of `LABELS`; N if there are no frames.

    Raises:
        ValueError: if logits have another shape or are not finite.
    """
    probabilities = spans.softmax(logits, LABELS)
    return LABELS[probabilities.mean(axis=0).argmax()] if len(probabilities) else "N"


def song_results(
    logits: np.ndarray, keys: Sequence[Segment], frame_rate: float, **settings: Any
) -> dict[str, tuple[Any, np.ndarray | None]]:
    """Return the `key` of a song from its logits; see [`song_key`]. The other arguments are not used."""
    return {"key": (song_key(logits), None)}


def main_key(keys: Sequence[Segment]) -> str | None:
    """
    Return the annotated key with the longest total time, and the first one in a tie. Return N if all labels are N, and
    `None` if there are no labels or all are undecided.

    Raises:
        ValueError: if a label is not a key.
    """
    seconds: dict[str, float] = {}
    for segment in keys:
        if label := parse_key(segment.label):
            seconds[label] = seconds.get(label, 0.0) + segment.end - segment.start
    named = [label for label in seconds if label != "N"]
    return max(named or seconds, key=seconds.__getitem__, default=None)


def score(reference: Sequence[Segment], estimate: Sequence[Segment], key: str | None = None) -> dict[str, float]:
    """
    Compare the keys of one song with `mir_eval.key.weighted_score`: 1 for the same key, 0.5 for a fifth above, 0.3 for
    the relative key, 0.2 for the parallel key. A fifth below scores 0, as by default in mir_eval; MIREX has counted
    both directions since 2017, so its scores may be higher. N scores 1 against N, and 0 against a key. An undecided
    estimate, such as X, scores 0.

    Args:
        reference (`list[Segment]`): Keys, in any spelling that [`parse_key`] accepts. Keys that are not major, minor
            or N are not scored.
        estimate (`list[Segment]`): Keys over time. Time without a key counts as N.
        key (`str`, *optional*): Key of the whole song, for example from [`song_key`]; by default the key with the
            longest total time in `estimate`.

    Returns:
        key_weighted (`float`): Score of the key of the song. The reference is the annotated key with the longest total
            time.
        key_frame (`float`): Mean score over the time that has a reference. Both scores are nan without a reference.

    Raises:
        ValueError: if segments are not in order, or a label is not a key.
    """
    estimated_key = (main_key(estimate) if estimate else "N") if key is None else parse_key(key)
    reference_key = main_key(reference)
    if reference_key is None:
        return {"key_weighted": float("nan"), "key_frame": float("nan")}
    seconds, names, estimated_names = spans.pair(reference, estimate, "X", "N")
    labels = [parse_key(name) for name in names]
    labeled = np.array([label is not None for label in labels])
    scores = [_compare(label, parse_key(name)) for label, name in zip(labels, estimated_names, strict=True)]
    return {
        "key_weighted": _compare(reference_key, estimated_key),
        "key_frame": float(np.average(np.array(scores)[labeled], weights=seconds[labeled])),
    }


def _compare(reference: str | None, estimate: str | None) -> float:
    """Return the score of one key; `None` is an undecided key. mir_eval does not distinguish it from N, its X."""
    from mir_eval.key import weighted_score

    if reference is None or estimate is None:
        return 0.0
    return float(weighted_score(_mir_eval_key(reference), _mir_eval_key(estimate)))


def _mir_eval_key(label: str) -> str:
    """Return a label in the notation of mir_eval."""
    if label == "N":
        return "X"
    tonic, mode = label.split(":")
    return f"{tonic} {mode}or" if mode == "maj" else f"{tonic} minor"


TASK = TaskSpec(
    name="key",
    column="keys",
    order=3,
    labels=LABELS,
    label_rate=0.5,
    crop_seconds=12.0,
    parse=parse_key,
    transpose=spans.transpose_targets,
    resamplable=True,
    song_results=song_results,
    scored_results=("key",),
    silence=spans.whole_song("N"),
    metric="key_weighted",
    scores={"key_weighted": Score("accuracy", "key (mir_eval weighted score, fifths above only)")},
    score=score,
    about="Keys: 24 major and minor keys, and none",
    limits="It knows major and minor keys: modal music and music without a key are labeled as one of them.",
    strip=Strip("key", "keys", height=0.19),
)
