"""Training, validation and test sets. A hash of the names divides songs, so that adding songs does not move others."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from .catalog import Song
from .labeled import LabeledSong

SPLITS = ("train", "validation", "test")

_DRAW = 1  # distinguishes the hashes of `draw_songs` from those of splits

FRACTIONS = (0.8, 0.1, 0.1)  # shares of the splits of a data set that does not define splits


def hash_name(name: str, *numbers: int) -> int:
    """Hash a name together with numbers to an integer from 0 to 2^63 - 1, the same on every machine."""
    text = "/".join([*map(str, numbers), name]).encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def is_held_out(name: str, fraction: float, seed: int = 0) -> bool:
    """Return whether [`split_by_name`] makes a song a validation song."""
    return hash_name(name, seed) < fraction * 2**63


def split_by_name(songs: Sequence[Song], fraction: float, seed: int = 0) -> tuple[list[Song], list[Song]]:
    """
    Divide songs into training songs and about `fraction` of validation songs. The assignment of a song depends only on
    its name and `seed`, so adding songs does not move others.

    Raises:
        ValueError: `fraction` is not between 0 and 1, or leaves one side without a song.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"`fraction` must be between 0 and 1, got {fraction}.")
    sides: tuple[list[Song], list[Song]] = ([], [])
    for song in songs:
        sides[is_held_out(song[0], fraction, seed)].append(song)
    if not all(sides):
        raise ValueError(
            f"A fraction of {fraction} divides {len(songs)} songs into {len(sides[0])} to train on and "
            f"{len(sides[1])} to validate on; each set needs at least one. Choose a larger fraction, such as 0.2, or "
            "list the songs to validate on."
        )
    return sides


def assign_splits(
    songs: Iterable[LabeledSong], seed: int = 0, fractions: Sequence[float] = FRACTIONS
) -> dict[str, list[LabeledSong]]:
    """
    Group songs by split. Songs without a split are assigned one by a hash of their group and the seed: the split of a
    song does not depend on the other songs.

    Args:
        songs: Songs with distinct ids.
        seed (`int`): Seed of the hash.
        fractions: Shares of `SPLITS` (train, validation, test), for songs without a split.

    Raises:
        ValueError: fractions are not three nonnegative numbers that sum to 1, a split is not in `SPLITS`, two songs
            have the same id, or a split with a positive fraction has no songs.
    """
    _check_fractions(fractions)
    splits: dict[str, list[LabeledSong]] = {name: [] for name in SPLITS}
    ids, is_drawn = set(), False
    for song in songs:
        if song.id in ids:
            raise ValueError(f"Two songs have the id {song.id!r}.")
        ids.add(song.id)
        if song.split is None:
            is_drawn = True
            song = replace(song, split=split_of(song.group, seed, fractions))
        if song.split not in splits:
            raise ValueError(f"{song.id} has split {song.split!r}, which is not one of {', '.join(SPLITS)}.")
        splits[song.split].append(song)
    empty = [name for name, part in zip(SPLITS, fractions, strict=True) if part > 0 and not splits[name]]
    if is_drawn and empty:
        raise ValueError(f"No song was assigned to {', '.join(empty)}: choose another seed or other fractions.")
    return splits


def split_of(group: str, seed: int = 0, fractions: Sequence[float] = FRACTIONS) -> str:
    """
    Return the split of a group of songs, by a hash of its name and the seed.

    Raises:
        ValueError: fractions are not three nonnegative numbers that sum to 1.
    """
    _check_fractions(fractions)
    place = hash_name(group, seed) / 2**63
    return SPLITS[int(np.searchsorted(np.cumsum(fractions)[:2], place, side="right"))]


def _check_fractions(fractions: Sequence[float]) -> None:
    """Raise a `ValueError` unless fractions are three nonnegative numbers that sum to 1."""
    if len(fractions) != 3 or not (min(fractions) >= 0 and abs(sum(fractions) - 1) <= 1e-6):  # nan, too
        raise ValueError(f"`fractions` of {', '.join(SPLITS)} must be 0 or more and sum to 1, got {list(fractions)}.")


def draw_songs(songs: Sequence[LabeledSong], count: int | None, seed: int = 0) -> list[LabeledSong]:
    """
    Draw songs at random, with all their versions (the songs of a `group`), in the order of `songs`. Where songs are
    grouped by album or artist, whole albums or artists are drawn. The draw depends only on the names of the groups and
    the seed, and fewer songs are always a part of more songs.

    Args:
        count (`int`, *optional*): Number of groups to draw; if there are fewer, or by default, all songs are returned.
        seed (`int`): Seed of the draw.
    """
    groups = sorted({song.group for song in songs}, key=lambda group: hash_name(group, _DRAW, seed))
    drawn = set(groups[:count])
    return [song for song in songs if song.group in drawn]
