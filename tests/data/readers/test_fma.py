import csv
import json

import pytest
from helpers.recipes import prepare

from musicfm_hf.data.catalog import list_sources
from musicfm_hf.data.readers.fma import SHORT_CLIPS, list_tracks

BY = "Attribution"
# Id, split, subset, license; in no order.
TRACKS = [
    (155, "training", "large", ""),
    (2, "training", "small", BY),
    (5, "validation", "small", "Attribution-Noncommercial"),
    (1486, "training", "medium", BY),  # known to have no audio
    (98565, "test", "small", BY),  # known to have 1.6 s
    (7, "test", "medium", BY),  # not there
    (12, "training", "large", BY),  # of a few bytes
    (155066, "test", "large", BY),
]


@pytest.fixture
def archive(tmp_path):
    """A folder as of fma_large.zip, and one as of fma_metadata.zip."""
    for number, *_ in TRACKS:
        path = tmp_path / "fma_large" / f"{number // 1000:03d}" / f"{number:06d}.mp3"
        path.parent.mkdir(parents=True, exist_ok=True)
        if number != 7:
            path.write_bytes(bytes(20000 if number != 12 else 1752))
    (tmp_path / "meta").mkdir()
    with (tmp_path / "meta/tracks.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["", "album", "artist", "set", "set", "track", "track"])
        writer.writerow(["", "title", "bio", "split", "subset", "license", "title"])
        writer.writerow(["track_id", "", "", "", "", "", ""])
        for number, split, subset, license_name in TRACKS:
            writer.writerow([number, "NA, a title", "<p>Of two\nlines</p>", split, subset, license_name, "Ã‰tÃ©"])
    return tmp_path


def test_short_clips_are_those_of_the_authors():
    # The wiki of FMA counts 21, of which 15 without any audio, and 6 in the small subset.
    assert len(SHORT_CLIPS) == 21
    assert sum(seconds == 0 for seconds in SHORT_CLIPS.values()) == 15
    assert {98565, 98567, 98569, 99134, 108925, 133297} <= SHORT_CLIPS.keys()


def test_tracks_of_the_largest_subset(archive):
    tracks = list_tracks(archive / "fma_large", archive / "meta", "large")
    assert [track.id for track in tracks] == [2, 5, 7, 12, 155, 1486, 98565, 155066]
    by_id = {track.id: track for track in tracks}
    assert by_id[155066].path == archive / "fma_large/155/155066.mp3"
    assert by_id[2].path == archive / "fma_large/000/000002.mp3"
    assert [by_id[number].split for number in (2, 5, 155066)] == ["train", "validation", "test"]
    assert [by_id[number].subset for number in (2, 7, 155)] == ["small", "medium", "large"]
    assert (by_id[5].license, by_id[155].license) == ("Attribution-Noncommercial", "")
    assert {number: track.problem for number, track in by_id.items() if track.problem} == {
        7: "missing",
        12: "has 1752 bytes: no audio, or almost none",
        1486: "known to have 0 s of audio",
        98565: "known to have 1.6 s of audio",
    }


@pytest.mark.parametrize(("subset", "ids"), [("small", [2, 5, 98565]), ("medium", [2, 5, 7, 1486, 98565])])
def test_subsets_are_nested(archive, subset, ids):
    assert [track.id for track in list_tracks(archive / "fma_large", archive / "meta", subset)] == ids


def test_whole_tracks_were_not_cut_short(archive):
    problems = {track.id for track in list_tracks(archive / "fma_large", archive / "meta", "full") if track.problem}
    assert problems == {7, 12}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("subset", "part", r"tracks.csv is not the table of FMA's tracks \(no column set.subset"),
        ("track_id", "2", "its third row begins with"),
    ],
)
def test_broken_tables_are_named(archive, old, new, message):
    path = archive / "meta/tracks.csv"
    path.write_text(path.read_text(encoding="utf-8").replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        list_tracks(archive / "fma_large", archive / "meta", "large")


def test_mistakes_are_named(archive):
    with pytest.raises(ValueError, match="`subset` must be one of small, medium, large, full, got 'tiny'"):
        list_tracks(archive / "fma_large", archive / "meta", "tiny")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        list_tracks(archive / "fma_small", archive / "meta", "small")
    with pytest.raises(FileNotFoundError, match=r"tracks.csv does not exist: it is in fma_metadata.zip"):
        list_tracks(archive / "fma_large", archive, "small")
    with pytest.raises(ValueError, match=r"none of the 3 files of small, such as .*000002.mp3"):
        list_tracks(archive, archive / "meta", "small")


def test_recipe(archive, monkeypatch, capsys):
    monkeypatch.chdir(archive)
    prepare(monkeypatch, "fma", "--source", "fma_large", "--metadata", "meta", "--output_dir", "out")
    assert "out: 2 train, 1 valid, 1 test, 4 problems" in capsys.readouterr().out
    monkeypatch.chdir("/")
    assert [source for _, source in list_sources(archive / "out/train.txt")] == [
        str(archive / "fma_large/000/000002.mp3"),
        str(archive / "fma_large/000/000155.mp3"),
    ]
    assert (archive / "out/valid.txt").read_text() == f"{archive / 'fma_large/000/000005.mp3'}\n"
    problems = dict(line.split("\t") for line in (archive / "out/problems.tsv").read_text().splitlines())
    assert problems[str(archive / "fma_large/000/000007.mp3")] == "missing"
    assert problems[str(archive / "fma_large/001/001486.mp3")] == "known to have 0 s of audio"
    assert len(problems) == 4
    info = json.loads((archive / "out/info.json").read_text())
    assert info["subset"] == "large"
    assert info["licences"] == {BY: 2, "Attribution-Noncommercial": 1, "": 1}
    assert info["counts"] == {"train": 2, "valid": 1, "test": 1, "problems": 4}
    assert f"{archive / 'fma_large/155/155066.mp3'}\t{BY}\n" in (archive / "out/licences.tsv").read_text()


@pytest.mark.parametrize(
    ("old", "new", "track", "problem", "num_usable"),
    [
        ("validation", "dev", "000/000005.mp3", "has split 'dev' and subset 'small' in ", 3),
        ("155066,", "fifteen,", "fifteen", "is not a number in ", 3),
        ("Attribution", 'Attribution"\n"x"', "x", "is not a number in ", 4),  # an added line
    ],
)
def test_faulty_lines_are_listed(archive, old, new, track, problem, num_usable):
    path = archive / "meta/tracks.csv"
    path.write_text(path.read_text(encoding="utf-8").replace(old, new, 1), encoding="utf-8")
    tracks = {track.path: track for track in list_tracks(archive / "fma_large", archive / "meta", "large")}
    assert tracks[archive / "fma_large" / track].problem == f"{problem}{path}"
    assert sum(not track.problem for track in tracks.values()) == num_usable


def test_recipe_explains_mistakes(archive, monkeypatch):
    (archive / "fma_large").rename(archive / "music")
    arguments = ["fma", "--source", archive / "music", "--metadata", archive / "meta", "--output_dir", archive / "out"]
    with pytest.raises(SystemExit, match=r"^Not prepared: `subset` must be one of .*, got 'music'"):
        prepare(monkeypatch, *arguments)
    prepare(monkeypatch, *arguments, "--subset", "small")
    assert (archive / "out/test.txt").read_text() == ""
