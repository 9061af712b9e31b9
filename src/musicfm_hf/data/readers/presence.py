"""Recordings with and without music, made of songs, recorded speech and sounds, and generated noise and applause."""

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ...audio.reading import audio_length
from ..catalog import Song, list_sources
from ..dataset_reader import DatasetReader, Option
from ..labeled import SongReaders, Source
from ..noises import APPLAUSE, NOISES
from ..presence import Material, divide_sources, write_presence
from ..splits import SPLITS

SOURCE = Source(
    "Recordings that change between music, speech, noise, applause and silence, made by a program.",
    "",
    "",
    "That of the music, the speech and the sounds from which they were made.",
)
SHARES = {"train": 0.7, "validation": 0.1, "test": 0.2}
_LISTS = {"train": "train.txt", "validation": "valid.txt", "test": "test.txt"}


def song_readers(
    source: str | os.PathLike,
    audio: str | os.PathLike | None = None,
    *,
    music: Sequence[str],
    speech: Sequence[str] = (),
    sounds: Sequence[str] = (),
    songs: int = 300,
    seconds: float = 60.0,
    seed: int = 0,
    num_workers: int = 2,
) -> SongReaders:
    """
    Make recordings, write them as `audio/SPLIT-NUMBER.flac`, and return their readers.

    Args:
        source: Not used.
        audio: Folder to write the recordings to.
        music: Catalogs of music, for [`list_sources`]. Folders with lists of files by split, as `musicfm prepare`
            writes them, keep their splits; other catalogs are divided by [`divide_sources`].
        speech, sounds (*optional*): Catalogs of speech and of other sounds without music, divided by
            [`divide_sources`]; files that cannot be read are left out. Without catalogs, no part is of this kind.
        songs (`int`): Number of recordings; 70 % are for training, 10 % for validation, 20 % for tests.
        seconds (`float`): Duration of each.
        seed (`int`): Seed of the recordings and of the division of sources.
        num_workers (`int`): Number of processes.

    Raises:
        ValueError: no folder or no music is given, a number is out of range, or a catalog has too few sources.
        FileNotFoundError: a catalog does not exist.
    """
    if audio is None or not music:
        raise ValueError("Recordings with music need `--music`: folders, lists or data sets.")
    if songs < 10 or seconds < 5 or num_workers < 1:
        raise ValueError(
            "Need at least 10 recordings of at least 5 s and one process, got "
            f"{songs} of {seconds:g} s and {num_workers} processes."
        )
    materials = collect_material(music, speech, sounds, seed)
    if missing := [split for split, material in materials.items() if not material.music]:
        raise ValueError(
            f"`--music` has no songs for {', '.join(missing)}: prepare it with validation and test songs, or pass "
            "folders of audio files, which are divided."
        )
    counts = {split: max(1, round(share * songs)) for split, share in SHARES.items()}
    jobs = [(number, split) for split in SPLITS for number in range(counts[split])]
    with ProcessPoolExecutor(num_workers) as pool:
        futures = [
            pool.submit(write_presence, number, split, materials[split], audio, seconds, seed)
            for number, split in jobs
        ]
        written = [future.result() for future in tqdm(futures, unit="song")]
    return {song.id: partial(replace, song) for song in written}


def collect_material(
    music: Sequence[str], speech: Sequence[str] = (), sounds: Sequence[str] = (), seed: int = 0
) -> dict[str, Material]:
    """Return the audio of each split; see [`song_readers`]."""
    songs: dict[str, list[Song]] = {split: [] for split in SPLITS}
    divided = []
    for catalog in music:
        if lists := _lists(catalog):
            for split, path in lists.items():
                songs[split] += list_sources(path)
        else:
            divided += list_sources(catalog)
    if divided:
        for split, sources in divide_sources(divided, "`--music`", seed).items():
            songs[split] += [song for of_source in sources.values() for song in of_source]
    talk, other = _divided(speech, "`--speech`", seed), _divided(sounds, "`--sounds`", seed)
    return {split: Material(songs[split], talk.get(split, {}), other.get(split, {})) for split in SPLITS}


def _divided(catalogs: Sequence[str], flag: str, seed: int) -> dict[str, dict[str, list[Song]]]:
    """
    Return the recordings of catalogs by split and source; empty without catalogs. Of prepared data, these are the
    files in its lists, whatever their split. Files without a readable header are left out.
    """
    places = [place for catalog in catalogs for place in _lists(catalog).values() or [catalog]]
    songs = [song for place in places for song in list_sources(place) if _is_readable(song)]
    return divide_sources(songs, flag, seed) if places else {}


def _lists(catalog: str) -> dict[str, Path]:
    """
    Return the list of files of each split that has songs, if the catalog is a folder that `musicfm prepare` wrote.
    """
    lists = {split: Path(catalog) / name for split, name in _LISTS.items()}
    if not all(path.is_file() for path in lists.values()):
        return {}
    return {split: path for split, path in lists.items() if path.read_text(encoding="utf-8").strip()}


def _is_readable(song: Song) -> bool:
    """Return whether the file of a recording has a header and samples."""
    try:
        return audio_length(song[1])[0] > 0
    except (ValueError, OSError):
        return False


def _info(
    source: Any,
    audio: Any,
    music: Sequence[str],
    speech: Sequence[str],
    sounds: Sequence[str],
    seed: int,
    **options: Any,
) -> dict[str, Any]:
    """Return entries of `info.json`: the sources of each split."""
    materials = collect_material(music, speech, sounds, seed)
    return {
        "source": f"seed {seed}",
        "made_from": {
            split: {
                "songs": len(material.music),
                "speech": list(material.speech),
                "sounds": list(material.sounds),
                "noises": list(NOISES[split]),
                "applause": APPLAUSE[split]._asdict(),
            }
            for split, material in materials.items()
        },
    }


READER = DatasetReader(
    "presence",
    "recordings with and without music, to detect music",
    SOURCE,
    song_readers,
    (
        Option(
            "music",
            "folders, lists or data sets of music; data that `musicfm prepare` made keeps its splits",
            nargs="+",
            metavar="CATALOG",
            is_required=True,
        ),
        Option(
            "speech",
            "folders of speech, with a folder for each speaker or package; held-out speakers are heard in validation "
            "and test songs only",
            nargs="+",
            metavar="CATALOG",
            default=(),
        ),
        Option("sounds", "folders of other sounds, in the same form", nargs="+", metavar="CATALOG", default=()),
        Option("songs", "number of recordings; 300 by default", type=int, default=300),
        Option("seconds", "length of each; 60 by default", type=float, default=60.0),
        Option("seed", "seed of the recordings; 0 by default", type=int, default=0),
        Option("num_workers", "number of processes; 2 by default", type=int, default=2),
    ),
    needs_source=False,
    makes_audio=True,
    has_splits=True,
    info=_info,
)
