"""
Songs of POP909 in random arrangements with bass and drums, rendered by FluidSynth with several soundfonts, with exact
labels; see `rendering.py`. Validation and test songs are played with soundfonts, instruments and patterns that are not
used for training.
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from ...symbolic.arranging.arrangement import TEMPI
from ...symbolic.fluidsynth import PACKAGES
from ...symbolic.score import Score
from ...tasks.annotations import Beats, Segment
from ...tasks.events import from_json
from ..composed_songs import COMPOSER, composed_versions
from ..dataset_reader import DatasetReader, Option
from ..identity import digest
from ..labeled import LabeledSong, SongReaders, raising
from ..pop909_rendering import SPLITS, Song
from ..rendering import Settings, Version, check_settings, render_versions
from .pop909 import SOURCE as POP909
from .pop909 import chosen_songs, read_score, read_song

SOUNDFONTS = (
    PACKAGES["fluid-soundfont-gm"],
    PACKAGES["musescore-general-soundfont-small"],
    PACKAGES["opl3-soundfont"],
)
TEST_SOUNDFONTS = (PACKAGES["timgm6mb-soundfont"],)

SOURCE = POP909._replace(
    description="Songs of POP909 in random arrangements with bass and drums, in all keys and in several tempi, played "
    "by FluidSynth with several soundfonts. Beats, chords, sections, keys and tags are exact, except that verse, "
    "chorus and bridge were assigned by a rule, not by a person.",
)


def song_readers(
    source: str | os.PathLike,
    audio: str | os.PathLike | None = None,
    soundfonts: Sequence[str | os.PathLike] = SOUNDFONTS,
    test_soundfonts: Sequence[str | os.PathLike] = TEST_SOUNDFONTS,
    versions: int = 3,
    test_versions: int = 1,
    seconds: float | None = None,
    drums: float = 0.5,
    seed: int = 0,
    num_workers: int = 2,
    limit: int | None = None,
    split_size: str = "full",
    composed: int = 0,
    tempi: Sequence[float] = TEMPI,
) -> SongReaders:
    """
    Render the versions that are not rendered yet, and return the readers of all versions, keyed by id: `001_v1`. The
    reader of a version that cannot be rendered raises the error.

    Args:
        source: Folder of POP909.
        audio: Folder to render songs to.
        soundfonts: Soundfonts (.sf2 or .sf3) of training songs.
        test_soundfonts: Soundfonts of validation and test songs.
        versions (`int`): Number of versions of each training song.
        test_versions (`int`): Number of versions of each validation and test song; 0 for training songs only.
        seconds (`float`, *optional*): Length of the excerpts of training songs, which are at random places; whole
            songs by default. Validation and test songs are always whole.
        drums (`float`): Probability of a band with drums.
        seed (`int`): Seed of all random choices.
        num_workers (`int`): Number of rendering processes.
        limit (`int`, *optional*): Maximum number of songs in each split; all by default.
        split_size (`str`): full, or mini for the small selection.
        composed (`int`): Number of further training songs, composed in the manner of the training songs; see
            [`compose_score`].
        tempi: Slowest and fastest tempo of training songs, relative to the source. It is drawn for each version.

    Raises:
        ValueError, FileNotFoundError: an argument is out of range, or a file or FluidSynth is missing; see
            [`read_songs`], [`check_settings`] and [`render_versions`].
    """
    if audio is None:
        raise ValueError("`audio` must be the folder to which songs are rendered.")
    if versions < 1 or test_versions < 0:
        raise ValueError(
            f"`versions` must be at least 1 and `test_versions` at least 0, got {versions} and {test_versions}."
        )
    settings = rendering_settings(soundfonts, test_soundfonts, seconds, drums, seed, tempi)
    check_settings(settings)
    songs = [song for part in chosen_songs(source, limit, split_size).values() for song in part]
    numbers = {"train": versions, "valid": test_versions, "test": test_versions}
    rendered = [
        Version(song.id, number, partial(read_score, source, song), SPLITS[song.split], _digest(source, song))
        for song in songs
        for number in range(1, numbers[song.split] + 1)
    ]
    training = [song for song in songs if song.split == "train"]
    origin = " ".join(_digest(source, song) for song in training)
    rendered += composed_versions(partial(_learned_songs, source, training), origin, composed, audio, seed)
    return rendered_readers(rendered, audio, settings, num_workers)


def rendered_readers(
    versions: Sequence[Version], audio: str | os.PathLike, settings: Settings, num_workers: int
) -> SongReaders:
    """Render versions to a folder, and return their readers; that of a version with an error raises it."""
    readers: SongReaders = {}
    progress = tqdm(render_versions(versions, audio, settings, num_workers), total=len(versions), unit="song")
    for version, error in progress:
        path = Path(audio) / f"{version.id}.flac"
        readers[version.id] = partial(read_rendered, path) if error is None else raising(error)
    return readers


def _learned_songs(source: str | os.PathLike, songs: Sequence[Song]) -> Iterator[tuple[Score, Sequence[Segment]]]:
    """Yield the songs to learn composing from, with their letters; those that cannot be read are left out."""
    for song in tqdm(songs, desc="learning to compose", unit="song"):
        with suppress(ValueError, FileNotFoundError):
            yield read_score(source, song), read_song(source, song, "", with_tags=False).more["phrases"] or []


def read_rendered(path: str | os.PathLike) -> LabeledSong:
    """
    Read a rendered version: `ID.flac` with its labels in `ID.json`.

    Raises:
        FileNotFoundError: the file of labels is missing.
        ValueError: the file is malformed.
    """
    path = Path(path)
    labels = path.with_suffix(".json")
    values = json.loads(labels.read_text(encoding="utf-8"))
    events = {name: from_json(values[name], f"{labels}, {name}")[0] for name in ("chords", "sections", "keys")}
    beats = from_json(values["beats"], f"{labels}, beats")[0] or Beats(np.zeros(0), np.zeros(0, np.int64))
    return LabeledSong(
        id=values["id"],
        audio=path,
        group=values["group"],
        split=values["split"],
        beats=beats,
        tags=values["tags"],
        **events,
    )


def rendering_settings(
    soundfonts: Sequence[str | os.PathLike],
    test_soundfonts: Sequence[str | os.PathLike],
    seconds: float | None,
    drums: float,
    seed: int,
    tempi: Sequence[float],
) -> Settings:
    """Return the settings of the rendering."""
    slowest, fastest = tempi
    fonts = tuple(map(Path, soundfonts)), tuple(map(Path, test_soundfonts))
    return Settings(*fonts, seconds, drums, seed, (slowest, fastest))


def _digest(source: str | os.PathLike, song: Song) -> str:
    """Return a digest of the files of a song; missing files count as empty."""
    folder = Path(source)
    files = [song.midi, folder / "beats" / f"{song.id}.beats"]
    files += [folder / part / f"{song.id}.lab" for part in ("chords", "keys", "segments")]
    return digest(b"".join(path.read_bytes() if path.is_file() else b"" for path in files))


def _info(source: str | os.PathLike, audio: Any, **options: Any) -> dict[str, Any]:
    """Return entries of `info.json`."""
    names = ("soundfonts", "test_soundfonts", "seconds", "drums", "seed", "tempi")
    settings = rendering_settings(*(options[name] for name in names))
    songs = chosen_songs(source, options["limit"], options["split_size"])
    versions, test_versions, composed = (options[name] for name in ("versions", "test_versions", "composed"))
    return {
        "ids": {name: [song.id for song in part] for name, part in songs.items()},
        "rendering": settings.to_dict(),
        "versions_of_songs": {"train": versions, "validation": test_versions, "test": test_versions},
        **({"composed_songs": composed, "composer": COMPOSER} if composed else {}),
    }


RENDERING_OPTIONS = (
    Option(
        "soundfonts",
        "soundfonts of training songs, .sf2 or .sf3; three of Debian by default",
        nargs="+",
        default=SOUNDFONTS,
        metavar="FILE",
    ),
    Option(
        "test_soundfonts",
        "soundfonts of validation and test songs; TimGM6mb of Debian by default",
        nargs="+",
        default=TEST_SOUNDFONTS,
        metavar="FILE",
    ),
    Option("seconds", "length of excerpts of training songs, at random places; whole songs by default", type=float),
    Option("drums", "probability of a band with drums; 0.5 by default", type=float, default=0.5),
    Option(
        "tempi",
        "slowest and fastest tempo of training songs, relative to the source; 0.8 1.25 by default",
        type=float,
        nargs=2,
        default=TEMPI,
        metavar=("SLOWEST", "FASTEST"),
    ),
    Option("seed", "seed of arrangements and effects; 0 by default", type=int, default=0),
    Option("num_workers", "number of rendering processes; 2 by default", type=int, default=2),
)

READER = DatasetReader(
    "rendered",
    "POP909 in random arrangements with bass and drums, rendered by FluidSynth, with all labels",
    SOURCE,
    song_readers,
    (
        *RENDERING_OPTIONS,
        Option("versions", "versions of each training song; 3 by default", type=int, default=3),
        Option(
            "test_versions",
            "versions of each validation and test song; 1 by default, 0 for training songs only",
            type=int,
            default=1,
        ),
        Option("limit", "maximum number of songs in each split; all by default", type=int),
        Option("split_size", "all songs, or a small selection", choices=["full", "mini"], default="full"),
        Option(
            "composed",
            "further training songs that are composed in the manner of the training songs, in 2 to 7 beats; none by "
            "default",
            type=int,
            default=0,
        ),
    ),
    details="SOURCE is the folder of POP909, as for `musicfm prepare pop909`. Validation and test songs are whole, "
    "keep their key and tempo, and have soundfonts, instruments and patterns that training songs do not. It needs the "
    "program fluidsynth and soundfonts: `apt-get install fluidsynth fluid-soundfont-gm "
    "musescore-general-soundfont-small opl3-soundfont timgm6mb-soundfont`.",
    makes_audio=True,
    has_splits=True,
    info=_info,
)
