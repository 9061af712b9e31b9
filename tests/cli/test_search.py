"""The commands `musicfm index` and `musicfm search`."""

import json
import shutil

import pytest
import soundfile
from helpers.audio import music

from musicfm_hf import SongAnnotation
from musicfm_hf.cli.main import main
from musicfm_hf.tasks.annotations import Segment


@pytest.fixture(scope="module")
def folder(encoder, tmp_path_factory):
    """Songs, a model, annotations of two songs, and an index of them."""
    root = tmp_path_factory.mktemp("commands")
    (root / "songs").mkdir()
    for number in range(4):
        soundfile.write(root / f"songs/{number}.wav", music(3.0, seed=number), 24000)
    shutil.copy(root / "songs/2.wav", root / "songs/same as 2.wav")
    (root / "songs/broken.mp3").write_text("no music")
    shutil.copytree(encoder, root / "model")
    for name, chord in (("0", "C:maj"), ("1", "A:min")):
        SongAnnotation(3.0, chords=[Segment(0, 3, chord)]).save(root / "annotations", name)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        run_index()
    return root


def run_index(*flags):
    words = "index songs --model model --output_dir index --layer 1 --passage_seconds 1.5 --annotations annotations"
    main([*words.split(), "--num_workers", "0", "--device", "cpu", *flags])


@pytest.fixture(autouse=True)
def in_folder(folder, monkeypatch):
    monkeypatch.chdir(folder)


def run(capsys, *words) -> str:
    capsys.readouterr()
    main(["search", "index", *words])
    return capsys.readouterr().out


def results(capsys, *words) -> list[dict]:
    return json.loads(run(capsys, *words, "--json"))["results"]


def test_an_index_is_described_and_repeated(folder, capsys):
    run_index()
    printed = capsys.readouterr().out
    assert "5 songs (0 embedded now), 10 passages, index type exact, 2 songs with annotations" in printed
    assert "6 songs, 1 with problems:\n  broken.mp3\t" in printed
    assert (folder / "index/problems.tsv").read_text().startswith("broken.mp3\t")
    manifest = json.loads((folder / "index/index.json").read_text())
    assert (manifest["model"], manifest["source"]) == (str(folder / "model"), str(folder / "songs"))
    assert (manifest["annotations"], manifest["made"]["layer"]) == (str(folder / "annotations"), 1)


def test_a_song_is_searched(capsys):
    lines = run(capsys, "songs/2.wav").splitlines()
    assert len(lines) == 4
    assert lines[0].endswith("  same as 2.wav")
    assert lines[0].startswith("1.000  ")
    assert len(run(capsys, "2.wav", "--top", "2").splitlines()) == 2
    assert {row["song"] for row in results(capsys, "2.wav", "--include_query", "--top", "2")} == {
        "2.wav",
        "same as 2.wav",
    }
    assert len(results(capsys, "2.wav", "--passages", "--top", "100")) == 8


def test_a_part_is_searched_from_another_folder(folder, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    main(["search", str(folder / "index"), f"{folder}/songs/2.wav@0:01.5-0:03", "--json", "--top", "1"])
    (row,) = json.loads(capsys.readouterr().out)["results"]
    assert (row["song"], row["start"], row["end"]) == ("same as 2.wav", 1.5, 3.0)
    assert row["score"] > 0.98
    assert row["path"] == str(folder / "songs/same as 2.wav")


def test_filters(folder, capsys, tmp_path):
    (row,) = results(capsys, "2.wav", "--where", "chord=A:min")
    assert (row["song"], row["labels"]) == ("1.wav", {"chord": ["A:min"]})
    SongAnnotation(3.0, tags={"piano": 0.9}).save(tmp_path, "3")
    (row,) = results(capsys, "2.wav", "--where", "tag=piano", "--annotations", str(tmp_path))
    assert (row["song"], row["labels"]) == ("3.wav", {"tag": ["piano"]})
    assert run(capsys, "1.wav", "--where", "chord=A:min") == "Nothing found.\n"


def test_duplicates(capsys):
    assert run(capsys, "--duplicates", "0.999") == "1.000  2.wav\n       same as 2.wav\n1 groups of duplicates\n"
    (group,) = json.loads(run(capsys, "--duplicates", "0.999", "--json"))["duplicates"]
    assert group["songs"] == ["2.wav", "same as 2.wav"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("search none 2.wav", "Not found: none has no index: write one with `musicfm index"),
        ("search index none.wav", "Not found: none.wav does not exist"),
        ("search index piano", "Not found: The model of this index cannot search for words"),
        ("search index 2.wav --where mood=sad", "Not found: The annotations have no field 'mood', only chord"),
        ("search index 2.wav --where key", "Not found: A condition has the form field=value"),
        ("search index --duplicates 2", "Not found: The threshold of duplicates must be"),
        ("index none --model model --output_dir index", "Not indexed: none does not exist"),
        ("index model --model model --output_dir index", "Not indexed: model has no audio"),
        ("index songs --model model --output_dir index --layer 2", "--layer: it was made with 1, now 2"),
        ("index songs --model model --output_dir new --layer 9", "Not indexed: `layer` must be between 0 and 2"),
        ("index songs --model model --output_dir new --hop_seconds 90", "Not indexed: `hop_seconds` must be"),
        ("index songs --model model --output_dir new --hop_seconds 0", "Not indexed: `hop_seconds` must be"),
        ("index songs --model model --output_dir new --hop_seconds 1e-5", "Not indexed: `hop_seconds` must be"),
        ("index songs --model model --output_dir new --passage_seconds 0", "Not indexed: `passage_seconds` must be"),
        ("index songs --model model --output_dir new --passage_seconds inf", "and finite, got inf"),
        ("index  --model model --output_dir new", "Not indexed: The source is an empty text"),  # the second word is ''
        ("index songs --model model --output_dir new --annotations none", "annotations .*none does not exist"),
    ],
)
def test_mistakes_are_explained(words, message):
    with pytest.raises(SystemExit, match=message):
        main(words.split(" "))


@pytest.mark.parametrize("words", ["search index", "search index song.mp3 --duplicates 0.9"])
def test_a_query_or_duplicates(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(words.split())
    assert stopped.value.code == 2
    assert "pass a QUERY, or --duplicates" in capsys.readouterr().err
