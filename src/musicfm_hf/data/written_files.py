"""
Records of the files that `musicfm annotate` wrote for a song, which tell files that were edited or made by hand from
those that are as they were written. The record of the song `a/song` is the hidden file `a/.song.made_from.json`; its
entry `files` has a digest of each file by the ending of its name.
"""

import json
from pathlib import Path
from typing import Any

CLICK_ENDING = "click.wav"


def record_path(base: Path) -> Path:
    """Return the path of the record of a song. `base` is the path of its files without their endings."""
    return base.with_name(f".{base.name}.made_from.json")


def read_record(base: Path) -> dict[str, Any]:
    """Return the record of a song; empty if it does not exist or is not a record."""
    try:
        record = json.loads(record_path(base).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def written_digest(path: Path, song: str) -> str | None:
    """
    Return the digest of a file as it was written by `musicfm annotate`, or `None` if it was not.

    Args:
        path: The file.
        song (`str`): Name of the song, with which the name of the file begins.
    """
    files = read_record(path.with_name(song)).get("files")
    ending = path.name.removeprefix(f"{song}.")
    return files.get(ending) if isinstance(files, dict) else None


def is_click_track(path: Path) -> bool:
    """Return whether a file is a click track that `musicfm annotate --click` wrote, and not a song."""
    song = path.name.removesuffix(f".{CLICK_ENDING}")
    return song != path.name and written_digest(path, song) is not None
