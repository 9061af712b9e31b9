"""The benchmark of chord vocabularies, with small models that are not trained."""

import json
import sys

import chords
import pytest
from helpers.models import config_of

import musicfm_hf
from musicfm_hf.tasks import get_task


@pytest.mark.slow
def test_table_of_small_models(labeled, encoder, tmp_path, monkeypatch):
    runs = tmp_path / "runs"
    for vocabulary in ("majmin", "full"):
        decoding = {"chord_seconds": 2.0, "kinds": {"maj": 0.5, "min": 0.4}} if vocabulary == "full" else None
        config = config_of("chord", 8.0, vocabulary=vocabulary, decoding=decoding)
        model = musicfm_hf.MusicFMForAudioFrameClassification(config)
        model.save_pretrained(runs / vocabulary)
        (runs / vocabulary / "results.json").write_text("{}")  # as if trained
    words = ["--model", encoder, "--data", labeled, "--runs", runs, "--limit", "1", "--validation_songs", "1"]
    parse = chords.parse
    few_steps = ["--max_steps", "4", "--eval_steps", "4", "--save_steps", "4"]  # for the probes
    monkeypatch.setattr(chords, "parse", lambda task, method, words: parse(task, method, [*words, *few_steps]))
    monkeypatch.setattr(sys, "argv", ["chords.py", *map(str, words), "--output_file", str(tmp_path / "chords.json")])
    chords.main()
    results = json.loads((tmp_path / "chords.json").read_text())
    systems = results["systems"]
    assert list(systems) == [*chords.TEMPLATES, "majmin", "full"]
    assert set(systems["full"]["validation"]) == {"as it is", "smoothed"}
    probe, full = systems["full"]["commands"]
    assert "chord/probe small/probe --data" in probe
    assert "--vocabulary full" in full
    assert full.split()[full.split().index("--model") + 1] == "full-probe"
    assert "validation" not in systems["majmin"]
    assert {name.rpartition(" − ")[2] for name in results["differences"]["chord"]} == {"majmin"}
    for name in ("majmin", "sevenths_inv"):
        values = [systems[system]["scores"][name]["mean"] for system in ("majmin", "full")]
        difference = results["differences"]["chord"][f"{name}: full − majmin"]
        assert difference["mean"] == pytest.approx(values[1] - values[0])
        assert difference["corrected_interval"] == [None, None]  # of a few songs
        assert not difference["holds"]
    seconds = {kind: value["seconds"] for kind, value in systems["majmin"]["types"].items()}
    assert seconds == {kind: value["seconds"] for kind, value in systems["full"]["types"].items()}
    assert "| majmin |" in (tmp_path / "chords.md").read_text()
    assert systems["full"]["scores"].keys() >= get_task("chord", "full").scores.keys()
