"""
MagnaTagATune: clips of 29 s with tags from the players of a game.

The source is a folder with `annotations_final.csv` (a column for each of 188 tags, and `mp3_path`), optionally
`clip_info_final.csv`, and the folders 0 to f of clips. The splits are the usual ones by folder: 0 to b, c, d to f (van
den Oord, Dieleman, Schrauwen 2014). The tags are the 50 most frequent ones over all clips, as in most reported
results; a clip with none of them is kept, without tags.
"""

import csv
import os
import re
from collections import Counter
from collections.abc import Iterable
from functools import partial
from pathlib import Path, PurePosixPath

from ..dataset_reader import DatasetReader, Option
from ..labeled import LabeledSong, SongReaders, Source

SOURCE = Source(
    description="MagnaTagATune: 25 863 clips of 29 s with tags from the game TagATune.",
    citation="""@inproceedings{law2009evaluation,
  title={Evaluation of Algorithms Using Games: The Case of Music Tagging},
  author={Law, Edith and West, Kris and Mandel, Michael and Bay, Mert and Downie, J. Stephen},
  booktitle={Proceedings of the 10th International Society for Music Information Retrieval Conference},
  year={2009}
}""",
    homepage="https://mirg.city.ac.uk/codeapps/the-magnatagatune-dataset",
    license="CC BY-NC-SA (recordings of Magnatune); the homepage has the terms.",
)

SPLITS = dict.fromkeys("0123456789ab", "train") | {"c": "validation"} | dict.fromkeys("def", "test")

# From github.com/keunwoochoi/magnatagatune-list; the first name of each row replaces the others.
SYNONYMS = (
    ("beat", "beats"),
    ("chant", "chanting"),
    ("choir", "choral"),
    ("classical", "clasical", "classic"),
    ("drum", "drums"),
    ("electro", "electronic", "electronica", "electric"),
    ("fast", "fast beat", "quick"),
    (
        *("female", "female singer", "female singing", "female vocals", "female vocal", "female voice"),
        *("woman", "woman singing", "women"),
    ),
    ("flute", "flutes"),
    ("guitar", "guitars"),
    ("hard", "hard rock"),
    ("harpsichord", "harpsicord"),
    ("heavy", "heavy metal", "metal"),
    ("horn", "horns"),
    ("india", "indian"),
    ("jazz", "jazzy"),
    ("male", "male singer", "male vocal", "male vocals", "male voice", "man", "man singing", "men"),
    ("no beat", "no drums"),
    ("no singer", "no singing", "no vocal", "no vocals", "no voice", "no voices", "instrumental"),
    ("opera", "operatic"),
    ("orchestra", "orchestral"),
    ("quiet", "silence"),
    ("singer", "singing"),
    ("space", "spacey"),
    ("string", "strings"),
    ("synth", "synthesizer"),
    ("violin", "violins"),
    ("vocal", "vocals", "voice", "voices"),
    ("strange", "weird"),
)

_NO_TAGS = ("clip_id", "mp3_path")


def song_readers(
    source: str | os.PathLike,
    audio: str | os.PathLike | None = None,
    num_tags: int = 50,
    merge_synonyms: bool = True,
) -> SongReaders:
    """
    Return the readers of the clips, keyed by id.

    Args:
        source: Folder with `annotations_final.csv`.
        audio: Folder that contains the folders 0 to f; `source` by default.
        num_tags (`int`): Number of most frequent tags to keep; in a tie, the first tag in the file is kept.
        merge_synonyms (`bool`): Count the tags in a row of `SYNONYMS` as one tag; not all published results do this.

    Raises:
        FileNotFoundError: `annotations_final.csv` or the folder does not exist.
        ValueError: `num_tags` is below 1, or a table is malformed. The message names the line.
    """
    if num_tags < 1:
        raise ValueError(f"`num_tags` must be at least 1, got {num_tags}.")
    folder, clips = Path(source), Path(audio or source)
    if not clips.is_dir():
        raise FileNotFoundError(f"The folder {clips} does not exist")
    rows = _read_annotations(folder / "annotations_final.csv")
    merged = {name: row[0] for row in SYNONYMS for name in row} if merge_synonyms else {}
    tags_of = {clip: list(dict.fromkeys(merged.get(tag, tag) for tag in tags)) for clip, (_, tags) in rows.items()}
    vocabulary = top_tags(tags_of.values(), num_tags)
    titles = _read_titles(folder / "clip_info_final.csv")
    kept = {clip: [tag for tag in vocabulary if tag in tags] for clip, tags in tags_of.items()}
    return {
        clip: partial(_read_clip, clip, clips, path, titles.get(clip), kept[clip]) for clip, (path, _) in rows.items()
    }


def top_tags(tags: Iterable[Iterable[str]], count: int) -> list[str]:
    """Return the `count` most frequent tags, in descending order; ties keep the order of first appearance."""
    return [tag for tag, _ in Counter(tag for clip_tags in tags for tag in clip_tags).most_common(count)]


def _read_clip(clip: str, folder: Path, path: str, title: str | None, tags: list[str]) -> LabeledSong:
    """Read a clip. All clips of a song are one group."""
    audio = folder / path
    if not audio.is_file():
        raise FileNotFoundError(f"The file {audio} does not exist")
    # The name of a clip ends with its position in the song, in seconds: …-30-59.mp3
    group = title or re.sub(r"-\d+-\d+$", "", PurePosixPath(path).stem)
    return LabeledSong(clip, audio, group, SPLITS[path[0]], tags=tags)


def _read_annotations(path: Path) -> dict[str, tuple[str, list[str]]]:
    """Return a dictionary from clips to their path and all their tags."""
    rows: dict[str, tuple[str, list[str]]] = {}
    for where, row in _read_table(path, _NO_TAGS):
        clip, audio = row["clip_id"], row["mp3_path"]
        if clip in rows or not re.match(r"[0-9a-f]/", audio):
            raise ValueError(f"{where}: clip {clip} appears twice, or {audio!r} is not in a folder from 0 to f.")
        values = {name: value for name, value in row.items() if name not in _NO_TAGS}
        if wrong := set(values.values()) - {"0", "1"}:
            raise ValueError(f"{where}: tags must be 0 or 1, got {', '.join(map(repr, sorted(map(str, wrong))))}.")
        rows[clip] = audio, [name for name, value in values.items() if value == "1"]
    return rows


def _read_titles(path: Path) -> dict[str, str]:
    """Return a dictionary from clips to the artist, album and title of the song, or an empty one without the file."""
    if not path.is_file():
        return {}
    columns = ("clip_id", "artist", "album", "title")
    return {
        row["clip_id"]: " - ".join(row[name] or "" for name in columns[1:]) for _, row in _read_table(path, columns)
    }


def _read_table(path: Path, columns: tuple[str, ...]) -> list[tuple[str, dict[str, str]]]:
    """Return the place of each row, for error messages, and its values by column."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: is this the folder of MagnaTagATune?")
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t")
        if missing := [name for name in columns if name not in (rows.fieldnames or [])]:
            raise ValueError(f"{path}, line 1: no column {', '.join(missing)}.")
        return [(f"{path}, line {rows.line_num}", row) for row in rows]


READER = DatasetReader(
    "magnatagatune",
    "tags of MagnaTagATune",
    SOURCE,
    song_readers,
    (
        Option("num_tags", "number of most frequent tags to keep; 50 by default", type=int, default=50),
        Option("merge_synonyms", "count tags such as drum and drums as one", type=bool, default=True),
    ),
    audio_help="the folder that contains the folders 0 to f; the source by default",
    has_splits=True,
)
