import json
import math

import numpy as np
import pytest
from helpers.paths import FIXTURES

from musicfm_hf.tasks.annotations import (
    Beats,
    Segment,
    check_beats,
    check_segments,
    read_beats,
    read_segments,
    read_tags,
    write_beats,
    write_segments,
)

JAMS = FIXTURES / "tasks/song.jams"


def written(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def beats(times, positions=None):
    return Beats(np.array(times, dtype=float), np.array(positions if positions else [0] * len(times)))


@pytest.mark.parametrize(
    ("text", "positions"),
    [
        ("0.5\t1\n1.25\t2\n", [1, 2]),
        ("\ufeff# time, position\r\n0.5 1.0\r\n\r\n1.25   2\r\n", [1, 2]),
        ("0.5, 4, 7\n1.25,1,8\n", [4, 1]),
        ("0.5\n1.25\n", [0, 0]),
        ("0.5\t\n1.25\t3\n", [0, 3]),
    ],
)
def test_beats_as_text(tmp_path, text, positions):
    read = read_beats(written(tmp_path / "a.beats", text))
    assert (read.times.dtype, read.positions.dtype) == (np.float64, np.int64)
    assert read.times.tolist() == [0.5, 1.25]
    assert read.positions.tolist() == positions


@pytest.mark.parametrize(
    ("text", "column", "labels"),
    [
        ("0\t1.5\tverse 1\n1.5\t3\tA:min7/b3\n", 3, ["verse 1", "A:min7/b3"]),
        ("0 1.5 verse 1\n# aside\n1.5   3  N \n", 3, ["verse 1", "N"]),
        ("0\t1.5\tA\t4\tverse\n1.5\t3\tB\t8\tchorus\n", 5, ["verse", "chorus"]),
        ("0 1.5 A 4 verse one\n1.5 3 B 8 chorus\n", 5, ["verse one", "chorus"]),
    ],
)
def test_segments_as_text(tmp_path, text, column, labels):
    segments = read_segments(written(tmp_path / "a.lab", text), column=column)
    assert segments == [Segment(0.0, 1.5, labels[0]), Segment(1.5, 3.0, labels[1])]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("0,52\n1,04\n", 1),
        ("# time\n0,52\t1\n1,04\t2\n", 2),
        ("0\n0,5\n1\n", 2),
        ("0,1\n1,2\n2,3\n", 1),  # whole seconds and positions, or tenths of a second
    ],
)
def test_decimal_commas_of_beats_are_refused(tmp_path, text, line):
    with pytest.raises(ValueError, match=rf"a.beats, line {line}: the comma may be a decimal comma. Write times with"):
        read_beats(written(tmp_path / "a.beats", text))


def test_commas_separate_columns_where_times_have_points(tmp_path):
    read = read_beats(written(tmp_path / "a.beats", "0.5,1\n1,2\n1.5,3\n"))
    assert [read.times.tolist(), read.positions.tolist()] == [[0.5, 1, 1.5], [1, 2, 3]]


@pytest.mark.parametrize(
    "text", ["0,5 1 C\n", "0 1,5 C\n", "0_5 1 C\n", "\N{ARABIC-INDIC DIGIT ONE} 2 C\n", "0x1 2 C\n"]
)
def test_times_that_are_no_decimal_numbers_are_refused(tmp_path, text):
    with pytest.raises(ValueError, match=r"line 1: the (start|end) must be a number of seconds"):
        read_segments(written(tmp_path / "a.lab", text))


@pytest.mark.parametrize("text", ["0.0,4.0,C", "0, 4.5, C:maj"])
def test_commas_between_columns_of_segments(tmp_path, text):
    message = r"a.lab, line 1: start, end and label must be separated by tabs or spaces, .* such as song.chords.csv"
    with pytest.raises(ValueError, match=message):
        read_segments(written(tmp_path / "a.lab", text))


def test_positions_after_the_number_of_the_bar(tmp_path):
    with pytest.raises(
        ValueError, match=r"got .4\.1.\. If the number of the bar precedes the position, leave it out."
    ):
        read_beats(written(tmp_path / "a.beats", "0.5\t4.1\n"))


def counted(*positions):
    return beats(np.arange(len(positions)) * 0.5, list(positions))


@pytest.mark.parametrize(
    ("positions", "beat", "got"),
    [
        (range(1, 65), 33, "got 33. A count"),  # a counter through the song
        (range(1, 21), 20, "got 20 without a return to 1 since 1"),  # through a short one
        (range(0, 20), 20, "got 19 without a return to 1"),
        ([bar for bar in range(1, 5) for _ in range(4)], 6, "got 2 after 2, and 9 such beats"),  # numbers of bars
        ([bar for bar in range(60, 80) for _ in range(4)], 1, "got 60"),
        ([0, 0, 0, *(bar for bar in range(1, 9) for _ in range(3))], 8, "got 2 after 2"),
        ([1, 1, 1, 2, 2, 2, 3, 3, 3] * 4, 5, "got 2 after 2"),  # numbers that start again in each section
        ([1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0, 5], 17, "got 5 without a return to 1"),  # one a bar
        ([0, 1, 2, 3] * 4, 1, "bars that begin with 0: add 1"),
        ([2, 0, 1, 2, 0, 1, 2, 0], 2, "bars that begin with 0"),
        ([0, 1, 2, 3, 0, 1, 2, 3, 1, 2, 3, *[0, 1, 2, 3] * 2], 1, "bars that begin with 0"),  # a beat is missing
        ([0, 1, 2, 3, 0, 2, 3, *[0, 1, 2, 3] * 3], 1, "bars that begin with 0"),
        ([4, 3, 2, 1] * 4, 2, "got 3 after 4"),
    ],
)
def test_numbers_that_are_no_positions_in_the_bar_are_refused(tmp_path, positions, beat, got):
    expected = rf"beat {beat}: a position in the bar must be 1 for the downbeat, grow by 1 .*{got}"
    with pytest.raises(ValueError, match=expected):
        check_beats(counted(*positions), "here")
    lines = "".join(f"{0.5 * index}\t{position}\n" for index, position in enumerate(positions))
    with pytest.raises(ValueError, match=expected.replace("beat", "a.beats, line", 1)):
        read_beats(written(tmp_path / "a.beats", lines))


@pytest.mark.parametrize(
    "positions",
    [
        [0, 1, 2, 3, 4, 1, 2, 3, 4, 0, 1, 2, 3, 4],  # unknown before two of three downbeats
        [3, 4, *[1, 2, 3, 4] * 10],  # a pickup
        [1, 2, 3, 4, 1, 2, 3, 1, 2, 1, 2, 3, 4, 5, 6, 7],  # other meters
        [*range(1, 15), *range(1, 15)],  # the longest bars of the Harmonix Set
        list(range(1, 17)),  # a single bar
        [1] * 40,  # downbeats alone
        [1, 3] * 20,  # two of four
        [1, 0, 0, 0] * 10,  # downbeats marked, other beats unknown
        [0, 1] * 10,
        [0] * 40,
        [1, 2, 3, 4, 0, 0, 0, 1, 2, 3, 4, 0, 1, 2, 3],
        [*[1, 2, 3, 4] * 5, 3, 4, 4, *[1, 2, 3, 4] * 5],  # beats are missing
        [1, 2, *[0] * 30, 3, 4, 1],
        [2, 2],
    ],
)
def test_unusual_positions_are_fine(positions):
    check_beats(counted(*positions), "here")


def test_jams():
    read = read_beats(JAMS)
    assert (read.times.tolist(), read.positions.tolist()) == ([0.5, 1.0, 1.5], [1, 2, 0])
    assert read_segments(JAMS, "segment_open") == [Segment(0.5, 2.0, "verse 1"), Segment(2.5, 4.0, "Chorus")]
    chords = read_segments(JAMS, "chord")  # 1.1 + 2.2 is rounded
    assert [(round(start, 9), round(end, 9), label) for start, end, label in chords] == [
        (0.0, 1.1, "C:maj"),
        (1.1, 3.3, "A:min7/b3"),
    ]
    assert read_tags(JAMS) == ["piano", "slow", "pop"]


def test_jams_are_what_the_library_reads():
    jams = pytest.importorskip("jams")
    chords = jams.load(str(JAMS), validate=False).search(namespace="segment_open")[0].to_interval_values()
    np.testing.assert_allclose(chords[0], [segment[:2] for segment in read_segments(JAMS, "segment_open")])


def test_jams_beat_position_comes_first(tmp_path):
    content = {
        "annotations": [
            {"namespace": "beat", "data": [{"time": 9.0, "duration": 0, "value": 1}]},
            {"namespace": "beat_position", "data": [{"time": 2.0, "duration": 0, "value": {"position": 3}}]},
        ]
    }
    read = read_beats(written(tmp_path / "a.jams", json.dumps(content)))
    assert (read.times.tolist(), read.positions.tolist()) == ([2.0], [3])


def test_namespace_may_be_left_out_where_one_is_there(tmp_path):
    content = json.loads(JAMS.read_text())
    content["annotations"] = [one for one in content["annotations"] if one["namespace"] != "chord"]
    path = written(tmp_path / "a.jams", json.dumps(content))
    assert read_segments(path)[1].label == "Chorus"
    with pytest.raises(ValueError, match=r"song.jams has chord, segment_open: choose the annotation"):
        read_segments(JAMS)


def test_tags_as_text(tmp_path):
    assert read_tags(written(tmp_path / "a.tags", "piano\n\n no vocals \n#1 hit\npiano\n")) == [
        "piano",
        "no vocals",
        "#1 hit",
    ]


def test_tags_in_two_forms_of_unicode(tmp_path):
    """macOS stores accents separately from letters."""
    assert read_tags(written(tmp_path / "a.tags", "caf\u00e9\ncafe\u0301\n")) == ["caf\u00e9"]
    rows = [{"time": 0.0, "duration": 1.0, "value": "cafe\u0301", "confidence": 1.0}]
    annotation = {"namespace": "tag_open", "data": rows}
    jams = written(tmp_path / "a.jams", json.dumps({"file_metadata": {"duration": 1.0}, "annotations": [annotation]}))
    assert read_tags(jams) == ["caf\u00e9"]


def test_written_is_read(tmp_path):
    for positions in ([4, 1, 0], [0, 0, 0]):
        write_beats(tmp_path / "a.beats", beats([0, 0.333333, 2], positions))
        read = read_beats(tmp_path / "a.beats")
        assert (read.times.tolist(), read.positions.tolist()) == ([0, 0.333333, 2], positions)
    assert (tmp_path / "a.beats").read_text().startswith("0.000000\n0.333333\n")
    segments = [Segment(0.0, 1.5, "verse 1"), Segment(2.0, 2.25, "N")]
    write_segments(tmp_path / "a.lab", segments)
    assert read_segments(tmp_path / "a.lab") == segments
    write_beats(tmp_path / "none.beats", beats([]))
    assert read_beats(tmp_path / "none.beats").times.shape == (0,)
    write_segments(tmp_path / "none.lab", [])
    assert read_segments(tmp_path / "none.lab") == []


def test_nothing_wrong_is_written(tmp_path):
    with pytest.raises(ValueError, match="The beats to write, beat 2: beats must ascend"):
        write_beats(tmp_path / "a", beats([1, 1]))
    with pytest.raises(ValueError, match="segment 1: a label in a file must have no tab"):
        write_segments(tmp_path / "a", [Segment(0, 1, "a\tb")])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0.5\n\nx 1\n", "a.beats, line 3: the time must be a number of seconds, got 'x'"),
        (
            "0.5 1.5\n",
            "line 1: the position in the bar must be a whole number from 1, or 0 if unknown, got '1.5'",
        ),
        ("0.5 nan\n", "line 1: the position"),
        ("0.5 inf\n", "line 1: the position"),
        ("0.5 -1\n", "line 1: a position in the bar must be at least 1"),
        ("1\n# \n0.5\n", "line 3: beats must ascend, got 0.5 s after 1 s"),
        ("1\n1\n", "line 2: beats must ascend"),
        ("-1\n", "line 1: times must be finite and not negative, got -1 s"),
        ("nan\n", "line 1: times must be finite"),
    ],
)
def test_wrong_beats_are_named(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_beats(written(tmp_path / "a.beats", text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 1 a\n0.9 2 b\n", "a.lab, line 2: segments must not overlap, got 0.9 to 2 s after 0 to 1 s"),
        ("1 2 a\n0 1 b\n", "line 2: segments must ascend, got 0 s after 1 s"),
        ("1 1 a\n", "line 1: a segment must end after its start, got 1 to 1 s"),
        ("0 inf a\n", "line 1: times must be finite"),
        ("0 1\n", "line 1: a segment needs start, end and, in column 3, a label, got '0 1'"),
        ("0\t1\t\n", "line 1: a segment needs"),
        ("0 one a\n", "line 1: the end must be a number of seconds, got 'one'"),
    ],
)
def test_wrong_segments_are_named(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_segments(written(tmp_path / "a.lab", text))


def test_missing_column_is_named(tmp_path):
    path = written(tmp_path / "a.lab", "0\t1\tA\t4\n")
    with pytest.raises(ValueError, match=r"line 1: .* in column 5, a label"):
        read_segments(path, column=5)
    with pytest.raises(ValueError, match="`column` counts from 1"):
        read_segments(path, column=2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "a.jams is not JAMS"),
        ("[]", "a.jams is not JAMS"),
        ('{"annotations": [{"namespace": "beat"}]}', "a.jams is not JAMS .KeyError: 'data'"),
        ('{"annotations": []}', "a.jams has no annotation beat_position or beat, only none"),
        (
            '{"annotations": [{"namespace": "beat", "data": [{"time": "1", "duration": 0, "value": true}]}]}',
            r"annotation 1 \(beat\), observation 1: the position",
        ),
        (
            '{"file_metadata": {"duration": 5}, "annotations": [{"namespace": "beat", "data": '
            '[{"time": 6, "duration": 0, "value": 1}, {"time": 6.5, "duration": 0, "value": 2}]}]}',
            "observation 2: 6.5 s is after the end of the audio, which is 5 s long",
        ),
    ],
)
def test_wrong_jams_are_named(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        read_beats(written(tmp_path / "a.jams", content))


def jams_of(path, *annotations):
    keys = ("time", "duration", "value", "confidence")
    content = [
        {"namespace": namespace, "data": [dict(zip(keys, row, strict=False)) for row in rows]}
        for namespace, rows in annotations
    ]
    return written(path, json.dumps({"annotations": content}))


def test_observations_without_confidence_are_left_out(tmp_path):
    """0 is the confidence in a tag that a song does not have; null and no confidence leave it open."""
    rows = [(0, 4, "piano", 1.0), (0, 4, "slow", 0), (0, 4, "loud", 0.0), (0, 4, "pop", None), (0, 4, "jazz", 0.01)]
    path = jams_of(
        tmp_path / "a.jams",
        ("tag_open", [*rows, (0, 4, "solo"), (0, 4, "duo", math.nan)]),
        ("beat", [(0.5, 0, 1, 1), (0.7, 0, 2, 0), (1.0, 0, 2, None)]),
        ("chord", [(0, 1, "C", 0.0), (1, 1, "G", 0.5)]),
    )
    assert read_tags(path) == ["piano", "pop", "jazz", "solo", "duo"]
    assert [part.tolist() for part in read_beats(path)] == [[0.5, 1.0], [1, 2]]
    assert read_segments(path, "chord") == [Segment(1, 2, "G")]
    columns = {"time": [0, 0], "duration": [4, 4], "value": ["piano", "slow"], "confidence": [None, 0]}
    content = {"annotations": [{"namespace": "tag_open", "data": columns}]}
    assert read_tags(written(tmp_path / "b.jams", json.dumps(content))) == ["piano"]


def test_milliseconds_of_jams_are_no_overlap(tmp_path):
    """As in the files of the Harmonix Set."""
    rows = [(25.487, 16.989, "a"), (42.475, 16.995, "b"), (59.471, 1, "c")]
    segments = read_segments(jams_of(tmp_path / "a.jams", ("segment_open", rows)))
    assert [(round(start, 6), round(end, 6)) for start, end, _ in segments] == [
        (25.487, 42.475),
        (42.475, 59.47),
        (59.471, 60.471),
    ]
    path = jams_of(tmp_path / "a.jams", ("segment_open", [(0, 1.003, "a"), (1, 1, "b")]))
    with pytest.raises(ValueError, match="observation 2: segments must not overlap"):
        read_segments(path)


@pytest.mark.parametrize("confidence", [-1, -0.5, "high", True])
def test_confidences_that_are_none_are_named(tmp_path, confidence):
    path = jams_of(tmp_path / "a.jams", ("tag_open", [(0, 4, "piano", 1), (0, 4, "slow", confidence)]))
    with pytest.raises(ValueError, match=r"annotation 1 \(tag_open\), observation 2: the confidence must be a number"):
        read_tags(path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((-1, 1, "C"), "observation 1: times must be finite and not negative, got -1 s"),
        ((2, -1, "C"), "observation 1: a segment must end after its start, got 2 to 1 s"),
        ((0, None, "C"), "observation 1: the duration must be a number of seconds, got None"),
    ],
)
def test_negative_values_of_jams_are_named(tmp_path, row, message):
    with pytest.raises(ValueError, match=message):
        read_segments(jams_of(tmp_path / "a.jams", ("chord", [row])), "chord")


def test_wrong_text_and_missing_files(tmp_path):
    (tmp_path / "a.lab").write_bytes(b"0 1 caf\xe9\n")
    with pytest.raises(ValueError, match=r"a.lab is not text in UTF-8"):
        read_segments(tmp_path / "a.lab")
    with pytest.raises(FileNotFoundError):
        read_beats(tmp_path / "none.beats")
    with pytest.raises(ValueError, match="has no annotation tag_"):
        read_tags(written(tmp_path / "a.jams", '{"annotations": []}'))


def test_checks_know_the_duration():
    check_beats(beats([1, 11]), "here", duration=10)  # a second late at most
    with pytest.raises(ValueError, match=r"here, beat 2: 11.1 s is after the end"):
        check_beats(beats([1, 11.1]), "here", duration=10)
    check_segments([Segment(0, 11, "a")], "here", duration=10)
    with pytest.raises(ValueError, match=r"here, segment 1: 11.1 s is after the end"):
        check_segments([Segment(0, 11.1, "a")], "here", duration=10)
    with pytest.raises(ValueError, match="must have the same shape"):
        check_beats(Beats(np.zeros(2), np.zeros(1)), "here")
    with pytest.raises(ValueError, match="segment 1: a segment must have a label"):
        check_segments([Segment(0, 1, "")], "here")
