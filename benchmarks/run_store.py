"""
Recorded runs of the benchmarks, with the scores of songs in one Parquet file and everything else in one JSON file.

    import pandas
    songs = pandas.read_parquet("benchmarks/results/songs.parquet")
    songs[(songs.run == "chord_LoRA_1") & (songs.split == "test") & (songs.metric == "majmin")].value.mean()

`songs.parquet` has a row for each score: `run`, `task`, `method`, `seed`, `split`, `song`, `metric`, `value`. For
tagging, which has no scores for single songs, `metric` is "probability", `label` is a tag, and `tag_position` is its
position in the annotation of the song, or null if the annotation does not have the tag. `runs.json` has a line for
each run: settings, training, inputs, scores with intervals, steps, versions, history.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from filelock import FileLock

from musicfm_hf.training.files import complete_file, write_text

SCHEMA = pa.schema(
    [
        ("run", pa.string()),
        ("task", pa.string()),
        ("method", pa.string()),
        ("seed", pa.int64()),
        ("split", pa.string()),
        ("song", pa.string()),
        ("metric", pa.string()),
        ("label", pa.string()),
        ("value", pa.float64()),
        ("tag_position", pa.int16()),
    ]
)
PROBABILITY = "probability"


class RunStore:
    """
    The runs in `songs.parquet` and `runs.json` of a folder.

    A run is the `results` of [`finetune`] with its `row` in the table of results: a dictionary with `task` and
    `scores_of_songs` (split → song id → scores). Several processes may write to one store.
    """

    def __init__(self, folder: Path):
        self.songs_path = folder / "songs.parquet"
        self.runs_path = folder / "runs.json"

    def read(self) -> dict[str, dict[str, Any]]:
        """Return all runs by name, in the order in which they were first written, each with `scores_of_songs`."""
        runs = self._read_runs()
        table = self._read_songs()
        for name, scores in _scores_of_songs(table).items():
            if name in runs:  # otherwise, writing it was interrupted
                runs[name]["scores_of_songs"] = scores
        return runs

    def read_run(self, name: str) -> dict[str, Any] | None:
        """Return a run, or `None` if it does not exist."""
        run = self._read_runs().get(name)
        if run is None:
            return None
        table = self._read_songs()
        return run | {"scores_of_songs": _scores_of_songs(table.filter(pc.equal(table["run"], name)))[name]}

    def write(self, runs: dict[str, dict[str, Any]]) -> None:
        """
        Add runs, or replace runs with the same names. Values that are not finite become null.

        After an interruption, the store may lack the runs that were being replaced, but it never mixes old and new
        data.
        """
        runs = json.loads(json.dumps(runs), parse_constant=lambda name: None)
        self.runs_path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.runs_path.with_name(".runs.lock")):
            recorded = self._read_runs()
            if any(name in recorded for name in runs):
                self._write_runs({name: run for name, run in recorded.items() if name not in runs})
            table = self._read_songs()
            kept = table.filter(pc.invert(pc.is_in(table["run"], pa.array(list(runs), pa.string()))))
            rows = [row for name, run in runs.items() for row in _rows(name, run)]
            self._write_songs(pa.concat_tables([kept, pa.Table.from_pylist(rows, SCHEMA)]))
            new = {
                name: {key: value for key, value in run.items() if key != "scores_of_songs"}
                for name, run in runs.items()
            }
            self._write_runs(recorded | new)

    def _read_runs(self) -> dict[str, dict[str, Any]]:
        return json.loads(self.runs_path.read_text(encoding="utf-8")) if self.runs_path.is_file() else {}

    def _read_songs(self) -> pa.Table:
        return pq.read_table(self.songs_path) if self.songs_path.is_file() else SCHEMA.empty_table()

    def _write_runs(self, runs: dict[str, dict[str, Any]]) -> None:
        lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(run)}" for name, run in runs.items())
        write_text(self.runs_path, f"{{\n{lines}\n}}\n")

    def _write_songs(self, table: pa.Table) -> None:
        texts = [field.name for field in SCHEMA if pa.types.is_string(field.type)]
        encoding = {"value": "BYTE_STREAM_SPLIT"}
        options = {"compression": "zstd", "compression_level": 19, "use_dictionary": texts}
        with complete_file(self.songs_path) as temporary:
            pq.write_table(table, temporary, column_encoding=encoding, **options)


def _rows(name: str, run: dict[str, Any]) -> Iterable[dict[str, Any]]:
    """Yield the scores of a run, as rows of the table."""
    seed = run.get("training", {}).get("seed")
    common = {"run": name, "task": run["task"], "method": run["row"], "seed": seed}
    for split, songs in run["scores_of_songs"].items():
        for song, scores in songs.items():
            place = common | {"split": split, "song": song}
            if "probabilities" in scores:
                positions = {tag: position for position, tag in enumerate(scores["tags"])}
                for label, value in scores["probabilities"].items():
                    position = positions.pop(label, None)
                    yield place | {"metric": PROBABILITY, "label": label, "value": value, "tag_position": position}
                if positions:
                    raise ValueError(f"{name}, song {song}: the model has no tag {', '.join(positions)}.")
            else:
                for metric, value in scores.items():
                    yield place | {"metric": metric, "value": value}


def _scores_of_songs(table: pa.Table) -> dict[str, dict[str, dict[str, dict[str, Any]]]]:
    """Return a nested dictionary (run → split → song id → scores) from rows of the table."""
    scores: dict[str, dict[str, dict[str, dict[str, Any]]]] = {}
    tags: dict[tuple[str, str, str], dict[int, str]] = {}
    columns = [
        table[name].to_pylist() for name in ("run", "split", "song", "metric", "label", "value", "tag_position")
    ]
    for run, split, song, metric, label, value, position in zip(*columns, strict=True):
        of_song = scores.setdefault(run, {}).setdefault(split, {}).setdefault(song, {})
        if label is None:
            of_song[metric] = value
            continue
        of_song.setdefault("probabilities", {})[label] = value
        annotated = tags.setdefault((run, split, song), {})
        if position is not None:
            annotated[position] = label
    for (run, split, song), annotated in tags.items():
        scores[run][split][song]["tags"] = [annotated[position] for position in sorted(annotated)]
    return scores
