"""The first part of embedding heads: targets worked out, the fit, maps in memory."""

from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from helpers.models import TINY

from musicfm_hf import MusicFMConfig
from musicfm_hf.evaluation.retrieval_baselines import CHROMA_RATE
from musicfm_hf.finetuning import pitch_maps
from musicfm_hf.finetuning.pitch_maps import (
    ChromaFeatures,
    PitchMaps,
    PitchTargets,
    count_pitch_maps,
    fit_pitch_maps,
    songs_to_fit,
    tones_at,
)
from musicfm_hf.inference.feature_cache import FeatureCache
from musicfm_hf.model.heads_musicfm import MusicFMEmbeddingHead
from musicfm_hf.model.losses_musicfm import IGNORED
from musicfm_hf.tasks.annotations import Segment

CONFIG = MusicFMConfig(**TINY | {"pitch_maps": 2, "contrastive_loss": "info_nce"})
CHORDS = [Segment(0.0, 2.0, "C:maj7/3"), Segment(2.0, 3.0, "N"), Segment(3.0, 9.0, "A:min")]


def song_of(name, chords=CHORDS):
    return SimpleNamespace(id=name, chords=chords)


def test_tones_of_chords_worked_out():
    tones = tones_at(CHORDS, np.array([0.0, 1.99, 2.0, 3.0, 9.0]))
    rows = [np.flatnonzero(row).tolist() for row in tones]
    assert rows == [[0, 4, 7, 11], [0, 4, 7, 11], [], [0, 4, 9], []]  # C E G B; nothing; A C E


def targets_of(chroma, num_maps=2):
    """Targets of songs, by id, whose chroma is given, from a cache in memory."""
    features = ChromaFeatures(CONFIG)
    frames = {key: value["chroma"] for key, value in features.encode(chroma.items(), ["chroma"])}

    def read(song, start=0, count=None):
        return frames[song.id][start : None if count is None else start + count]

    return PitchTargets(SimpleNamespace(config=CONFIG, read=read), num_maps)


def test_targets_are_the_root_of_chroma_and_the_chord():
    chroma = np.zeros((12, 40), dtype=np.float32)
    chroma[2, 10:], chroma[5, 0] = 0.25, 1.0
    targets = targets_of({"a": chroma})(song_of("a"), 0, 85)  # 3.4 s
    assert targets.shape == (85, 24)
    assert targets.dtype == torch.float32
    assert targets[0].nonzero().flatten().tolist() == [5, 12, 16, 19, 23]  # F sounds, over C E G B
    second = round(10 / CHROMA_RATE * CONFIG.frame_rate)
    assert targets[second + 1, 2] == 0.5  # the root of a quarter
    assert targets[80].nonzero().flatten().tolist() == [2, 12, 16, 21]  # D sounds, over A C E
    assert targets_of({"a": chroma}, 1)(song_of("a"), 0, 80).shape == (80, 12)


@pytest.mark.parametrize(("tempo", "semitones"), [(1.0, 0), (1.25, 3), (0.8, -2)])
def test_targets_of_a_crop_follow_its_tempo_and_transposition(tempo, semitones):
    """A crop that is played faster has reached a later part of the song, and its chord is transposed."""
    chroma = np.zeros((12, 200), dtype=np.float32)
    chroma[np.arange(200) // 20, np.arange(200)] = 1.0  # the next semitone every 20 frames
    song, targets = song_of("a"), targets_of({"a": chroma})
    crop = targets(song, 30, 60, tempo, semitones)
    whole = targets(song, 0, 300)
    for frame in range(60):
        place = round(30 + (frame + CONFIG.frame_offset) * tempo - CONFIG.frame_offset)
        expected = whole[place].unflatten(0, (2, 12)).roll(semitones, dims=1)
        found = crop[frame].unflatten(0, (2, 12))
        assert found[0].equal(expected[0])
    chord = crop[-1, 12:].nonzero().flatten().tolist()
    last = 30 + 59 * tempo
    at_end = [0, 4, 7, 11] if last < 50 else [] if last < 75 else [0, 4, 9]
    assert chord == sorted((tone + semitones) % 12 for tone in at_end)


def test_frames_after_the_end_of_the_audio_have_no_targets():
    """A file may be truncated, while its annotations go on."""
    chroma = np.ones((12, 40), dtype=np.float32)  # 3.4 s
    song, targets = song_of("a"), targets_of({"a": chroma})
    whole = int(40 / CHROMA_RATE * CONFIG.frame_rate) + 1
    crop = targets(song, 70, 60)
    assert (crop[: whole - 70] != IGNORED).all()
    assert (crop[whole - 70 :] == IGNORED).all()
    faster = targets(song, 70, 60, tempo=2.0, semitones=1)  # reaches the end in half of the frames
    assert int((faster[:, 0] != IGNORED).sum()) == pytest.approx((whole - 70) / 2, abs=1)
    assert (targets(song, 200, 10) == IGNORED).all()


def test_chroma_of_audio_is_cached(tmp_path):
    """A file with A4, at another rate than that of the model, as a song of the cache."""
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(3 * 44100) / 44100)
    soundfile.write(tmp_path / "a.wav", tone, 44100)
    song = song_of("a", [Segment(0.0, 3.0, "A")])
    song.audio = str(tmp_path / "a.wav")
    cache = FeatureCache(tmp_path / "features", ChromaFeatures(CONFIG))
    cache.fill([song], 0)
    targets = PitchTargets(cache, 2)(song, 10, 50)
    assert targets.shape == (50, 24)
    assert (targets[:, :12].argmax(1) == 9).all()
    assert targets[:, 9].min() > 0.5
    assert targets[:, 12:].sum(0).nonzero().flatten().tolist() == [1, 4, 9]
    short = song_of("b")
    short.audio = str(tmp_path / "short.wav")
    soundfile.write(short.audio, np.zeros(12000), 24000)
    with pytest.raises(ValueError, match=r"has 0\.50 s, but chroma and MFCCs need 1 s"):
        cache.fill([short], 0)


def test_songs_without_chords_have_one_map():
    assert count_pitch_maps([song_of("a"), song_of("b")]) == 2
    assert count_pitch_maps([song_of("a"), song_of("b", None)]) == 1
    assert count_pitch_maps([song_of("a"), song_of("b", [])]) == 1


def test_a_label_that_is_no_chord_is_named_before_training():
    with pytest.raises(ValueError, match="'H:loud' is not a chord"):
        count_pitch_maps([song_of("a"), song_of("b", [Segment(0.0, 1.0, "H:loud")])])


def test_the_fit_finds_a_linear_map():
    """Features are a linear function of the targets, so the targets can be computed from them."""
    generator = np.random.default_rng(0)
    songs = [song_of(str(number)) for number in range(4)]
    pitch_targets = targets_of({song.id: generator.random((12, 60)).astype(np.float32) for song in songs})
    targets = {song.id: pitch_targets(song, 0, 100).numpy() for song in songs}
    mixing = generator.normal(size=(24, CONFIG.hidden_size))
    features = {name: torch.from_numpy(values @ mixing + 3).float() for name, values in targets.items()}
    cache = SimpleNamespace(config=CONFIG, read=lambda song: features[song.id])
    head = MusicFMEmbeddingHead(CONFIG).eval()
    head.layer_norm = torch.nn.Identity()
    fit_pitch_maps(head, cache, pitch_targets, songs)
    maps = PitchMaps(head, cache, songs)
    for song in songs:
        found = maps.read(song)
        assert found.shape == (100, 24)
        assert np.corrcoef(found.numpy().ravel(), targets[song.id].ravel())[0, 1] > 0.99
    crop = maps(songs[1], 90, 20, generator)  # the features end after ten of these frames
    assert crop["audio_frames"] == 10
    torch.testing.assert_close(crop["hidden_states"][:10], maps.read(songs[1])[90:].float())
    assert crop["hidden_states"][10:].abs().max() == 0
    with torch.no_grad():
        whole = head(features["2"][None]).logits
        parts = head.embedding(maps.read(songs[2])[None].float()).logits
    torch.testing.assert_close(parts, whole, rtol=2e-2, atol=2e-3)  # half precision


def test_the_fit_uses_a_part_of_many_songs(monkeypatch):
    monkeypatch.setattr(pitch_maps, "MAX_SONGS", 3)
    songs = [song_of(str(number)) for number in range(9)]
    drawn = songs_to_fit(songs, seed=1)
    assert len(drawn) == 3
    assert [songs.index(song) for song in drawn] == sorted(songs.index(song) for song in drawn)
    assert [song.id for song in drawn] == [song.id for song in songs_to_fit(songs, seed=1)]
    assert any(
        [song.id for song in songs_to_fit(songs, seed=seed)] != [song.id for song in drawn] for seed in range(5)
    )
