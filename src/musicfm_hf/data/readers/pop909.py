"""
POP909: pop songs rendered from MIDI, with beats, chords, sections of two annotators, keys and tags.

The source has the MIDI files and tables that `pop909_rendering.py` describes, `beats/ID.beats`, and `chords/`,
`keys/`, `segments/` and `segments2/` with `ID.lab`, in seconds of the MIDI file. The fifth column of segments is their
function, and the third the letter of their musical material (`phrases`). Labels of other versions are transposed and
stretched with them.
"""

import os
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from ...symbolic.midi_parts import read_parts
from ...symbolic.score import Score
from ...symbolic.transposition import transpose_chord, transpose_key
from ...tasks.annotations import Beats, read_beats, read_segments
from ...tasks.events import stretch
from ..dataset_reader import DatasetReader, Option
from ..labeled import LabeledSong, SongReaders, Source, raising
from ..pop909_rendering import SPLITS, Song, audio_name, read_songs, render_songs, rendering_settings
from ..pop909_versions import add_versions

SOURCE = Source(
    description="470 pop songs, played by hand as MIDI in three parts and rendered to audio, with beats, chords, "
    "sections, keys and tags. Verse, chorus and bridge were assigned by a rule, not by a person.",
    citation="""@inproceedings{wang2020pop909,
  title={POP909: A Pop-song Dataset for Music Arrangement Generation},
  author={Wang, Ziyu and Chen, Ke and Jiang, Junyan and Zhang, Yiyi and Xu, Maoran and Dai, Shuqi and Bin, Guxian
    and Xia, Gus},
  booktitle={Proceedings of the 21st International Society for Music Information Retrieval Conference},
  year={2020}
}""",
    homepage="https://github.com/music-x-lab/POP909-Dataset",
    license="MIT (transcriptions and labels). The songs are commercial: rights in the compositions remain with their "
    "owners; do not publish the rendered audio as music.",
)

# Column of the data set → folder, and the column with the label in its files.
_SEGMENTS = {
    "chords": ("chords", 3),
    "keys": ("keys", 3),
    "sections": ("segments", 5),
    "sections_2": ("segments2", 5),
    "phrases": ("segments", 3),
}


def song_readers(
    source: str | os.PathLike,
    audio: str | os.PathLike | None = None,
    soundfont: str | os.PathLike | None = None,
    arranged: bool = False,
    num_workers: int = 2,
    limit: int | None = None,
    split_size: str = "full",
    transpositions: Sequence[int] = (),
    versions: int = 1,
) -> SongReaders:
    """
    Render the songs that are not rendered yet, and return the readers of all songs, keyed by id: `001`, `001_t+2`,
    `001_v2`. The reader of a song that cannot be rendered raises the error.

    Args:
        source: Folder of POP909.
        audio: Folder to render songs to.
        soundfont: A .sf2 file; TimGM6mb of `pretty_midi` by default.
        arranged (`bool`): Render each part with its own instrument. Only arranged songs have tags, because tags name
            instruments.
        num_workers (`int`): Number of rendering processes.
        limit (`int`, *optional*): Maximum number of songs in each split; all by default.
        split_size (`str`): full, or mini for the small selection.
        transpositions: Transpositions, in semitones, of additional versions of training songs.
        versions (`int`): Number of renderings of every song, for retrieval: the arrangement of the source, and others
            with other instruments, in another key, and faster or slower. They need `arranged`.

    Raises:
        ValueError: an argument is out of range, or [`read_songs`] or [`render_songs`] raises it.
        FileNotFoundError, ImportError: see [`read_songs`] and [`render_songs`].
    """
    if audio is None:
        raise ValueError("`audio` must be the folder to which songs are rendered.")
    if versions > 1 and not arranged:
        raise ValueError("`versions` differ in their instruments: they need `arranged` (`--arranged`).")
    splits = chosen_songs(source, limit, split_size, versions)
    songs = [song for part in splits.values() for song in part]
    transpositions = sorted(set(transpositions) - {0})
    failures: dict[Path, Exception] = {}
    for part, semitones in ((songs, [0]), (splits["train"], transpositions)):
        total = len(part) * len(semitones)
        rendered = render_songs(part, audio, soundfont, arranged, num_workers, semitones, failures)
        list(tqdm(rendered, total=total, unit="song", disable=not total))
    readers = {
        Path(audio_name(song, semitones)).stem: partial(read_song, source, song, audio, semitones, arranged)
        for song in songs
        for semitones in (0, *(transpositions if song.split == "train" else ()))
    }
    return readers | {path.stem: raising(error) for path, error in failures.items()}


def chosen_songs(
    source: str | os.PathLike, limit: int | None, split_size: str, versions: int = 1
) -> dict[str, list[Song]]:
    """Return the songs by split, with the split names of the source, and all versions of each."""
    if split_size not in ("full", "mini"):
        raise ValueError(f"`split_size` must be full or mini, got {split_size!r}.")
    if limit is not None and limit < 1:
        raise ValueError(f"`limit` must be at least 1, got {limit}.")
    everything = read_songs(source)
    songs = [song for song in everything if song.is_mini or split_size == "full"]
    splits = {name: [song for song in songs if song.split == name][:limit] for name in SPLITS}
    return {name: add_versions(songs, everything, versions) for name, songs in splits.items()}


def read_song(
    source: str | os.PathLike,
    song: Song,
    audio: str | os.PathLike,
    transposition: int = 0,
    with_tags: bool = True,
) -> LabeledSong:
    """
    Read the labels of a song.

    Args:
        source: Folder of POP909.
        song ([`Song`]): Song from [`read_songs`].
        audio: Folder with the rendered songs.
        transposition (`int`): Transposition in semitones.
        with_tags (`bool`): False for songs that are not arranged, because their tags name instruments that do not
            play. Other versions than the first have no tags for that reason.

    Raises:
        FileNotFoundError: a file of labels is missing.
        ValueError: a file is malformed. The message names the line.
    """
    folder, path = Path(source), Path(audio) / audio_name(song, transposition)
    files = {column: folder / part / f"{song.id}.lab" for column, (part, _) in _SEGMENTS.items()}
    segments: dict[str, Any] = {
        column: read_segments(files[column], column=number) for column, (_, number) in _SEGMENTS.items()
    }
    files["beats"] = folder / "beats" / f"{song.id}.beats"
    segments = {column: stretch(entries, song.tempo) for column, entries in segments.items()}
    if transposition := song.transposition + transposition:
        for column, transpose in (("chords", transpose_chord), ("keys", transpose_key)):
            segments[column] = [
                segment._replace(label=transpose(segment.label, transposition)) for segment in segments[column]
            ]
    return LabeledSong(
        id=path.stem,
        audio=path,
        group=song.title,
        split=SPLITS[song.split],
        transposition=transposition,
        beats=stretch(read_beats(files["beats"]), song.tempo),
        tags=list(song.tags) if with_tags and song.version == 1 else None,
        more={name: segments.pop(name) for name in ("sections_2", "phrases")},
        files={column: str(file) for column, file in files.items()},
        **segments,
    )


def read_score(source: str | os.PathLike, song: Song) -> Score:
    """
    Read a song as notes and labels, at the key and tempo of its MIDI file. The parts are MELODY, BRIDGE and PIANO, and
    the only tag is the mode of the first key, because other tags depend on the rendering.

    Args:
        source: Folder of POP909.
        song ([`Song`]): Song from [`read_songs`].

    Raises:
        FileNotFoundError: the MIDI file or a file of labels is missing.
        ValueError: a file is malformed.
        ImportError: mido is not installed.
    """
    parts = read_parts(song.midi)
    labels = read_song(source, song, "", with_tags=False)
    last = max(note.end for part in parts for note in part.notes)
    mode = "major" if song.first_key.endswith("maj") else "minor"
    return Score(
        song.id,
        song.id,
        parts,
        last,
        labels.beats or Beats(np.zeros(0), np.zeros(0, np.int64)),
        labels.chords or [],
        labels.sections or [],
        labels.keys or [],
        (mode,),
    )


def _info(
    source: str | os.PathLike,
    audio: str | os.PathLike | None = None,
    soundfont: str | os.PathLike | None = None,
    arranged: bool = False,
    limit: int | None = None,
    split_size: str = "full",
    versions: int = 1,
    **options: Any,
) -> dict[str, Any]:
    """Return entries of `info.json`."""
    return {
        "ids": {name: [song.id for song in part] for name, part in chosen_songs(source, limit, split_size).items()},
        "rendering": rendering_settings(soundfont, arranged),
        **({"versions_of_songs": versions} if versions > 1 else {}),
        "versions": {name: version(name) for name in ("mido", "tinysoundfont")},
    }


READER = DatasetReader(
    "pop909",
    "POP909, rendered to audio, with all labels",
    SOURCE,
    song_readers,
    (
        Option("soundfont", "a .sf2 file; TimGM6mb of pretty_midi by default"),
        Option("arranged", "play each part on its own instrument; required for tags", type=bool, default=False),
        Option("num_workers", "number of rendering processes; 2 by default", type=int, default=2),
        Option("limit", "maximum number of songs in each split; all by default", type=int),
        Option("split_size", "all songs, or a small selection", choices=["full", "mini"], default="full"),
        Option(
            "transpositions",
            "semitones: add transposed versions of training songs to the labeled data set",
            type=int,
            default=(),
            nargs="+",
            metavar="N",
        ),
        Option(
            "versions",
            "renderings of every song, for retrieval: from the second on with other instruments, in another key, and "
            "faster or slower; 1 by default",
            type=int,
            default=1,
        ),
    ),
    details="SOURCE has midi/ID.mid with the tracks MELODY, BRIDGE and PIANO; beats/ID.beats, and chords/, keys/, "
    "segments/ and segments2/ with ID.lab, in seconds of the MIDI file; songs.tsv, arrangements.tsv and splits/. "
    "`musicfm prepare pop909-source` makes this folder from public repositories.",
    makes_audio=True,
    has_splits=True,
    info=_info,
)
