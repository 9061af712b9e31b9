"""The first part of embedding heads: targets worked out, the fit, maps in memory."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.models import TINY

from musicfm_hf import MusicFMConfig
from musicfm_hf.evaluation.retrieval_baselines import CHROMA_RATE, SongFrames
from musicfm_hf.finetuning import pitch_maps
from musicfm_hf.finetuning.pitch_maps import PitchMaps, count_pitch_maps, fit_pitch_maps, pitch_targets, tones_at
from musicfm_hf.model.heads_musicfm import MusicFMEmbeddingHead
from musicfm_hf.tasks.annotations import Segment

CONFIG = MusicFMConfig(**TINY | {"pitch_maps": 2, "contrastive_loss": "info_nce"})
CHORDS = [Segment(0.0, 2.0, "C:maj7/3"), Segment(2.0, 3.0, "N"), Segment(3.0, 9.0, "A:min")]


def song_of(name, chords=CHORDS):
    return SimpleNamespace(id=name, chords=chords)


def test_tones_of_chords_worked_out():
    tones = tones_at(CHORDS, np.array([0.0, 1.99, 2.0, 3.0, 9.0]))
    rows = [np.flatnonzero(row).tolist() for row in tones]
    assert rows == [[0, 4, 7, 11], [0, 4, 7, 11], [], [0, 4, 9], []]  # C E G B; nothing; A C E


def test_targets_are_the_root_of_chroma_and_the_chord():
    chroma = np.zeros((12, 40), dtype=np.float32)
    chroma[2, 10:], chroma[5, 0] = 0.25, 1.0
    times = np.array([0.0, 10 / CHROMA_RATE, 100.0])  # the last one is beyond the end
    targets = pitch_targets(song_of("a"), {"a": SongFrames(chroma, np.zeros((20, 40)))}, times, 2)
    assert targets.shape == (3, 24)
    assert targets[0].nonzero()[0].tolist() == [5, 12, 16, 19, 23]
    assert targets[1, 2] == targets[2, 2] == 0.5
    assert pitch_targets(song_of("a"), {"a": SongFrames(chroma, np.zeros((20, 40)))}, times, 1).shape == (3, 12)


def test_songs_without_chords_have_one_map():
    assert count_pitch_maps([song_of("a"), song_of("b")]) == 2
    assert count_pitch_maps([song_of("a"), song_of("b", None)]) == 1
    assert count_pitch_maps([song_of("a"), song_of("b", [])]) == 1


def test_a_label_that_is_no_chord_is_named_before_training():
    with pytest.raises(ValueError, match="'H:loud' is not a chord"):
        count_pitch_maps([song_of("a"), song_of("b", [Segment(0.0, 1.0, "H:loud")])])


def test_the_fit_finds_a_linear_map(monkeypatch):
    """Features are a linear function of the targets, so the targets can be computed from them."""
    generator = np.random.default_rng(0)
    songs = [song_of(str(number)) for number in range(4)]
    chroma = {song.id: SongFrames(generator.random((12, 60)).astype(np.float32), np.zeros((20, 60))) for song in songs}
    monkeypatch.setattr(pitch_maps, "frames_of_songs", lambda chosen, workers: {s.id: chroma[s.id] for s in chosen})
    times = (np.arange(100) + CONFIG.frame_offset) / CONFIG.frame_rate
    targets = {song.id: pitch_targets(song, chroma, times, 2) for song in songs}
    mixing = generator.normal(size=(24, CONFIG.hidden_size))
    features = {name: torch.from_numpy(values @ mixing + 3).float() for name, values in targets.items()}
    cache = SimpleNamespace(config=CONFIG, read=lambda song: features[song.id])
    head = MusicFMEmbeddingHead(CONFIG).eval()
    head.layer_norm = torch.nn.Identity()
    fit_pitch_maps(head, cache, songs, seed=0)
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
    chosen = []
    monkeypatch.setattr(pitch_maps, "MAX_SONGS", 3)
    monkeypatch.setattr(pitch_maps, "frames_of_songs", lambda songs, workers: chosen.extend(songs) or {})
    head = MusicFMEmbeddingHead(CONFIG)
    with pytest.raises(KeyError):  # no chroma follows
        fit_pitch_maps(
            head,
            SimpleNamespace(config=CONFIG, read=lambda song: torch.zeros(5, CONFIG.hidden_size)),
            [song_of(str(number)) for number in range(9)],
            seed=1,
        )
    assert len({song.id for song in chosen}) == 3
