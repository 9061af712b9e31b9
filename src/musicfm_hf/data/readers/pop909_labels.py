"""
Labels of POP909 (`pop909.py` has its audio): beats, chords, sections of two annotators, keys and tags.

The folder has `beats/ID.beats`, and `chords/`, `keys/`, `segments/` and `segments2/` with `ID.lab`. The fifth column
of segments is their function. Labels of a song that is transposed are transposed with it.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from ...tasks.annotations import PITCH_NAMES, read_beats, read_segments
from ...tasks.key import parse_key
from ..labelled import LabelledSong, Source
from ..pop909_rendering import LICENCE, Song, audio_name

SOURCE = Source(
    description="470 pop songs, played by hand as MIDI in three parts and rendered to audio, with beats, chords, "
    "sections, keys and tags. Verse, chorus and bridge follow from a rule, not from a person.",
    citation="""@inproceedings{wang2020pop909,
  title={POP909: A Pop-song Dataset for Music Arrangement Generation},
  author={Wang, Ziyu and Chen, Ke and Jiang, Junyan and Zhang, Yiyi and Xu, Maoran and Dai, Shuqi and Bin, Guxian
    and Xia, Gus},
  booktitle={Proceedings of the 21st International Society for Music Information Retrieval Conference},
  year={2020}
}""",
    homepage="https://github.com/music-x-lab/POP909-Dataset",
    licence=LICENCE,
)

SPLITS = {"train": "train", "valid": "validation", "test": "test"}

# By column of the data set, a folder and the column of its files that has the label.
_SEGMENTS = {"chords": ("chords", 3), "keys": ("keys", 3), "sections": ("segments", 5), "sections_2": ("segments2", 5)}


def song_readers(
    source: str | os.PathLike,
    songs: Iterable[Song],
    audio: str | os.PathLike,
    transpositions: Sequence[int] = (),
    with_tags: bool = True,
) -> dict[str, Callable[[], LabelledSong]]:
    """
    By id, what reads a song; for [`musicfm_hf.data.labelled.read_all`].

    Args:
        source: The folder of POP909.
        songs: From [`musicfm_hf.data.pop909.read_songs`].
        audio: The folder to which [`musicfm_hf.data.pop909.render_songs`] rendered them.
        transpositions: Semitones of further versions, of training songs only; `ID_t+2` and the like.
        with_tags (`bool`): False for songs that were not arranged: their tags name instruments that do not play.
    """
    return {
        Path(audio_name(song, semitones)).stem: partial(read_song, source, song, audio, semitones, with_tags)
        for song in songs
        for semitones in (0, *(transpositions if song.split == "train" else ()))
    }


def read_song(
    source: str | os.PathLike,
    song: Song,
    audio: str | os.PathLike,
    transposition: int = 0,
    with_tags: bool = True,
) -> LabelledSong:
    """
    A song of POP909 with its labels; arguments as of [`song_readers`].

    Raises:
        FileNotFoundError: a file of labels is missing.
        ValueError: one is malformed; says where.
    """
    folder, path = Path(source), Path(audio) / audio_name(song, transposition)
    files = {column: folder / part / f"{song.id}.lab" for column, (part, _) in _SEGMENTS.items()}
    segments = {column: read_segments(files[column], column=number) for column, (_, number) in _SEGMENTS.items()}
    files["beats"] = folder / "beats" / f"{song.id}.beats"
    if transposition:
        for column, transpose in (("chords", transpose_chord), ("keys", transpose_key)):
            labels = [transpose(segment.label, transposition) for segment in segments[column]]
            segments[column] = [
                part._replace(label=label) for part, label in zip(segments[column], labels, strict=True)
            ]
    return LabelledSong(
        id=path.stem,
        audio=path,
        group=song.title,
        split=SPLITS[song.split],
        transposition=transposition,
        beats=read_beats(files["beats"]),
        tags=list(song.tags) if with_tags else None,
        more={"sections_2": segments.pop("sections_2")},
        files={column: str(file) for column, file in files.items()},
        **segments,
    )


def transpose_chord(label: str, semitones: int) -> str:
    """
    A chord in the syntax of `mir_eval.chord` on another root; N and X stay. `C:maj/3` and 2 give `D:maj/3`.

    Raises:
        ValueError: its root is none.
    """
    if label in ("N", "X"):
        return label
    length = 1 + len(label[1:]) - len(label[1:].lstrip("#b"))
    return _transposed_pitch(label[:length], semitones) + label[length:]


def transpose_key(label: str, semitones: int) -> str:
    """
    A key on another tonic: `C:min` and -1 give `B:min`; N stays. Raises `ValueError` if it is no key.
    """
    key = parse_key(label)
    if key in (None, "N"):
        return label
    tonic, mode = key.split(":")
    return f"{_transposed_pitch(tonic, semitones)}:{mode}"


def _transposed_pitch(name: str, semitones: int) -> str:
    from mir_eval.chord import InvalidChordException, pitch_class_to_semitone

    try:
        return PITCH_NAMES[(pitch_class_to_semitone(name) + semitones) % 12]
    except (InvalidChordException, TypeError) as error:  # TypeError for another letter
        raise ValueError(f"{name!r} is no pitch.") from error
