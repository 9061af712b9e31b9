"""Songs with captions, from tables and data sets."""

import csv
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .catalog import DatasetAudio
from .crop_reader import AudioProblem, ProblemLog

TABLES = (".csv", ".jsonl", ".parquet")


@dataclass(frozen=True)
class CaptionedSong:
    """
    A song and the texts that describe it.

    Attributes:
        name (`str`): Unique name: the value of the ID column, the path, or the number of the row.
        audio: Audio as [`musicfm_hf.load_audio`] takes it, or a [`DatasetAudio`].
        captions (`tuple[str, ...]`): At least one text.
    """

    name: str
    audio: Any
    captions: tuple[str, ...]


@dataclass(frozen=True)
class _Row:
    """A row of a table, before rows of one song are joined."""

    name: str
    audio: Any
    caption: Any


def read_captions(
    source: str,
    split: str = "train",
    audio_column: str = "audio",
    caption_column: str = "caption",
    id_column: str | None = None,
) -> tuple[list[CaptionedSong], ProblemLog]:
    """
    Read songs with captions. Rows of the same song (with the same value of `id_column` or, without it, the same path)
    become one song with all of their captions.

    Args:
        source (`str`): A `.jsonl`, `.csv` or `.parquet` file; a folder saved by `save_to_disk` of `datasets`; or the
            ID of a data set on the Hub. Paths of audio in a file are relative to the folder of the file.
        split (`str`): Split of a data set that has several.
        audio_column (`str`): Column of the audio: paths, or, in Parquet and data sets, values of `datasets.Audio`.
        caption_column (`str`): Column of the captions: texts or, except in CSV, lists of texts.
        id_column (`str`, *optional*): Column of the ID of the song.

    Returns:
        The songs, in the order of their first rows, and the rows that were left out because they have no caption, or
        because their file does not exist.

    Raises:
        FileNotFoundError: the source does not exist.
        ValueError: the source has no such column or split, is malformed, or has no usable row.
    """
    path = Path(source)
    columns = (audio_column, caption_column, id_column)
    if path.suffix.lower() in TABLES and not path.is_file():
        raise FileNotFoundError(f"{path} does not exist.")
    if path.suffix.lower() == ".jsonl":
        rows = _table_rows(path, _read_jsonl(path), columns)
    elif path.suffix.lower() == ".csv":
        rows = _table_rows(path, _read_csv(path), columns)
    else:
        rows = _dataset_rows(source, _load_dataset(path, split), columns)
    problems = ProblemLog()
    songs = _join_rows(source, rows, problems)
    if not songs:
        raise ValueError(
            f"{source} has no row with a caption and audio. {problems.summary()} Check the column "
            f"`{caption_column}`, and that the paths in `{audio_column}` start at the folder of the file."
        )
    return songs, problems


def _read_jsonl(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the place and the values of each line."""
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                values = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}, line {number} is not JSON: {error}") from error
            if not isinstance(values, dict):
                raise ValueError(f"{path}, line {number} must be an object with names and values, got {line[:60]!r}.")
            yield f"line {number}", values


def _read_csv(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the place and the values of each row."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        for values in reader:
            yield f"line {reader.line_num}", values


def _table_rows(
    path: Path, lines: Iterable[tuple[str, dict[str, Any]]], columns: tuple[str, str, str | None]
) -> Iterator[_Row]:
    """Yield the rows of a text file."""
    audio_column, caption_column, id_column = columns
    for place, values in lines:
        for column in filter(None, columns):
            if column not in values:
                raise ValueError(f"{path}, {place} has no `{column}`, only {', '.join(map(str, values))}.")
        audio = values[audio_column]
        if not isinstance(audio, str) or not audio:
            raise ValueError(f"{path}, {place}: `{audio_column}` must be a path, got {audio!r}.")
        name = audio if id_column is None else str(values[id_column])
        yield _Row(name, str(path.absolute().parent / audio), values[caption_column])


def _load_dataset(path: Path, split: str) -> Any:
    """Load a Parquet file, or a split of a data set."""
    from datasets import DatasetDict, load_dataset, load_from_disk

    if path.suffix.lower() == ".parquet":
        return load_dataset("parquet", data_files=str(path), split="train")
    is_saved = (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file()
    if path.exists() and not is_saved:
        raise ValueError(
            f"{path} is not a table of captions: pass a file ({', '.join(TABLES)}), a folder saved by "
            "`datasets`, or the ID of a data set on the Hub."
        )
    loaded = load_from_disk(str(path)) if is_saved else load_dataset(str(path))
    if not isinstance(loaded, DatasetDict):
        return loaded
    if len(loaded) > 1 and split not in loaded:
        raise ValueError(f"{path} has no split `{split}`, only {', '.join(loaded)}.")
    return loaded[split] if split in loaded else next(iter(loaded.values()))


def _dataset_rows(source: str, dataset: Any, columns: tuple[str, str, str | None]) -> Iterator[_Row]:
    """Yield the rows of a data set. Bytes of audio stay in the data set."""
    from datasets import Audio

    audio_column, caption_column, id_column = columns
    for column in filter(None, columns):
        if column not in dataset.column_names:
            raise ValueError(f"{source} has no column `{column}`, only {', '.join(dataset.column_names)}.")
    names = None if id_column is None else dataset.select_columns([id_column])[id_column]
    captions = dataset.select_columns([caption_column])[caption_column]
    audio = dataset.select_columns([audio_column])
    if getattr(dataset.features[audio_column], "dtype", None) in ("string", "large_string"):
        folder = Path(source).absolute().parent
        for index, path in enumerate(audio[audio_column]):
            name = str(path) if names is None else str(names[index])
            yield _Row(name, None if path is None else str(folder / path), captions[index])
        return
    try:
        audio = audio.cast_column(audio_column, Audio(decode=False))
    except (TypeError, NotImplementedError) as error:  # of pyarrow
        raise ValueError(f"The column `{audio_column}` of {source} has no audio files: {error}") from error
    for index in range(len(dataset)):
        name = f"{index:07d}" if names is None else str(names[index])
        yield _Row(name, DatasetAudio(audio, index, audio_column), captions[index])


def _join_rows(source: str, rows: Iterable[_Row], problems: ProblemLog) -> list[CaptionedSong]:
    """Join the rows of each song, and log those that cannot be used."""
    audio: dict[str, Any] = {}
    captions: dict[str, list[str]] = {}
    for row in rows:
        caption = None if isinstance(row.caption, float) and math.isnan(row.caption) else row.caption  # of pandas
        texts: Any = [caption] if isinstance(caption, str) or caption is None else caption
        if not isinstance(texts, Sequence) or not all(isinstance(text, str | None) for text in texts):
            raise ValueError(f"{source}: the caption of {row.name} must be a text or a list of texts, got {texts!r}.")
        texts = [text.strip() for text in texts if text and text.strip()]
        if not texts:
            problems.add(AudioProblem(source, row.name, "without caption", "no text describes it"))
        elif row.audio is None or (isinstance(row.audio, str) and not Path(row.audio).is_file()):
            problems.add(AudioProblem(source, row.name, "unreadable", f"the file {row.audio} does not exist"))
        else:
            audio.setdefault(row.name, row.audio)
            captions.setdefault(row.name, []).extend(texts)
    return [CaptionedSong(name, audio[name], tuple(dict.fromkeys(texts))) for name, texts in captions.items()]
