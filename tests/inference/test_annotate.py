import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from helpers.audio import encode, music
from helpers.models import HEADS, head
from helpers.paths import ROOT
from helpers.recipes import run_recipe
from helpers.writers import disk_with

from musicfm_hf import MusicFMForAudioClassification, MusicFMForAudioFrameClassification
from musicfm_hf.data.catalog import list_sources
from musicfm_hf.data.synthetic import compose, synthesize
from musicfm_hf.inference import annotators, streaming
from musicfm_hf.inference.annotate_files import AnnotatedFiles, annotate_files, song_names
from musicfm_hf.inference.annotation import annotate
from musicfm_hf.inference.annotators import load_annotators
from musicfm_hf.inference.drawing import clock, key_name, short_chord, song_rows
from musicfm_hf.inference.embedding import WindowSettings, embed_songs
from musicfm_hf.inference.logits import head_logits, layer_mix
from musicfm_hf.inference.song_annotation import SongAnnotation
from musicfm_hf.inference.streaming import stream_logits
from musicfm_hf.tasks import chord
from musicfm_hf.tasks.annotations import Beats, Segment, read_beats, read_segments, read_tags
from musicfm_hf.training.files import list_files

RATE = 24000


def with_logits(model, logits):
    """The model, with a head that gives these logits for the label frames of a song, whatever the audio."""
    values = iter(torch.as_tensor(logits, dtype=torch.float32).split(1))
    model.classifier.score = lambda pooled: torch.cat([next(values) for _ in range(len(pooled))])
    return model


def one_hot(classes, count):
    return 20.0 * np.eye(count)[classes]


@pytest.fixture
def count_passes(monkeypatch):
    """How often encoders were run, by windows."""
    from musicfm_hf import MusicFMModel

    passes = []
    forward = MusicFMModel.forward
    monkeypatch.setattr(MusicFMModel, "forward", lambda self, *a, **k: passes.append(self) or forward(self, *a, **k))
    return passes


# Logits


@pytest.mark.parametrize("part_seconds", [600.0, 9.0, 21.0])
@pytest.mark.parametrize("seconds", [0.3, 43.77])
def test_logits_part_by_part_are_those_of_the_whole(monkeypatch, part_seconds, seconds):
    monkeypatch.setattr(streaming, "PART_SECONDS", part_seconds)
    models = [head(task) for task in HEADS]
    models += [
        head("chord", label_rate=10.7, label_centered=True),
        head("chord", label_rate=50.0, label_centered=True),
    ]
    audio = music(seconds)
    settings = WindowSettings(None, 8.0, 2.0)
    for model, logits in zip(models, stream_logits(models, audio, settings), strict=True):
        ((_, embeddings),) = embed_songs(model.musicfm, [(0, audio)], settings, layer_mix(model)[None])
        np.testing.assert_allclose(logits, head_logits(model.classifier, embeddings.frames[:, 0]), rtol=0, atol=2e-6)


def test_a_clip_gives_what_the_models_give():
    models = [head(task) for task in HEADS]
    audio = music(5.0)
    for model, logits in zip(models, stream_logits(models, audio, WindowSettings()), strict=True):
        with torch.no_grad():
            expected = model(torch.from_numpy(audio)[None]).logits
        np.testing.assert_allclose(logits, expected.reshape(logits.shape), rtol=0, atol=1e-6)


@pytest.mark.parametrize("task", [task for task in HEADS if task != "key"])
def test_a_head_that_is_offloaded(tmp_path, task):
    """The head comes last, and so is the first for which there is no room."""
    model = head(task)
    model.save_pretrained(tmp_path / "model")
    places = {"device_map": {"musicfm": "cpu", "classifier": "disk"}, "offload_folder": tmp_path / "offload"}
    (offloaded,) = load_annotators([tmp_path / "model"], **places).values()
    assert offloaded.classifier.output.weight.is_meta
    found, expected = (annotate(one, music(3.0), RATE).to_dict() for one in (offloaded, model))
    assert found.pop("tags", None) == (pytest.approx(expected.pop("tags")) if task == "tagging" else None)
    assert found == expected


def test_a_sum_of_layers_that_is_offloaded(tmp_path):
    head("key").save_pretrained(tmp_path / "model")
    places = {"device_map": {"musicfm": "cpu", "classifier": "disk"}, "offload_folder": tmp_path / "offload"}
    models = load_annotators([tmp_path / "model"], **places)
    with pytest.raises(ValueError, match="sum of layers is offloaded: load the model with its head on a device"):
        annotate(models, music(3.0), RATE)


def test_made_up_logits_are_decoded():
    # 10 s: 200 beat frames at 20 Hz, a beat each 0.5 s, a downbeat each 2 s; 80 chord frames; 5 key frames.
    beats = np.full(201, 2)
    beats[5::10], beats[5::40] = 0, 1
    sections = one_hot([0] * 25 + [2] * 26, 8)
    sections[:, 7] = np.where(np.arange(51) == 25, 5.0, -5.0)
    models = {
        "structure": with_logits(head("structure"), sections),
        "beat": with_logits(head("beat"), one_hot(beats, 3)),
        "chord": with_logits(head("chord"), one_hot([9] * 16 + [24] * 20 + [12] * 45, 25)),
        "key": with_logits(head("key"), one_hot([0, 0, 0, 21, 21], 25)),
        "tagging": with_logits(head("tagging"), [[-np.log(3), np.log(3)]]),
    }
    found = annotate(models, music(9.99), RATE)
    assert found.duration == 9.99
    np.testing.assert_allclose(found.beats.times, np.arange(0.25, 9.99, 0.5), atol=1e-9)
    assert found.beats.positions.tolist() == [1, 2, 3, 4] * 5
    assert found.tempo == pytest.approx(120)
    np.testing.assert_allclose(found.tempo_curve, np.column_stack([found.beats.times, np.full(20, 120)]))
    assert found.time_signatures == [Segment(pytest.approx(0.25), 9.99, "4")]
    assert found.chords == [Segment(0.0, 2.0, "A:maj"), Segment(2.0, 4.5, "N"), Segment(4.5, 9.99, "C:min")]
    assert found.keys == [Segment(0.0, 6.0, "C:maj"), Segment(6.0, 9.99, "A:min")]
    assert found.key == "C:maj"
    assert [label for _, _, label in found.sections] == ["intro", "chorus"]
    assert found.sections[1].start == pytest.approx(5.0, abs=0.11)
    assert found.sections[1].end == 9.99
    assert list(found.tags) == ["slow", "loud"]
    assert found.tags == pytest.approx({"slow": 0.75, "loud": 0.25})
    # The boundary is in the middle of frame 25, which is the chorus's; its half goes to the intro.
    expected = {"beats": [1] * 20, "chords": [1] * 3, "sections": [25 / 26, 1], "keys": [1] * 2}
    expected["time_signatures"] = [1]
    assert list(found.probabilities) == ["sections", "beats", "time_signatures", "downbeats", "chords", "keys"]
    for name, values in expected.items():
        np.testing.assert_allclose(found.probabilities[name], values, atol=1e-7)


def test_events_have_probabilities():
    """Softmax of logarithms of shares is these shares."""
    beats = np.tile([0.05, 0.05, 0.9], (61, 1))
    beats[5::10] = [0.5, 0.1, 0.4]
    beats[5::40] = [0.1, 0.7, 0.2]
    chords = np.full((25, 25), 0.2 / 24)
    chords[:16, 0], chords[8:16, 0], chords[16:, 24] = 0.8, 0.4, 0.8
    chords[8:16, 1:] = 0.6 / 24
    sections = np.full((16, 8), 0.4 / 6)
    sections[:, 1] = 0.6
    models = {
        "beat": with_logits(head("beat"), np.log(beats)),
        "chord": with_logits(head("chord"), np.log(chords)),
        "structure": with_logits(head("structure"), np.log(sections)),
    }
    found = annotate(models, music(3.0), RATE)
    np.testing.assert_allclose(found.beats.times, np.arange(0.25, 3.0, 0.5), atol=0.03)
    np.testing.assert_allclose(found.probabilities["beats"], [0.8, 0.6, 0.6, 0.6, 0.8, 0.6], atol=1e-6)
    assert [chord.label for chord in found.chords] == ["C:maj", "N"]
    np.testing.assert_allclose(found.probabilities["chords"], [0.6, 0.8], atol=1e-6)
    np.testing.assert_allclose(found.probabilities["sections"], [0.6], atol=1e-6)
    content = found.to_dict()
    assert [event["probability"] for event in content["chords"]] == [0.6, 0.8]
    assert content["beats"][0]["probability"] == 0.8
    found.chords = found.chords[:1]  # by hand
    assert "probability" not in found.to_dict()["chords"][0]


def test_settings_of_the_decoder_are_those_of_the_configuration():
    classes = [0] * 8 + [1] + [0] * 7
    for decoding, count in ((None, 3), ({"min_seconds": 0.5}, 1)):
        model = with_logits(head("chord", decoding=decoding), one_hot(classes, 25))
        assert len(annotate(model, music(2.0), RATE).chords) == count


# Encoders


def test_equal_encoders_run_once(count_passes):
    models = [head(task) for task in HEADS]
    annotate(models, music(20.0), RATE, window_seconds=8.0, overlap_seconds=2.0)
    assert len(count_passes) == 3
    assert {id(encoder) for encoder in count_passes} == {id(models[0].musicfm)}


def test_encoders_that_differ_run_on_their_own(count_passes):
    models = [head("beat"), head("chord", seed=1), head("key", classifier_dropout=0.5, hidden_dropout=0.0)]
    annotate(models, music(1.0), RATE)
    assert [id(encoder) for encoder in count_passes] == [id(models[0].musicfm), id(models[1].musicfm)]
    with torch.no_grad():
        next(models[2].musicfm.parameters()).view(-1)[0] += 1e-3
    assert len(annotators.group_by_encoder(models)) == 3
    assert len(annotators.group_by_encoder([head("beat"), head("chord", mel_mean=6.0)])) == 2
    assert len(annotators.group_by_encoder([head("beat"), head("chord").to(torch.bfloat16)])) == 2


def test_adapted_encoders_run_on_their_own(count_passes):
    peft = pytest.importorskip("peft")
    settings = peft.LoraConfig(target_modules=["q_proj"], modules_to_save=["classifier"], init_lora_weights=False)
    adapted = peft.get_peft_model(head("chord"), settings).eval()
    plain = head("key")
    found = annotate([plain, adapted], music(2.0), RATE)
    assert len(count_passes) == 2
    with torch.no_grad():
        logits = adapted(torch.from_numpy(music(2.0))[None]).logits[0]
    assert found.chords == [*chord.TASK.decode(adapted.config, logits)[:-1], found.chords[-1]]
    twice = [peft.get_peft_model(head(task), settings).get_base_model() for task in ("chord", "key")]
    twice[1].musicfm.load_state_dict(twice[0].musicfm.state_dict())
    assert len(annotators.group_by_encoder(twice)) == 1
    adapted_layer = next(module for module in twice[1].musicfm.modules() if hasattr(module, "lora_A"))
    adapted_layer.scaling["default"] *= 2
    assert len(annotators.group_by_encoder(twice)) == 2


def test_models_are_left_as_they_were():
    model = head("chord").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    annotate(model, music(1.0), RATE)
    assert model.training
    assert [module.training for module in model.modules()] == modes
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())


# Awkward input


@pytest.mark.parametrize("seconds", [0.001, 0.04, 0.3])
def test_short_audio(seconds):
    found = annotate([head(task) for task in HEADS], music(seconds), RATE)
    assert found.duration == seconds
    assert found.chords[0].start == 0
    assert found.chords[-1].end <= seconds
    assert all(time <= seconds for time in found.beats.times)
    assert len(found.tags) == 2


@pytest.mark.parametrize(("level", "offset"), [(0.0, 0.0), (1e-5, 0.0), (1e-5, 0.5)])
def test_silence_has_nothing(level, offset, count_passes):
    noise = offset + level * np.random.default_rng(0).uniform(-1, 1, 2 * RATE)
    found = annotate([head(task) for task in HEADS], noise, RATE)
    assert not count_passes
    assert len(found.beats.times) == 0
    assert found.chords == found.keys == [Segment(0.0, 2.0, "N")]
    assert found.sections == [Segment(0.0, 2.0, "silence")]
    assert (found.key, found.tags, found.probabilities) == ("N", {}, {})


def test_noise_without_beats():
    """A head that is sure of no frame: nothing passes the threshold."""
    sound = np.random.default_rng(0).normal(0, 0.2, 6 * RATE)
    model = with_logits(head("beat"), np.tile([0.0, 0.0, 5.0], (121, 1)))
    assert len(annotate(model, sound, RATE).beats.times) == 0


def test_one_beat_is_none():
    logits = np.tile([0.0, 0.0, 5.0], (121, 1))
    logits[8, 1] = 9.0  # at 0.4 s, and another one at 0.9 s
    assert len(annotate(with_logits(head("beat"), logits), music(0.6), RATE).beats.times) == 0
    logits[18, 0] = 9.0
    found = annotate(with_logits(head("beat"), logits), music(1.0), RATE)
    np.testing.assert_allclose(found.beats.times, [0.4, 0.9])
    assert len(found.probabilities["beats"]) == 2


@pytest.mark.parametrize("seconds", [2.97, 3.0, 3.03])
def test_other_rates(seconds):
    """Segments end where the audio does, before or after the last label frame."""
    found = annotate(head("chord"), music(seconds, 44100), 44100)
    assert found.duration == pytest.approx(seconds, abs=1 / RATE)
    assert found.chords[-1].end == found.duration


@pytest.mark.parametrize(
    ("models", "audio", "settings", "error", "message"),
    [
        ([], music(1.0), {}, ValueError, "`models` is empty"),
        ([torch.nn.Linear(1, 1)], music(1.0), {}, TypeError, r"1 is a torch.*\.Linear; annotating needs"),
        (None, music(1.0), {}, ValueError, "mine does not specify the task"),
        ([head("key"), head("key", seed=1)], music(1.0), {}, ValueError, "model 1 and model 2 are both for the task"),
        (head("key"), np.zeros((2, RATE)), {}, ValueError, "one waveform"),
        (head("key"), np.zeros((RATE, 2)), {}, ValueError, r"one waveform of shape \(samples,\), got \(24000, 2\)"),
        (head("key"), np.zeros(0), {}, ValueError, "is empty"),
        (head("key"), music(1.0), {"window_seconds": 0.01}, ValueError, "`window_seconds` must be at least"),
        (head("key"), music(1.0), {"batch_size": 0}, ValueError, "`batch_size` must be at least 1"),
    ],
)  # fmt: skip
def test_wrong_requests(models, audio, settings, error, message):
    if models is None:
        model = head("key")
        model.config.task = None
        models = {"mine": model}
    with pytest.raises(error, match=message):
        annotate(models, audio, RATE, **settings)


# Files


SONG = SongAnnotation(
    6.0,
    Beats(np.array([0.5, 1.0, 1.5]), np.array([1, 2, 3])),
    [Segment(0.0, 2.0, "C:maj"), Segment(2.0, 6.0, "N")],
    [Segment(0.0, 6.0, "pre-chorus")],
    [Segment(0.0, 6.0, "F#:min")],
    "F#:min",
    tags={"fast": 0.9, "männlich": 0.5, "slow": 0.1},
)


def test_files_can_be_read_again(tmp_path):
    paths = SONG.save(tmp_path / "out", "folder/Song No. 1")
    start = tmp_path / "out/folder/Song No. 1"
    assert [path.name.removeprefix(start.name) for path in paths] == [
        ".json", ".beats", ".chords.lab", ".sections.lab", ".keys.lab", ".tags",
    ]  # fmt: skip
    beats = read_beats(f"{start}.beats")
    assert (beats.times.tolist(), beats.positions.tolist()) == ([0.5, 1.0, 1.5], [1, 2, 3])
    assert read_segments(f"{start}.chords.lab") == SONG.chords
    assert read_segments(f"{start}.sections.lab") == SONG.sections
    assert read_segments(f"{start}.keys.lab") == SONG.keys
    assert read_tags(f"{start}.tags") == ["fast", "männlich"]
    content = json.loads(Path(f"{start}.json").read_text(encoding="utf-8"))
    assert content == SONG.to_dict()
    assert content["beats"][1] == {"time": 1.0, "position": 2}
    assert content["chords"][1] == {"start": 2.0, "end": 6.0, "label": "N"}
    assert (content["key"], content["tags"]["slow"]) == ("F#:min", 0.1)


def test_only_what_there_is_and_was_asked_for_is_written(tmp_path):
    assert SongAnnotation(1.0).to_dict() == {"duration": 1.0}
    assert [path.name for path in SongAnnotation(1.0, key="N", keys=[]).save(tmp_path, "a")] == [
        "a.json",
        "a.keys.lab",
    ]
    assert [path.name for path in SONG.save(tmp_path, "b", ["beats", "tags"])] == ["b.beats", "b.tags"]
    with pytest.raises(ValueError, match="`name` must name a song, such as 'album/song', got ''"):
        SongAnnotation(1.0).save(tmp_path, "")
    with pytest.raises(ValueError, match=r"Formats are json, beats, .*, midi, got xml"):
        SONG.save(tmp_path, "c", ["xml"])


# Pictures


def size_of(path: Path) -> tuple[int, int]:
    """Width and height in the header of a PNG."""
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    return int.from_bytes(content[16:20]), int.from_bytes(content[20:24])


def test_a_song_is_drawn_in_rows(tmp_path):
    song = compose(1)  # 56.5 s
    audio = synthesize(song, 8000).mean(1)
    beats = Beats(song.beats[:, 0], song.beats[:, 1].astype(int))
    segments = [[Segment(*item) for item in items] for items in (song.chords, song.sections)]
    keys = [Segment(0.0, song.duration, song.key)]
    found = SongAnnotation(len(audio) / 8000, beats, *segments, keys, song.key, {"a": 0.9})
    found.draw(tmp_path / "two.png", audio, 8000)
    SongAnnotation(30.0, beats, *segments, keys).draw(tmp_path / "one.png", audio[: 30 * 8000], 8000)
    (width, two), (same, one) = size_of(tmp_path / "two.png"), size_of(tmp_path / "one.png")
    row = 0.24 + 0.78 + 0.2 + 0.34 + 0.19 + 0.42
    assert width == same == 1650
    assert two - one == pytest.approx(110 * row, abs=2)


def test_rows_break_at_bar_lines():
    times = np.arange(0.3, 100, 0.5)
    rows = song_rows(SongAnnotation(100.0, Beats(times, np.arange(len(times)) % 4 + 1)))
    assert rows == [(0.0, pytest.approx(34.3)), (pytest.approx(34.3), pytest.approx(66.3)), (pytest.approx(66.3), 100)]
    assert song_rows(SongAnnotation(80.0)) == [(0.0, 40.0), (40.0, 80.0)]


def test_odd_songs_are_drawn(tmp_path):
    nothing = SongAnnotation(0.04, Beats(np.empty(0), np.empty(0, int)), [], [], [], "N", {})
    nothing.draw(tmp_path / "nothing.png", np.zeros(960), RATE)
    odd = SongAnnotation(
        3.0,
        Beats(np.array([0.5, 1.0]), np.array([0, 0])),
        [Segment(0.0, 0.1, "Bb:min7/b3"), Segment(0.5, 3.5, "X")],
        [Segment(0.0, 3.0, "$x_1$ 日本")],
        tags={f"tag {'x' * 30} {number}": 0.5 for number in range(50)},
    )
    odd.draw(tmp_path / "odd.png", music(3.0), RATE, "a $title$ " * 30)
    assert size_of(tmp_path / "odd.png")[0] == 1650
    with pytest.raises(ValueError, match=r"3.00 s in one channel; got shape \(24000,\)"):
        odd.draw(tmp_path / "wrong.png", music(1.0), RATE)


def test_long_audio_is_drawn_as_an_overview_of_bounded_size(tmp_path):
    for hours in (1, 5):
        audio = np.tile(np.float32([0.5, -0.5]), hours * 3600 * 50)
        found = SongAnnotation(hours * 3600.0, SONG.beats, SONG.chords, SONG.sections, SONG.keys)
        found.draw(tmp_path / f"{hours}.png", audio, 100)
    row = 0.24 + 0.78 + 0.19 + 0.42
    assert size_of(tmp_path / "1.png")[1] == pytest.approx(110 * (1.05 + 6 * row), abs=2)
    assert size_of(tmp_path / "5.png")[1] == pytest.approx(110 * (1.05 + 8 * row), abs=2)


def test_one_format(tmp_path):
    assert SONG.save(tmp_path, "song", "json") == [tmp_path / "song.json"]
    with pytest.raises(ValueError, match=r"Formats are json, .* got mid"):
        SONG.save(tmp_path, "song", "mid")


def test_names():
    labels = ["C:maj", "A:min", "Bb:7/b3", "F#:min7", "B:hdim7", "D", "N", "X"]
    assert [short_chord(label) for label in labels] == ["C", "Am", "B♭7/D♭", "F♯m7", "Bø7", "D", "N.C.", "?"]
    inversions = ["Ab:min/b3", "F#:7/b7", "C:dim7/bb7", "E:aug/#5", "C/2", "G:minmaj7/b3", "C:maj6/9"]
    expected = ["A♭m/C♭", "F♯7/E", "C°7/A", "E+/B♯", "C/D", "GmM7/B♭", "C6/D"]  # A, because B♭♭ is hard to read
    assert [short_chord(label) for label in inversions] == expected
    assert [key_name(label) for label in ("Eb:maj", "F#:min", "N")] == ["E♭ major", "F♯ minor", "no key"]
    assert [clock(seconds) for seconds in (0, 59.6, 185, 3600)] == ["0:00", "1:00", "3:05", "1:00:00"]


# The recipe


@pytest.fixture
def folders(tmp_path):
    """Models on disk: a plain one, one of clips, and an adapter with its configuration."""
    peft = pytest.importorskip("peft")
    for task in ("chord", "tagging"):
        head(task).save_pretrained(tmp_path / task)
    head("key").save_pretrained(tmp_path / "base")
    base = MusicFMForAudioFrameClassification.from_pretrained(tmp_path / "base")
    settings = peft.LoraConfig(target_modules=["q_proj"], modules_to_save=["classifier"])
    peft.get_peft_model(base, settings).save_pretrained(tmp_path / "key")
    base.config.save_pretrained(tmp_path / "key")
    return [tmp_path / task for task in ("chord", "tagging", "key")]


def test_models_are_loaded_with_one_encoder(folders):
    chords, tags, keys = load_annotators(folders).values()
    assert isinstance(tags, MusicFMForAudioClassification)
    assert chords.musicfm is tags.musicfm
    assert keys.musicfm is not tags.musicfm
    with pytest.raises(ValueError, match="are both for the task chord"):
        load_annotators([folders[0], folders[0]])


def test_models_in_a_part_of_a_repository(folders, tmp_path):
    (chords,) = load_annotators([tmp_path], subfolder="chord").values()
    assert chords.config.task == "chord"


def test_files_that_are_there(tmp_path, monkeypatch, capsys):
    """Annotations by hand have the same names: they stay, unless it is said that they need not."""
    head("chord").save_pretrained(tmp_path / "chord")
    music_folder = tmp_path / "music"
    for name in ("a", "b"):
        (music_folder / name).mkdir(parents=True)
        soundfile.write(music_folder / name / "song.wav", music(1.0), RATE)
    by_hand = music_folder / "a/song.chords.lab"
    by_hand.write_text("0 1 C\n")

    def run(*flags) -> str:
        command = [music_folder, "--models", tmp_path / "chord", "--output", music_folder, "--device", "cpu", *flags]
        with pytest.raises(SystemExit) as error:
            run_recipe(monkeypatch, "annotate.py", *command)
        return f"{error.value} {capsys.readouterr().out}"

    said = run()
    assert "music has files of 1 of 2 songs, such as a/song: choose another `--output_dir`, or pass" in said
    assert not (music_folder / "b/song.chords.lab").exists()
    said = run("--existing", "skip")
    assert said.startswith("1 2 songs, 1 skipped (1 of them made by hand or by version 0.1), 1 with problems")
    assert "a/song: only some of its files exist" in said
    assert by_hand.read_text() == "0 1 C\n"
    assert (music_folder / "b/song.chords.lab").exists()
    by_hand.rename(tmp_path / "by_hand")
    assert run("--existing", "skip").startswith("0 2 songs, 1 skipped, 0 with problems")
    shutil.move(tmp_path / "by_hand", by_hand)
    assert "of 2 of 2 songs, such as a/song" in run("--format", "json", "--no-picture")
    assert run("--existing", "overwrite").startswith("0 2 songs, 0 with problems")
    assert by_hand.read_text() != "0 1 C\n"
    assert "`window_seconds` must be at least" in run("--existing", "skip", "--window-seconds", "0.01")


@pytest.fixture
def annotated(tmp_path):
    """A function that annotates a folder of two songs once more, and returns the outcome and the songs made anew."""
    folder, output = tmp_path / "music", tmp_path / "out"
    folder.mkdir()
    for number, name in enumerate("ab"):
        soundfile.write(folder / f"{name}.wav", music(1.0, seed=number), RATE, "FLOAT")

    def state(path):
        return path.stat().st_mtime_ns, path.stat().st_ino

    def run(source=folder, models=None, formats=("json", "lab"), existing="skip", picture=False):
        before = {path: state(path) for path in list_files(output)} if output.is_dir() else {}
        models = {"chord": head("chord")} if models is None else models
        sources = list_sources(source)
        outcome = annotate_files(models, sources, output, WindowSettings(), formats, existing, picture, progress=False)
        after = {path: state(path) for path in list_files(output)}
        return outcome, sorted(path.name for path in after if before.get(path) != after[path])

    assert run()[1] == ["a.chords.lab", "a.json", "b.chords.lab", "b.json"]
    return run


def test_complete_songs_are_skipped(annotated):
    for _ in range(2):
        assert annotated() == (AnnotatedFiles(2, []), [])


@pytest.mark.parametrize("change", ["audio", "weights", "decoding", "encoder"])
def test_songs_are_annotated_again_if_something_has_changed(annotated, tmp_path, change):
    model = head("chord", decoding={"min_seconds": 0.5} if change == "decoding" else None)
    if change == "audio":
        soundfile.write(tmp_path / "music/a.wav", music(1.0, seed=7), RATE, "FLOAT")
    elif change == "weights":
        with torch.no_grad():
            model.classifier.output.bias[3] += 9
    elif change == "encoder":
        with torch.no_grad():
            next(model.musicfm.layers[0].parameters()).add_(0.5)
    outcome, again = annotated(models={"chord": model})
    names = "a" if change == "audio" else "ab"
    assert outcome == AnnotatedFiles(2 - len(names), [])
    assert again == [f"{name}.{ending}" for name in names for ending in ("chords.lab", "json")]
    expected = annotate(model, music(1.0, seed=7 if change == "audio" else 0), RATE).to_dict()
    assert json.loads((tmp_path / "out/a.json").read_text()) == expected
    assert annotated(models={"chord": model}) == (AnnotatedFiles(2, []), [])


def test_edited_files_stay(annotated, tmp_path):
    """They are complete; and if they should be made again, that is a problem."""
    path = tmp_path / "out/a.chords.lab"
    path.write_text("0 1 C\n")
    assert annotated() == (AnnotatedFiles(2, []), [])
    soundfile.write(tmp_path / "music/a.wav", music(1.0, seed=7), RATE, "FLOAT")
    outcome, again = annotated()
    assert (outcome.existing, again) == (2, [])
    ((name, problem),) = outcome.problems
    assert name == "a"
    assert "its files were edited, and the audio, the models or the settings have changed since" in problem
    assert path.read_text() == "0 1 C\n"
    assert annotated(existing="overwrite")[1] == ["a.chords.lab", "a.json", "b.chords.lab", "b.json"]
    assert annotated() == (AnnotatedFiles(2, []), [])


def test_another_folder_of_songs_with_the_same_names(annotated, tmp_path):
    (tmp_path / "more").mkdir()
    soundfile.write(tmp_path / "more/a.wav", music(2.0, seed=3), RATE, "FLOAT")
    assert annotated(tmp_path / "more")[1] == ["a-2.chords.lab", "a-2.json"]
    assert json.loads((tmp_path / "out/a-2.json").read_text())["duration"] == 2
    assert json.loads((tmp_path / "out/a.json").read_text())["duration"] == 1
    assert annotated(tmp_path / "more") == (AnnotatedFiles(1, []), [])
    assert annotated() == (AnnotatedFiles(2, []), [])


def test_other_formats(annotated, tmp_path):
    """What is missing is made; what another model made is removed, unless it was edited."""
    assert annotated(formats=["json"]) == (AnnotatedFiles(2, []), [])
    (tmp_path / "out/b.chords.lab").unlink()
    assert annotated()[1] == ["b.chords.lab", "b.json"]
    (tmp_path / "out/b.chords.lab").write_text("0 1 C\n")
    other = {"chord": head("chord", seed=1)}
    assert annotated(models=other, formats=["json"])[1] == ["a.json", "b.json"]
    assert not (tmp_path / "out/a.chords.lab").exists()
    assert (tmp_path / "out/b.chords.lab").read_text() == "0 1 C\n"
    outcome, again = annotated(models=other)
    assert [name for name, _ in outcome.problems] == ["b"]
    assert again == ["a.chords.lab", "a.json"]


def test_damage_is_reported_each_time(annotated, tmp_path):
    path = tmp_path / "music/a.wav"
    path.write_bytes(path.read_bytes()[:-20000])
    outcome, again = annotated()
    assert again == ["a.chords.lab", "a.json"]
    assert [name for name, _ in outcome.problems] == ["a"]
    assert "truncated" in outcome.problems[0][1]
    assert annotated() == (AnnotatedFiles(2, outcome.problems), [])


@pytest.mark.parametrize("limit", [60, 300])
def test_a_song_is_not_complete_if_the_disk_was_full(annotated, tmp_path, limit):
    """A problem, and after it the files of before; then the song is made."""
    expected = {path.name: path.read_bytes() for path in list_files(tmp_path / "out")}
    soundfile.write(tmp_path / "music/a.wav", music(1.0, seed=7), RATE, "FLOAT")
    with disk_with(limit):
        outcome, again = annotated()
    assert again == []
    assert [name for name, _ in outcome.problems] == ["a"]
    assert "File too large" in outcome.problems[0][1]
    assert {path.name: path.read_bytes() for path in list_files(tmp_path / "out")} == expected
    assert annotated()[1] == ["a.chords.lab", "a.json"]


def test_annotated_songs_are_found_among_others(tmp_path):
    """Two songs of one name: whichever was annotated first, in whatever order they are given, none is made again."""
    paths = [tmp_path / folder / "song.wav" for folder in "ab"]
    for path in paths:
        path.parent.mkdir()
        soundfile.write(path, music(0.5), RATE)

    def run(*numbers):
        sources = [(paths[number].name, str(paths[number])) for number in numbers]
        settings = {"formats": ["json"], "existing": "skip", "picture": False, "progress": False, "num_workers": 0}
        outcome = annotate_files({"key": head("key")}, sources, tmp_path / "out", WindowSettings(), **settings)
        return outcome.existing, sorted(path.name for path in list_files(tmp_path / "out"))

    assert run(0) == (0, ["song.json"])
    both = ["song.json", "song.wav.json"]
    assert run(1, 0) == (1, both)
    assert run(0, 1) == run(1, 0) == run(0, 0) == (2, both)
    assert run(1) == (1, both)


def test_every_song_has_files_of_its_own():
    paths = ["t/song.mp3", "t/song.mp3-2.wav", "t/song.wav", "t/song.mp3", "t/Dr. Dre - Still"]
    expected = ["t/song.mp3", "t/song.mp3-2", "t/song.wav", "t/song.mp3-3", "t/Dr. Dre - Still"]
    assert song_names(paths) == expected


def test_recipe(folders, tmp_path):
    songs = tmp_path / "music"
    (songs / "more").mkdir(parents=True)
    soundfile.write(songs / "a.wav", music(2.0), RATE)
    soundfile.write(songs / "a.flac", music(1.0), RATE)
    soundfile.write(songs / "more/b c.wav", music(3.0), RATE)
    (songs / "broken.mp3").write_text("no music")
    (tmp_path / "list.txt").write_text("music/a.wav\nmusic/missing.wav\n")
    command = [sys.executable, "recipes/annotate.py", songs, tmp_path / "list.txt", "--models", *folders]
    command += ["--output", tmp_path / "out", "--format", "json", "lab", "--device", "cpu"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([str(item) for item in command], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "6 songs, 2 with problems:" in done.stdout
    assert "broken" in done.stdout
    assert "missing" in done.stdout
    assert "Traceback" not in done.stderr
    written = [path.relative_to(tmp_path / "out").as_posix() for path in list_files(tmp_path / "out")]
    names = ["a.flac", "a.wav", "more/b c", "music/a"]
    assert written == sorted(
        f"{name}.{ending}" for name in names for ending in ("json", "chords.lab", "keys.lab", "png")
    )
    content = json.loads((tmp_path / "out/more/b c.json").read_text())
    assert content.keys() == {"duration", "chords", "keys", "key", "tags"}
    assert content["chords"][-1]["end"] <= content["duration"] == 3.0


def test_tags_are_written_into_the_audio(tmp_path):
    """Also into that of songs that were annotated before, and again if their labels were corrected."""
    from mutagen.flac import FLAC

    path = tmp_path / "music/song.flac"
    path.parent.mkdir()
    soundfile.write(path, music(2.0), RATE)
    models = {"key": with_logits(head("key"), np.tile(one_hot([3], 25), (1000, 1)))}
    sources = list_sources(tmp_path / "music")

    def run(existing="skip", **settings):
        settings = {"picture": False, "progress": False, "num_workers": 0} | settings
        return annotate_files(models, sources, tmp_path / "out", WindowSettings(), existing=existing, **settings)

    assert run() == AnnotatedFiles(0, [])
    assert FLAC(path).tags is None or "INITIALKEY" not in FLAC(path).tags
    written = (tmp_path / "out/song.json").stat().st_mtime_ns
    assert run(write_tags=True) == AnnotatedFiles(1, [])
    assert FLAC(path)["INITIALKEY"] == ["Eb"]
    content = path.stat().st_mtime_ns
    assert run(write_tags=True) == run() == AnnotatedFiles(1, [])  # the song is not outdated
    assert path.stat().st_mtime_ns == content
    assert (tmp_path / "out/song.json").stat().st_mtime_ns == written
    text = (tmp_path / "out/song.json").read_text()
    (tmp_path / "out/song.json").write_text(text.replace('"key": "Eb:maj"', '"key": "C:min"'))
    assert run(write_tags=True) == AnnotatedFiles(1, [])
    assert FLAC(path)["INITIALKEY"] == ["Cm"]
    assert run("overwrite", write_tags=True) == AnnotatedFiles(1, [])
    assert FLAC(path)["INITIALKEY"] == ["Eb"]
    assert run() == AnnotatedFiles(1, [])
    with pytest.raises(ValueError, match=r"`--write_tags` reads tempo and key from the JSON files: add json"):
        run(write_tags=True, formats=["lab"])


def test_tags_that_cannot_be_written_are_problems(tmp_path):
    source = {"bytes": encode(music(1.0), RATE, "WAV"), "path": None}
    outcome = annotate_files(
        {"key": head("key")},
        [("a", source)],
        tmp_path,
        WindowSettings(),
        picture=False,
        progress=False,
        write_tags=True,
    )
    ((name, problem),) = outcome.problems
    assert name == "a"
    assert "tags can be written into audio files only, and this audio is in a data set" in problem
    assert (tmp_path / "a.json").is_file()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"click": "loud"}, "`click` must be one of mix, alone, got 'loud'"),
        ({"click": "mix"}, "`--click` needs beats: add a model for the task beat"),
    ],
)
def test_clicks_that_cannot_be_written(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        annotate_files({"key": head("key")}, [("a", music(1.0))], tmp_path / "out", WindowSettings(), **settings)
    assert not (tmp_path / "out").exists()
