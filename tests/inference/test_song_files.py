"""Files of annotated songs for other programs: JAMS, MIDI, label tracks, and reading all of them back."""

import json
from types import SimpleNamespace

import jams
import mido
import numpy as np
import pretty_midi
import pytest

from musicfm_hf import Beats, Segment, SongAnnotation
from musicfm_hf.inference.drawing import short_chord
from musicfm_hf.inference.jams_file import read_jams_song, write_jams
from musicfm_hf.inference.midi_file import chord_notes
from musicfm_hf.inference.midi_grid import TICKS_PER_BEAT, grid_of_beats
from musicfm_hf.inference.song_annotation import FORMATS

RNG = np.random.default_rng(0)
# A pickup of two beats, five bars of four beats, and six of three: 41 beats of about half a second.
POSITIONS = np.array(([3, 4] + [1, 2, 3, 4] * 5 + [1, 2, 3] * 6 + [1])[:41])
TIMES = 0.8 + np.cumsum(np.concatenate([[0], 0.5 + RNG.normal(0, 0.02, 40)])).round(6)
SONG = SongAnnotation(
    25.0,
    Beats(TIMES.round(6), POSITIONS),
    [Segment(0.0, 1.8, "N"), Segment(1.8, 9.1, "C:maj"), Segment(9.1, 25.0, "A:min7/b3")],
    [Segment(0.5, 12.0, "verse"), Segment(14.0, 24.0, "chorus")],
    [Segment(0.0, 12.0, "F#:min"), Segment(12.0, 25.0, "Eb:maj")],
    "F#:min",
    tags={"fast": 0.9, "männlich": 0.5, "slow": 0.1},
    similarities={"happy": 0.25},
    probabilities={"beats": RNG.uniform(0.1, 1, 41), "chords": np.array([0.9, 0.00001, 0.7])},
    more={"meters": [Segment(0.0, 25.0, "3")], "mood": "calm"},
)


def positions_at(times, positions):
    return SongAnnotation(float(times[-1]) + 1.0, Beats(np.array(times, float), np.array(positions)))


def assert_equal(song, other, seconds):
    """Two annotations have the same beats and segments, up to a difference in time."""
    assert song.beats.positions.tolist() == other.beats.positions.tolist()
    np.testing.assert_allclose(other.beats.times, song.beats.times, rtol=0, atol=seconds)
    for column in ("chords", "sections", "keys"):
        rows, others = song.get(column), other.get(column)
        assert [row.label for row in rows] == [row.label for row in others]
        np.testing.assert_allclose([row[:2] for row in others], [row[:2] for row in rows], rtol=0, atol=seconds)


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_read_back(tmp_path, kind):
    paths = SONG.save(tmp_path, "album/Song No. 1", kind)
    found = SongAnnotation.load(*paths)
    if kind == "json":
        assert found.to_dict() == SONG.to_dict()
    elif kind == "jams":
        expected = SONG.to_dict()
        del expected["tags"]["slow"]
        expected["chords"][1]["probability"] = 0.0001  # 0 would mean that the chord is not there
        assert found.to_dict() == expected
    elif kind == "beats":
        assert found.beats.times.tolist() == SONG.beats.times.tolist()
        assert found.beats.positions.tolist() == POSITIONS.tolist()
    elif kind == "lab":
        assert (found.chords, found.sections, found.keys) == (SONG.chords, SONG.sections, SONG.keys)
        assert found.more == {"meters": SONG.more["meters"]}
    elif kind == "tags":
        assert found.tags == {"fast": 1.0, "männlich": 1.0}
    else:
        assert_equal(SONG, found, 6e-4 if kind == "midi" else 2e-6)
        assert found.more == {"meters": [Segment(0.0, pytest.approx(25.0, abs=6e-4), "3")]}
        assert found.duration == pytest.approx(25.0, abs=1e-3)
    assert sorted(path.name for path in tmp_path.glob("album/*")) == sorted(path.name for path in paths)


def test_marks_of_uncertain_items(tmp_path):
    """In JSON, at the item; downbeats have a probability and a mark of their own."""
    beats = Beats(np.array([0.0, 0.5, 1.0]), np.array([1, 2, 1]))
    song = SongAnnotation(2.0, beats, [Segment(0.0, 1.0, "C:maj"), Segment(1.0, 2.0, "N")])
    song.set("beats", beats, np.array([0.9, 0.8, 0.3]), np.array([False, False, True]))
    song.set("downbeats", None, np.array([0.7, 0.2]), np.array([False, True]))
    song.set("chords", song.chords, np.array([0.4, 0.6]), np.array([True, False]))
    assert song.more == {}
    content = song.to_dict()
    assert content["beats"] == [
        {"time": 0.0, "position": 1, "probability": 0.9, "downbeat_probability": 0.7},
        {"time": 0.5, "position": 2, "probability": 0.8},
        {
            "time": 1.0,
            "position": 1,
            "probability": 0.3,
            "uncertain": True,
            "downbeat_probability": 0.2,
            "downbeat_uncertain": True,
        },
    ]
    assert [row.get("uncertain") for row in content["chords"]] == [True, None]
    song.save(tmp_path, "song", ["json", "lab", "jams"])
    found = SongAnnotation.load(tmp_path / "song.json")
    assert found.to_dict() == content
    assert found.uncertain["chords"].tolist() == [True, False]
    song.draw(tmp_path / "song.png", np.zeros(16000), 8000)
    # The chords of another file have no marks, and corrected chords that are more or fewer lose them.
    other = SongAnnotation.load(tmp_path / "song.chords.lab", tmp_path / "song.json")
    assert "chords" not in other.uncertain
    found.chords = found.chords[:1]
    assert found.to_dict()["chords"] == [{"start": 0.0, "end": 1.0, "label": "C:maj"}]
    from_jams = SongAnnotation.load(tmp_path / "song.jams")
    assert "uncertain" not in str(from_jams.to_dict())
    assert from_jams.probabilities["downbeats"].tolist() == [0.7, 0.2]
    assert "downbeat_probabilities" not in from_jams.more
    (tmp_path / "song.json").write_text(json.dumps(content | {"keys": [{"uncertain": "yes"}]}))
    with pytest.raises(ValueError, match=r"song.json, keys"):
        SongAnnotation.load(tmp_path / "song.json")


def test_uncertain_chords_are_hatched(tmp_path):
    """A line through the strip of chords has one color in the first chord, and several in the second one."""
    from matplotlib.image import imread

    song = SongAnnotation(8.0, chords=[Segment(0.0, 4.0, "C:maj"), Segment(4.0, 8.0, "C:maj")])
    song.uncertain["chords"] = np.array([False, True])
    song.draw(tmp_path / "song.png", np.zeros(64000), 8000)
    pixels = imread(tmp_path / "song.png")[..., :3]
    rows = [row for row in pixels if len(np.unique(row[150:600], axis=0)) == 1 and row[300].std() > 0.05]
    assert max(len(np.unique(row[1000:1500], axis=0)) for row in rows) > 2


def test_names_of_files(tmp_path):
    names = {kind: [path.name for path in SONG.save(tmp_path, "a.b", kind)] for kind in FORMATS}
    columns = ["beats", "chords", "sections", "keys", "meters"]
    assert names["audacity"] == [f"a.b.{column}.txt" for column in columns]
    assert names["sonic-visualiser"] == [f"a.b.{column}.csv" for column in columns]
    assert (names["midi"], names["jams"], names["beats"]) == (["a.b.mid"], ["a.b.jams"], ["a.b.beats"])
    assert SongAnnotation.load(tmp_path / "a.b.beats").beats.positions.tolist() == POSITIONS.tolist()


def test_the_first_file_with_a_result_counts(tmp_path):
    SONG.save(tmp_path, "a", ["json", "audacity"])
    (tmp_path / "a.chords.txt").write_text("0\t2.5\tG\n")
    found = SongAnnotation.load(tmp_path / "a.chords.txt", tmp_path / "a.json")
    assert found.chords == [Segment(0.0, 2.5, "G")]
    assert "probability" not in found.to_dict()["chords"][0]
    assert (found.duration, found.sections) == (25.0, SONG.sections)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("song.json", "{", "song.json is not JSON"),
        ("song.json", "{}", "song.json is not the annotation of a song: it needs an entry `duration`"),
        (
            "song.json",
            '{"duration": 1, "chords": [{"start": 0, "end": "x", "label": "C"}]}',
            "chords, item 1: the end",
        ),
        ("song.json", '{"duration": 1, "chords": [1]}', "chords: this entry must be a list of beats or segments"),
        ("song.json", '{"duration": 1, "tempo": "fast"}', "tempo: the tempo must be a number"),
        (
            "song.json",
            '{"duration": 1, "tempo_curve": [1, 2, 3]}',
            "tempo_curve: this entry must have pairs of seconds",
        ),
        ("song.jams", "{}", "song.jams is not JAMS"),
        ("song.mid", "MThd", "song.mid is not a MIDI file"),
        ("song.lab", "0 1 C\n", "the name does not specify an annotation: it must end like song.json"),
        ("song.txt", "0\t1\tC\n", "the name does not specify an annotation"),
        ("song.mp3", "", "the name does not specify an annotation"),
        ("song.chords.lab", "0 C\n", "song.chords.lab, line 1"),
    ],
)
def test_wrong_files(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        SongAnnotation.load(tmp_path / name)


def test_no_files(tmp_path):
    with pytest.raises(ValueError, match=r"needs at least one file, such as song.json"):
        SongAnnotation.load()
    with pytest.raises(FileNotFoundError):
        SongAnnotation.load(tmp_path / "song.mid")


def test_results_without_events(tmp_path):
    no_beats = Beats(np.empty(0), np.empty(0, np.int64))
    empty = SongAnnotation(2.0, no_beats, [], [], [Segment(0.0, 2.0, "N")], "N", tags={})
    for kind in ("json", "jams"):
        assert SongAnnotation.load(*empty.save(tmp_path, "empty", kind)).to_dict() == empty.to_dict()
    found = SongAnnotation.load(*empty.save(tmp_path, "empty", ["audacity", "sonic-visualiser", "midi"]))
    assert len(found.beats.times) == 0
    assert (found.chords, found.sections, found.keys[0].label) == ([], [], "N")


# JAMS


def test_jams_is_valid(tmp_path):
    (path,) = SONG.save(tmp_path, "song", "jams")
    content = jams.load(str(path), validate=True, strict=True)
    assert content.file_metadata.title == "song"
    assert content.file_metadata.duration == 25.0
    beats, chords, sections, keys, tags = content.annotations
    assert [annotation.namespace for annotation in content.annotations] == [
        "beat_position",
        "chord",
        "segment_open",
        "key_mode",
        "tag_open",
    ]
    assert all(
        annotation.annotation_metadata.annotation_tools.startswith("musicfm_hf ") for annotation in content.annotations
    )
    values = [observation.value for observation in beats.data]
    assert values[1] == {"position": 4, "measure": 0, "num_beats": 4, "beat_units": 4}
    assert values[2] == {"position": 1, "measure": 1, "num_beats": 4, "beat_units": 4}
    assert values[22] == {"position": 1, "measure": 6, "num_beats": 3, "beat_units": 4}
    np.testing.assert_allclose([row.time for row in beats.data], TIMES)
    np.testing.assert_allclose([row.confidence for row in beats.data], SONG.probabilities["beats"], atol=6e-5)
    assert [(row.time, row.duration, row.value) for row in chords.data][2] == (9.1, 15.9, "A:min7/b3")
    assert [row.value for row in keys.data] == ["F#:minor", "Eb:major"]
    assert [row.confidence for row in sections.data] == [None, None]
    assert [(row.value, row.confidence) for row in tags.data] == [("fast", 0.9), ("männlich", 0.5)]
    assert content.sandbox.musicfm_hf["mood"] == "calm"


def test_jams_with_unknown_positions_and_a_tempo(tmp_path):
    beats = positions_at([1.0, 1.5, 2.0], [0, 1, 0]).beats
    curve = [[1.0, 120.0], [2.0, 121.5]]
    song = SimpleNamespace(
        duration=3.0,
        probabilities={},
        get={"beats": beats, "tempo": 120.004}.get,
        to_dict=lambda: {"duration": 3.0, "tempo": 120.004, "tempo_curve": curve},
    )
    write_jams(tmp_path / "song.jams", song, "song")
    content = jams.load(str(tmp_path / "song.jams"), validate=True, strict=True)
    assert [annotation.namespace for annotation in content.annotations] == ["beat", "tempo"]
    assert [row.value for row in content.annotations[0].data] == [None, 1, None]
    (tempo,) = content.annotations[1].data
    assert (tempo.time, tempo.duration, tempo.value) == (0.0, 3.0, 120.004)
    found = read_jams_song(tmp_path / "song.jams")
    assert (found["tempo"], found["tempo_curve"]) == (120.004, curve)
    assert [beat["position"] for beat in found["beats"]] == [0, 1, 0]


def test_jams_of_other_programs(tmp_path):
    """Labels of Harte's own syntax, several sets of tags, and no sandbox."""
    rows = [{"time": 0, "duration": 2, "value": "C:maj", "confidence": 0.5}]
    tags = [{"time": 0, "duration": 2, "value": "piano", "confidence": None}]
    content = [{"namespace": "chord_harte", "data": rows}, {"namespace": "tag_gtzan", "data": tags}]
    (tmp_path / "a.jams").write_text(json.dumps({"annotations": content, "file_metadata": {"duration": 2}}))
    found = SongAnnotation.load(tmp_path / "a.jams")
    assert found.chords == [Segment(0, 2, "C:maj")]
    assert found.probabilities["chords"].tolist() == [0.5]
    assert found.tags == {"piano": 1.0}


# MIDI


def messages(path, kind):
    """Seconds and messages of a kind, as mido computes them from the tempo map."""
    seconds, found = 0.0, []
    for message in mido.MidiFile(path, charset="utf-8"):
        seconds += message.time
        if message.type == kind:
            found.append((seconds, message))
    return found


def ticks_of(path, kind):
    tick, found = 0, []
    for message in mido.MidiFile(path, charset="utf-8").tracks[0]:
        tick += message.time
        if message.type == kind:
            found.append((tick, message))
    return found


def test_midi_follows_the_recording(tmp_path):
    (path,) = SONG.save(tmp_path, "song", "midi")
    clicks = [(seconds, message) for seconds, message in messages(path, "note_on") if message.channel == 9]
    np.testing.assert_allclose([seconds for seconds, _ in clicks], TIMES, rtol=0, atol=1e-6)
    assert [message.note == 76 for _, message in clicks] == (POSITIONS == 1).tolist()
    chords = [(seconds, message.note) for seconds, message in messages(path, "note_on") if message.channel == 0]
    assert [note for _, note in chords] == [36, 48, 52, 55, 36, 57, 60, 64, 67]
    np.testing.assert_allclose([seconds for seconds, _ in chords], [1.8] * 4 + [9.1] * 5, rtol=0, atol=6e-4)
    names = [(round(seconds, 3), message.text) for seconds, message in messages(path, "lyrics")]
    assert names[:2] == [(0.0, "N.C."), (1.8, "C")]
    assert names[2] == (9.1, short_chord("A:min7/b3").replace("♭", "b"))
    markers = [(round(seconds, 3), message.text) for seconds, message in messages(path, "marker")]
    assert markers == [(0.5, "verse"), (12.0, "(end)"), (14.0, "chorus"), (24.0, "(end)")]
    keys = [(round(seconds, 3), message.key) for seconds, message in messages(path, "key_signature")]
    assert keys == [(0.0, "F#m"), (12.0, "Eb")]
    assert mido.MidiFile(path).length == pytest.approx(25.0, abs=1e-3)


def bars(song, folder):
    """Time signatures with the beat of the grid at which they begin."""
    (path,) = song.save(folder, "bars", "midi")
    return [
        (tick / TICKS_PER_BEAT, message.numerator, message.denominator)
        for tick, message in ticks_of(path, "time_signature")
    ]


@pytest.mark.parametrize(
    ("times", "positions", "expected"),
    [
        # The song begins with the first downbeat.
        (np.arange(9) / 2, [1, 2, 3, 4] * 2 + [1], [(0, 4, 4)]),
        # 0.75 s before it are two beats (1.5, rounded to even): a bar of two beats.
        (0.75 + np.arange(9) / 2, [1, 2, 3, 4] * 2 + [1], [(0, 2, 4), (2, 4, 4)]),
        # Four beats before a pickup of one beat: a bar of one beat, and a whole bar.
        (2 + np.arange(9) / 2, [3, 1, 2, 3, 1, 2, 3, 1, 2], [(0, 2, 4), (2, 3, 4)]),
        # 0.1 s at 0.5 s a beat: an eighth note would last 0.25 s, a 16th 0.125 s, a 32nd 0.0625 s.
        (0.1 + np.arange(9) / 2, [1, 2, 3, 4] * 2 + [1], [(0, 1, 16), (0.25, 4, 4)]),
        # A change of meter, and a last bar that is incomplete.
        (np.arange(12) / 2, [1, 2, 3, 4, 1, 2, 3, 1, 2, 3, 1, 2], [(0, 4, 4), (4, 3, 4)]),
        # The third beat of the first bar was not found, and the downbeat of the third.
        (np.array([0, 1, 3, 4, 5, 6, 7, 9, 10, 11, 12]) / 2, [1, 2, 4, 1, 2, 3, 4, 2, 3, 4, 1], [(0, 4, 4)]),
        # Nothing was found for two bars.
        (np.array([0, 1, 2, 12, 13, 14, 15]) / 2, [1, 2, 3, 1, 2, 3, 1], [(0, 3, 4)]),
        # No downbeats.
        (np.arange(9) / 2, [0] * 9, []),
        # Wrong positions move no beat.
        (np.arange(9) / 2, [1, 2, 3, 4, 1, 2, 2, 4, 1], [(0, 4, 4)]),
    ],
)
def test_bars_of_midi(tmp_path, times, positions, expected):
    song = positions_at(times, positions)
    assert bars(song, tmp_path) == expected
    clicks = [seconds for seconds, message in messages(tmp_path / "bars.mid", "note_on")]
    np.testing.assert_allclose(clicks, times, rtol=0, atol=1e-6)
    found = SongAnnotation.load(tmp_path / "bars.mid")
    np.testing.assert_allclose(found.beats.times, times, rtol=0, atol=2e-6)
    assert found.beats.positions.tolist() == list(positions)


@pytest.mark.parametrize("seed", range(10))
def test_pretty_midi_finds_beats_and_downbeats(tmp_path, seed):
    """Songs with a pickup, changes of meter, and a tempo that drifts. Bars of six are left out: it halves them."""
    rng = np.random.default_rng(seed)
    first = rng.choice([2, 3, 4, 5])  # the bar before it is shorter
    meters = [first, first, *rng.choice([2, 3, 4, 5, 7], 6).repeat(2)]
    positions = [position for meter in meters for position in range(1, meter + 1)][rng.integers(0, 2) :]
    tempo = rng.uniform(0.3, 0.8) * np.linspace(1, rng.uniform(0.8, 1.4), len(positions))
    times = rng.choice([0, 0.07, 1.3]) + np.cumsum(tempo * rng.normal(1, 0.05, len(positions))) - tempo[0]
    times -= min(times[0], 0)
    (path,) = positions_at(times, positions).save(tmp_path, "song", "midi")
    midi = pretty_midi.PrettyMIDI(str(path))
    for expected, found in (
        (times, midi.get_beats()),
        (times[np.array(positions) == 1], midi.get_downbeats()),
    ):
        distances = np.abs(expected[:, None] - found).min(axis=1)
        np.testing.assert_allclose(distances, 0, atol=1e-3)
    tempos = midi.get_tempo_changes()[1]
    assert 30 < tempos.min() < tempos.max() < 400


def test_missing_beats_keep_their_place(tmp_path):
    """The grid has the beats that were not found: downbeats are on its bar lines."""
    times = np.array([0, 1, 3, 4, 5, 6, 7, 16, 17, 18, 19]) / 2
    grid = grid_of_beats(Beats(times, np.array([1, 2, 4, 1, 2, 3, 4, 1, 2, 3, 4])))
    assert [grid.ticks(time) / TICKS_PER_BEAT for time in times] == [0, 1, 3, 4, 5, 6, 7, 16, 17, 18, 19]


def test_rounding_does_not_add_up():
    """MIDI has whole microseconds: 5000 beats of a third of a second end where they should."""
    times = np.arange(5000) / 3
    grid = grid_of_beats(Beats(times, np.arange(5000) % 4 + 1))
    assert grid.seconds(4999 * TICKS_PER_BEAT) == pytest.approx(4999 / 3, abs=1e-6)
    assert len({tempo for _, tempo in grid.tempos}) == 2


def test_midi_without_beats(tmp_path):
    """The grid is 120 beats per minute: a tick is 0.52 ms."""
    song = SongAnnotation(10.0, chords=[Segment(0.3333, 9.1, "Bb:7")])
    found = SongAnnotation.load(*song.save(tmp_path, "song", "midi"))
    assert found.beats is None
    assert found.chords == [Segment(pytest.approx(0.3333, abs=3e-4), pytest.approx(9.1, abs=3e-4), "Bb:7")]
    assert found.duration == 10.0


@pytest.mark.parametrize(
    ("label", "notes"),
    [("C", [36, 48, 52, 55]), ("G:7/b7", [41, 55, 59, 62, 65]), ("F#:min/b3", [45, 54, 57, 61]), ("N", []), ("X", [])],
)
def test_notes_of_chords(label, notes):
    assert chord_notes(label) == notes


def test_midi_from_elsewhere(tmp_path):
    midi = mido.MidiFile(tracks=[mido.MidiTrack([mido.MetaMessage("track_name", name="piano")])])
    midi.save(tmp_path / "a.mid")
    with pytest.raises(ValueError, match=r"a.mid has no track of annotations, such as beats or chords"):
        SongAnnotation.load(tmp_path / "a.mid")


def test_missing_packages_are_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "mido", None)
    with pytest.raises(ImportError, match=r"MIDI files need mido and mir_eval: `pip install 'musicfm_hf\[files\]'`"):
        SONG.save(tmp_path, "song", "midi")
    assert list(tmp_path.iterdir()) == []
