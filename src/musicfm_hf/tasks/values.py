"""Parsing of values from text or JSON. Error messages begin with the place that a value was read from."""

import math
import re
from pathlib import Path
from typing import Any

# `float` also accepts underscores and the digits of other scripts.
_NUMBER = re.compile(r"\s*[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?\s*|nan|[+-]?inf", re.IGNORECASE)


def read_text(path: Path) -> str:
    """Read a file as UTF-8, with or without a byte order mark."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8 ({error}).") from error


def is_number(text: str) -> bool:
    """Return whether [`to_number`] accepts a text."""
    return _NUMBER.fullmatch(text) is not None


def to_number(value: object, name: str, place: str, kind: str = "a number of seconds") -> float:
    """Convert text or a JSON number. `name` is its name in error messages, and `kind` the kind of number."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return float(value)
    comma = " Write it with a decimal point." if isinstance(value, str) and "," in value else ""
    raise ValueError(f"{place}: {name} must be {kind}, got {value!r}.{comma}")


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
        has_bar = isinstance(value, str) and re.fullmatch(r"[1-9][0-9]*\.[1-9][0-9]*", value)
        advice = " If the number of the bar precedes the position, leave it out." if has_bar else ""
        raise ValueError(
            f"{place}: the position in the bar must be a whole number from 1, or 0 if unknown, got {value!r}.{advice}"
        ) from error


def to_confidence(value: Any, place: str) -> float:
    """Return the confidence of an observation, with 1 for null and NaN. Text and negative numbers are errors."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return 1.0
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        raise ValueError(f"{place}: the confidence must be a number of at least 0, or null, got {value!r}.")
    return float(value)


def to_label(value: object, place: str) -> str:
    """Return a label, after checking that it is text."""
    if not isinstance(value, str):
        raise ValueError(f"{place}: the label must be text, got {value!r}.")
    return value
