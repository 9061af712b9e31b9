import json

import numpy as np
import pytest
import soundfile
from helpers.recipes import prepare
from transformers.audio_utils import mel_filter_bank

from musicfm_hf.data.catalog import DatasetAudio, list_sources
from musicfm_hf.data.statistics import mel_statistics

RATE = 24000


def noise(seconds, level, seed=0):
    return (level * np.random.default_rng(seed).standard_normal(round(seconds * RATE))).astype(np.float32)


def decibels(audio):
    """Log-mel spectrogram `(frames, 128)` of a waveform as the model is defined, in numpy."""
    padded = np.pad(audio.astype(np.float64), 1024, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, 2048)[::240][: len(audio) // 240]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(2048) / 2048)
    power = np.abs(np.fft.rfft(frames * window)) ** 2
    filters = mel_filter_bank(1025, 128, 0.0, 12000.0, RATE, norm=None, mel_scale="htk")
    return 10 * np.log10(np.maximum(power @ filters, 1e-10))


def write(folder, name, audio):
    folder.mkdir(exist_ok=True)
    soundfile.write(folder / name, audio, RATE, "FLOAT")


def measure(folder, **settings):
    return mel_statistics(list_sources(folder), progress=False, **settings)


def test_known_noise_agrees_with_numpy(tmp_path):
    loud, quiet = noise(20, 0.3, seed=1), noise(5, 0.01, seed=2)
    write(tmp_path / "music", "loud.wav", loud)
    write(tmp_path / "music", "quiet.wav", quiet)
    found = measure(tmp_path / "music")
    # Two crops of 10 s, and all of the short file.
    mel = np.concatenate([decibels(loud[: 10 * RATE]), decibels(loud[10 * RATE :]), decibels(quiet)])
    assert mel.shape == (2500, 128)
    np.testing.assert_allclose(found.mel_mean, mel.mean(axis=0), atol=2e-3)
    np.testing.assert_allclose(found.mel_std, mel.std(axis=0), atol=2e-3)
    assert found.mean == pytest.approx(mel.mean(), abs=1e-3)
    assert found.std == pytest.approx(mel.std(), abs=1e-3)
    assert found.hours == pytest.approx(25 / 3600)
    assert (found.files, found.skipped, found.problems) == (2, 0, [])


def test_level_moves_the_mean_alone(tmp_path):
    write(tmp_path / "one", "a.wav", noise(10, 0.3))
    write(tmp_path / "other", "a.wav", noise(10, 0.03))
    one, other = measure(tmp_path / "one"), measure(tmp_path / "other")
    np.testing.assert_allclose(one.mel_mean - other.mel_mean, 20, atol=1e-3)
    np.testing.assert_allclose(one.mel_std, other.mel_std, atol=1e-3)
    assert one.std == pytest.approx(other.std, abs=1e-3)


def test_crops_are_spread_and_a_function_of_the_seed(tmp_path):
    for number in range(4):
        write(tmp_path / "music", f"{number}.wav", noise(33, 10.0 ** -(number + 1) * np.linspace(1, 3, 33 * RATE)))
    limited = measure(tmp_path / "music", max_hours=45 / 3600, seed=3)
    assert limited.hours == pytest.approx(40 / 3600)
    assert limited.files == 4  # one crop of each, rather than all of the first
    np.testing.assert_array_equal(measure(tmp_path / "music", max_hours=45 / 3600, seed=3).mel_mean, limited.mel_mean)
    assert (measure(tmp_path / "music", max_hours=45 / 3600, seed=4).mel_mean != limited.mel_mean).all()
    assert measure(tmp_path / "music").hours == pytest.approx(120 / 3600)  # three whole crops of each
    assert measure(tmp_path / "music", max_hours=20 / 3600).files == 2


def test_what_cannot_be_read_is_skipped_and_reported(tmp_path):
    good = noise(10, 0.1)
    write(tmp_path / "music", "good.wav", good)
    write(tmp_path / "music", "short.wav", good[:1024])
    write(tmp_path / "music", "nan.wav", np.full(48000, np.nan, dtype=np.float32))
    (tmp_path / "music/text.mp3").write_text("no music")
    (tmp_path / "music/empty.flac").touch()
    (tmp_path / "list.txt").write_text("".join(f"music/{name}\n" for name in ("good.wav", "gone.wav")))
    found = measure(tmp_path / "music")
    np.testing.assert_allclose(found.mel_mean, decibels(good).mean(axis=0), atol=2e-3)
    assert (found.files, found.skipped) == (1, 4)
    problems = dict(found.problems)
    assert problems.keys() == {"short.wav", "nan.wav", "text.mp3", "empty.flac"}
    assert problems["short.wav"] == "has 1024 samples, but the model needs at least 1025"
    assert "NaN" in problems["nan.wav"]
    assert "not audio that can be read" in problems["text.mp3"]
    listed = measure(tmp_path / "list.txt")
    assert (listed.files, listed.skipped) == (1, 1)
    assert "gone.wav" in listed.problems[0][1]


def test_a_file_that_breaks_off_gives_what_it_has(tmp_path):
    write(tmp_path / "music", "a.wav", noise(10, 0.1))
    content = (tmp_path / "music/a.wav").read_bytes()
    (tmp_path / "music/a.wav").write_bytes(content[: len(content) // 2])
    found = measure(tmp_path / "music")
    assert found.hours == pytest.approx(5 / 3600, rel=1e-3)
    assert (found.files, found.skipped) == (1, 0)
    assert "is truncated" in found.problems[0][1]


def test_rows_of_a_data_set(tmp_path):
    write(tmp_path / "music", "a.wav", noise(10, 0.1))
    rows = [
        {"audio": {"bytes": (tmp_path / "music/a.wav").read_bytes(), "path": None}},
        {"audio": {"bytes": None, "path": str(tmp_path / "music/a.wav")}},
    ]
    found = mel_statistics([(str(row), DatasetAudio(rows, row, "audio")) for row in range(2)], progress=False)
    assert (found.files, found.hours) == (2, pytest.approx(20 / 3600))
    np.testing.assert_allclose(found.mel_mean, measure(tmp_path / "music").mel_mean, atol=1e-9)


def test_errors(tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/a.mp3").write_text("no music")
    with pytest.raises(ValueError, match=r"None of 1 files could be read \(a.mp3: "):
        measure(tmp_path / "broken")
    write(tmp_path / "silent", "a.wav", np.zeros(RATE))
    with pytest.raises(ValueError, match="silent"):
        measure(tmp_path / "silent")
    with pytest.raises(ValueError, match="`max_hours` must be at least one crop"):
        measure(tmp_path / "silent", max_hours=0.001)
    with pytest.raises(ValueError, match="`crop_seconds` must be at least 1025 samples"):
        measure(tmp_path / "silent", crop_seconds=0.01)


def test_bands_that_are_always_empty_are_named(tmp_path):
    soundfile.write(tmp_path / "a.wav", noise(2, 1e-5), 8000, "FLOAT")  # nothing above 4 kHz
    with pytest.warns(UserWarning, match=r"Mel bands \[.*127\] are constant"):
        found = measure(tmp_path / "a.wav")
    assert found.mel_std[-1] == 0
    assert found.mel_mean[-1] == -100


def test_recipe(tmp_path, monkeypatch, capsys):
    write(tmp_path / "one", "a.wav", noise(20, 0.3))
    write(tmp_path / "other", "b.wav", noise(20, 0.01))
    (tmp_path / "other/c.ogg").write_text("no music")
    sources = [str(tmp_path / "one"), str(tmp_path / "other")]
    prepare(monkeypatch, "stats", *sources, "--output_file", tmp_path / "new/stats.json", "--seed", "1")
    found = json.loads((tmp_path / "new/stats.json").read_text())
    assert found.keys() == {
        *("mel_mean", "mel_std", "melspec_2048_mean", "melspec_2048_std"),
        *("hours", "files", "skipped", "source"),
    }
    assert (len(found["mel_mean"]), len(found["mel_std"])) == (128, 128)
    assert found["melspec_2048_mean"] == pytest.approx(np.mean(found["mel_mean"]))
    spread = np.var(found["mel_mean"]) + np.mean(np.square(found["mel_std"]))
    assert found["melspec_2048_std"] == pytest.approx(np.sqrt(spread))
    assert (found["files"], found["skipped"], found["source"]) == (2, 1, sources)
    assert found["hours"] == pytest.approx(40 / 3600)
    printed = capsys.readouterr().out
    assert "c.ogg\t" in printed
    assert "0.01 h of 2 files, 1 skipped" in printed


def test_recipe_explains_mistakes(tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match=r"^Not prepared: .*music does not exist"):
        prepare(monkeypatch, "stats", tmp_path / "music", "--output_file", tmp_path / "stats.json")
    assert not (tmp_path / "stats.json").exists()
