"""Features of frozen encoders on disk: what they are, when they are computed again, and when not."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from helpers.audio import music
from helpers.models import TINY, config_of, random_model
from safetensors import safe_open

from musicfm_hf import MusicFMConfig, MusicFMForAudioFrameClassification, MusicFMModel, embed, load_audio
from musicfm_hf.data.labeled import LabeledSong
from musicfm_hf.data.labeled_dataset import load_songs
from musicfm_hf.inference import feature_cache as features
from musicfm_hf.inference.embedding import WindowSettings
from musicfm_hf.inference.feature_cache import EncoderFeatures, FeatureCache, LogMelFeatures
from musicfm_hf.model.spectrogram_musicfm import MusicFMLogMel
from musicfm_hf.training import files as training_files

SETTINGS = WindowSettings(window_seconds=4.0, batch_size=2)
LAYERS = range(TINY["num_hidden_layers"] + 1)


@pytest.fixture
def songs(labeled) -> list[LabeledSong]:
    return load_songs(labeled, "train")[:2]


def write_song(path, seconds: float = 2.0) -> LabeledSong:
    soundfile.write(path, music(seconds), 24000)
    return LabeledSong(path.stem, str(path), path.stem, duration=seconds)


def key(model: MusicFMModel, settings: WindowSettings = SETTINGS, layers=(1,)) -> str:
    return EncoderFeatures(model, layers, settings).key


def counting(features) -> list[str]:
    """The names of what is encoded from now on."""
    encoded, encode = [], features.encode

    def noting(songs, names):
        for name, tensors in encode(songs, names):
            encoded.append(name)
            yield name, tensors

    features.encode = noting
    return encoded


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


# What the key depends on


def test_the_key_is_that_of_the_encoder(tiny_model, tmp_path):
    """It is the same for any head, layer and batch size, in another process, and for what was saved and loaded."""
    expected = key(tiny_model)
    assert expected == key(tiny_model, SETTINGS._replace(batch_size=7, layer=2), layers=LAYERS)
    tiny_model.save_pretrained(tmp_path)
    assert key(MusicFMModel.from_pretrained(tmp_path)) == expected
    for task, rate in (("beat", 20.0), ("chord", 8.0), ("structure", 5.0)):
        config = config_of(task, rate, classifier_layer=1, classifier_proj_size=8, freeze_batch_norm=True)
        config.decoding, config.class_weights = {"threshold": 0.1}, [1.0] * config.num_labels
        model = MusicFMForAudioFrameClassification.from_pretrained(tmp_path, config=config)
        assert key(model.musicfm) == expected
        model.save_pretrained(tmp_path / task)
        assert key(MusicFMForAudioFrameClassification.from_pretrained(tmp_path / task).musicfm) == expected


def test_the_key_changes_with_what_changes_features(tiny_model):
    keys = [key(tiny_model)]
    keys.append(key(tiny_model, SETTINGS._replace(window_seconds=5.0)))
    keys.append(key(tiny_model, SETTINGS._replace(overlap_seconds=1)))
    keys.append(key(random_model(MusicFMConfig(**TINY), seed=1)))
    keys.append(key(random_model(MusicFMConfig(**TINY | {"layer_norm_eps": 1e-3}))))  # the same weights
    weight = tiny_model.layers[2].self_attn.q_proj.weight
    with torch.no_grad():
        weight[3, 4] += 1e-6
    keys.append(key(tiny_model))
    next(buffer for name, buffer in tiny_model.named_buffers() if name.endswith("running_var"))[0] += 1e-6
    keys.append(key(tiny_model))
    keys.append(key(tiny_model.to(torch.bfloat16)))
    assert len(set(keys)) == 8


def test_the_key_of_the_spectrogram():
    expected = LogMelFeatures(config_of("chord", 8.0)).key
    assert LogMelFeatures(config_of("beat", 20.0, classifier_layer=2)).key == expected  # no head matters
    assert LogMelFeatures(config_of("chord", 8.0, mel_mean=5.0)).key != expected


def test_files_are_those_of_the_audio(tiny_model, tmp_path):
    """Another path, size or time of change is other audio; its bytes are the same audio wherever they come from."""
    cache = FeatureCache(tmp_path / "cache", EncoderFeatures(tiny_model, [1], SETTINGS))
    song = write_song(tmp_path / "a.wav")
    cache.fill([song], 0, progress=False)
    encoded = counting(cache.features)
    cache.fill([song, replace(song, id="renamed", tags=["new"])], 0, progress=False)
    cache.fill([replace(song, audio={"bytes": None, "path": song.audio})], 0, progress=False)
    assert encoded == []
    state = Path(song.audio).stat()
    os.utime(song.audio, ns=(state.st_atime_ns, state.st_mtime_ns + 1000))
    cache.fill([song], 0, progress=False)
    os.utime(song.audio, ns=(state.st_atime_ns, state.st_mtime_ns))
    cache.fill([song], 0, progress=False)
    assert encoded == ["a"]
    with open(song.audio, "ab") as file:
        file.write(b"more")
    os.utime(song.audio, ns=(state.st_atime_ns, state.st_mtime_ns))
    with pytest.raises(FileNotFoundError):
        cache.read(song)
    cache.fill([song], 0, progress=False)
    other = write_song(tmp_path / "b.wav")
    cache.fill([other], 0, progress=False)
    content = {"bytes": Path(other.audio).read_bytes(), "path": None}
    cache.fill([replace(other, audio=content)], 0, progress=False)
    assert encoded == ["a", "a", "b", "b"]
    cache.fill([replace(other, audio=content | {"path": "x.wav"})], 0, progress=False)
    assert encoded == ["a", "a", "b", "b"]


# Filling


def test_filled_once_and_read_as_embedded(tiny_model, songs, tmp_path):
    cache = FeatureCache(tmp_path, EncoderFeatures(tiny_model, [2], SETTINGS), torch.float32)
    encoded = counting(cache.features)
    cache.fill(songs[:1], 0, progress=False)
    cache.fill(songs, 0, progress=False)
    cache.fill(songs, 0, progress=False)
    assert encoded == [song.id for song in songs]
    for song in songs:
        expected = embed(tiny_model, load_audio(song.audio), 24000, layer=2, window_seconds=4.0).frames
        found = cache.read(song)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        assert cache.read(song, 10, 20).equal(found[10:30])
        assert cache.read(song, len(found) - 3, 20).equal(found[-3:])
        crop = cache(song, len(found) - 3, 5, np.random.default_rng(0))["hidden_states"]
        assert crop.equal(torch.cat([found[-3:], torch.zeros(2, 32)]))  # audio that breaks off
        assert not cache(song, len(found) + 3, 5, np.random.default_rng(0))["hidden_states"].any()


@pytest.mark.parametrize("name", ["version", "FORMAT"])
def test_other_code_has_other_files(tiny_model, monkeypatch, name):
    before = EncoderFeatures(tiny_model, [2], SETTINGS).key, LogMelFeatures(tiny_model.config).key
    monkeypatch.setattr(features, name, (lambda package: "9.9") if name == "version" else 99)
    assert EncoderFeatures(tiny_model, [2], SETTINGS).key != before[0]
    assert LogMelFeatures(tiny_model.config).key != before[1]


def test_half_precision_by_default(tiny_model, songs, tmp_path):
    exact = FeatureCache(tmp_path / "a", EncoderFeatures(tiny_model, [2], SETTINGS), torch.float32)
    cache = FeatureCache(tmp_path / "a", EncoderFeatures(tiny_model, [2], SETTINGS))  # dtypes have their own files
    for one in (exact, cache):
        one.fill(songs[1:], 0, progress=False)
    assert cache.read(songs[1]).equal(exact.read(songs[1]).half())
    assert cache(songs[1], 0, 5, np.random.default_rng(0))["hidden_states"].dtype == torch.float32


@pytest.mark.parametrize("kind", ["layers", "spectrogram"])
def test_reading_does_not_depend_on_autocast(tiny_model, songs, tmp_path, kind):
    """`--bf16 true` scores songs under autocast, which has no float16 on CPUs."""
    features = EncoderFeatures(tiny_model, LAYERS, SETTINGS) if kind == "layers" else LogMelFeatures(tiny_model.config)
    cache = FeatureCache(tmp_path, features)
    cache.fill(songs[1:], 0, progress=False)
    expected = cache.read(songs[1])
    with torch.autocast("cpu", torch.bfloat16):
        found = cache.read(songs[1])
    assert found.dtype == torch.float16
    assert found.equal(expected)


def test_all_layers_serve_each(tiny_model, songs, tmp_path):
    every = FeatureCache(tmp_path, EncoderFeatures(tiny_model, LAYERS, SETTINGS), torch.float32)
    every.fill(songs[1:], 0, progress=False)
    frames = every.read(songs[1], 3, 50)
    assert frames.shape == (50, 4, 32)
    for layer in LAYERS:
        single = FeatureCache(tmp_path, EncoderFeatures(tiny_model, [layer], SETTINGS), torch.float32)
        encoded = counting(single.features)
        single.fill(songs[1:], 0, progress=False)
        assert encoded == []
        assert single.read(songs[1], 3, 50).equal(frames[:, layer])
        expected = embed(tiny_model, load_audio(songs[1].audio), 24000, layer=layer, window_seconds=4.0).frames
        torch.testing.assert_close(single.read(songs[1]), expected, rtol=0, atol=1e-5)


def test_what_is_missing_of_a_song_is_added(tiny_model, songs, tmp_path):
    single = FeatureCache(tmp_path, EncoderFeatures(tiny_model, [1], SETTINGS))
    single.fill(songs[1:], 0, progress=False)
    every = FeatureCache(tmp_path, EncoderFeatures(tiny_model, LAYERS, SETTINGS))
    every.fill(songs[1:], 0, progress=False)
    assert {path.parent.name for path in files(tmp_path)} == {f"layer_0{layer}" for layer in LAYERS}
    assert len(files(tmp_path)) == 4


def test_a_fill_that_fails_leaves_what_is_complete(tiny_model, songs, tmp_path, monkeypatch):
    """Space runs out in the third file: it is not there, and the next fill computes its song alone."""
    cache = FeatureCache(tmp_path, EncoderFeatures(tiny_model, [0, 1], SETTINGS))
    written = []

    def failing(tensors, path, metadata):
        written.append(path)
        if len(written) == 3:
            Path(path).write_bytes(b"half of it")
            raise OSError("No space left on device")
        save_file(tensors, path, metadata)

    save_file = training_files.save_file
    monkeypatch.setattr(training_files, "save_file", failing)
    with pytest.raises(OSError, match="No space"):
        cache.fill(songs, 0, progress=False)
    monkeypatch.undo()
    assert [path.suffix for path in files(tmp_path)] == [".safetensors"] * 2
    for path in files(tmp_path):
        with safe_open(path, "pt") as file:
            assert file.get_tensor("frames").isfinite().all()
    encoded = counting(cache.features)
    cache.fill(songs, 0, progress=False)
    assert len(encoded) == 1
    assert len(files(tmp_path)) == 4


def test_songs_that_cannot_be_read_are_named(tiny_model, songs, tmp_path):
    (tmp_path / "bad.mp3").write_text("no music")
    short = write_song(tmp_path / "short.wav", 0.02)
    bad = replace(songs[0], id="bad one", audio=str(tmp_path / "bad.mp3"))
    cache = FeatureCache(tmp_path / "cache", EncoderFeatures(tiny_model, [1], SETTINGS))
    with pytest.raises(ValueError, match=r"(?s)cannot be used: bad one: .*is not audio.*; short: .*480 samples"):
        cache.fill([bad, songs[1], short], 0, progress=False)
    assert cache.read(songs[1]).shape == (round(25 * songs[1].duration), 32)  # the others are there


def test_audio_that_breaks_off_is_named(tmp_path, tiny_model, monkeypatch):
    said = []
    monkeypatch.setattr(features.logger, "warning", said.append)
    whole, cut = write_song(tmp_path / "whole.mp3"), write_song(tmp_path / "cut.mp3")
    Path(cut.audio).write_bytes(Path(cut.audio).read_bytes()[:8000])
    FeatureCache(tmp_path / "cache", EncoderFeatures(tiny_model, [1], SETTINGS)).fill([whole, cut], 0, progress=False)
    (message,) = said
    assert message.startswith("cut: ")
    assert "cut.mp3" in message


# The spectrogram


def test_log_mel_features(tmp_path):
    """Frame k is the mean of mel frames 4 k to 4 k + 3; 0.6 s are 15 frames, of which every third is taken."""
    config = MusicFMConfig(**TINY)
    song = write_song(tmp_path / "a.wav", 2.01)  # 201 mel frames: of the last frame there is one
    features = LogMelFeatures(config)
    cache = FeatureCache(tmp_path / "cache", features, torch.float32)
    cache.fill([song], 0, progress=False)
    mel = MusicFMLogMel(config)(torch.from_numpy(load_audio(song.audio))[None], None)[0]
    count = config.frame_counts(round(2.01 * 24000))[-1]
    assert (len(mel), count) == (201, 51)
    means = torch.stack([mel[4 * k : 4 * k + 4].sum(0) / 4 for k in range(count)])  # the last one beside silence
    found = cache.read(song)
    bands = config.num_mel_bins
    assert found.shape == (51, 11 * bands)
    assert features.width == 11 * bands
    for place, offset in enumerate(range(-15, 16, 3)):
        expected = means[torch.arange(offset, offset + 51).clamp(0, 50)]
        torch.testing.assert_close(found[:, place * bands : (place + 1) * bands], expected, rtol=0, atol=1e-5)
    for start, frames in ((20, 7), (0, 3), (49, 2)):  # with frames from outside of the crop; at the ends, repeated
        assert cache.read(song, start, frames).equal(found[start : start + frames])
    assert len(files(tmp_path / "cache")) == 1
    (path,) = files(tmp_path / "cache")
    assert path.stat().st_size < 4 * 51 * bands + 1000  # the surroundings are not stored
