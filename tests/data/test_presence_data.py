"""Recordings with and without music: noises, parts, and the data set."""

import json
import shutil
from itertools import pairwise

import numpy as np
import pytest
import soundfile
from helpers.audio import music

from musicfm_hf.audio.reading import load_audio
from musicfm_hf.cli.prepare import main as prepare
from musicfm_hf.data.labeled_dataset import load_songs
from musicfm_hf.data.noises import APPLAUSE, NOISES, applause
from musicfm_hf.data.presence import KINDS, divide_sources, draw_parts

RATE = 8000


@pytest.fixture(scope="module")
def catalogs(tmp_path_factory):
    """A folder of music with a list for each split, and a folder of three speakers."""
    folder = tmp_path_factory.mktemp("catalogs")
    for number, name in enumerate(("train", "valid", "test")):
        (folder / "songs").mkdir(exist_ok=True)
        soundfile.write(folder / f"songs/{name}.wav", music(20.0, seed=number), 24000)
        (folder / f"songs/{name}.txt").write_text(f"{name}.wav\n")
    for number, speaker in enumerate(("anna", "ben", "carl")):
        (folder / f"speech/audio/{speaker}").mkdir(parents=True)
        for word in range(2):
            sound = np.random.default_rng([number, word]).normal(0, 0.1, 12000)
            soundfile.write(folder / f"speech/audio/{speaker}/{word}.wav", sound, 24000)
    return folder


def spectrum(sound: np.ndarray, low: float, high: float) -> float:
    """Power between two frequencies in Hz, per Hz."""
    frequencies = np.fft.rfftfreq(len(sound), 1 / RATE)
    power = np.abs(np.fft.rfft(sound)) ** 2
    return float(power[(frequencies >= low) & (frequencies < high)].mean())


ALL_NOISES = {f"{split}/{name}": noise for split, noises in NOISES.items() for name, noise in noises.items()}


@pytest.mark.parametrize("name", ALL_NOISES)
def test_noises(name):
    sounds = [ALL_NOISES[name](np.random.default_rng(seed), 4 * RATE, RATE) for seed in (0, 0, 1)]
    assert sounds[0].shape == (4 * RATE,)
    assert np.sqrt(np.mean(sounds[0] ** 2)) == pytest.approx(1)
    np.testing.assert_array_equal(sounds[0], sounds[1])
    assert not np.allclose(sounds[0], sounds[2])


@pytest.mark.parametrize(
    ("name", "ratio"), [("train/white", 1), ("train/pink", 8), ("validation/brown", 64), ("test/blue", 1 / 8)]
)
def test_colors_of_noise(name, ratio):
    """Power at 100 Hz, relative to that at 800 Hz, three octaves above."""
    sound = ALL_NOISES[name](np.random.default_rng(0), 60 * RATE, RATE)
    assert spectrum(sound, 95, 105) / spectrum(sound, 790, 810) == pytest.approx(ratio, rel=0.2)


def test_applause_of_few_people_has_gaps():
    """Between the claps of three people in a dry room it is quiet, and never in a hall of hundreds."""
    few = applause(np.random.default_rng(0), 3 * RATE, RATE, APPLAUSE["train"]._replace(people=(3, 3)))
    many = applause(np.random.default_rng(0), 3 * RATE, RATE, APPLAUSE["test"])
    levels = [np.sqrt(np.mean(sound.reshape(-1, 80) ** 2, axis=1))[100:] for sound in (few, many)]
    assert np.quantile(levels[0], 0.2) < 0.2
    assert np.quantile(levels[1], 0.2) > 0.6


def test_splits_share_no_noise():
    names = [name for noises in NOISES.values() for name in noises]
    assert len(set(names)) == len(names)


def test_parts_of_recordings():
    parts = [draw_parts(np.random.default_rng(seed), 30.0, KINDS) for seed in range(100)]
    assert {part.label for song in parts for part in song} == set(KINDS)
    for song in parts:
        assert (song[0].start, song[-1].end) == (0.0, 30.0)
        for first, second in pairwise(song):
            assert first.end == second.start
            assert first.label != second.label
            assert first.end - first.start >= 2
    assert 15 < sum(len(song) == 1 for song in parts) < 45


def test_sources_are_in_one_split():
    songs = [(f"audio/speaker {number % 7}/{number}.wav", None) for number in range(70)]
    divided = divide_sources(songs, "`--speech`")
    assert sorted(len(sources) for sources in divided.values()) == [1, 2, 4]
    names = [name for sources in divided.values() for name in sources]
    assert sorted(names) == [f"speaker {number}" for number in range(7)]
    more = divide_sources([*songs, ("audio/speaker 7/0.wav", None)], "`--speech`")
    assert set(more["validation"]) | set(more["test"]) | set(more["train"]) == {*names, "speaker 7"}
    with pytest.raises(ValueError, match=r"`--speech` needs recordings of at least three sources.*got a, b"):
        divide_sources([("a/1.wav", None), ("b/1.wav", None)], "`--speech`")


def test_a_data_set(catalogs, tmp_path, capsys):
    flags = ["--songs", "12", "--seconds", "12", "--num_workers", "1", "--music", str(catalogs / "songs")]
    flags += ["--speech", str(catalogs / "speech")]
    prepare(["presence", *flags, "--output_dir", str(tmp_path / "data")])
    songs = {split: load_songs(tmp_path / "data", split) for split in ("train", "validation", "test")}
    assert [len(part) for part in songs.values()] == [8, 1, 2]
    for song in (song for part in songs.values() for song in part):
        parts = song.more["music"]
        assert (parts[0].start, parts[-1].end) == (0.0, 12.0)
        audio = load_audio(song.audio, 24000)
        assert len(audio) == 12 * 24000
        for start, end, kind in parts:
            level = np.sqrt(np.mean(audio[round(start * 24000) + 500 : round(end * 24000) - 500] ** 2))
            assert (level < 10 ** (-69 / 20)) == (kind == "silence")
    info = json.loads((tmp_path / "data/info.json").read_text())["made_from"]
    assert [info[split]["songs"] for split in songs] == [1, 1, 1]
    assert sorted(name for part in info.values() for name in part["speech"]) == ["anna", "ben", "carl"]
    prepare(["presence", *flags, "--output_dir", str(tmp_path / "again")])
    for song, other in zip(songs["train"], load_songs(tmp_path / "again", "train"), strict=True):
        assert song.more == other.more
        np.testing.assert_array_equal(load_audio(song.audio), load_audio(other.audio))


def test_recordings_that_cannot_be_read_are_left_out(catalogs, tmp_path):
    """Speech with a readable header but without finite samples, and lists without songs."""
    shutil.copytree(catalogs, tmp_path / "in")
    for split in ("train", "valid", "test"):
        (tmp_path / f"in/songs/{split}.mp3").write_text("no music")
        (tmp_path / f"in/songs/{split}.txt").write_text(f"{split}.mp3\n{split}.wav\n")
    speech = tmp_path / "in/speech"
    soundfile.write(speech / "audio/anna/nan.wav", np.full(12000, np.nan), 24000, subtype="FLOAT")
    (speech / "train.txt").write_text("".join(f"{path.relative_to(speech)}\n" for path in speech.rglob("*.wav")))
    for split in ("valid", "test"):
        (speech / f"{split}.txt").write_text("")
    flags = ["--songs", "20", "--seconds", "12", "--num_workers", "1", "--music", str(tmp_path / "in/songs")]
    prepare(["presence", *flags, "--speech", str(speech), "--output_dir", str(tmp_path / "data")])
    songs = load_songs(tmp_path / "data", "train")
    assert len(songs) == 14
    assert {"music", "speech"} <= {part.label for song in songs for part in song.more["music"]}


def test_wrong_requests(catalogs, tmp_path):
    folder = tmp_path / "songs"
    shutil.copytree(catalogs / "songs", folder)
    (folder / "valid.txt").write_text("")
    with pytest.raises(SystemExit, match="`--music` has no songs for validation: prepare it with"):
        prepare(["presence", "--songs", "10", "--music", str(folder), "--output_dir", str(tmp_path / "data")])
    (folder / "valid.txt").write_text("no.mp3\n")
    (folder / "no.mp3").write_text("no music")
    with pytest.raises(SystemExit, match=r"Of 20 recordings, none can be read. The last one: .*no.mp3 is not audio"):
        prepare(["presence", "--songs", "10", "--music", str(folder), "--output_dir", str(tmp_path / "data")])
    with pytest.raises(SystemExit, match="at least 10 recordings"):
        prepare(
            ["presence", "--songs", "3", "--music", str(catalogs / "songs"), "--output_dir", str(tmp_path / "data")]
        )
