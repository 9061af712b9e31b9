import os
import shutil

import numpy as np
import pytest
import soundfile
import torch
from datasets import Audio, Dataset
from helpers.audio import music
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModel

from musicfm_hf import embed
from musicfm_hf.data.catalog import DatasetAudio, list_sources
from musicfm_hf.inference.embed_files import embed_files
from musicfm_hf.inference.embedding import WindowSettings, embed_songs
from musicfm_hf.model.frames_musicfm import average_frames

RATE = 24000


def test_a_short_song_is_the_model_itself(tiny_model):
    audio = music(3.3)
    frames, times = embed(tiny_model, audio, RATE, layer=2)
    with torch.inference_mode():
        expected = tiny_model(torch.from_numpy(audio)[None], layer=2).last_hidden_state[0]
    assert frames.equal(expected)
    assert times.tolist() == [k / 25 for k in range(83)]
    assert embed(tiny_model, torch.from_numpy(audio), RATE, layer=2).frames.equal(expected)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_windows_join_without_seams(tiny_model, batch_size):
    """Frames of a long song are those of its windows, each from the window where it lies deepest."""
    audio = music(21.7)
    frames, times = embed(tiny_model, audio, RATE, window_seconds=8.0, overlap_seconds=4.0, batch_size=batch_size)
    assert len(frames) == len(times) == tiny_model.output_frames(len(audio))
    starts = [0, 100, 200, 300, 343]  # frames; the last window is moved back to end with the song
    seams = [0, 150, 250, 350, 421, len(frames)]
    with torch.inference_mode():
        for start, first, stop in zip(starts, seams, seams[1:], strict=False):
            window = torch.from_numpy(audio[start * 960 : start * 960 + 8 * RATE])[None]
            expected = tiny_model(window).last_hidden_state[0, first - start : stop - start]
            torch.testing.assert_close(frames[first:stop], expected, rtol=0, atol=1e-5)


def test_embeddings_can_be_trained_on_and_modes_stay(tiny_model):
    tiny_model.train()
    tiny_model.layers[1].conv_module.batch_norm.eval()
    before = {name: module.training for name, module in tiny_model.named_modules()}
    frames = embed(tiny_model, music(1.0), RATE).frames
    assert {name: module.training for name, module in tiny_model.named_modules()} == before
    probe = torch.nn.Linear(32, 2)
    probe(frames).sum().backward()
    torch.testing.assert_close(probe.weight.grad[0], frames.sum(0))


def test_an_offloaded_model_embeds(tiny_model, tmp_path):
    expected = embed(tiny_model, music(1.0), RATE).frames
    tiny_model.save_pretrained(tmp_path / "model")
    places = {"subsampling": "disk", "layers": "disk", "layer_norm": "disk", "log_mel": "cpu"}
    model = AutoModel.from_pretrained(tmp_path / "model", device_map=places, offload_folder=tmp_path / "offload")
    torch.testing.assert_close(embed(model, music(1.0), RATE).frames, expected, rtol=0, atol=1e-5)


def test_other_rates_are_resampled_and_the_model_is_left_as_it_was(tiny_model):
    tiny_model.train()
    frames, _ = embed(tiny_model, music(2.0, 48000), 48000)
    assert tiny_model.training
    assert frames.shape == (50, 32)
    assert frames.dtype == torch.float32
    assert embed(tiny_model.to(torch.bfloat16), music(2.0), RATE).frames.dtype == torch.float32


@pytest.mark.parametrize(
    ("audio", "settings", "message"),
    [
        (np.zeros(1000, np.float32), {}, "1000 samples"),
        (np.zeros(0, np.float32), {}, "is empty"),
        (np.full(5000, np.nan), {}, "NaN"),
        (np.zeros((2, 5000)), {}, "one waveform"),
        (np.zeros((5000, 2)), {}, r"one waveform of shape \(samples,\), got \(5000, 2\). Average its channels"),
        (np.zeros(5000), {"sampling_rate": None}, "`sampling_rate` must be the rate of the waveform in Hz, got None"),
        (np.ones(1), {"sampling_rate": 192000}, "`audio` is empty at 24000 Hz: it has 1 samples"),
        (music(1.0), {"layer": 9}, "`layer` must be between"),
        (music(1.0), {"batch_size": 0}, "`batch_size` must be"),
        (music(1.0), {"window_seconds": 0.01}, "`window_seconds` must be at least 0.12, got 0.01"),
        (music(1.0), {"window_seconds": 5.0, "overlap_seconds": 5.0}, "overlap"),
    ],
)
def test_wrong_requests(tiny_model, audio, settings, message):
    with pytest.raises(ValueError, match=message):
        embed(tiny_model, audio, **{"sampling_rate": RATE} | settings)


def test_songs_of_many_lengths_in_batches(tiny_model):
    songs = {name: music(seconds, seed=name) for name, seconds in enumerate([0.3, 9.0, 2.0, 0.05, 14.2, 2.1])}
    settings = WindowSettings(window_seconds=4.0, overlap_seconds=1.0, batch_size=4)
    found = dict(embed_songs(tiny_model, songs.items(), settings))
    assert found.keys() == songs.keys()
    for name, audio in songs.items():
        expected = embed(tiny_model, audio, RATE, window_seconds=4.0, overlap_seconds=1.0).frames
        torch.testing.assert_close(found[name].frames, expected, rtol=0, atol=1e-5)


# Catalogs


@pytest.fixture
def folder(tmp_path):
    """Three songs, a text file in disguise, a truncated song and one that is too short."""
    source = tmp_path / "music"
    (source / "more").mkdir(parents=True)
    soundfile.write(source / "a.wav", music(2.0), RATE, "FLOAT")
    soundfile.write(source / "a.flac", music(1.0, 44100), 44100)
    soundfile.write(source / "more" / "b.ogg", music(1.5, 44100), 44100)
    (source / "c.mp3").write_text("no music here")
    soundfile.write(source / "d.wav", music(4.0), RATE)
    content = (source / "d.wav").read_bytes()
    (source / "d.wav").write_bytes(content[: len(content) // 2])
    soundfile.write(source / "e.wav", music(0.01), RATE)
    (source / "cover.jpg").write_bytes(b"x")
    return source


SETTINGS = WindowSettings(batch_size=2)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_catalog(tiny_model, folder, tmp_path, num_workers):
    output = tmp_path / "out"
    note = {"model": "tiny", "revision": "1"}
    problems = embed_files(
        tiny_model, list_sources(folder), output, SETTINGS, "none", note, num_workers, progress=False
    )
    written = sorted(path.relative_to(output).as_posix() for path in output.rglob("*"))
    assert written == [
        "a.flac.safetensors", "a.wav.safetensors", "d.wav.safetensors", "more", "more/b.ogg.safetensors",
    ]  # fmt: skip
    reasons = dict(problems)
    assert reasons.keys() == {"c.mp3", "d.wav", "e.wav"}
    assert "not audio" in reasons["c.mp3"]
    assert "is truncated" in reasons["d.wav"]
    assert "240 samples" in reasons["e.wav"]

    tensors = load_file(output / "a.wav.safetensors")
    torch.testing.assert_close(tensors["embeddings"], embed(tiny_model, music(2.0), RATE).frames, rtol=0, atol=1e-5)
    assert tensors["times"].tolist() == [k / 25 for k in range(50)]
    with safe_open(output / "a.wav.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata == {
        "model": "tiny", "revision": "1", "layer": "3", "frame_rate": "25.0", "pool": "none", "dtype": "float32",
        "window_seconds": "30.0", "overlap_seconds": "5.0", "source": str(folder / "a.wav"),
    }  # fmt: skip


def test_a_second_run_does_what_is_left(tiny_model, folder, tmp_path):
    output = tmp_path / "out"
    sources = list_sources(folder)

    def run(**changes):
        arguments = {"settings": SETTINGS, "pool": "mean", "metadata": {"revision": "1"}} | changes
        embed_files(tiny_model, sources, output, num_workers=0, progress=False, **arguments)
        return {path.name: path.stat().st_mtime_ns for path in output.rglob("*.safetensors")}

    first = run()
    assert run() == first
    (output / "a.wav.safetensors").unlink()
    second = run()
    assert {name for name in second if second[name] != first[name]} == {"a.wav.safetensors"}
    for changes in ({"metadata": {"revision": "2"}}, {"pool": 2.0}, {"settings": WindowSettings(layer=1)}):
        third = run(**changes)
        assert all(third[name] != second[name] for name in second)
        second = third


def test_crash_leftovers_and_earlier_problems(tiny_model, folder, tmp_path):
    arguments = (tiny_model, list_sources(folder), tmp_path / "out", SETTINGS, "mean")
    first = embed_files(*arguments, num_workers=0, progress=False)
    (tmp_path / "out/a.wav.safetensors").write_bytes(b"")
    second = embed_files(*arguments, num_workers=0, progress=False)
    assert sorted(second) == sorted(first)
    assert {name for name, _ in first} == {"c.mp3", "d.wav", "e.wav"}
    assert load_file(tmp_path / "out/a.wav.safetensors")["embeddings"].shape == (32,)


def test_odd_file_names(tiny_model, folder, tmp_path):
    latin = os.fsdecode(b"caf\xe9.wav")
    shutil.copy(folder / "a.wav", folder / latin)
    shutil.copy(folder / "a.wav", folder / f"{'n' * 250}.wav")
    problems = embed_files(tiny_model, list_sources(folder), tmp_path / "out", SETTINGS, num_workers=0, progress=False)
    assert (tmp_path / f"out/{latin}.safetensors").is_file()
    assert "too long" in dict(problems)[f"{'n' * 250}.wav"]


def test_pooling(tiny_model, folder, tmp_path):
    sources = [("a", str(folder / "a.wav"))]
    full = embed(tiny_model, music(2.0), RATE).frames
    for pool, expected in (("mean", full.mean(0)), (4.0, average_frames(full[None].float(), 25.0, 4.0)[0])):
        embed_files(tiny_model, sources, tmp_path / str(pool), SETTINGS, pool, num_workers=0, progress=False)
        tensors = load_file(tmp_path / str(pool) / "a.safetensors")
        torch.testing.assert_close(tensors["embeddings"], expected, rtol=0, atol=1e-5)
        assert ("times" in tensors) == (pool != "mean")


def test_a_failed_write_leaves_nothing(tiny_model, folder, tmp_path, monkeypatch):
    def disk_full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr("musicfm_hf.training.files.save_file", disk_full)
    with pytest.raises(OSError, match="No space left"):
        embed_files(tiny_model, [("a", str(folder / "a.wav"))], tmp_path / "out", SETTINGS, num_workers=0)
    assert list((tmp_path / "out").iterdir()) == []


def test_sources(folder, tmp_path):
    assert [name for name, _ in list_sources(folder)] == [
        "a.flac", "a.wav", "c.mp3", "d.wav", "e.wav", "more/b.ogg",
    ]  # fmt: skip
    listing = tmp_path / "songs.txt"
    listing.write_text(f"\ufeffmusic/a.wav\n\n{folder / 'more' / 'b.ogg'}\n", encoding="utf-8")
    assert list_sources(listing) == [
        ("music/a.wav", str(folder / "a.wav")),
        ("music/more/b.ogg", str(folder / "more/b.ogg")),
    ]
    (tmp_path / "lists").mkdir()
    listing = listing.rename(tmp_path / "lists/songs.txt")
    listing.write_text("../music/a.wav\n../music/more/b.ogg\n")
    assert [name for name, _ in list_sources(listing)] == ["a.wav", "more/b.ogg"]
    assert list_sources(folder / "a.wav") == [("a.wav", str(folder / "a.wav"))]
    (folder / "folder.wav").mkdir()
    (folder / "._a.wav").write_bytes(b"note")
    assert len(list_sources(folder)) == 6
    with pytest.raises(FileNotFoundError, match="nothing does not exist"):
        list_sources(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="has no audio"):
        list_sources(tmp_path / "empty")


def test_wrong_catalogs_are_refused_before_any_work(tiny_model, tmp_path):
    for sources, settings, pool, message in [
        ([("a", "x"), ("a", "y")], SETTINGS, "none", "Two sources are named 'a'"),
        ([("../a", "x")], SETTINGS, "none", "leads out of the folder"),
        ([("/a", "x")], SETTINGS, "none", "leads out of the folder"),
        ([("a", "x")], SETTINGS, "maen", "`pool` must be 'none', 'mean' or a positive rate"),
        ([("a", "x")], SETTINGS, -1.0, "`pool` must be"),
        ([("a", "x")], WindowSettings(layer=7), "none", "`layer` must be between 0 and 3, got 7"),
    ]:
        with pytest.raises(ValueError, match=message):
            embed_files(tiny_model, sources, tmp_path / "out", settings, pool)
    assert not (tmp_path / "out").exists()


def test_data_set(tiny_model, folder, tmp_path):
    content = (folder / "a.wav").read_bytes()
    rows = [{"bytes": content, "path": "a.wav"}, {"bytes": b"", "path": "bad.wav"}]
    data = Dataset.from_dict({"audio": rows, "other": rows, "text": ["x", "y"]}).cast_column("other", Audio())
    data.save_to_disk(tmp_path / "data")
    sources = list_sources(tmp_path / "data")
    assert [name for name, _ in sources] == ["0000000", "0000001"]
    assert isinstance(sources[0][1], DatasetAudio)
    problems = embed_files(tiny_model, sources, tmp_path / "out", SETTINGS, num_workers=0, progress=False)
    assert [name for name, _ in problems] == ["0000001"]
    with safe_open(tmp_path / "out/0000000.safetensors", "pt") as file:
        assert file.metadata()["source"] == "a.wav"
        assert file.get_tensor("embeddings").shape == (50, 32)
    with pytest.raises(ValueError, match="no column `sound`, only audio, other, text"):
        list_sources(tmp_path / "data", "sound")
