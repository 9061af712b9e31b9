"""Label tracks of Audacity and layers of Sonic Visualiser."""

import numpy as np
import pytest

from musicfm_hf.tasks.annotations import Beats, Segment
from musicfm_hf.tasks.audacity import read_label_track, write_label_track
from musicfm_hf.tasks.bar_positions import bar_lengths
from musicfm_hf.tasks.label_rows import to_beats, to_segments
from musicfm_hf.tasks.sonic_visualiser import read_layer, write_layer

BEATS = Beats(np.array([0.5, 1.0, 1.123457]), np.array([1, 2, 0]))
CHORDS = [
    Segment(0.0, 0.1, "N"),
    Segment(0.1, 0.3, "C:maj(9,11)/3"),
    Segment(0.4, 3.0, 'A "x", b'),
    Segment(3, 4, "N"),
]

SVL = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE sonic-visualiser>
<sv>
  <data>
    <model id="3" name="" sampleRate="44100" start="0" end="176400" type="sparse" dimensions="2" resolution="1"/>
    <dataset id="2" dimensions="2">
      <point frame="22050" value="1" duration="44100" label="C:maj" />
      <point frame="66150" value="2" duration="22050" label="A:min &amp; x" />
    </dataset>
  </data>
  <display><layer id="4" type="regions" name="Regions" model="3" /></display>
</sv>
"""


def read(folder, name, text):
    path = folder / name
    path.write_text(text)
    return read_label_track(path) if path.suffix == ".txt" else read_layer(path)


@pytest.mark.parametrize(
    ("write", "reader", "ending"), [(write_label_track, read_label_track, "txt"), (write_layer, read_layer, "csv")]
)
def test_what_is_written_is_read(tmp_path, write, reader, ending):
    write(tmp_path / f"beats.{ending}", BEATS)
    beats = to_beats(reader(tmp_path / f"beats.{ending}"))
    assert (beats.times.tolist(), beats.positions.tolist()) == ([0.5, 1.0, 1.123457], [1, 2, 0])
    write(tmp_path / f"chords.{ending}", CHORDS)
    assert to_segments(reader(tmp_path / f"chords.{ending}")) == CHORDS
    write(tmp_path / f"empty.{ending}", [])
    assert to_segments(reader(tmp_path / f"empty.{ending}")) == []
    with pytest.raises(ValueError, match=r"for c.\w+, segment 1: a label in a file must have no tab"):
        write(tmp_path / f"c.{ending}", [Segment(0.0, 1.0, "a\tb")])
    with pytest.raises(ValueError, match="segment 2: segments must not overlap"):
        write(tmp_path / f"c.{ending}", [Segment(0.0, 1.0, "a"), Segment(0.5, 1.0, "b")])


def test_files_are_what_the_programs_import(tmp_path):
    write_label_track(tmp_path / "a.txt", BEATS)
    assert (tmp_path / "a.txt").read_text() == "0.500000\t0.500000\t1\n1.000000\t1.000000\t2\n1.123457\t1.123457\t\n"
    write_layer(tmp_path / "a.csv", CHORDS)
    assert (tmp_path / "a.csv").read_text().splitlines() == [
        "0.000000,1,0.100000,N",
        '0.100000,2,0.200000,"C:maj(9,11)/3"',
        '0.400000,3,2.600000,"A ""x"", b"',
        "3.000000,1,1.000000,N",
    ]


def test_spectral_selections_and_points(tmp_path):
    """Points last until the next label; a point `end` ends the last one."""
    rows = read(tmp_path, "a.txt", "0.5\t0.5\tC\n\\\t100.0\t200.0\n1.5\t2.25\tF\n3\t3\tend\n")
    assert to_segments(rows) == [Segment(0.5, 1.5, "C"), Segment(1.5, 2.25, "F")]
    rows = read(tmp_path, "a.txt", "0.5\t0.5\tC\n1.5\t1.5\tF\n")
    assert to_segments(rows, 4.0)[-1] == Segment(1.5, 4.0, "F")
    with pytest.raises(ValueError, match=r"a.txt, line 2: the last label is a point, so its end is not known"):
        to_segments(rows)


def test_bars_and_beats(tmp_path):
    """Sonic Visualiser numbers instants by bar and beat, and calls those without a number `New Point`."""
    rows = read(tmp_path, "a.csv", " 0.500000000,4.1\n 1.000000000,4.2\n 1.500000000,New Point\n 2.0\n")
    beats = to_beats(rows)
    assert beats.times.tolist() == [0.5, 1.0, 1.5, 2.0]
    assert beats.positions.tolist() == [1, 2, 0, 0]
    with pytest.raises(
        ValueError, match=r"a.csv, line 1: the position in the bar must be a whole number .* got 'one'"
    ):
        to_beats(read(tmp_path, "a.csv", "0.5,one\n"))


def test_bars_and_beats_from_0(tmp_path):
    """Alone, 1.0 is the first position; beside 1.1, it is a beat 0 in bar 1."""

    def labels(*texts):
        return "".join(f"{index / 2}\t{index / 2}\t{text}\n" for index, text in enumerate(texts))

    rows = read(tmp_path, "a.txt", labels("1.0", "2.0", "3.0", "1.0"))
    assert to_beats(rows).positions.tolist() == [1, 2, 3, 1]
    rows = read(tmp_path, "a.txt", labels("1.0", "2.0", "2.5", "4.0", "1.0"))  # a slip of the pen
    with pytest.raises(ValueError, match=r"a.txt, line 3: the position in the bar must be a whole number"):
        to_beats(rows)
    rows = read(tmp_path, "a.txt", labels(*(f"{bar}.{beat}" for bar in range(1, 4) for beat in range(4))))
    with pytest.raises(ValueError, match=r"a.txt, line 1: .*got bars that begin with 0: add 1 to every position"):
        to_beats(rows)


@pytest.mark.parametrize(
    "text",
    [
        "0.5,0,1.5,C:maj(9,11)\n2.0,3,1.0,N\n",  # regions, with a label that is not quoted
        '0.5,0,1.5,"C:maj(9,11)"\n2.0,3,1.0,N\n',
        "TIME,VALUE,DURATION,LABEL\n0.5,0,1.5,C:maj(9,11)\n2.0,3,1.0,N\n",
        "start,end,label\n0.5,2,C:maj(9,11)\n2.0,3.0,N\n",
        "Start Time,End Time,Comment,Label\n0.5,2,x,C:maj(9,11)\n2.0,3.0,,N\n",
        "0.5,440,C:maj(9,11)\n2.0,440,N\n3.0,440,end\n",  # text, or time values
        "0.5,C:maj(9,11)\n2.0,N\n3.0,end\n",
        "0.5\t0\t1.5\tC:maj(9,11)\n2.0\t3\t1.0\tN\n",
    ],
)
def test_layers(tmp_path, text):
    assert to_segments(read(tmp_path, "a.csv", text)) == [Segment(0.5, 2.0, "C:maj(9,11)"), Segment(2.0, 3.0, "N")]


@pytest.mark.parametrize(
    "text",
    [
        "0,52,C:maj\n2,10,G:maj\n4,05,A:min\n",
        "0,50,10,25,verse\n10,75,9,00,chorus\n",
        "0,52,1\n1,60,2\n2,70,3\n",
        "1,05\n2,10\n3,20\n",
        "time,label\n0,52,C:maj\n2,10,G:maj\n",
        "start,end,label\n0,50,10,25,verse\n10,75,19,75,chorus\n",
    ],
)
def test_decimal_commas_are_refused(tmp_path, text):
    with pytest.raises(ValueError, match=r"a.csv, line \d: commas may be decimal points or separate columns, got "):
        read(tmp_path, "a.csv", text)


def test_whole_seconds(tmp_path):
    assert to_beats(read(tmp_path, "a.csv", "1,1\n2,2\n3,1\n")).positions.tolist() == [1, 2, 1]
    assert to_beats(read(tmp_path, "a.csv", "time,value,label\n1,120,1\n2,119,2\n")).positions.tolist() == [1, 2]
    for text in ("0\t1\tverse\n30\t2\tchorus\n60\t1\tend\n", '"0","1","verse"\n"30","2","chorus"\n"60","1","end"\n'):
        rows = read(tmp_path, "a.csv", text)
        assert to_segments(rows) == [Segment(0.0, 30.0, "verse"), Segment(30.0, 60.0, "chorus")]
    rows = read(tmp_path, "a.csv", 'start,end,label\n0,2,"C:maj(9,11)"\n2,3,N\n')
    assert to_segments(rows) == [Segment(0.0, 2.0, "C:maj(9,11)"), Segment(2.0, 3.0, "N")]


def test_beats_of_time_values(tmp_path):
    beats = to_beats(read(tmp_path, "a.csv", "time,value,label\n0.5,120.0,1\n1.0,119.5,2\n"))
    assert beats.positions.tolist() == [1, 2]
    assert to_beats(read(tmp_path, "a.csv", "0.5,120.0,1\n1.0,119.5,2\n")).positions.tolist() == [1, 2]


def test_layers_in_xml(tmp_path):
    rows = read(tmp_path, "a.svl", SVL)
    assert to_segments(rows) == [Segment(0.5, 1.5, "C:maj"), Segment(1.5, 2.0, "A:min & x")]
    with pytest.raises(ValueError, match=r"a.svl is not a layer of Sonic Visualiser \(syntax error"):
        read(tmp_path, "a.svl", "0.5,1\n")
    with pytest.raises(ValueError, match="must have one layer with points or regions, got 0: export one layer"):
        read(tmp_path, "a.svl", "<sv><data/></sv>")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "0.5\n", "a label of Audacity needs start, end and text"),
        ("a.txt", "0,5\t1,0\tC\n", "the start must be a number of seconds, got '0,5'. Write it with a decimal point"),
        ("a.beats.txt", "2.1\t1\n2.6\t2\n", r"If it is the position of a beat in the bar, name the file a\.beats\."),
        ("a.txt", "2\t1\tC\n", "must not end before its start, got 2 to 1 s"),
        ("a.csv", "FRAME,LABEL\n44100,C\n", "export times in seconds, not in frames"),
        ("a.csv", "0.0,1.0,C\n1.0,2.0,G\n", "may be time,value,label or start,end,label"),
        ("a.csv", "0,2,C\n1.999,4,G\n4,6,N\n", "may be time,value,label or start,end,label"),  # an overlap
        ("a.csv", "0.0,9.5,1\n9.5,20.1,2\n", "may be time,value,label or start,end,label"),
        ("a.csv", "0.0,9.5,0.93,verse\n9.5,20.1,0.8,intro\n", "may be time,value,duration,label or start,end,value"),
        ("a.csv", "time,end,comment\n0.5,1.0,C\n", "a header needs a column `label`, got time, end, comment"),
        ("a.csv", "0.0,C,1.0,G\n1.0,2.0,3.0,G\n", "Others need a header, such as start,end,label"),
        ("a.csv", "0.0,1,-1.0,G\n", "must not end before its start, got 0 to -1 s"),
    ],
)
def test_wrong_files(tmp_path, name, text, message):
    with pytest.raises(ValueError, match=rf"{name}, line 1: .*{message}"):
        read(tmp_path, name, text)


@pytest.mark.parametrize(
    "text", ["0,0;4,9;verse\n4,9;8,25;chorus\n", "0.0;4.9;verse\n", "Start;End;Label\n0,0;4,9;verse\n"]
)
def test_semicolons(tmp_path, text):
    with pytest.raises(ValueError, match=r"a.csv: its columns are separated by `;`: separate them by commas or tabs"):
        read(tmp_path, "a.csv", text)
    assert read(tmp_path, "a.csv", "0.5,verse; loud\n")[0].text == "verse; loud"


@pytest.mark.parametrize("name", ["position", "Beat", "Label"])
def test_names_of_the_column_of_labels(tmp_path, name):
    assert to_beats(read(tmp_path, "a.csv", f"time,{name}\n0.5,1\n1.0,2\n")).positions.tolist() == [1, 2]
    header = f"time,position,{name}" if name == "Label" else f"time,{name},value"
    assert to_beats(read(tmp_path, "a.csv", f"{header}\n0.5,3,3\n")).positions.tolist() == [3]
    assert to_beats(read(tmp_path, "a.csv", "time,value\n0.5,0.8\n")).positions.tolist() == [0]


def test_several_tracks_in_one_file(tmp_path):
    rows = read(tmp_path, "a.txt", "0\t1\tC\n1\t2\tF\n0.5\t0.5\t1\n")
    with pytest.raises(
        ValueError, match=r"line 3: labels must ascend, got 0.5 s after 1 s. If the project has several"
    ):
        to_segments(rows)


def test_names_that_sonic_visualiser_gives_are_no_labels(tmp_path):
    with pytest.raises(ValueError, match="line 1: a segment must have a label"):
        to_segments(read(tmp_path, "a.csv", "0.5,0,1.5,New Region\n"))


def test_lengths_of_bars():
    positions = np.array([4, 1, 2, 3, 4, 1, 2, 3, 1])
    assert bar_lengths(positions).tolist() == [4, 4, 4, 4, 4, 3, 3, 3, 3]
    assert bar_lengths(np.array([1, 2, 1])).tolist() == [2, 2, 2]
    assert bar_lengths(np.array([], int)).tolist() == []
    assert bar_lengths(np.array([0, 0])).tolist() == [0, 0]
