"""Songs with captions: tables, data sets, and rows that cannot be used."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from datasets import Audio, Dataset, DatasetDict
from helpers.audio import music

from musicfm_hf import load_audio
from musicfm_hf.data.captions import read_captions
from musicfm_hf.data.catalog import fetch_audio


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("captions")
    (folder / "audio").mkdir()
    for name in ("a", "b"):
        soundfile.write(folder / f"audio/{name}.wav", music(0.2, seed=ord(name)), 24000)
    return folder


def write_lines(path, *rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_jsonl(folder):
    rows = [
        {"audio": "audio/a.wav", "caption": ["slow piano", " loud "]},
        {"audio": "audio/b.wav", "caption": "drums"},
        {"audio": "audio/a.wav", "caption": "a second row of the same song"},
        {"audio": "audio/a.wav", "caption": "slow piano"},
    ]
    songs, problems = read_captions(write_lines(folder / "songs.jsonl", *rows))
    assert [song.name for song in songs] == ["audio/a.wav", "audio/b.wav"]
    assert songs[0].captions == ("slow piano", "loud", "a second row of the same song")
    assert songs[0].audio == str(folder / "audio/a.wav")
    assert problems.records == []


def test_csv_with_other_columns(folder):
    (folder / "songs.csv").write_text('song,file,text\n7,audio/a.wav,"slow, piano"\n7,audio/b.wav,loud\n')
    songs, _ = read_captions(str(folder / "songs.csv"), "train", "file", "text", "song")
    assert [(song.name, song.captions) for song in songs] == [("7", ("slow, piano", "loud"))]


def test_parquet_of_paths(folder):
    Dataset.from_dict({"audio": ["audio/a.wav"], "caption": [["x", "y"]]}).to_parquet(folder / "songs.parquet")
    songs, _ = read_captions(str(folder / "songs.parquet"))
    assert [(song.audio, song.captions) for song in songs] == [(str(folder / "audio/a.wav"), ("x", "y"))]


@pytest.mark.parametrize("kind", ["parquet", "saved"])
def test_audio_in_a_data_set(folder, tmp_path, kind):
    rows = [{"bytes": (folder / f"audio/{name}.wav").read_bytes(), "path": f"{name}.wav"} for name in "ab"]
    data = Dataset.from_dict({"audio": rows, "caption": ["x", "y"]}).cast_column("audio", Audio(decode=False))
    path = tmp_path / ("songs.parquet" if kind == "parquet" else "saved")
    if kind == "parquet":
        data.to_parquet(path)
    else:
        DatasetDict({"train": data.select([0]), "validation": data.select([1])}).save_to_disk(path)
    songs, _ = read_captions(str(path), "validation")
    assert [song.captions for song in songs] == ([("x",), ("y",)] if kind == "parquet" else [("y",)])
    np.testing.assert_array_equal(load_audio(fetch_audio(songs[-1].audio)), load_audio(folder / "audio/b.wav"))
    if kind == "saved":
        with pytest.raises(ValueError, match="has no split `test`, only train, validation"):
            read_captions(str(path), "test")


def test_parquet_of_other_programs(folder):
    """Paths of the type `large_string`, and audio in a struct without the metadata of `datasets`."""
    content = (folder / "audio/b.wav").read_bytes()
    kinds = {
        "paths": pa.array(["audio/b.wav"], pa.large_string()),
        "bytes": pa.array([{"bytes": content, "path": None}]),
    }
    for name, audio in kinds.items():
        pq.write_table(pa.table({"audio": audio, "caption": pa.array(["drums"])}), folder / f"{name}.parquet")
        (song,), _ = read_captions(str(folder / f"{name}.parquet"))
        assert song.captions == ("drums",)
        np.testing.assert_array_equal(load_audio(fetch_audio(song.audio)), load_audio(folder / "audio/b.wav"))


def test_rows_that_cannot_be_used_are_logged(folder):
    rows = [
        {"audio": "audio/a.wav", "caption": ["", None]},
        {"audio": "audio/c.wav", "caption": float("nan")},  # as pandas writes a missing value
        {"audio": "audio/b.wav", "caption": "drums"},
        {"audio": "audio/gone.wav", "caption": "drums"},
    ]
    songs, problems = read_captions(write_lines(folder / "some.jsonl", *rows))
    assert [song.name for song in songs] == ["audio/b.wav"]
    assert [(problem.name, problem.reason) for problem in problems.records] == [
        ("audio/a.wav", "without caption"),
        ("audio/c.wav", "without caption"),
        ("audio/gone.wav", "unreadable"),
    ]
    with pytest.raises(ValueError, match=r"no row with a caption and audio. 1 without caption, such as audio/a.wav"):
        read_captions(write_lines(folder / "none.jsonl", rows[0]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"audio": "audio/a.wav"}', "line 1 has no `caption`, only audio"),
        ('{"audio": "a.wav", "caption": "x"', "line 1 is not JSON"),
        ('["audio/a.wav", "x"]', "line 1 must be an object"),
        ('{"audio": 3, "caption": "x"}', "line 1: `audio` must be a path, got 3"),
        ('{"audio": "audio/a.wav", "caption": {"text": "x"}}', "must be a text or a list of texts"),
        ('{"audio": "audio/a.wav", "caption": 3}', "must be a text or a list of texts, got 3"),
    ],
    ids=["column", "JSON", "list", "path", "caption", "number"],
)
def test_malformed_lines(folder, text, message):
    (folder / "bad.jsonl").write_text(text + "\n")
    with pytest.raises(ValueError, match=message):
        read_captions(str(folder / "bad.jsonl"))


def test_sources_that_do_not_exist(folder):
    with pytest.raises(FileNotFoundError, match=r"gone\.csv does not exist"):
        read_captions(str(folder / "gone.csv"))
    with pytest.raises(ValueError, match="is not a table of captions: pass a file"):
        read_captions(str(folder))
