"""
MagnaTagATune: clips of 29 s with tags from the players of a game.

The source is a folder with `annotations_final.csv` (a column for each of 188 tags, and `mp3_path`), optionally
`clip_info_final.csv`, and the folders 0 to f of clips.

Tags, clips and splits are those of most reported results (Lee, Park, Kim, Nam 2017; Won, Ferraro, Bogdanov, Serra
2020): the 50 most frequent tags over all clips, without merging synonyms; the clips of full length with at least one
of these tags; folders 0 to b for training, c for validation, d to f for tests. In the lists of Lee et al., these are
15 244, 1529 and 4332 clips. `--split_dir` reads the lists of github.com/minzwon/sota-music-tagging-models instead.
"""

import csv
import os
import re
from collections import Counter
from collections.abc import Iterable
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ..dataset_reader import DatasetReader, Option
from ..labeled import LabeledSong, SongReaders, Source, UnusableSongError, audio_seconds, raising

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
MIN_SECONDS = 29.0  # clips have 29.1 s; decoders disagree about some hundredths, and a few clips are cut off

# List of `split_dir` → split.
_LISTS = {"train": "train", "valid": "validation", "test": "test"}


def song_readers(
    source: str | os.PathLike,
    audio: str | os.PathLike | None = None,
    num_tags: int = 50,
    merge_synonyms: bool = False,
    split_dir: str | os.PathLike | None = None,
) -> SongReaders:
    """
    Return the readers of the clips, keyed by id.

    Args:
        source: Folder with `annotations_final.csv`.
        audio: Folder that contains the folders 0 to f; `source` by default.
        num_tags (`int`): Number of most frequent tags to keep; in a tie, the first tag in the file is kept.
        merge_synonyms (`bool`): Count the tags in a row of `SYNONYMS` as one tag. Scores are then not comparable with
            published ones.
        split_dir (*optional*): The folder `split/mtat` of github.com/minzwon/sota-music-tagging-models, with
            `train.npy`, `valid.npy` and `test.npy`, which list clips as `INDEX<tab>PATH`, and `tags.npy`. It decides
            which clips are used and, unless tags are merged, which tags.

    Raises:
        FileNotFoundError: `annotations_final.csv`, a list or a folder does not exist.
        ValueError: `num_tags` is below 1, or a table is malformed. The message names the line.
    """
    if num_tags < 1:
        raise ValueError(f"`num_tags` must be at least 1, got {num_tags}.")
    folder, clips = Path(source), Path(audio or source)
    if not clips.is_dir():
        raise FileNotFoundError(f"The folder {clips} does not exist")
    rows, readers = _read_annotations(folder / "annotations_final.csv")
    merged = {name: row[0] for row in SYNONYMS for name in row} if merge_synonyms else {}
    tags_of = {clip: list(dict.fromkeys(merged.get(tag, tag) for tag in tags)) for clip, (_, tags) in rows.items()}
    vocabulary = top_tags(tags_of.values(), num_tags)
    splits = None if split_dir is None else _read_lists(Path(split_dir))
    if split_dir is not None and not merge_synonyms:
        vocabulary = _listed_tags(Path(split_dir) / "tags.npy", vocabulary)
    titles = _read_titles(folder / "clip_info_final.csv")
    for clip, (path, _) in rows.items():
        tags = [tag for tag in vocabulary if tag in tags_of[clip]]
        split = SPLITS[path[0]] if splits is None else splits.get(_without_suffix(path))
        if split is None:
            readers[clip] = raising(UnusableSongError(f"{path} is not in the lists of {split_dir}."))
        elif not tags:
            readers[clip] = raising(UnusableSongError(f"{path} has none of the {num_tags} tags."))
        else:
            shortest = MIN_SECONDS if splits is None else 0.0
            readers[clip] = partial(_read_clip, clip, clips, path, titles.get(clip), split, tags, shortest)
    return readers


def top_tags(tags: Iterable[Iterable[str]], count: int) -> list[str]:
    """Return the `count` most frequent tags, in descending order; ties keep the order of first appearance."""
    return [tag for tag, _ in Counter(tag for clip_tags in tags for tag in clip_tags).most_common(count)]


def _read_clip(
    clip: str, folder: Path, path: str, title: str | None, split: str, tags: list[str], min_seconds: float
) -> LabeledSong:
    """Read a clip. All clips of a song are one group."""
    audio = folder / path
    if not audio.is_file():
        raise FileNotFoundError(f"The file {audio} does not exist")
    if (seconds := audio_seconds(audio)) < min_seconds:
        raise UnusableSongError(f"{audio} has {seconds:.2f} s, less than the {min_seconds:g} s of a whole clip.")
    # The name of a clip ends with its position in the song, in seconds: …-30-59.mp3
    group = title or re.sub(r"-\d+-\d+$", "", PurePosixPath(path).stem)
    return LabeledSong(clip, audio, group, split, tags=tags)


def _read_lists(folder: Path) -> dict[str, str]:
    """Return the split of each clip in the lists of a folder, by path without suffix."""
    splits: dict[str, str] = {}
    for name, split in _LISTS.items():
        for line in _read_array(folder / f"{name}.npy"):
            path = _without_suffix(line.rpartition("\t")[2])
            if splits.setdefault(path, split) != split:
                raise ValueError(f"{folder / name}.npy: {path} is in the list of {splits[path]} clips, too.")
    return splits


def _listed_tags(path: Path, vocabulary: list[str]) -> list[str]:
    """Return the tags of a file if it exists and has as many as `vocabulary`, or else `vocabulary`."""
    tags = _read_array(path) if path.is_file() else []
    return tags if len(tags) == len(vocabulary) else vocabulary


def _read_array(path: Path) -> list[str]:
    """Return the texts of a NumPy file."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: is this split/mtat of sota-music-tagging-models?")
    try:
        return [str(text) for text in np.load(path, allow_pickle=False).ravel()]
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} is not a NumPy file of texts ({error}).") from error


def _without_suffix(path: str) -> str:
    """Return a path without its suffix: lists may name .mp3 or .npy."""
    return PurePosixPath(path).with_suffix("").as_posix()


def _read_annotations(path: Path) -> tuple[dict[str, tuple[str, list[str]]], SongReaders]:
    """Return a dictionary from clips to their path and all their tags, and readers of faulty lines, which raise."""
    rows: dict[str, tuple[str, list[str]]] = {}
    faulty: SongReaders = {}
    for where, row in _read_table(path, _NO_TAGS):
        clip, audio = row["clip_id"], row["mp3_path"]
        values = {name: value for name, value in row.items() if name not in _NO_TAGS}
        if None in row:  # where `csv` collects the fields that no column names
            faulty[where] = raising(ValueError(f"{where}: the line has more fields than the first line."))
        elif clip in rows or not re.match(r"[0-9a-f]/", audio or ""):
            message = f"{where}: clip {clip} appears twice, or {audio!r} is not in a folder from 0 to f."
            faulty[where] = raising(ValueError(message))
        elif wrong := set(values.values()) - {"0", "1"}:
            message = f"{where}: tags must be 0 or 1, got {', '.join(map(repr, sorted(map(str, wrong))))}."
            faulty[where] = raising(ValueError(message))
        else:
            rows[clip] = audio, [name for name, value in values.items() if value == "1"]
    return rows, faulty


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
    # Titles have bytes of several encodings.
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t")
        if missing := [name for name in columns if name not in (rows.fieldnames or [])]:
            raise ValueError(f"{path}, line 1: no column {', '.join(missing)}.")
        return [(f"{path}, line {rows.line_num}", row) for row in rows]


def _info(
    source: str | os.PathLike,
    audio: str | os.PathLike | None = None,
    num_tags: int = 50,
    merge_synonyms: bool = False,
    split_dir: str | os.PathLike | None = None,
) -> dict[str, Any]:
    """Return entries of `info.json`."""
    clips = "by folder" if split_dir is None else Path(split_dir).absolute().name
    note = {"note": "Tags are merged: scores are not comparable with published ones."} if merge_synonyms else {}
    return {"num_tags": num_tags, "merge_synonyms": merge_synonyms, "split": clips} | note


READER = DatasetReader(
    "magnatagatune",
    "tags of MagnaTagATune",
    SOURCE,
    song_readers,
    (
        Option("num_tags", "number of most frequent tags to keep; 50 by default", type=int, default=50),
        Option(
            "merge_synonyms",
            "count tags such as drum and drums as one; scores are then not comparable with published ones",
            type=bool,
            default=False,
        ),
        Option("split_dir", "the folder split/mtat of sota-music-tagging-models: use its lists of clips"),
    ),
    audio_help="the folder that contains the folders 0 to f; the source by default",
    has_splits=True,
    info=_info,
)
