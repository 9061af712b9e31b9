import json
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from musicfm_hf import load_audio
from musicfm_hf.data.catalog import DatasetAudio, list_sources
from musicfm_hf.data.labeled import (
    AudioFolder,
    LabeledSong,
    Source,
    UnusableSongError,
    check_song,
    read_all,
)
from musicfm_hf.data.labeled_dataset import build, load_songs, save
from musicfm_hf.data.splits import assign_splits
from musicfm_hf.tasks.annotations import Beats, Segment

SOURCE = Source("Songs.", "@misc{me}", "https://example.org", "CC0")
BEATS = Beats(np.array([0.5, 1.0]), np.array([1, 0]))
CHORDS = [Segment(0.0, 1.0, "C:maj"), Segment(1.5, 2.0, "N")]


def write_audio(path, seconds=2.0, rate=8000):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.full(round(seconds * rate), 0.1), rate)
    return path


def song(audio="a.wav", name="a", **labels):
    return LabeledSong(name, audio, labels.pop("group", name), **labels)


@pytest.fixture
def songs(tmp_path):
    full = {"beats": BEATS, "chords": CHORDS, "tags": ["piano", "fast"], "keys": [Segment(0, 2, "Am")]}
    return [
        song(write_audio(tmp_path / "a.wav"), "a", split="train", group="x", duration=2.0, **full),
        song(write_audio(tmp_path / "b.wav"), "b", split="train", duration=2.0, transposition=-3, tags=[]),
        song(
            write_audio(tmp_path / "c.wav"),
            "c",
            split="test",
            duration=2.0,
            sections=[Segment(0, 2, "verse")],
            more={"sections_2": [Segment(0, 1, "Wörter")]},
        ),
    ]


def plain(one):
    beats = one.beats and [part.tolist() for part in one.beats]
    return [one.id, str(one.audio), one.group, one.split, one.duration, one.transposition, beats, one.tags]


def test_what_is_saved_is_read_back(songs, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    (output / "train.txt").write_text("stays")
    save(build(assign_splits(songs), SOURCE), output)
    found = load_songs(output, "train")
    assert [plain(one) for one in found] == [
        ["a", str(tmp_path / "a.wav"), "x", "train", 2.0, 0, [[0.5, 1.0], [1, 0]], ["piano", "fast"]],
        ["b", str(tmp_path / "b.wav"), "b", "train", 2.0, -3, None, []],
    ]
    assert found[0].beats.times.dtype == np.float64
    assert found[0].beats.positions.dtype == np.int64
    assert found[0].chords == CHORDS
    assert found[0].keys == [Segment(0, 2, "Am")]
    assert found[1].chords is None
    assert found[1].more == {}
    (last,) = load_songs(output, "test")
    assert last.more == {"sections_2": [Segment(0, 1, "Wörter")]}
    assert last.sections == [Segment(0, 2, "verse")]
    assert last.tags is None
    assert (output / "train.txt").read_text() == "stays"
    # No split without songs, which `datasets` cannot load, and nothing unfinished.
    assert sorted(path.name for path in output.iterdir()) == ["dataset_dict.json", "test", "train", "train.txt"]
    info = json.loads((output / "train/dataset_info.json").read_text())
    assert (info["license"], info["homepage"], info["citation"]) == ("CC0", "https://example.org", "@misc{me}")
    assert sum(path.stat().st_size for path in (output / "train").iterdir()) < 20_000  # no audio


def test_audio_of_the_data_set_is_a_source_and_can_be_cast(songs, tmp_path):
    from datasets import Audio, load_from_disk

    save(build(assign_splits(songs), SOURCE), tmp_path / "out")
    assert [name for name, _ in list_sources(tmp_path / "out")] == ["train/0000000", "train/0000001", "test/0000000"]
    rows = load_from_disk(tmp_path / "out")["train"]
    assert rows[0]["audio"] == {"bytes": None, "path": str(tmp_path / "a.wav")}
    assert rows.cast_column("audio", Audio(decode=False))[0]["audio"] == rows[0]["audio"]


def test_audio_in_the_data_set_stays_there_until_it_is_read(songs, tmp_path):
    """As the Hub gives it: `push_to_hub` takes files along."""
    dataset = build(assign_splits(songs), SOURCE)
    expected = load_audio(tmp_path / "a.wav")
    dataset["train"] = dataset["train"].map(
        lambda row: {"audio": {"bytes": Path(row["audio"]["path"]).read_bytes(), "path": "a.wav"}}
    )
    save(dataset, tmp_path / "out")
    (found, _) = load_songs(tmp_path / "out", "train")
    assert isinstance(found.audio, DatasetAudio)
    found = pickle.loads(pickle.dumps(found))  # as a process that reads gets it
    np.testing.assert_array_equal(load_audio(found.audio), expected)
    assert dict(found.audio) == {"bytes": (tmp_path / "a.wav").read_bytes(), "path": "a.wav"}
    again = build({"train": [found]}, SOURCE)["train"][0]["audio"]
    assert again == dict(found.audio)


def test_a_folder_of_the_name_of_a_split_stays(songs, tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train/mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="train is not part of a data set: choose another folder"):
        save(build(assign_splits(songs), SOURCE), tmp_path)
    assert [path.name for path in tmp_path.glob("*/*.txt")] == ["mine.txt"]


def test_an_older_data_set_is_replaced(songs, tmp_path):
    save(build(assign_splits(songs), SOURCE), tmp_path)
    save(build(assign_splits(songs[:1]), SOURCE), tmp_path)
    assert [one.id for one in load_songs(tmp_path, "train")] == ["a"]
    assert not (tmp_path / "test").exists()
    with pytest.raises(ValueError, match="no split 'test', only train"):
        load_songs(tmp_path, "test")


def test_data_sets_that_are_none_are_named(tmp_path, songs):
    from datasets import Dataset, DatasetDict

    with pytest.raises(FileNotFoundError, match="no labeled data set: create one"):
        load_songs(tmp_path, "train")
    DatasetDict({"train": Dataset.from_dict({"id": ["a"], "audio": ["a.wav"]})}).save_to_disk(tmp_path / "other")
    with pytest.raises(ValueError, match="no column duration, transposition, group, beats"):
        load_songs(tmp_path / "other", "train")
    with pytest.raises(ValueError, match="No song has audio and labels"):
        build({}, SOURCE)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"beats": Beats(np.array([1.0, 0.5]), np.array([1, 2]))}, "a.beats, beat 2: beats must ascend"),
        ({"beats": Beats(np.array([3.1]), np.array([1]))}, "a.beats, beat 1: 3.1 s is after the end of the audio"),
        ({"chords": [Segment(0, 1, "C"), Segment(0.5, 2, "G")]}, "a, chords, segment 2: segments must not overlap"),
        ({"chords": [Segment(0, 1, "C"), Segment(1, 2, "H")]}, "a, chords, segment 2: 'H' is not a chord"),
        ({"keys": [Segment(0, 1, "Xyz")]}, "a, keys, segment 1: "),
        ({"sections": [Segment(0, 9, "verse")]}, "a, sections, segment 1: 9 s is after the end"),
        ({"chords": [], "more": {"sections_2": [Segment(2, 1, "a")]}}, "a, sections_2, segment 1: a segment must end"),
        ({"tags": ["piano", " "]}, "a: a tag is empty"),
    ],
)
def test_wrong_labels_are_named(labels, message):
    with pytest.raises(ValueError, match=message):
        check_song(song(duration=2.0, files={"beats": "a.beats"}, **labels))


def test_unusual_labels_are_fine():
    chords = [Segment(0, 1, "C:7(b9)/b7"), Segment(1, 2.9, "X")]  # decoders may go on for a second
    check_song(song(duration=2.0, chords=chords, keys=[Segment(0, 1, "Gb:dorian"), Segment(1, 2, "N")], tags=[]))
    with pytest.raises(UnusableSongError, match="no annotation"):
        check_song(song(duration=2.0, chords=[]))


def test_songs_that_cannot_be_used_are_listed(tmp_path):
    good = write_audio(tmp_path / "a.wav")
    (tmp_path / "text.wav").write_text("no music")
    wrong = song(good, "wrong", beats=Beats(np.array([-1.0]), np.array([1])))
    readers = [
        ("a", lambda: song(good, beats=BEATS)),
        ("none", lambda: song(tmp_path / "none.wav", "none", beats=BEATS)),
        ("text", lambda: song(tmp_path / "text.wav", "text", beats=BEATS)),
        ("bare", lambda: song(good, "bare")),
    ]
    songs, problems = read_all(readers, strict=True)
    assert [(one.id, one.duration) for one in songs] == [("a", 2.0)]
    assert [problem.id for problem in problems] == ["none", "text", "bare"]
    assert {problem.kind for problem in problems} == {"missing"}
    for problem, reason in zip(problems, ("does not exist", "is not audio", "no annotation"), strict=True):
        assert reason in problem.reason
    songs, problems = read_all([("wrong", lambda: wrong), *readers])
    assert [problem.id for problem in problems] == ["wrong", "none", "text", "bare"]
    assert problems[0].kind == "wrong"
    assert len(songs) == 1
    with pytest.raises(ValueError, match="wrong, beats, beat 1") as raised:
        read_all([*readers, ("wrong", lambda: wrong)], strict=True)
    assert raised.value.__notes__ == ["The error is in song 'wrong'."]


def test_truncated_audio_is_listed(tmp_path):
    soundfile.write(tmp_path / "half.flac", np.sin(np.arange(40 * 8000)), 8000)
    (tmp_path / "half.flac").write_bytes((tmp_path / "half.flac").read_bytes()[:40_000])
    late = Beats(np.array([30.0]), np.array([1]))
    readers = [
        ("half", lambda: song(tmp_path / "half.flac", "half", beats=BEATS)),
        ("late", lambda: song(tmp_path / "half.flac", "late", beats=late)),
    ]
    songs, problems = read_all(readers)
    assert [one.id for one in songs] == ["half"]
    assert 5 < songs[0].duration < 8
    assert [(problem.id, problem.kind) for problem in problems] == [("half", "part"), ("late", "wrong")]
    assert "half.flac is truncated" in problems[0].reason
    assert "30 s is after the end of the audio" in problems[1].reason


def fail(error):
    raise error


@pytest.mark.parametrize(
    "error",
    [
        KeyError("key"),
        TypeError("no number"),
        IndexError("list index out of range"),
        AttributeError("no attribute"),
        UnicodeDecodeError("utf-8", b"\xe9", 0, 1, "invalid"),
        json.JSONDecodeError("Expecting value", "x", 0),
        PermissionError(13, "Permission denied"),
        ZeroDivisionError("division by zero"),
        RecursionError("too deep"),
    ],
)
def test_an_error_of_a_reader_is_listed_with_its_line(tmp_path, error):
    good = write_audio(tmp_path / "a.wav")
    readers = [("bad", lambda: fail(error)), ("a", lambda: song(good, beats=BEATS))]
    songs, (problem,) = read_all(readers)
    assert [one.id for one in songs] == ["a"]
    line = fail.__code__.co_firstlineno + 1
    expected = f"The reader failed ({type(error).__name__}: {error} in test_labeled.py, line {line})."
    assert problem == ("bad", expected, "error")
    with pytest.raises(type(error)):
        read_all(readers, strict=True)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"split": "valid"}, "a has split 'valid', which is not one of train, validation, test"),
        ({"tags": "piano"}, "a: tags must be a list, got the text 'piano'"),
        ({"name": "b"}, "Two songs have the id 'b'"),
        ({"group": None}, "The reader failed (TypeError"),
        ({"sections": [Segment(0, 1, 7)]}, "The reader failed (AttributeError"),
    ],
)
def test_a_song_that_no_data_set_can_hold_does_not_stop_the_others(tmp_path, changes, reason):
    good = write_audio(tmp_path / "a.wav")
    readers = [("b", lambda: song(good, "b", beats=BEATS)), ("a", lambda: song(good, **{"beats": BEATS} | changes))]
    songs, (problem,) = read_all(readers)
    build(assign_splits(songs, fractions=(1, 0, 0)), SOURCE)
    assert (problem.id, reason in problem.reason) == ("a", True)


def test_stopping_a_run_is_no_problem_of_a_song():
    with pytest.raises(KeyboardInterrupt):
        read_all([("a", lambda: fail(KeyboardInterrupt()))])


def test_remarks_on_annotations_are_listed(tmp_path):
    sections = [Segment(0.0, 1.0, "A"), Segment(1.0, 2.0, "B")]
    labels = {"beats": Beats(np.array([0.5, 1.0]), np.array([0, 0])), "sections": sections}
    one = song(write_audio(tmp_path / "a.wav"), **labels, files={"sections": "a.sections.lab"})
    (read,), problems = read_all([("a", lambda: one)])
    assert read.sections == sections
    assert [(problem.kind, problem.reason.partition(":")[0]) for problem in problems] == [
        ("part", "beats"),
        ("part", "a.sections.lab"),
    ]
    assert read_all([("a", lambda: one)], strict=True)[1] == problems


def test_faulty_parts_of_a_song_are_listed(tmp_path):
    part = song(write_audio(tmp_path / "a.wav"), beats=BEATS, problems=["chord 1 is left out", "chord 3 is left out"])
    songs, problems = read_all([("a", lambda: part)])
    assert [one.id for one in songs] == ["a"]
    assert problems == [("a", "chord 1 is left out", "part"), ("a", "chord 3 is left out", "part")]
    with pytest.raises(ValueError, match="chord 1 is left out"):
        read_all([("a", lambda: part)], strict=True)


@pytest.mark.parametrize(
    "labels",
    [
        {"group": "\udce9"},
        {"audio": "\udce9/a.wav"},
        {"tags": ["\udce9"]},
        {"sections": [Segment(0, 1, "\udce9")]},
        {"name": "\udce9", "tags": ["a"]},
    ],
)
def test_texts_that_a_data_set_cannot_store_are_named(labels):
    with pytest.raises(ValueError, match=r"'\\udce9.*' is not valid Unicode"):
        check_song(song(duration=2.0, **{"tags": ["piano"]} | labels))


def test_groups_stay_together_and_do_not_depend_on_others():
    songs = [song(name=f"{group}{number}", group=f"g{group}") for group in range(200) for number in range(3)]
    splits = assign_splits(songs)
    groups = {name: {one.group for one in part} for name, part in splits.items()}
    assert sum(map(len, groups.values())) == 200  # none in two
    assert 145 <= len(groups["train"]) <= 175
    assert min(map(len, groups.values())) >= 8
    fewer = assign_splits(songs[::2])
    assert all(one in splits[name] for name, part in fewer.items() for one in part)
    assert {one.id for one in assign_splits(songs, seed=1)["test"]} != {one.id for one in splits["test"]}
    assert {name: len(part) for name, part in assign_splits(songs, 0, (0, 0, 1)).items()} == {
        "train": 0,
        "validation": 0,
        "test": 600,
    }
    assert assign_splits([song(split="test")])["test"][0].id == "a"  # it says so itself


@pytest.mark.parametrize(
    ("songs", "fractions", "message"),
    [
        ([song()], (0.5, 0.5, 0.5), "must be 0 or more and sum to 1"),
        ([song()], (1.5, -0.5, 0), "must be 0 or more and sum to 1"),
        ([song()], (float("nan"), 0.5, 0.5), "must be 0 or more and sum to 1"),
        ([song(), song()], (1, 0, 0), "Two songs have the id 'a'"),
        ([song(split="valid")], (1, 0, 0), "a has split 'valid', which is not one of train, validation, test"),
        ([song()], (0.8, 0.1, 0.1), "No song was assigned to .*: choose another seed"),
    ],
)
def test_wrong_splits_are_named(songs, fractions, message):
    with pytest.raises(ValueError, match=message):
        assign_splits(songs, 0, fractions)


def test_audio_is_found_by_name(tmp_path):
    one = write_audio(tmp_path / "x/one.wav")
    for name in ("y/two.wav", "z/two.flac", "y/.one.wav"):
        write_audio(tmp_path / name)
    (tmp_path / "one.txt").write_text("")
    folder = AudioFolder(tmp_path)
    assert folder.find("none", "one") == one
    with pytest.raises(FileNotFoundError, match="No audio none or 1 exists in"):
        folder.find("none", "1")
    with pytest.raises(ValueError, match=r"two may be any of .*two.wav, .*two.flac"):
        folder.find("two")
    with pytest.raises(FileNotFoundError, match="none does not exist"):
        AudioFolder(tmp_path / "none")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"beats": Beats(np.array([0.5, 9.0]), np.array([1, 2]))}, "line 3: 9 s is after the end of the audio"),
        ({"chords": [Segment(0, 1, "C"), Segment(1, 9, "G")]}, "line 3: 9 s is after the end of the audio"),
        ({"chords": [Segment(0, 1, "C"), Segment(1, 2, "H")]}, "line 3: 'H' is not a chord"),
        ({"chords": [Segment(1, 2, "H")]}, "line 3: 'H' is not a chord"),
        ({"chords": [Segment(0.5, 1, "H")]}, "segment 1: 'H' is not a chord"),
    ],
)
def test_mistakes_are_named_by_line(tmp_path, columns, message):
    """Where the file has an item a line, or one line that begins with the time; comments are lines too."""
    path = tmp_path / "a.lab"
    path.write_text("# by hand\n0 1 C\n1 9 G\n")
    song = LabeledSong("a", "a.wav", "a", duration=3.0, **columns, files=dict.fromkeys(columns, str(path)))
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}, {message}"):
        check_song(song)
