"""
Keys: 12 major, 12 minor and none, one of them in each frame; and one key for the whole song. Frame j covers
[j, j + 1) / rate seconds.

Keys are written like `F#:min`; `parse_key` reads other spellings. The score of a song is
`mir_eval.key.weighted_score`.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from . import spans
from .annotations import PITCH_NAMES, Segment
from .spec import Score, Strip, TaskSpec

LABELS = (*(f"{name}:maj" for name in PITCH_NAMES), *(f"{name}:min" for name in PITCH_NAMES), "N")

_SEMITONES = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
# A letter, sharps or flats, and a mode, with or without a separator. The kind of minor is ignored.
_KEY = re.compile(r"([A-Ga-g])((?:#|b|[ -]?(?i:sharp|flat)\b)*)[ :_-]*(?:(?:natural|harmonic|melodic)[ _-]?)?(.*)")
# Modes by their third. M and m are distinguished before the rest is lower-cased.
_MAJOR = {"M", "maj", "major", "ion", "ionian", "lyd", "lydian", "mix", "mixolydian"}
_MINOR = {"m", "min", "minor", "aeo", "aeolian", "dor", "dorian", "phr", "phrygian", "loc", "locrian"}
_OTHER = {"other", "modal"}
_NONE = {"n", "none", "silence", "no key", "nokey", "no_key"}
_UNDECIDED = {"x", "unknown", "atonal"}


@lru_cache(maxsize=4096)
def parse_key(text: str) -> str | None:
    """
    Read a key: `C`, `Am`, `c# minor`, `F♯:min`, `Cb major` (B), `Eb:dorian` (minor, by its third). The case of the
    letter matters only if no mode follows: `a` is A:min.

    Returns:
        One of `LABELS`, N for none and silence; `None` for keys that are neither major nor minor, or undecided: `X`,
        `D other`, `atonal`.

    Raises:
        ValueError: if the text is not a key.
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
    raise ValueError(f"{text!r} is not a key. Keys are written like C, F#:min, Bb major, D dorian; none as N.")


def targets(keys: Sequence[Segment], num_frames: int, frame_rate: float, start: float = 0.0) -> np.ndarray:
    """
    Compute one-hot targets: the key with most time in each frame.

    Args:
        keys (`list[Segment]`): Seconds, and keys in any spelling of `parse_key`.
        num_frames (`int`): Rows.
        frame_rate (`float`): In Hz.
        start (`float`): Seconds at which the first frame begins.

    Returns:
        float32 `(num_frames, 25)`. Rows are -1, and not trained on, where most of a frame has no label (also after the
        end) or a key that is neither major nor minor nor none.

    Raises:
        ValueError: if segments are not in order, a label is not a key, or a number is out of range.
    """
    return spans.frame_targets(keys, parse_key, LABELS, num_frames, frame_rate, start)


def events(logits: np.ndarray, frame_rate: float, min_seconds: float = 0.0) -> list[Segment]:
    """
    Decode the keys of a whole song over time: runs of the likeliest label.

    Args:
        logits (`np.ndarray` of shape `(frames, 25)`): Scores before the softmax.
        frame_rate (`float`): In Hz.
        min_seconds (`float`): No key is shorter; see [`spans.decode`].

    Returns:
        Segments from 0 to the end of the last frame, without gaps.

    Raises:
        ValueError: if logits have another shape or are not finite, or a setting is out of range.
    """
    return spans.decode(logits, LABELS, frame_rate, min_seconds)


def song_key(logits: np.ndarray) -> str:
    """
    Return the key of a song: the label with the highest mean probability over its frames. Probabilities are averaged,
    not their logarithms, so that no single frame rules a key out.

    Args:
        logits (`np.ndarray` of shape `(frames, 25)`): Of the whole song.

    Returns:
        One of `LABELS`; N for no frames.

    Raises:
        ValueError: if logits have another shape or are not finite.
    """
    probabilities = spans.softmax(logits, LABELS)
    return LABELS[probabilities.mean(axis=0).argmax()] if len(probabilities) else "N"


def main_key(keys: Sequence[Segment]) -> str | None:
    """
    Return the annotated key with most seconds, the first of equal ones; N if all labels are none; `None` if there are
    no labels, or if all are undecided.

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
    Compare the keys of one song by `mir_eval.key.weighted_score`: 1 for the same, 0.5 for a fifth above, 0.3 for the
    relative, 0.2 for the parallel key. N against N is 1, against a key 0.

    Args:
        reference (`list[Segment]`): Keys in any spelling of `parse_key`. Those that are neither major nor minor nor
            none are not scored.
        estimate (`list[Segment]`): Keys over time. Time without one counts as N.
        key (`str`, *optional*): The key of the whole song, as from `song_key`; by default the one with most seconds in
            `estimate`.

    Returns:
        key_weighted (`float`): Of the key of the song; the reference is the annotated key with most seconds.
        key_frame (`float`): Mean over the time that has a reference. Both are nan if no time has one.

    Raises:
        ValueError: if segments are not in order, or a label is not a key.
    """
    from mir_eval.key import weighted_score

    estimated_key = main_key(estimate) if key is None else parse_key(key)
    reference_key = main_key(reference)
    if reference_key is None:
        return {"key_weighted": float("nan"), "key_frame": float("nan")}
    seconds, names, estimated_names = spans.pair(reference, estimate, "X", "N")
    labels = [parse_key(name) for name in names]
    labeled = np.array([label is not None for label in labels])
    scores = [
        weighted_score(_mir_eval_key(label), _mir_eval_key(parse_key(name)))
        for label, name in zip(labels, estimated_names, strict=True)
    ]
    return {
        "key_weighted": float(weighted_score(_mir_eval_key(reference_key), _mir_eval_key(estimated_key))),
        "key_frame": float(np.average(np.array(scores)[labeled], weights=seconds[labeled])),
    }


def _mir_eval_key(label: str | None) -> str:
    """Write a label as mir_eval does."""
    if label in (None, "N"):
        return "X"
    tonic, mode = label.split(":")
    return f"{tonic} {mode}or" if mode == "maj" else f"{tonic} minor"


TASK = TaskSpec(
    name="key",
    column="keys",
    order=3,
    labels=LABELS,
    label_rate=0.5,
    public_rate=0.5,
    crop_seconds=12.0,
    parse=parse_key,
    transpose=spans.transpose_targets,
    resamplable=True,
    song_label=song_key,
    song_label_name="key",
    silence=spans.whole_song("N"),
    metric="key_weighted",
    scores={"key_weighted": Score("accuracy", "key (mir_eval weighted score)")},
    score=score,
    about="Keys: 24 major and minor ones, and none",
    limits="It knows major and minor keys: modes, and music without a key, are labeled as one of them.",
    strip=Strip("key", "keys", height=0.19),
)
