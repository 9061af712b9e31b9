"""The benchmark of a catalog runs at a small size, and the estimate for a million songs follows from its rates."""

import json
import sys

import catalog
import million_songs
import numpy as np
import pytest
import soundfile


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_a_small_catalog_is_measured(tmp_path, monkeypatch, dtype):
    path = tmp_path / "catalog.json"
    words = "catalog.py --files 5 --shortest_seconds 0.5 --longest_seconds 2 --recipe small_kmeans --num_workers 0 1"
    words += f" --device cpu --dtype {dtype}"
    monkeypatch.setattr(sys, "argv", [*words.split(), "--output_file", str(path)])
    catalog.main()
    values = json.loads(path.read_text())
    assert (values["files"], values["layer"], values["dtype"]) == (5, 4, dtype)
    assert 0.5 <= values["shortest_seconds"] <= values["longest_seconds"] <= 2
    assert [row["num_workers"] for row in values["rows"]] == [0, 1]
    for row in values["rows"]:
        parts = row["decoding"], row["model"]
        assert row["ratio_to_larger"] == pytest.approx(row["together"] / max(parts))
        assert row["ratio_to_sum"] == pytest.approx(row["together"] / sum(parts))
        assert row["audio_seconds_per_second"] == pytest.approx(values["audio_seconds"] / row["together"])
    assert path.with_suffix(".md").read_text() == catalog.report(values)


def test_files_are_of_all_kinds_and_the_same_each_time(tmp_path, monkeypatch):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (9600, 2)).astype(np.float32)
    monkeypatch.setattr(catalog, "synthesize", lambda song, rate: noise)
    lengths = catalog.draw_lengths(16, 0.2, 0.4, seed=3)
    assert lengths == catalog.draw_lengths(16, 0.2, 0.4, seed=3)
    assert np.log(catalog.draw_lengths(4000, 2, 480, 0)).mean() == pytest.approx(np.log(2 * 480) / 2, abs=0.1)
    for name in ("a", "b"):
        catalog.write_catalog(tmp_path / name, lengths, seed=3)
    files = sorted((tmp_path / "a").iterdir())
    assert {path.suffix for path in files} == {".wav", ".flac", ".mp3", ".ogg"}
    infos = [soundfile.info(path) for path in files]
    assert {info.channels for info in infos} == {1, 2}
    assert len({info.samplerate for info in infos}) >= 4
    for path, info, seconds in zip(files, infos, lengths, strict=True):
        assert info.duration == pytest.approx(seconds, abs=0.1)
        if path.suffix in (".wav", ".flac"):
            assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


@pytest.fixture
def results(tmp_path):
    """Rates of a processor: 20 s of audio per second together, and 300 s decoded by two processes."""
    rows = [
        {"num_workers": 1, "audio_seconds_per_second": 10.0, "decoded_seconds_per_second": 100.0},
        {"num_workers": 2, "audio_seconds_per_second": 20.0, "decoded_seconds_per_second": 300.0},
    ]
    values = {"layer": 7, "dtype": "float32", "weights": 3e8, "machine": {"device": "2 cores"}, "rows": rows}
    (tmp_path / "catalog.json").write_text(json.dumps(values))
    return tmp_path


def estimated(results, monkeypatch, *flags) -> list[dict]:
    words = ["million_songs.py", "--price_date", "2020-01", "--processor_price", "0.5", *flags]
    paths = ["--results", str(results), "--output_file", str(results / "out.json")]
    monkeypatch.setattr(sys, "argv", [*words, *paths])
    million_songs.main()
    values = json.loads((results / "out.json").read_text())
    assert (results / "out.md").read_text() == million_songs.report(values)
    assert "example prices of 2020-01" in million_songs.report(values)
    return values["rows"]


def test_hours_and_price_of_processors(results, monkeypatch):
    """240 million seconds at 20 s per second are 12 million seconds of a machine, 3333 hours."""
    (row,) = estimated(results, monkeypatch)
    assert row["hours"] == pytest.approx(12e6 / 3600 / 64)
    assert row["price"] == pytest.approx(12e6 / 3600 * 0.5)
    other = {"rows": [{"audio_seconds_per_second": 40.0}], "weights": 5e6}
    (results / "catalog_small.json").write_text(json.dumps(json.loads((results / "catalog.json").read_text()) | other))
    assert [row["hours"] for row in estimated(results, monkeypatch)] == [
        pytest.approx(12e6 / 3600 / 64),
        pytest.approx(6e6 / 3600 / 64),
    ]
    (results / "catalog_small.json").unlink()
    (row,) = estimated(results, monkeypatch, "--machines", "1", "--songs", "1000", "--song_seconds", "72")
    assert (row["hours"], row["price"]) == (pytest.approx(1), pytest.approx(0.5))


def test_a_gpu_is_left_out_until_it_is_measured(results, monkeypatch, capsys):
    rows = [
        {"layer": layer, "dtype": "bfloat16", "audio_seconds_per_second": rate}
        for layer, rate in ((7, 1000.0), (7, 1600.0), (3, 9000.0))
    ]
    gpu = {"size": "full", "machine": {"device": "a GPU"}, "embedding": rows}
    (results / "gpu.json").write_text(json.dumps(gpu))
    with pytest.raises(SystemExit):
        estimated(results, monkeypatch)
    assert "pass --gpu_price" in capsys.readouterr().err
    _, row = estimated(results, monkeypatch, "--gpu_price", "3")
    assert row["hours"] == pytest.approx(240e6 / 1600 / 3600)
    assert row["price"] == pytest.approx(3 * row["hours"])
    assert row["decoding_processes"] == 11  # 150 s per second each
    (results / "gpu.json").write_text(json.dumps(gpu | {"size": "small"}))
    assert len(estimated(results, monkeypatch, "--gpu_price", "3")) == 1


def test_nothing_is_estimated_without_measurements(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        estimated(tmp_path, monkeypatch)
    assert "run `python benchmarks/catalog.py` first" in capsys.readouterr().err
