"""
Checks of positions in the bar. A position is a whole number from 1, the downbeat, which grows with every beat and
returns to 1 in the next bar; 0 if it is unknown. Bars may begin in the middle (a pickup) and beats may be missing.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

# The longest bar of the Harmonix Set has 14 beats, the tala tintal 16. Annotators may count faster notes.
MAX_POSITION = 32
MAX_ONLY_BAR = 16  # beats of a song that has a single bar
MAX_DOWNBEATS = 8  # beats of a song that are all downbeats
UNMARKED_SECONDS = 15.0  # after the last beat, and more than a quarter of the song: probably not annotated

EXPECTED = (
    "a position in the bar must be 1 for the downbeat, grow by 1 with each beat and return to 1 in the next bar, or "
    "be 0 if it is unknown"
)


def bar_lengths(positions: np.ndarray) -> np.ndarray:
    """
    Return the number of beats in the bar of each beat: the highest position in the bar. The pickup and the last bar
    may be incomplete, and count as at least as long as the bar beside them.

    Args:
        positions (`np.ndarray` of shape `(beats,)`): Positions in the bar from 1; 0 if unknown.

    Returns:
        int64 `(beats,)`.
    """
    bars = np.cumsum(positions == 1)
    highest = np.zeros(bars[-1] + 1 if len(bars) else 0, np.int64)
    np.maximum.at(highest, bars, positions)
    if len(highest) > 2:
        highest[-1] = max(highest[-1], highest[-2])
    if len(highest) > 1:
        highest[0] = max(highest[0], highest[1])
    return highest[bars]


def check_positions(positions: np.ndarray, place: Callable[[int], str]) -> None:
    """
    Raise an error if numbers cannot be positions in the bar, such as a count through the song, bar numbers, or
    positions from 0.

    Args:
        positions (`np.ndarray` of shape `(beats,)`): Nonnegative integers.
        place (`Callable`): Index of a beat → its name in the error message.

    Raises:
        ValueError: if a position is above 32; if a song of more than 16 beats never returns to 1; if more than a tenth
            of the beats (and more than one) repeat or precede the position before them without being a downbeat; or if
            most bars begin with 0.
    """
    known = np.flatnonzero(positions)
    values = positions[known]
    if len(above := known[values > MAX_POSITION]):
        raise ValueError(
            f"{place(above[0])}: {EXPECTED}, got {positions[above[0]]}. A count through the song or the number of the "
            "bar is not a position."
        )
    steps = np.diff(values)
    falls = known[1:][(steps <= 0) & (values[1:] > 1)]
    if len(falls) > max(1, len(values) // 10):
        before = values[np.searchsorted(known, falls[0]) - 1]
        raise ValueError(
            f"{place(falls[0])}: {EXPECTED}, got {positions[falls[0]]} after {before}, and {len(falls)} such beats in "
            "all. The number of the bar is not a position."
        )
    if len(values) and (steps >= 0).all() and values[-1] > 1 and known[-1] - known[0] >= MAX_ONLY_BAR:
        raise ValueError(
            f"{place(known[-1])}: {EXPECTED}, got {values[-1]} without a return to 1 since {values[0]}. A count "
            "through the song is not a position."
        )
    # Zeros are followed by 1, and ones preceded by 0: all of them or, if there are several, most, because beats may be
    # missing.
    starts = np.flatnonzero((positions[:-1] == 0) & (positions[1:] == 1))
    zeros, ones = int((positions[:-1] == 0).sum()), int((positions[1:] == 1).sum())
    share = len(starts) / max(zeros, ones, 1)
    if zeros > 1 and positions.max() > 1 and (share == 1 or (len(starts) > 3 and share > 0.5)):
        raise ValueError(f"{place(starts[0])}: {EXPECTED}, got bars that begin with 0: add 1 to every position.")


def remark_on_beats(beats: Any, duration: float) -> list[str]:
    """
    Return remarks on beats that are probably incomplete: no downbeats, nothing but downbeats, or a part of the song.

    Args:
        beats ([`Beats`]): Beats of the whole song.
        duration (`float`): Seconds of audio.
    """
    times, positions = beats
    texts: list[str] = []
    if not len(times):
        return texts
    if not positions.any():
        texts.append("no beat has a position in the bar, so the song is trained on as if it had no downbeats.")
    if len(times) > MAX_DOWNBEATS and (positions == 1).all():
        texts.append("every beat is a downbeat: if this is a list of downbeats, add the other beats.")
    if duration - times[-1] > max(UNMARKED_SECONDS, duration / 4):
        texts.append(
            f"the last beat is at {times[-1]:.1f} of {duration:.1f} s, and the time after it counts as without beats: "
            "if it has some, annotate them or cut the audio."
        )
    return texts
