"""
Lead sheets in random arrangements, rendered by FluidSynth with several soundfonts, with beats, chords and keys; see
`rendering.py`. Validation and test songs are played with soundfonts, instruments and patterns that are not used for
training.
"""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ...symbolic.arranging.arrangement import TEMPI
from ...symbolic.lead_sheets import ENDINGS, read_lead_sheets
from ...symbolic.lead_sheets import TEMPI as SHEET_TEMPI
from ...symbolic.score import Score
from ...training.files import list_files
from ..dataset_reader import DatasetReader, Option
from ..identity import digest
from ..labeled import LabeledSong, SongReaders, Source, raising
from ..rendering import Version, check_settings
from ..splits import FRACTIONS, split_of
from .rendered import (
    RENDERING_OPTIONS,
    SOUNDFONTS,
    TEST_SOUNDFONTS,
    rendered_readers,
    rendering_settings,
)

SOURCE = Source(
    description="Lead sheets in random arrangements with bass and drums, played by FluidSynth with several "
    "soundfonts. Beats, chords, keys and tags are those of the sheets and the arrangements.",
    homepage="",
    citation="",
    license="unknown",
)


def song_readers(
    source: str | os.PathLike,
    audio: str | os.PathLike | None = None,
    soundfonts: Sequence[str | os.PathLike] = SOUNDFONTS,
    test_soundfonts: Sequence[str | os.PathLike] = TEST_SOUNDFONTS,
    versions: int = 1,
    seconds: float | None = None,
    drums: float = 0.5,
    tempi: Sequence[float] = TEMPI,
    bpm: Sequence[float] = SHEET_TEMPI,
    seed: int = 0,
    fractions: Sequence[float] = FRACTIONS,
    num_workers: int = 2,
) -> SongReaders:
    """
    Read all lead sheets in a folder, render the versions that are not rendered yet, and return the readers of all
    versions, keyed by id: `waltz_v1`. That of a sheet that cannot be used raises the error.

    Args:
        source: A folder, which is searched with its subfolders, or a file; see [`read_lead_sheets`].
        audio: Folder to render songs to.
        versions (`int`): Number of versions of each training song; validation and test songs have one.
        bpm: Slowest and fastest tempo of sheets that do not have one, in beats per minute.
        fractions: Shares of train, validation and test. Sheets with the same title stay together.

    The other arguments are those of songs of POP909, in `rendered.py`.

    Raises:
        ValueError, FileNotFoundError: an argument is out of range, there is no lead sheet, or a file or FluidSynth is
            missing; see [`check_settings`] and [`render_versions`].
        ImportError: music21 is not installed.
    """
    if audio is None:
        raise ValueError("`audio` must be the folder to which songs are rendered.")
    if versions < 1:
        raise ValueError(f"`versions` must be at least 1, got {versions}.")
    settings = rendering_settings(soundfonts, test_soundfonts, seconds, drums, seed, tempi)
    check_settings(settings)
    slowest, fastest = bpm
    to_render: list[Version] = []
    readers: SongReaders = {}
    names: set[str] = set()
    for prefix, path in _files(Path(source)).items():
        made_from = digest(path.read_bytes() + f"{slowest} {fastest}".encode())
        for sheet, score in read_lead_sheets(path, (slowest, fastest)):
            name = prefix + sheet.removeprefix(path.stem)
            if name in names:
                score = ValueError(f"{path} has a second sheet {name}: rename a file.")
                name = f"{name} ({path.name})"
            names.add(name)
            if isinstance(score, ValueError):
                readers[name] = raising(score)
                continue
            split = split_of(score.group, seed, fractions)
            for number in range(1, versions + 1 if split == "train" else 2):
                to_render.append(Version(name, number, partial(_same, score), split, made_from))
    rendered = rendered_readers(to_render, audio, settings, num_workers)
    return readers | {name: partial(_without_sections, read) for name, read in rendered.items()}


def _files(source: Path) -> dict[str, Path]:
    """
    Return the files of lead sheets in a folder, or the file itself, in order of their paths, by the beginning of the
    ids of their sheets: the name, with those of the subfolders where several files have the same.
    """
    files = [path for path in list_files(source) if path.suffix.lower() in ENDINGS] if source.is_dir() else [source]
    if not source.exists():
        raise FileNotFoundError(f"{source} does not exist: pass a folder of lead sheets, or one file.")
    if not files:
        raise FileNotFoundError(f"{source} has no lead sheets: no files that end with {', '.join(ENDINGS)}.")
    counts = Counter(path.stem for path in files)
    root = source if source.is_dir() else source.parent
    return {
        path.stem if counts[path.stem] == 1 else "_".join(path.relative_to(root).with_suffix("").parts): path
        for path in files
    }


def _same(score: Score) -> Score:
    """Return a score that has been read already, as the function `load` of a version."""
    return score


def _without_sections(read: Any) -> LabeledSong:
    """Read a song whose sections are unknown."""
    return replace(read(), sections=None)


def _info(source: str | os.PathLike, audio: Any, **options: Any) -> dict[str, Any]:
    """Return entries of `info.json`."""
    names = ("soundfonts", "test_soundfonts", "seconds", "drums", "seed", "tempi")
    settings = rendering_settings(*(options[name] for name in names))
    return {
        "files": [path.name for path in _files(Path(source)).values()],
        "rendering": settings.to_dict(),
        "versions_of_songs": {"train": options["versions"], "validation": 1, "test": 1},
        "bpm": list(options["bpm"]),
        "fractions": list(options["fractions"]),
    }


READER = DatasetReader(
    "lead_sheets",
    "your lead sheets in random arrangements, rendered by FluidSynth, with beats, chords and keys",
    SOURCE,
    song_readers,
    (
        *RENDERING_OPTIONS,
        Option("versions", "versions of each training song; 1 by default", type=int, default=1),
        Option(
            "bpm",
            "slowest and fastest tempo of sheets that do not have one, in beats per minute; 70 170 by default",
            type=float,
            nargs=2,
            default=SHEET_TEMPI,
            metavar=("SLOWEST", "FASTEST"),
        ),
        Option(
            "fractions",
            "shares of train, validation and test; 0.8 0.1 0.1 by default",
            type=float,
            nargs=3,
            default=FRACTIONS,
            metavar=("A", "B", "C"),
        ),
    ),
    details="SOURCE is a folder with lead sheets, melodies with chord symbols, in MusicXML or ABC. Meters of 2 to 7 "
    "beats whose beats are not in three parts are arranged. Validation and test songs are whole, keep their key and "
    "tempo, and have soundfonts, instruments and patterns that training songs do not. It needs music21, the program "
    "fluidsynth and soundfonts: `pip install 'musicfm_hf[lead-sheets]'` and `apt-get install fluidsynth "
    "fluid-soundfont-gm musescore-general-soundfont-small opl3-soundfont timgm6mb-soundfont`.",
    makes_audio=True,
    has_splits=True,
    is_own_data=True,
    info=_info,
)
