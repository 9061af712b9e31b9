"""Parsing of values from text or JSON. Error messages begin with the place that a value was read from."""

import math
from pathlib import Path
from typing import Any


def read_text(path: Path) -> str:
    """Read a file as UTF-8, with or without a byte order mark."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8 ({error}).") from error


def to_number(value: object, name: str, place: str) -> float:
    """Convert text or a JSON number to seconds. `name` is its name in error messages."""
    try:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError
        return float(value)
    except ValueError as error:
        raise ValueError(f"{place}: {name} must be a number of seconds, got {value!r}.") from error


def to_position(value: Any, place: str) -> int:
    """Convert text or a JSON number to a position in the bar, or to 0 if it is unknown."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return 0
    try:
        number = float(value) if not isinstance(value, bool) else math.nan
        if number != int(number):
            raise ValueError
        return int(number)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"{place}: the position in the bar must be a whole number from 1, or 0 if unknown, got {value!r}."
        ) from error


def to_label(value: object, place: str) -> str:
    """Return a label, after checking that it is text."""
    if not isinstance(value, str):
        raise ValueError(f"{place}: the label must be text, got {value!r}.")
    return value
