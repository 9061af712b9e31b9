"""The data set that docs/new_dataset.md adds with one file, and the rules that all readers follow."""

import inspect
import json
import re
from functools import partial

import numpy as np
import pytest
import soundfile
from helpers.paths import ROOT

from musicfm_hf.cli.prepare import main
from musicfm_hf.data.dataset_reader import DatasetReader
from musicfm_hf.data.labeled import LabeledSong, Source
from musicfm_hf.data.labeled_dataset import load_songs
from musicfm_hf.data.prepare import load_reader, prepare_dataset
from musicfm_hf.data.readers import READERS, get_reader
from musicfm_hf.data.splits import SPLITS
from musicfm_hf.tasks.annotations import Segment

FOLDER = ROOT / "src/musicfm_hf/data/readers"


@pytest.fixture
def reader_file(tmp_path):
    """The file that the page shows."""
    page = (ROOT / "docs/new_dataset.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    path = tmp_path / "club_keys.py"
    path.write_text(code, encoding="utf-8")
    return path


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "club_keys"
    folder.mkdir()
    rows = ["track,key,artist,confidence"]
    for number in range(20):
        rows.append(f"{number:02d},{'A minor' if number % 2 else 'C'},artist {number // 2},{number % 3}")
        soundfile.write(folder / f"{number:02d}.flac", np.full(8000, 0.1), 8000)
    (folder / "19.flac").unlink()
    (folder / "keys.csv").write_text("\n".join(rows) + "\n")
    return folder


def test_a_data_set_in_one_file(reader_file, source, tmp_path, capsys):
    arguments = ["--reader_file", str(reader_file), "club_keys", "--source", str(source)]
    arguments += ["--output_dir", str(tmp_path / "out")]
    main([*arguments, "--fractions", "0.4", "0.3", "0.3", "--seed", "4"])
    assert "1 left out" in capsys.readouterr().out
    splits = [load_songs(tmp_path / "out", split) for split in SPLITS]
    songs = {song.id: song for part in splits for song in part}
    assert sorted(songs) == [f"{number:02d}" for number in range(19) if number % 3]  # of confidence 1 or more
    assert songs["05"].keys == [Segment(0.0, 1.0, "A minor")]
    assert songs["05"].group == "artist 2"
    assert songs["04"].split == songs["05"].split
    info = json.loads((tmp_path / "out/info.json").read_text())
    assert (info["name"], info["licence"], info["source"]) == ("club_keys", "CC BY 4.0", "club_keys")
    assert (tmp_path / "out/problems.tsv").read_text().startswith("19\tNo audio 19 exists in ")
    main([*arguments, "--min_confidence", "2", "--fractions", "1", "0", "0"])
    assert len(load_songs(tmp_path / "out", "train")) == 6


def test_audio_may_be_bytes(source, tmp_path):
    """Such songs are in the data set, but not in the lists of files."""
    readers = {
        "bytes": {"bytes": (source / "01.flac").read_bytes(), "path": None},
        "path": {"bytes": None, "path": str(source / "02.flac")},
    }
    songs = {
        name: partial(LabeledSong, name, audio, name, keys=[Segment(0.0, 1.0, "C")]) for name, audio in readers.items()
    }
    reader = DatasetReader("memory", "songs in memory", Source("", "", "", ""), lambda source, audio: songs)
    prepare_dataset(reader, tmp_path / "out", source, fractions=(1.0, 0.0, 0.0))
    assert [song.id for song in load_songs(tmp_path / "out", "train")] == ["bytes", "path"]
    assert (tmp_path / "out/train.txt").read_text() == f"{source / '02.flac'}\n"


def test_its_help(reader_file, capsys):
    for arguments, expected in ((["--help"], "keys of club music"), (["club_keys", "--help"], "--min_confidence")):
        with pytest.raises(SystemExit) as stopped:
            main(["--reader_file", str(reader_file), *arguments])
        assert not stopped.value.code
        assert expected in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("none.py", None, "none.py does not exist"),
        ("empty.py", "", "empty.py must define `READER = DatasetReader"),
        ("reader.txt", "", "reader.txt is not a Python file"),
    ],
)
def test_files_without_a_reader(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_reader(tmp_path / name)
    with pytest.raises(SystemExit, match=f"^Not prepared: .*{message[:10]}"):
        main(["--reader_file", str(tmp_path / name), "stats", "x", "--output_file", "y"])


# All readers


def test_every_file_of_the_folder_is_a_command(capsys):
    assert sorted(READERS) == sorted(path.stem for path in FOLDER.glob("[!_]*.py"))
    with pytest.raises(SystemExit):
        main(["--help"])
    page = " ".join(capsys.readouterr().out.split())
    for name, reader in READERS.items():
        assert f"{name} {reader.summary}" in page
    with pytest.raises(ValueError, match="No data set is called 'pop': it must be one of beatles, "):
        get_reader("pop")


@pytest.mark.parametrize("name", READERS)
def test_options_are_the_arguments_of_the_function(name):
    reader = get_reader(name)
    assert reader.name == name
    first = ["source", "audio"] if isinstance(reader, DatasetReader) else ["source"]
    function = reader.song_readers if isinstance(reader, DatasetReader) else reader.list_tracks
    parameters = inspect.signature(function).parameters
    assert list(parameters)[: len(first)] == first
    options = {
        option.name: inspect.Parameter.empty if option.is_required else option.default for option in reader.options
    }
    assert options == {key: parameter.default for key, parameter in list(parameters.items())[len(first) :]}


@pytest.mark.parametrize("name", READERS)
def test_help_of_a_data_set(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([name, "--help"])
    assert not stopped.value.code
    text = capsys.readouterr().out
    assert all(f"--{option.name}" in text for option in get_reader(name).options)


# Old spellings


def test_old_spellings_warn_and_work(source, tmp_path, capsys):
    (source / "00.lab").write_text("0 1 C\n")
    arguments = ["folder", "--source", str(source), "--output", str(tmp_path / "out"), "--lab-task", "chords"]
    with pytest.warns(FutureWarning) as warned:
        main([*arguments, "--licence", "CC0", "--fractions", "1", "0", "0", "--skip-faulty", "--group-by-folder"])
    messages = [str(warning.message) for warning in warned]
    flags = {message.split(" is now ")[0] for message in messages if " is now " in message}
    assert flags == {"--output", "--lab-task", "--licence", "--skip-faulty", "--group-by-folder"}
    assert [song.id for song in load_songs(tmp_path / "out", "train")] == ["00"]
    assert json.loads((tmp_path / "out/info.json").read_text())["licence"] == "CC0"
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).normal(size=240000), 24000)
    with pytest.warns(FutureWarning, match="--output is now --output_file"):
        main(["stats", str(tmp_path / "a.wav"), "--output", str(tmp_path / "stats.json"), "--max-hours", "1"])
    assert json.loads((tmp_path / "stats.json").read_text())["files"] == 1


def test_no_songs_name_their_reasons(source, tmp_path):
    for path in source.glob("*.flac"):
        path.unlink()
    (source / "00.lab").write_text("0 1 C\n")
    arguments = ["folder", "--source", str(source), "--output_dir", str(tmp_path / "out"), "--lab_task", "chords"]
    with pytest.raises(SystemExit, match=r"^Not prepared: No song has audio and labels \(00: No audio 00 exists in"):
        main(arguments)
    assert (tmp_path / "out/problems.tsv").read_text().startswith("00\tNo audio 00 exists")


def test_an_earlier_data_set_keeps_its_problems(reader_file, source, tmp_path):
    arguments = ["--reader_file", str(reader_file), "club_keys", "--source", str(source)]
    arguments += ["--output_dir", str(tmp_path / "out"), "--fractions", "0.4", "0.3", "0.3", "--seed", "4"]
    main(arguments)
    before = (tmp_path / "out/problems.tsv").read_bytes()
    for path in source.glob("*.flac"):
        path.unlink()
    with pytest.raises(SystemExit, match=r"^Not prepared: No song has audio and labels"):
        main(arguments)
    assert (tmp_path / "out/problems.tsv").read_bytes() == before
