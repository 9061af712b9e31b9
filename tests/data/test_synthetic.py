from itertools import pairwise

import librosa
import numpy as np
import pytest

from musicfm_hf.data.synthetic import PITCH_NAMES, compose, synthesize


@pytest.mark.parametrize("seed", range(5))
def test_labels_fit_together(seed):
    song = compose(seed)
    bar = 60 / song.tempo * song.beats_per_bar
    assert song.beats[:, 1].tolist() == [k % song.beats_per_bar + 1 for k in range(len(song.beats))]
    np.testing.assert_allclose(np.diff(song.beats[:, 0]), 60 / song.tempo)
    for intervals in (song.chords, song.sections):
        assert intervals[0][0] == 0
        assert intervals[-1][1] == pytest.approx(song.duration - 2)
        for (_, end, _), (start, _, _) in pairwise(intervals):
            assert end == pytest.approx(start)
    downbeats = song.beats[song.beats[:, 1] == 1, 0]
    np.testing.assert_allclose([start for start, _, _ in song.chords], downbeats, atol=1e-9)
    assert all((end - start) == pytest.approx(bar) for start, end, _ in song.chords)
    assert [name for _, _, name in song.sections] == ["intro", "verse", "chorus", "verse", "chorus", "outro"]


def test_seed_decides_everything():
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    one, other = synthesize(compose(4), 8000), synthesize(compose(4), 8000)
    np.testing.assert_array_equal(one, other)
    assert not np.array_equal(one[:8000], synthesize(compose(5), 8000)[:8000])
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002


def test_audio_has_the_chords_and_the_beats_it_is_labeled_with():
    rate = 22050
    song = compose(2)
    audio = synthesize(song, rate)
    assert audio.shape == (round(song.duration * rate), 2)
    assert np.abs(audio).max() == pytest.approx(0.9)
    seconds = 30
    mono = audio[: seconds * rate].mean(axis=1)
    chroma = librosa.feature.chroma_cqt(y=mono, sr=rate, hop_length=512)
    right = 0
    chords = [chord for chord in song.chords if chord[1] <= seconds]
    for start, end, label in chords:
        root, quality = label.split(":")
        triad = [(PITCH_NAMES.index(root) + step) % 12 for step in ((0, 4, 7) if quality == "maj" else (0, 3, 7))]
        mean = chroma[:, int(start * rate / 512) : int(end * rate / 512)].mean(axis=1)
        right += set(np.argsort(mean)[-3:]) == set(triad)
    assert right / len(chords) > 0.9
    onsets = librosa.onset.onset_strength(y=mono, sr=rate, hop_length=512)
    at_beats = librosa.time_to_frames(
        song.beats[(song.beats[:, 0] > 11) & (song.beats[:, 0] < seconds - 1), 0], sr=rate, hop_length=512
    )
    assert np.mean([onsets[beat - 2 : beat + 3].max() for beat in at_beats]) > 2 * onsets.mean()
