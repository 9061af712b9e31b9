"""Crops of labeled songs: which, where, and that labels follow what is done to the audio."""

from dataclasses import replace

import librosa
import numpy as np
import pytest
import soundfile
import torch
from helpers.models import config_of

from musicfm_hf import load_audio
from musicfm_hf.data.examples import (
    ReadWaveform,
    TaskCrops,
    collate_examples,
    crop_targets,
    with_annotation,
)
from musicfm_hf.data.labeled import LabeledSong
from musicfm_hf.data.labeled_dataset import load_songs
from musicfm_hf.tasks import get_task
from musicfm_hf.tasks.annotations import PITCH_NAMES, Beats, Segment

RATE = 24000
FRAME_TASKS = ("beat", "chord", "structure", "key")


def write_song(path, waveform: np.ndarray, rate: int = RATE, **annotations) -> LabeledSong:
    soundfile.write(path, waveform, rate)
    return LabeledSong(path.stem, str(path), path.stem, duration=len(waveform) / rate, **annotations)


def note_place(song, start, frames, generator):
    """Reads nothing, and tells what it was asked for."""
    return {"song": song.id, "start": start, "frames": frames, "random": generator.random()}


@pytest.fixture(scope="module")
def songs(labeled) -> list[LabeledSong]:
    return load_songs(labeled, "train")


# Which crops


def test_every_song_once_in_a_pass(songs):
    crops = TaskCrops(config_of("chord"), songs, note_place, 40, 2.0, seed=3)
    assert len(crops) == 40
    passes = [[crops[number]["song"] for number in range(first, first + 4)] for first in range(0, 40, 4)]
    assert all(sorted(names) == [song.id for song in songs] for names in passes)
    assert len(set(map(tuple, passes))) > 3  # each in an order of its own
    starts = [crops[number]["start"] for number in range(40)]
    assert len(set(starts)) > 20
    assert all(crops[number]["frames"] == 50 for number in range(40))


def test_crops_reach_the_whole_song(songs):
    """Of 10 s, 250 frames, a crop of 248 has three places."""
    crops = TaskCrops(config_of("chord"), songs[:1], note_place, 60, 9.92, seed=0)
    assert {crops[number]["start"] for number in range(60)} == {0, 1, 2}


def test_crops_of_songs_that_are_annotated_in_part_have_labels(songs):
    """1.2 s of 10 s: of crops of 2 s at any place, more than half would have none."""
    part = replace(songs[0], chords=[Segment(4.0, 5.2, "C:maj")])
    crops = TaskCrops(config_of("chord"), [part], note_place, 60, 2.0, seed=0)
    assert all((crops[number]["labels"] >= 0).any() for number in range(60))
    assert len({crops[number]["start"] for number in range(60)}) > 20
    without = TaskCrops(config_of("chord"), [replace(part, chords=[])], note_place, 3, 2.0, seed=0)
    assert all((without[number]["labels"] == -100).all() for number in range(3))


def test_songs_that_are_shorter_are_taken_whole(songs):
    (short,) = [song for song in songs if song.duration < 5]
    crop = TaskCrops(config_of("chord"), [short], note_place, 1, 6.0, seed=0)[0]
    assert (crop["start"], crop["frames"], len(crop["labels"])) == (0, 75, 75)


def test_a_crop_is_a_function_of_seed_and_number(songs):
    config = config_of("key", 0.5)
    read = ReadWaveform(config, tempo=0.1)
    crops, again, other = (TaskCrops(config, songs, read, 12, 1.0, seed) for seed in (5, 5, 6))
    expected = [crops[number] for number in range(12)]
    np.random.default_rng(0).random()
    np.random.seed(1)  # noqa: NPY002 the global generator has no say
    differ = 0
    for number in (7, 0, 11, 3, 3, 8):
        item = again[number]
        assert item.keys() == {"input_values", "labels"}
        assert all(item[name].equal(expected[number][name]) for name in item)
        differ += not other[number]["input_values"].equal(expected[number]["input_values"])
    assert differ >= 5


def test_effects_change_the_audio_and_no_labels(songs):
    config = config_of("chord")
    plain, changed, again = (
        TaskCrops(config, songs, ReadWaveform(config, effects=effects), 12, 1.0, 5) for effects in (0.0, 0.6, 0.6)
    )
    pairs = [(plain[number], changed[number]) for number in range(12)]
    assert all(first["labels"].equal(second["labels"]) for first, second in pairs)
    assert all(first["input_values"].shape == second["input_values"].shape for first, second in pairs)
    differ = [not first["input_values"].equal(second["input_values"]) for first, second in pairs]
    assert 3 <= sum(differ) <= 11
    assert all(again[number]["input_values"].equal(pairs[number][1]["input_values"]) for number in (7, 0, 11))


@pytest.mark.parametrize("task", FRAME_TASKS)
def test_targets_of_a_crop_are_those_of_the_song(songs, task):
    config = config_of(task)
    # No beat just between two frames.
    songs = [replace(song, beats=song.beats._replace(times=song.beats.times + 0.003)) for song in songs]
    crops = TaskCrops(config, songs, note_place, 20, 2.0, seed=1)
    for number in range(20):
        crop = crops[number]
        (song,) = [song for song in songs if song.id == crop["song"]]
        whole = crop_targets(config, song, 0.0, config.frame_counts(round(song.duration * RATE))[-1])
        labels = crop["labels"]
        assert labels.equal(whole[crop["start"] : crop["start"] + len(labels)])
        assert len(labels) == 50
    assert labels.dtype == torch.float32


def test_targets_at_a_rate_of_their_own():
    """A crop from 0.48 s, at 8 Hz: frame j is [0.48 + j / 8, 0.48 + (j + 1) / 8); the chord changes at 1 s."""
    song = LabeledSong("a", "a", "a", duration=4.0, chords=[Segment(0, 1, "C"), Segment(1, 4, "A:min")])
    labels = crop_targets(config_of("chord", 8.0), song, 12 / 25, 25)
    assert len(labels) == 8  # 25 frames end at 24.5 / 25 s
    major, minor = PITCH_NAMES.index("C"), 12 + PITCH_NAMES.index("A")
    assert labels.argmax(1).tolist() == [major] * 4 + [minor] * 4  # the fifth has 0.02 s of C and 0.105 of A:min
    beats = replace(song, beats=Beats(np.array([0.98, 1.48]), np.array([1, 2])))
    labels = crop_targets(config_of("beat", 20.0), beats, 0.48, 25)
    assert labels[:, 1].tolist()[8:13] == [0, 0.5, 1, 0.5, 0]  # 0.5 s after the start, at frame 10
    assert labels[:, 0].tolist()[18:21] == [0, 0.5, 1]


def test_targets_of_tags():
    song = LabeledSong("a", "a", "a", duration=4.0, tags=["slow", "odd", "piano"])
    config = config_of("tagging", None, ["piano", "slow", "voice"])
    assert crop_targets(config, song, 1.0, 25).tolist() == [1, 1, 0]  # what training songs do not have is left out
    songs = [song, replace(song, tags=["bass", "slow"])]
    assert get_task("tagging").label_names(songs) == ["bass", "odd", "piano", "slow"]
    assert get_task("key").label_names([])[-1] == "N"


# Audio


def test_waveform_of_a_crop(songs):
    config = config_of("chord")
    read = ReadWaveform(config)
    song = songs[0]
    found = read(song, 30, 50, np.random.default_rng(0))
    samples = config.window_samples(50)
    assert config.frame_counts(samples)[-1] == 50
    expected = load_audio(song.audio, RATE)[30 * 960 :][:samples]
    np.testing.assert_array_equal(found["input_values"].numpy(), expected)
    assert (found["semitones"], found["tempo"]) == (0, 1.0)
    normalized = ReadWaveform(config_of("chord", do_normalize=True))(song, 30, 50, np.random.default_rng(0))
    values = normalized["input_values"].double()
    assert abs(values.mean()) < 1e-6
    assert abs(values.std(correction=0) - 1) < 1e-3


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_no_song_has_fewer_frames_than_its_duration_promises(tmp_path, rate):
    """Whatever its rate, audio has the frames that labels are made for."""
    config = config_of("chord")
    for samples in range(rate, rate + 40):
        song = write_song(tmp_path / "a.wav", np.full(samples, 0.1), rate)
        frames = config.frame_counts(round(song.duration * RATE))[-1]
        assert config.frame_counts(len(load_audio(song.audio, RATE)))[-1] >= frames


def click_track(seconds: float = 24.0, period: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Short tones, and where they begin."""
    times = np.arange(0.3, seconds - 0.2, period)
    waveform, time = np.zeros(round(seconds * RATE)), np.arange(round(0.1 * RATE)) / RATE
    for start in times:
        first = round(start * RATE)
        waveform[first : first + len(time)] += np.sin(2 * np.pi * 1000 * time) * np.exp(-time / 0.01)
    return waveform, times


def when_heard(waveform: np.ndarray, near: float) -> float:
    """Seconds at which the energy within 0.15 s of a time has its middle."""
    first = round((near - 0.15) * RATE)
    energy = waveform[first : first + round(0.3 * RATE)].astype(np.float64) ** 2
    assert energy.max() > 0.001
    return float((energy * np.arange(first, first + len(energy))).sum() / energy.sum() / RATE)


@pytest.mark.parametrize("change", [{"tempo": 0.2}, {"speed": 3}])
def test_beats_follow_the_tempo(tmp_path, change):
    waveform, times = click_track()
    beats = Beats(times, np.arange(len(times)) % 4 + 1)
    song = write_song(tmp_path / "clicks.wav", waveform, beats=beats)
    config = config_of("beat", 50.0)
    crops = TaskCrops(config, [song], ReadWaveform(config, **change), 8, 6.0, seed=0)
    late, tempos = [], []
    for number in range(8):
        item = crops[number]
        labels = item["labels"].numpy()
        frames = np.flatnonzero(labels[:, :2].max(1) == 1)
        annotated = [frame / 50 for frame in frames if 10 < frame < 290]
        heard = np.array([when_heard(item["input_values"].numpy(), time) for time in annotated])
        late += (heard - annotated).tolist()
        tempos.append(0.5 * (len(heard) - 1) / (heard[-1] - heard[0]))
        downbeats = np.flatnonzero(labels[:, 1] == 1)
        assert set(downbeats) <= set(frames)
        np.testing.assert_allclose(np.diff(downbeats), 4 * 25 / tempos[-1], atol=2)
    assert np.abs(late).max() < 0.03  # half a label frame, and what librosa's phase vocoder makes of clicks
    assert abs(np.mean(late)) < 0.01
    assert 1 / 1.2 - 0.01 <= min(tempos) < 0.95
    assert 1.05 < max(tempos) <= 1.2 + 0.01


@pytest.mark.parametrize("change", [{"transpose": True}, {"speed": 4}])
def test_pitch_classes_follow_the_transposition(tmp_path, change):
    """Of a C major chord, the root that is heard is the root that the label has."""
    time = np.arange(4 * RATE) / RATE
    waveform = sum(0.2 * np.sin(2 * np.pi * 440 * 2 ** ((pitch - 69) / 12) * time) for pitch in (60, 64, 67))
    chords = [Segment(0, 3, "C:maj"), Segment(3, 4, "N")]
    song = write_song(tmp_path / "chord.wav", waveform, chords=chords, keys=[Segment(0, 4, "C minor")])
    config = config_of("chord", 8.0)
    crops = TaskCrops(config, [song], ReadWaveform(config, **change), 6, 4.0, seed=2)
    roots = set()
    for number in range(6):
        item = crops[number]
        second = item["input_values"].numpy()[RATE : 2 * RATE]  # bins of its spectrum are 1 Hz wide
        power = np.abs(np.fft.rfft(second * np.hanning(RATE))) ** 2
        pitch = 69 + 12 * np.log2(np.arange(1, len(power)) / 440)
        chroma = np.bincount(np.round(pitch).astype(int) % 12, power[1:], minlength=12)
        labels = item["labels"]
        classes = labels[labels[:, 0] >= 0].argmax(1).tolist()  # what is played faster ends before the crop does
        root = classes[0]
        assert set(np.argsort(chroma)[-3:]) == {root, (root + 4) % 12, (root + 7) % 12}
        seconds = 3 / 2 ** (root / 12 - (root > 6)) if "speed" in change else 3
        count = classes.count(root)
        assert count == pytest.approx(8 * seconds, abs=0.51)
        assert classes == [root] * count + [24] * (len(classes) - count)
        roots.add(root)
    assert len(roots) >= 4
    key = TaskCrops(config_of("key", 0.5), [song], ReadWaveform(config, **change), 6, 4.0, seed=2)
    assert [key[number]["labels"][0].argmax() - 12 for number in range(3)] == [
        crops[number]["labels"][0].argmax() for number in range(3)
    ]


def test_range_of_transpositions(monkeypatch, songs):
    shifts = []
    monkeypatch.setattr(librosa.effects, "pitch_shift", lambda y, sr, n_steps: shifts.append(n_steps) or y)
    read = ReadWaveform(config_of("chord"), transpose=True)
    found = [read(songs[0], 0, 10, np.random.default_rng(seed))["semitones"] for seed in range(120)]
    assert set(found) == set(range(-5, 7))
    assert shifts == [semitones for semitones in found if semitones]  # 0 is left as it is


def test_a_faster_crop_at_the_end_is_padded(tmp_path):
    """A song that is taken whole has no more audio when it is played faster."""
    song = write_song(tmp_path / "a.wav", np.full(4 * RATE, 0.5), beats=Beats(np.array([1.0, 3.9]), np.array([1, 2])))
    config = config_of("beat", 50.0)
    samples = config.window_samples(101)
    seed = next(seed for seed in range(100) if np.random.default_rng(seed).uniform(-1, 1) > 0.8)
    found = ReadWaveform(config, tempo=0.5)(song, 0, 101, np.random.default_rng(seed))
    assert found["tempo"] > 1.35
    values = found["input_values"].numpy()
    assert values.shape == (samples,)
    end = round(4 * RATE / found["tempo"])
    assert np.abs(values[: end - 3000]).min() > 0.3
    assert not values[end + 10 :].any()
    labels = crop_targets(config, song, 0.0, 101, found["tempo"])
    assert int(labels[:, 0].argmax()) == round(50 * 3.9 / found["tempo"])
    assert (labels[round(50 * 4 / found["tempo"]) + 1 :, 2] == 1).all()


# Targets of transposed music


@pytest.mark.parametrize("name", ["half.flac", "half.mp3"])
def test_a_place_that_cannot_be_decoded_has_no_label(tmp_path, name):
    """The file breaks off after a third; training goes on, and learns nothing from there."""
    song = write_song(tmp_path / name, np.sin(np.arange(60 * RATE) / 9), chords=[Segment(0.0, 60.0, "C")])
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[: (tmp_path / name).stat().st_size // 3])
    crops = TaskCrops(config_of("chord"), [song], ReadWaveform(config_of("chord")), 20, 2.0, seed=0)
    with pytest.warns(
        UserWarning, match=r"half: .*half.(flac|mp3) ends at [\d.]+ s, before `start` .* This crop is not trained on"
    ):
        items = [crops[number] for number in range(20)]
    silent = [bool((item["input_values"] == 0).all()) for item in items]
    assert 5 < sum(silent) < 18
    broken = 0
    for item, is_silent in zip(items, silent, strict=True):
        assert item["input_values"].shape == items[0]["input_values"].shape
        assert item.keys() == {"input_values", "labels"}
        # Labels end with the last whole frame of 40 ms that has audio.
        end = 0 if is_silent else int(item["input_values"].nonzero().max()) + 1
        labels = (item["labels"][:, 0] == 1).sum().item()
        assert item["labels"][:, 0].tolist() == [1.0] * labels + [-100.0] * (50 - labels)
        assert abs(labels - end / 960) <= 1
        broken += 0 < labels < 49
    assert broken >= 1


@pytest.mark.parametrize(
    ("task", "rate", "count"), [("chord", 25.0, 57), ("chord", 8.0, 19), ("structure", 2.0, 5), ("beat", 50.0, 114)]
)
def test_labels_end_with_the_audio_of_a_truncated_file(tmp_path, task, rate, count):
    """2.3 s of 4 s are left, 57 whole frames of 0.04 s: label frame n has some of them if n / rate is below 2.28 s."""
    annotations = {
        "chords": [Segment(0.0, 4.0, "C")],
        "sections": [Segment(0.0, 4.0, "verse")],
        "beats": Beats(np.arange(0.25, 4.0, 0.5), np.arange(8) % 4 + 1),
    }
    song = write_song(tmp_path / "a.wav", np.full(4 * RATE, 0.5), **annotations)
    content = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "a.wav").write_bytes(content[: len(content) - round(1.7 * RATE) * 2])
    config = config_of(task, rate)
    with pytest.warns(UserWarning, match=r"a\.wav is truncated: its header specifies more than the 2\.300 s"):
        item = TaskCrops(config, [song], ReadWaveform(config), 1, 4.0, seed=0)[0]
    values, labels = item["input_values"].numpy(), item["labels"]
    end = round(2.3 * RATE)
    assert np.abs(values[: end - 1]).min() > 0.4
    assert not values[end:].any()
    assert (labels[count:] == -100).all()
    expected = crop_targets(config, song, 0.0, config.frame_counts(4 * RATE)[-1])
    assert labels[:count].equal(expected[:count])
    assert len(labels) == len(expected)


def test_tags_of_a_song_that_ends_early_are_kept(tmp_path):
    """A clip that is truncated, or shorter because it is played faster, has the tags of the song."""
    config = config_of("tagging", None, ["piano", "voice"])
    song = write_song(tmp_path / "a.wav", np.full(4 * RATE, 0.5), tags=["piano"])
    crops = TaskCrops(config, [song], ReadWaveform(config, speed=6), 8, 4.0, seed=0)
    items = [crops[number] for number in range(8)]
    assert any(not item["input_values"][-RATE // 2 :].any() for item in items)
    assert all(item["labels"].tolist() == [1, 0] for item in items)
    content = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "a.wav").write_bytes(content[: len(content) // 2])
    with pytest.warns(UserWarning, match="is truncated"):
        assert TaskCrops(config, [song], ReadWaveform(config), 1, 4.0, seed=0)[0]["labels"].tolist() == [1, 0]


def test_transposed_targets():
    labels = np.zeros((5, 25), dtype=np.float32)
    labels[0, 0] = labels[1, 12 + 9] = labels[2, 24] = labels[3, 11] = 1  # C, a, none, B
    labels[4] = -100
    transpose = get_task("chord").transpose
    moved = transpose(labels, 3)
    assert moved[:4].argmax(1).tolist() == [3, 12 + 0, 24, 2]  # Eb, c, none, D
    assert (moved[4] == -100).all()
    assert moved[:4].sum(1).tolist() == [1] * 4
    np.testing.assert_array_equal(transpose(moved, -3), labels)
    np.testing.assert_array_equal(transpose(labels, 12), labels)


# Batches


def test_batch_of_waveforms():
    items = [
        {"input_values": torch.ones(5), "labels": torch.ones(3, 2)},
        {"input_values": torch.full((8,), 2.0), "labels": torch.zeros(4, 2)},
    ]
    batch = collate_examples(items)
    assert batch["input_values"].tolist() == [[1.0] * 5 + [0.0] * 3, [2.0] * 8]
    assert batch["attention_mask"].tolist() == [[1] * 5 + [0] * 3, [1] * 8]
    assert batch["labels"].tolist() == [[[1, 1]] * 3 + [[-100, -100]], [[0, 0]] * 4]
    assert collate_examples(items[:1]).keys() == {"input_values", "labels"}  # no mask where all are as long


def test_batch_of_rows_of_a_data_set():
    """Lists and arrays, with one class for each label frame."""
    rows = [{"input_values": [0.5, -0.5], "labels": [1]}, {"input_values": np.ones(3), "labels": np.array([0, 2])}]
    batch = collate_examples(rows)
    assert batch["input_values"].tolist() == [[0.5, -0.5, 0.0], [1.0, 1.0, 1.0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert batch["labels"].tolist() == [[1, -100], [0, 2]]
    assert batch["labels"].dtype == torch.int64


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int16])
def test_batch_of_small_integers(dtype):
    """-100, which pads them, is no value of most of these types."""
    labels = [np.ones(1, dtype), np.ones(2, dtype)]
    batch = collate_examples([{"input_values": np.ones(3), "labels": label} for label in labels])
    assert batch["labels"].tolist() == [[1, -100], [1, 1]]
    assert (batch["labels"].dtype, batch["input_values"].dtype) == (torch.int64, torch.float32)


def test_batch_of_several_types_of_labels():
    batch = collate_examples(
        [{"input_values": [0.0], "labels": [[0, 1]]}, {"input_values": [0.0], "labels": [[1, 0.5]]}]
    )
    assert batch["labels"].tolist() == [[[0, 1]], [[1, 0.5]]]
    batch = collate_examples([{"input_values": [0.0], "labels": np.float64([[0.5]])}])
    assert batch["labels"].dtype == torch.float32


def test_batch_of_clips():
    """One class for each, and none for prediction."""
    rows = [{"input_values": [1.0], "labels": 2}, {"input_values": [1.0, 2.0], "labels": 0}]
    assert collate_examples(rows)["labels"].tolist() == [2, 0]
    assert collate_examples([{"input_values": [1.0]}]).keys() == {"input_values"}


def test_batch_of_padded_rows():
    """As the feature extractor pads them, on either side, before they are batched."""
    rows = [
        {"input_values": [1.0, 2.0, 0.0], "attention_mask": [1, 1, 0], "labels": [1]},
        {"input_values": [0.0, 3.0], "attention_mask": [0, 1], "labels": [1]},
    ]
    batch = collate_examples(rows)
    assert batch["input_values"].tolist() == [[1.0, 2.0], [3.0, 0.0]]
    assert batch["attention_mask"].tolist() == [[1, 1], [1, 0]]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"input_values": [0.0], "labels": [1]}, {"input_values": [0.0]}], "Some items have `labels`, others do not"),
        (
            [{"input_values": [[0.0]], "labels": [1]}],
            r"`input_values` of an item must have shape \(samples,\), got \(1, 1",
        ),
        (
            [{"input_values": [0.0], "labels": [1]}, {"input_values": [0.0], "labels": [[1]]}],
            r"shapes \(1, 1\), \(1,\), which differ",
        ),
        (
            [{"input_values": [0.0], "labels": [[1, 0]]}, {"input_values": [0.0], "labels": [[1]]}],
            r"`labels` of the ite",
        ),
        ([{"audio": [0.0], "labels": [1]}], "An item needs `input_values`, the waveform; it has audio, labels"),
        ([], "batch is empty"),
    ],
)
def test_rows_that_do_not_make_a_batch(rows, message):
    with pytest.raises(ValueError, match=message):
        collate_examples(rows)


def test_batch_of_features():
    items = [
        {"hidden_states": torch.ones(2, 3, 4), "labels": torch.ones(2)},
        {"hidden_states": torch.ones(1, 3, 4), "labels": torch.zeros(2)},
    ]
    batch = collate_examples(items)
    assert batch["hidden_states"].shape == (2, 2, 3, 4)
    assert batch["hidden_states"].sum((1, 2, 3)).tolist() == [24, 12]
    assert batch["counts"].tolist() == [2, 1]
    assert batch["labels"].tolist() == [[1, 1], [0, 0]]  # of clips


# Misuse


def test_wrong_settings(songs):
    with pytest.raises(ValueError, match=r"`crop_seconds` must be at least 0\.04, got 0\.01"):
        TaskCrops(config_of("chord"), songs, note_place, 1, 0.01, 0)
    for tempo in (-0.1, 1.0):
        with pytest.raises(ValueError, match=f"`tempo` must be at least 0 and less than 1, got {tempo}"):
            ReadWaveform(config_of("beat"), tempo=tempo)
    with pytest.raises(
        ValueError, match="`task` must be one of beat, chord, structure, key, tagging, presence, got 'drums'"
    ):
        get_task("drums")


def test_songs_without_annotation(songs):
    mixed = [songs[0], replace(songs[1], chords=None), replace(songs[2], chords=[]), replace(songs[3], tags=[])]
    no_beats = [songs[0], replace(songs[1], beats=None), replace(songs[2], beats=Beats(np.zeros(0), np.zeros(0, int)))]
    assert with_annotation(no_beats, "beat", "here") == songs[:1]
    assert [song.id for song in with_annotation(mixed, "chord", "here")] == [songs[0].id, songs[3].id]
    assert with_annotation(mixed, "tagging", "here") == mixed  # to have none of the tags is an annotation
    with pytest.raises(ValueError, match=r"None of the 1 songs of data \(test\) has sections, which structure needs"):
        with_annotation([replace(songs[0], sections=None)], "structure", "data (test)")
