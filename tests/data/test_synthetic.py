import hashlib
import json
from itertools import pairwise

import librosa
import numpy as np
import pytest

from musicfm_hf.data.prepare import prepare_dataset
from musicfm_hf.data.readers.synthetic import READER, song_readers
from musicfm_hf.data.synthetic import PITCH_NAMES, compose, synthesize
from musicfm_hf.symbolic.synthetic_meters import Meters, TempoMap
from musicfm_hf.tasks.annotations import Beats
from musicfm_hf.tasks.meter import time_signatures


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


# Of the labels and notes, and of the audio at 8 kHz, recorded before songs could have other meters.
RECORDED = {
    0: ("db1a859625c1d633", "672d976b81f3e0c7"),
    2: ("e414a84af0de6c11", "1270104200d2a2d9"),
    4: ("8be57e40e9812443", "cbd4d37721c6ddf6"),
}


def test_first_seed_gives_the_songs_of_later_seeds(tmp_path):
    songs = song_readers("", tmp_path, songs=2, seconds=3.0, num_workers=1, first_seed=4)
    assert list(songs) == ["4", "5"]
    assert songs["4"]().keys[0].label == compose(4).key
    prepare_dataset(
        READER, tmp_path / "data", options={"songs": 2, "seconds": 3.0, "first_seed": 4}, fractions=(0, 0, 1)
    )
    assert json.loads((tmp_path / "data/info.json").read_text())["source"] == "seeds 4 to 5"
    with pytest.raises(ValueError, match="`first_seed` must be at least 0, got -1"):
        song_readers("", tmp_path, first_seed=-1)


@pytest.mark.parametrize("seed", RECORDED)
def test_default_songs_are_as_recorded(seed):
    song = compose(seed)
    notes = [tuple(note) for note in song.notes]
    labels = (song.beats.tolist(), song.chords, song.sections, song.key, song.tempo, song.beats_per_bar, notes)
    texts = repr((*labels, song.duration)).encode(), synthesize(song, 8000).tobytes()
    assert tuple(hashlib.sha256(text).hexdigest()[:16] for text in texts) == RECORDED[seed]


def test_a_tempo_map_integrates_the_tempo():
    # Half the tempo between 4 and 6 s, after a ritardando of 2 s from 1 to 1/2: 2 s / (1/2 - 1) · ln(1/2) = 4 ln 2.
    tempo_map = TempoMap([(0.0, 1.0), (2.0, 1.0), (4.0, 0.5), (6.0, 0.5), (6.0, 2.0)])
    late = 2 + 4 * np.log(2)
    expected = {0: 0, 1: 1, 2: 2, 3: 2 - 4 * np.log(0.75), 4: late, 5: late + 2, 6: late + 4, 8: late + 5}
    assert [tempo_map(time) for time in expected] == pytest.approx(list(expected.values()))


@pytest.mark.parametrize("seed", range(4))
def test_songs_in_several_meters(seed):
    meters = Meters((2, 3, 4, 5, 6, 7), change=0.5, tempo_change=0.5)
    song = compose(seed, meters)
    times, positions = song.beats.T
    lengths = np.diff(np.flatnonzero(np.r_[positions, 1] == 1))
    assert len(lengths) == len(song.chords) == 40
    assert set(lengths) <= {2, 3, 4, 5, 6, 7}
    assert positions.tolist() == [beat + 1 for length in lengths for beat in range(length)]
    # The meter changes where a section begins, and nowhere else.
    starts = [start for start, _, _ in song.sections]
    changes = times[positions == 1][1:][np.diff(lengths) != 0]
    assert all(min(abs(change - start) for start in starts) < 1e-6 for change in changes)
    np.testing.assert_allclose([start for start, _, _ in song.chords], times[positions == 1])
    assert 60 / np.diff(times).max() > 55
    assert 60 / np.diff(times).min() < 215
    kicks = [start for start, _, _, instrument, loudness in song.notes if instrument == "kick" and loudness == 0.5]
    np.testing.assert_allclose(kicks, times[positions == 1][4:36])  # on the first beats of verses and choruses


def test_settings_of_the_composer_have_their_effect():
    def songs(**settings):
        return [compose(seed, Meters((3, 5, 7), **settings)) for seed in range(30)]

    def signatures(song):
        return time_signatures(Beats(song.beats[:, 0], song.beats[:, 1].astype(np.int64)))

    def is_steady(song):
        return np.ptp(np.diff(song.beats[:, 0])) < 1e-9

    steady = songs()
    assert {song.beats_per_bar for song in steady} == {3, 5, 7}
    assert all(len(signatures(song)) == 1 and is_steady(song) for song in steady)
    changing = [len(signatures(song)) for song in songs(change=1.0)]
    assert min(changing) == max(changing) == 6  # every section
    assert sum(not is_steady(song) for song in songs(tempo_change=1.0)) == 30
    halves = sum(not is_steady(song) for song in songs(tempo_change=0.1))
    assert 5 < halves < 25  # 1 - 0.9 ** 6 of 30 songs is 14


def test_a_ritardando_is_in_the_last_two_bars_of_a_section():
    found = 0
    for seed in range(20):
        song = compose(seed, Meters((4,), tempo_change=0.2))
        tempi = 60 / np.diff(song.beats[:, 0])
        for start, end, _ in song.sections:
            inside = tempi[(song.beats[:-1, 0] >= start - 1e-6) & (song.beats[:-1, 0] < end - 1e-6)]
            if inside[0] == pytest.approx(inside[-9]) and inside[-1] < 0.95 * inside[0]:
                found += 1
                assert np.all(np.diff(inside[-8:]) < 0)
                assert inside[-1] > 0.75 * inside[0]
    assert found >= 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"meters": ()}, "from 2 to 7 beats, got none"),
        ({"meters": (4, 9)}, "from 2 to 7 beats, got 4, 9"),
        ({"meters": (4, 4)}, "different meters.*got 4, 4"),
        ({"meters": (4,), "change": 0.5}, "only with several meters, got only 4"),
        ({"meters": (3, 4), "change": 1.5}, "from 0 to 1, got 1.5 and 0.0"),
        ({"meters": (3, 4), "tempo_change": -1}, "from 0 to 1, got 0.0 and -1"),
    ],
)
def test_wrong_meters(settings, message):
    with pytest.raises(ValueError, match=message):
        Meters(**settings)


@pytest.mark.parametrize("seconds", [0.0, -5.0, float("nan")])
def test_lengths_must_be_positive(tmp_path, seconds):
    with pytest.raises(ValueError, match="`seconds` must be above 0, got"):
        song_readers("", tmp_path, songs=1, seconds=seconds, num_workers=1)


def test_prepared_songs_have_the_meters_that_were_asked_for(tmp_path):
    readers = song_readers("", tmp_path, songs=3, seconds=12.0, num_workers=1, meters=[5, 7])
    for read in readers.values():
        song = read()
        labels = {segment.label for segment in time_signatures(song.beats)}
        assert labels <= {"5", "7"}
        assert [tag for tag in song.tags if tag.endswith("/4")] == [f"{label}/4" for label in labels]


@pytest.mark.parametrize(
    ("options", "composed"),
    [({}, None), ({"meter_change": 0.2}, {"meters": [3, 4], "change": 0.2, "tempo_change": 0.0})],
)
def test_the_meters_are_recorded(tmp_path, options, composed):
    options = {"songs": 1, "seconds": 2.0, "num_workers": 1} | options
    prepare_dataset(READER, tmp_path / "data", options=options, fractions=(0, 0, 1))
    assert json.loads((tmp_path / "data/info.json").read_text()).get("composed") == composed
