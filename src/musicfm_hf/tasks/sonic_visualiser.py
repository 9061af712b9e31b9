"""
Annotation layers of Sonic Visualiser. It exports and imports text with one item per line, separated by commas, whose
columns depend on the layer: `time,label` for time instants, `time,value,label` for time values and text, and
`time,value,duration,label` for regions. A header with the names of the columns is optional. It leaves out a label that
is empty, and some versions do not quote labels with commas. Its own files, `.svl`, are XML.
"""

import csv
import io
import os
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

from ..training.files import write_text
from .annotations import TOLERANCE, Beats, Segment, check_beats
from .label_rows import LabelRow, check_labels, from_beats
from .values import is_number, read_text, to_number

# Names of columns in a header, without spaces and in lower case → what they hold.
_COLUMNS = {
    **dict.fromkeys(("time", "start", "starttime"), "start"),
    **dict.fromkeys(("end", "endtime"), "end"),
    "duration": "duration",
    **dict.fromkeys(("label", "text"), "label"),
}
# Names of the column of labels in files of other programs, if no column has one of the names above.
_LABELS = ("position", "beat", "chord", "section", "function", "key")
_IGNORED = ("value", "level", "confidence")  # columns of numbers, which a file without labels may have


def read_layer(path: str | os.PathLike) -> list[LabelRow]:
    """
    Read the items of a layer, from a `.svl` file or from text that Sonic Visualiser exported.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if the file is malformed, or its columns are ambiguous.
    """
    path = Path(path)
    return _read_xml(path) if path.suffix.lower() == ".svl" else _read_columns(path)


def write_layer(path: str | os.PathLike, events: Beats | Sequence[Segment]) -> None:
    """
    Write a layer that Sonic Visualiser imports: time instants with the position in the bar as label, or regions. The
    value of a region, its height on the screen, is the same for equal labels. Times are rounded to microseconds.

    Raises:
        ValueError: if the events are not in order, or a label has a tab or a line break; then nothing is written.
    """
    rows: list[tuple[str, ...]]
    if isinstance(events, Beats):
        check_beats(events, f"The beats for {Path(path).name}")
        rows = [(f"{time:.6f}", label) for time, label in from_beats(events)]
    else:
        check_labels(events, Path(path))
        values = {label: str(number) for number, label in enumerate(dict.fromkeys(item.label for item in events), 1)}
        # The rounded ends are kept, so that neighbors still meet.
        times = [(round(start, 6), round(end, 6), label) for start, end, label in events]
        rows = [(f"{start:.6f}", values[label], f"{end - start:.6f}", label) for start, end, label in times]
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    write_text(path, buffer.getvalue())


def _read_columns(path: Path) -> list[LabelRow]:
    """Read text with columns."""
    text = read_text(path)
    first = next((line for line in text.splitlines() if line.strip()), "")
    _check_separator(first, path)
    reader = csv.reader(
        io.StringIO(text), delimiter="\t" if "\t" in first else ",", skipinitialspace=True, strict=True
    )
    try:
        numbered = [(reader.line_num, [field.strip() for field in fields]) for fields in reader]
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: not text in columns ({error}).") from error
    lines = [(f"{path}, line {number}", fields) for number, fields in numbered if any(fields)]
    if not lines:
        return []
    has_commas = reader.dialect.delimiter == "," and '"' not in first
    if is_number(lines[0][1][0]):
        if has_commas:
            _check_points(lines, 2)
        columns = _guess_columns(lines)
        last = max(columns.values())
    else:
        columns, last, lines = _header_columns(*lines[0]), len(lines[0][1]) - 1, lines[1:]
        if has_commas:
            _check_points(lines, last + 1)
    return [_to_row(place, fields, columns, last) for place, fields in lines]


def _check_separator(line: str, path: Path) -> None:
    """Raise an error if columns are separated by semicolons, as where commas are decimal points."""
    head = line.split(";")[0].strip()
    if head != line.strip() and (is_number(head.replace(",", ".")) or head.lower() in _COLUMNS):
        raise ValueError(
            f"{path}: its columns are separated by `;`: separate them by commas or tabs, and write decimal points, "
            f"got {line!r}."
        )


def _check_points(lines: Sequence[tuple[str, Sequence[str]]], num_columns: int) -> None:
    """
    Raise an error if the commas between columns may be decimal points: no line has a point before its label, all have
    more than `num_columns` fields, and the second one is a whole number, or it has a leading zero, as in `4,05`.
    """
    heads = [fields[:2] for _, fields in lines]
    if not all(len(head) == 2 and all(number.isdigit() for number in head) for head in heads):
        return
    has_more = all(len(fields) > num_columns for _, fields in lines)
    if lines and (has_more or any(len(number) > 1 and number[0] == "0" for _, number in heads)):
        raise ValueError(
            f"{lines[0][0]}: commas may be decimal points or separate columns, got {','.join(lines[0][1])!r}: write "
            "decimal points, such as 0.5 or 2.0, and put labels that contain commas between quotes."
        )


def _header_columns(place: str, fields: Sequence[str]) -> dict[str, int]:
    """Return the index of each column that a header names."""
    names = ["".join(field.lower().split()) for field in fields]
    columns = {_COLUMNS[name]: index for index, name in enumerate(names) if name in _COLUMNS}
    if "start" not in columns:
        raise ValueError(
            f"{place}: a header needs a column `time` in seconds, and `label`, got {', '.join(fields)}. In Sonic "
            "Visualiser, export times in seconds, not in frames."
        )
    others = [index for index, name in enumerate(names) if name in _LABELS]
    if "label" not in columns and others:
        columns["label"] = others[0]
    if "label" not in columns and not all(name in (*_COLUMNS, *_IGNORED) for name in names):
        raise ValueError(f"{place}: a header needs a column `label`, got {', '.join(fields)}.")
    return columns


def _guess_columns(lines: Sequence[tuple[str, Sequence[str]]]) -> dict[str, int]:
    """Return the index of each column of a file without a header, which depends on how many of them are numbers."""
    if all(len(fields) < 3 or not is_number(fields[1]) for _, fields in lines):
        return {"start": 0, "label": 1}
    if all(len(fields) > 2 and is_number(fields[1]) and is_number(fields[2]) for _, fields in lines):
        return _guess_numbers(lines)
    if all(is_number(fields[1]) for _, fields in lines if len(fields) > 1):
        if all(len(fields) > 1 for _, fields in lines):
            _check_values(lines, "time,value,label")
        return {"start": 0, "label": 2}
    raise ValueError(
        f"{lines[0][0]}: the columns must be time,label, time,value,label or time,value,duration,label in all lines. "
        "Others need a header, such as start,end,label."
    )


def _guess_numbers(lines: Sequence[tuple[str, Sequence[str]]]) -> dict[str, int]:
    """Return the columns of lines that begin with three numbers: regions, or positions in the bar as last column."""
    if any(len(fields) > 3 for _, fields in lines):
        _check_values(lines, "time,value,duration,label")
        return {"start": 0, "duration": 2, "label": 3}
    _check_values(lines, "time,value,label")
    return {"start": 0, "label": 2}


def _check_values(lines: Sequence[tuple[str, Sequence[str]]], columns: str) -> None:
    """
    Raise an error if the second column may be the end of segments instead of a value: each is later than the start,
    and most are not later than the start of the next segment. With durations, whole numbers are values, because
    [`write_layer`] writes such, and so are all numbers if a duration ends where the next segment starts.
    """
    numbers = [[to_number(field, "the number", place) for field in fields[:2]] for place, fields in lines]
    neighbors = list(pairwise(numbers))
    in_time = [value <= following + TOLERANCE for (_, value), (following, _) in neighbors]
    if not all(start < value for start, value in numbers) or 2 * sum(in_time) < len(neighbors):
        return
    other = "start,end,label"
    if "duration" in columns:
        other = "start,end,value,label"
        lengths = [to_number(fields[2], "the duration", place) for place, fields in lines[:-1]]
        gaps = [following - start for (start, _), (following, _) in neighbors]
        meet = any(abs(length - gap) <= TOLERANCE for length, gap in zip(lengths, gaps, strict=True))
        if meet or all(value.is_integer() for _, value in numbers):
            return
    raise ValueError(
        f"{lines[0][0]}: the columns may be {columns} or {other}: put one of these two lines at the beginning of the "
        "file."
    )


def _to_row(place: str, fields: Sequence[str], columns: Mapping[str, int], last: int) -> LabelRow:
    """Convert the fields of a line. If the `last` column is that of labels, it holds the rest of the line."""
    label = columns.get("label", len(fields))
    text = ",".join(fields[label:] if label == last else fields[label : label + 1])
    values = {
        name: to_number(fields[index], f"the {name}", place)
        for name, index in columns.items()
        if name != "label" and index < len(fields)
    }
    if "start" not in values:
        raise ValueError(f"{place}: a label needs a time, got {','.join(fields)!r}.")
    end = values.get("end")
    if end is None and "duration" in values:
        end = round(values["start"] + values["duration"], 9)  # so that it equals the start of the next one
    if end is not None and end < values["start"]:
        raise ValueError(f"{place}: a label must not end before its start, got {values['start']:g} to {end:g} s.")
    return LabelRow(values["start"], end if end != values["start"] else None, text.strip(), place)


def _read_xml(path: Path) -> list[LabelRow]:
    """Read a `.svl` file, whose times are numbers of samples."""
    try:
        root = ElementTree.fromstring(path.read_bytes())
    except ElementTree.ParseError as error:
        raise ValueError(f"{path} is not a layer of Sonic Visualiser ({error}).") from error
    models = [model for model in root.iter("model") if model.get("type") == "sparse"]
    if len(models) != 1:
        raise ValueError(f"{path} must have one layer with points or regions, got {len(models)}: export one layer.")
    rate = to_number(models[0].get("sampleRate"), "the sampling rate", str(path), "a number")
    rows = []
    for number, point in enumerate(root.iter("point"), 1):
        place = f"{path}, item {number}"
        start = to_number(point.get("frame"), "the frame", place, "a number")
        length = to_number(point.get("duration", "0"), "the duration", place, "a number")
        label = (point.get("label") or "").strip()
        rows.append(LabelRow(start / rate, (start + length) / rate if length else None, label, place))
    return rows
