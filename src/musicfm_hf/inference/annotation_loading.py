"""Reading of the files that [`SongAnnotation.save`] writes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..tasks import get_task, known_tasks
from ..tasks.annotations import Beats, Segment, read_beats, read_segments, read_tags
from ..tasks.audacity import read_label_track
from ..tasks.label_rows import to_beats, to_segments
from ..tasks.song_json import parse_confidence, parse_numbers, parse_results, read_song_json
from ..tasks.sonic_visualiser import read_layer
from ..tasks.values import to_number
from .jams_file import read_jams_song
from .midi_file import read_midi_song

Results = dict[str, tuple[Any, np.ndarray | None]]  # name → events, and the probability of each

_SONG_READERS = {".json": read_song_json, ".jams": read_jams_song, ".mid": read_midi_song, ".midi": read_midi_song}
_LABEL_READERS = {".txt": read_label_track, ".csv": read_layer, ".svl": read_layer}
_ENDINGS = "song.json, song.jams, song.mid, song.beats, song.chords.lab, song.tags, song.chords.txt or song.chords.csv"


Marks = dict[str, np.ndarray]  # name → whether each event is uncertain


def load_results(paths: Sequence[Path]) -> tuple[float, Results, Marks]:
    """
    Read the results of a song from files; from the first one that has each of them.

    Returns:
        Seconds of audio, the results by name, and the marks of uncertain events.

    Raises:
        FileNotFoundError, ValueError, ImportError: see [`SongAnnotation.load`].
    """
    if not paths:
        raise ValueError(f"`load` needs at least one file, such as {_ENDINGS}.")
    durations: list[float] = []
    results: Results = {}
    uncertain: Marks = {}
    for path in paths:
        duration, found, marks = _load_file(path)
        durations.append(duration)
        uncertain |= {name: values for name, values in marks.items() if name in found.keys() - results.keys()}
        results = found | results
    known = [duration for duration in durations if duration]
    end = known[0] if known else max((_end(events) for events, _ in results.values()), default=0.0)
    return end, results, uncertain


def _load_file(path: Path) -> tuple[float, Results, Marks]:
    """Return the seconds of audio, or 0 if the file does not have them, the results, and the marks."""
    suffix = path.suffix.lower()
    if suffix in _SONG_READERS:
        content = _SONG_READERS[suffix](path)
        results: Results = dict(parse_results(content, path))
        downbeats, uncertain = parse_confidence(content, path)
        results |= {name: (None, probabilities) for name, probabilities in downbeats.items()}
        if "tempo" in content:
            results["tempo"] = (to_number(content["tempo"], "the tempo", f"{path}, tempo", "a number"), None)
        if "tempo_curve" in content:
            results["tempo_curve"] = (_to_rows(content["tempo_curve"], f"{path}, tempo_curve"), None)
        if "similarities" in content:
            results["similarities"] = (parse_numbers(content["similarities"], f"{path}, similarities"), None)
        return float(content["duration"]), results, uncertain
    column = path.stem.rpartition(".")[2] if "." in path.stem else ""
    if suffix in (".beats", ".tags"):  # of another task, or else the word belongs to the name of the song
        columns = {spec.column for spec in map(get_task, known_tasks())}
        column = column if column in columns else suffix[1:]
        events: Any = read_beats(path) if suffix == ".beats" else dict.fromkeys(read_tags(path), 1.0)
    elif suffix == ".lab" and column:
        events = read_segments(path)
    elif suffix in _LABEL_READERS and column:
        rows = _LABEL_READERS[suffix](path)
        events = to_beats(rows) if column == "beats" else to_segments(rows)
    else:
        raise ValueError(f"{path}: the name does not specify an annotation: it must end like {_ENDINGS}.")
    return 0.0, {column: (events, None)}, {}


def _to_rows(values: Any, place: str) -> np.ndarray:
    """Convert pairs of seconds and beats per minute to float64 `(rows, 2)`."""
    try:
        return np.array(values, np.float64).reshape(-1, 2)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{place}: this entry must have pairs of seconds and beats per minute, got {str(values)[:60]!r}."
        ) from error


def _end(events: Any) -> float:
    """Return the time of the last label."""
    if isinstance(events, Beats):
        return float(events.times[-1]) if len(events.times) else 0.0
    return max((item.end for item in events if isinstance(item, Segment)), default=0.0)
