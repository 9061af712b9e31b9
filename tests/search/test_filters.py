"""Labels of passages, and filters."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.search import ToneEmbedder, make_index, write_song

from musicfm_hf import PassageSettings, SearchIndex, SongAnnotation
from musicfm_hf.data.written_files import record_path
from musicfm_hf.search.filters import parse_conditions, select_passages
from musicfm_hf.search.passage_labels import PassageLabels, read_song_events, respelled
from musicfm_hf.tasks.annotations import Beats, Segment

RISING = "album/rising.wav"
TWO_SECONDS = PassageSettings(2.0, 2.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """
    An index with annotations. Its passages last for two seconds: rising.wav has rows 0 to 2, high.wav has row 3, and
    low.wav, which is not annotated, has row 4.
    """
    root = tmp_path_factory.mktemp("filters")
    write_song(root / "songs" / RISING, [(0.5, 0, 0, 0)] * 2 + [(0, 0.5, 0, 0)] * 2 + [(0, 0, 0.5, 0)] * 2)
    write_song(root / "songs/high.wav", [(0, 0, 0, 0.5)] * 2)
    write_song(root / "songs/low.wav", [(0.5, 0.1, 0, 0)] * 2)
    SongAnnotation(
        6.0,
        beats=Beats(np.array([0, 0.5, 1, 1.5, 2, 2.6, 3.2, 3.8, 4.4]), np.array([1, 2, 3, 4, 1, 2, 3, 4, 1])),
        chords=[
            Segment(0, 1.2, "C:maj"),
            Segment(1.2, 2.2, "A:min"),
            Segment(2.2, 2.6, "F#:min7"),
            Segment(2.6, 6, "N"),
        ],
        sections=[Segment(0, 2.5, "verse"), Segment(2.5, 6, "chorus")],
        keys=[Segment(0, 6, "C:maj")],
        key="C:maj",
        tags={"piano": 0.9, "sad": 0.4},
    ).save(root / "annotations", "album/rising")
    SongAnnotation(2.0, chords=[Segment(0, 2, "Gb:min")], tags={"flute": 0.8}).save(root / "annotations", "high")
    make_index(root / "songs", root / "index", passages=TWO_SECONDS, annotations=str(root / "annotations"))
    return root


@pytest.fixture
def labels(folder) -> PassageLabels:
    return SearchIndex.load(folder / "index").labels


def test_labels_are_those_that_sound_for_a_second_or_wholly(labels):
    assert labels.num_songs == 2
    assert labels.of_passage(0) == {
        "chord": ["C:maj"],  # A minor sounds for 0.8 s
        "section": ["verse"],
        "key": ["C:maj"],
        "tag": ["piano"],
        "tempo": 120.0,
    }
    assert labels.of_passage(1) == {
        "chord": ["F#:min7", "N"],  # the first is shorter than a second
        "section": ["chorus"],
        "key": ["C:maj"],
        "tag": ["piano"],
        "tempo": 100.0,
    }
    assert labels.of_passage(2) == {"chord": ["N"], "section": ["chorus"], "key": ["C:maj"], "tag": ["piano"]}
    assert labels.of_passage(3) == {"chord": ["F#:min"], "tag": ["flute"]}
    assert labels.of_passage(4) == {}
    assert labels.fields == ["chord", "section", "key", "tag", "tempo"]


@pytest.mark.parametrize(
    ("conditions", "rows"),
    [
        ("section=chorus", [1, 2]),
        ("sections=chorus", [1, 2]),
        ("section=refrain", [1, 2]),  # the task maps it to chorus
        ("section=verse,chorus", [0, 1, 2]),
        ("section=chorus tempo=90-110", [1]),
        ("tempo=103", [1]),  # within 4 %
        ("tempo=105", []),
        ("tempo=90-150", [0, 1]),
        ("key=C:maj", [0, 1, 2]),
        ("key=C", [0, 1, 2]),
        ("chord=F#:min7", [1]),
        ("chord=Gb:min7", [1]),
        ("chord=F#:min", [1, 3]),  # a chord with a seventh is minor too
        ("chord=N", [1, 2]),
        ("tag=piano section=verse", [0]),
        ("tag=flute", [3]),
        ("chord=N chord=F#:min7", [1]),
    ],
)
def test_conditions(labels, conditions, rows):
    assert np.flatnonzero(select_passages(labels, parse_conditions(conditions.split()))).tolist() == rows


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("mood=sad", r"no field 'mood', only chord, section, key, tag, tempo"),
        ("section=coda", r"No passage has the section 'outro'\. Those of the catalog are chorus, verse"),
        ("section=chrous", r"No passage has the section 'chrous'\. Those of the catalog are chorus, verse"),
        ("tag=sad", r"No passage has the tag 'sad'\. Those of the catalog are flute, piano"),
        ("chord=H:dur", r"No passage has the chord 'H:dur'"),
        ("tempo=fast", "a range such as 90-120"),
        ("tempo=120-90", "a range such as 90-120"),
        ("key", r"has the form field=value"),
        ("key=", r"has the form field=value"),
    ],
)
def test_wrong_conditions(labels, condition, message):
    with pytest.raises(ValueError, match=message):
        select_passages(labels, parse_conditions([condition]))


def test_labels_of_models_alone_stand_for_the_nearest_chord(folder, tmp_path):
    """Models predict major and minor chords: a seventh chord then names the chord without the seventh."""
    store = SearchIndex.load(folder / "index").store
    SongAnnotation(2.0, chords=[Segment(0, 2, "F#:min")]).save(tmp_path, "high")
    labels = PassageLabels.read(store, tmp_path)
    assert np.flatnonzero(select_passages(labels, {"chord": "F#:min7"})).tolist() == [3]
    with pytest.raises(ValueError, match=r"No passage has the chord 'A:min'\. Those of the catalog are F#:min"):
        select_passages(labels, {"chord": "A:min7"})


def test_the_best_passage_that_meets_the_conditions_is_found(folder):
    index = SearchIndex.load(folder / "index", ToneEmbedder())
    (result,) = index.search("200 Hz, 300 Hz", where={"section": "chorus"})
    assert (result.song, result.start, result.end) == (RISING, 2.0, 4.0)
    assert round(result.score, 2) == 0.71
    (result,) = index.search("200 Hz", where=[("chord", "N"), ("chord", "F#:min7")])
    assert result.row == 1
    assert index.search(RISING, where={"section": "chorus"}) == []
    assert len(index.search(RISING, where={"section": "chorus"}, include_query=True)) == 1


def test_annotations_can_be_chosen_for_a_search(folder, tmp_path):
    SongAnnotation(2.0, sections=[Segment(0, 2, "bridge")]).save(tmp_path, "low")
    index = SearchIndex.load(folder / "index", ToneEmbedder())
    index.read_annotations(tmp_path)
    assert [result.song for result in index.search("200 Hz", where={"section": "bridge"})] == ["low.wav"]
    (tmp_path / "low.json").unlink()
    (tmp_path / "low.sections.lab").unlink()
    with pytest.raises(ValueError, match=r"annotations for none of the 3 songs, such as album/rising\.wav"):
        index.read_annotations(tmp_path)


def test_an_index_keeps_its_annotations(folder, tmp_path):
    """Without the flag, a later run reads the same folder again."""
    write_song(folder / "songs/new.wav", [(0, 0, 0.2, 0.5)] * 2)
    SongAnnotation(2.0, chords=[Segment(0, 2, "D:maj")]).save(folder / "annotations", "new")
    summary = make_index(folder / "songs", folder / "index", passages=TWO_SECONDS)
    assert summary.annotated == 3
    index = SearchIndex.load(folder / "index", ToneEmbedder())
    assert [result.song for result in index.search("400 Hz", where={"chord": "D:maj"})] == ["new.wav"]
    (folder / "songs/new.wav").unlink()
    (folder / "annotations/new.json").unlink()
    (folder / "annotations/new.chords.lab").unlink()
    make_index(folder / "songs", folder / "index", passages=TWO_SECONDS)


def test_files_made_by_hand_take_precedence(tmp_path):
    SongAnnotation(2.0, chords=[Segment(0, 2, "C:maj")], key="C:maj").save(tmp_path, "a/song", formats=["json"])
    assert read_song_events(tmp_path, "a/song.mp3")["chords"] == [Segment(0, 2, "C:maj")]
    (tmp_path / "a/song.chords.lab").write_text("0 2 D:min7\n")
    assert read_song_events(tmp_path, "a/song.mp3")["chords"] == [Segment(0, 2, "D:min7")]
    (tmp_path / "a/song.mp3.beats").write_text("0.5\n1.0\n")  # of a song whose name without extension is not its own
    assert read_song_events(tmp_path, "a/song.mp3")["beats"].times.tolist() == [0.5, 1.0]
    assert read_song_events(tmp_path, "b/song.mp3") == {}
    assert read_song_events(tmp_path, "n" * 250 + ".mp3") == {}  # with the endings, too long for a file
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ValueError, match=r"bad\.json is not JSON"):
        read_song_events(tmp_path, "bad.wav")


def key_of(label):
    return [Segment(0, 2, label)]


def test_annotations_of_another_song_of_the_name_are_not_read(tmp_path):
    """`musicfm annotate` writes those of the second song to `01-2.json`."""
    places = [str(tmp_path / folder / "01.wav") for folder in ("first", "second", "third")]
    for number, (place, base) in enumerate(zip(places, ("01", "01-2"), strict=False)):
        write_song(Path(place), [(0.1, 0, 0, 0)])
        SongAnnotation(2.0, keys=key_of("CD"[number] + ":maj")).save(tmp_path / "out", base, formats=["json"])
        record_path(tmp_path / "out" / base).write_text(json.dumps({"place": place, "state": f"state {number}"}))
    SongAnnotation(2.0, keys=key_of("G:maj")).save(tmp_path / "out", "01-3", formats=["json"])  # by hand, of 01-3.wav

    def key(place, state=""):
        return read_song_events(tmp_path / "out", "01.wav", place, state).get("keys")

    assert [key(place) for place in places] == [key_of("C:maj"), key_of("D:maj"), None]
    assert key("moved", "state 1") == key_of("D:maj")
    (tmp_path / "second/01.wav").unlink()
    assert key(places[2]) == key_of("D:maj")  # the file of which they were made is gone, so it may have been moved


@pytest.mark.parametrize(
    "content",
    [
        {"duration": 26, "chords": [{"begin": 0, "end": 26, "label": "C:maj"}]},
        {"duration": 26, "tags": {"rock": "yes"}},
        {"duration": 26, "chords": "C:maj;F:maj"},
    ],
)
def test_malformed_annotations_are_named(tmp_path, content):
    (tmp_path / "01.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"01\.json, (chords|tags)"):
        read_song_events(tmp_path, "01.wav")


def test_other_json_is_not_read(tmp_path):
    (tmp_path / "01.json").write_text(json.dumps({"title": "x", "tags": ["rock", "pop"]}))
    assert read_song_events(tmp_path, "01.wav") == {}


def test_a_folder_of_annotations_that_does_not_exist(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="folder of annotations none does not exist"):
        make_index(folder / "songs", tmp_path / "index", annotations="none")


@pytest.mark.parametrize(
    ("label", "same"),
    [("Gb:min7", "F#:min7"), ("Cb", "B"), ("B#:maj/3", "C:maj/3"), ("E", "E"), ("Bridge", "Bridge"), ("N", "N")],
)
def test_roots_have_one_spelling(label, same):
    assert respelled(label) == same


def test_labels_are_saved(folder, labels, tmp_path):
    labels.save(tmp_path / "labels")
    loaded = PassageLabels.load(tmp_path / "labels")
    assert [loaded.of_passage(row) for row in range(5)] == [labels.of_passage(row) for row in range(5)]
    assert (loaded.names, loaded.num_songs) == (labels.names, 2)


def test_an_index_outlives_its_annotations(tmp_path):
    write_song(tmp_path / "songs/high.wav", [(0, 0, 0, 0.5)] * 2)
    SongAnnotation(2.0, chords=[Segment(0, 2, "Gb:min")]).save(tmp_path / "annotations", "high")
    places = (tmp_path / "songs", tmp_path / "index")
    assert make_index(*places, annotations=str(tmp_path / "annotations")).annotated == 1
    assert make_index(*places).annotated == 1
    (tmp_path / "annotations").rename(tmp_path / "moved")
    with pytest.warns(UserWarning, match="annotations does not exist any more: the index is without annotations"):
        assert make_index(*places).annotated is None
    assert make_index(*places, annotations=str(tmp_path / "moved")).annotated == 1
