"""The pipeline `"music-annotation"` of Transformers' registry."""

import json
import subprocess
import sys

import pytest
import soundfile
import torch
from datasets import Audio, Dataset
from helpers.audio import music
from helpers.models import HEADS, TINY, head, random_model
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForAudioFrameClassification, pipeline
from transformers.pipelines.pt_utils import KeyDataset

from musicfm_hf import MusicFMConfig, MusicFMForAudioFrameClassification, MusicFMModel, annotate, load_audio

RATE = 24000
KEYS = {
    "beat": {"beats", "tempo", "tempo_curve", "time_signatures"},
    "chord": {"chords"},
    "structure": {"sections"},
    "key": {"keys", "key"},
    "tagging": {"tags"},
}


def annotator(model, **arguments):
    return pipeline("music-annotation", model=model, device="cpu", **arguments)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A saved model for each task, with equal encoders."""
    place = tmp_path_factory.mktemp("heads")
    for task in HEADS:
        head(task).save_pretrained(place / task)
    return {task: place / task for task in HEADS}


@pytest.fixture(scope="module")
def song(tmp_path_factory):
    path = tmp_path_factory.mktemp("song") / "song.wav"
    soundfile.write(path, music(7.0, 44100), 44100, subtype="FLOAT")
    return path


def assert_same(answer, expected):
    """Compare annotations; probabilities of tags are not rounded, and differ in the last digit on some processors."""
    tags = {"tags": pytest.approx(expected["tags"], abs=1e-6)} if "tags" in expected else {}
    assert answer == expected | tags


@pytest.mark.parametrize("task", HEADS)
def test_a_model_of_each_task(task, folders, song):
    answer = annotator(str(folders[task]))(song)
    assert_same(answer, annotate(head(task), song).to_dict())
    assert answer.keys() == {"duration"} | KEYS[task]
    assert json.loads(json.dumps(answer)) == answer


def test_models_of_all_tasks(folders, song):
    expected = annotate([head(task) for task in HEADS], song).to_dict()
    first, *others = folders.values()
    annotate_song = annotator(first, heads=others)
    assert_same(annotate_song(song), expected)
    encoders = {id(model.musicfm) for model in annotate_song.models.values()}
    assert len(encoders) == 1
    objects = [head(task) for task in HEADS]
    assert_same(annotator(objects[0], heads=objects[1:])(song), expected)
    keys = {"duration"} | KEYS["beat"] | KEYS["chord"]
    assert annotator(objects[0], heads=[folders["chord"]])(song).keys() == keys
    assert annotator(objects[0], heads=str(folders["chord"]))(song).keys() == keys


def test_every_kind_of_audio(song):
    model = head("chord")
    annotate_song = annotator(model)
    waveform, rate = soundfile.read(song, dtype="float32")
    expected = annotate(model, song).to_dict()
    rows = [{"array": waveform, "sampling_rate": rate}, {"bytes": song.read_bytes(), "path": None}]
    for audio in (song, str(song), song.read_bytes(), *rows):
        assert annotate_song(audio) == expected
    assert annotate_song(waveform, sampling_rate=rate) == expected
    at_the_rate_of_the_model = load_audio(song)
    assert (
        annotate_song(at_the_rate_of_the_model)
        == annotate_song(torch.from_numpy(at_the_rate_of_the_model))
        == expected
    )
    with pytest.raises(ValueError, match="omit `sampling_rate`"):
        annotate_song(song, sampling_rate=rate)
    data = Dataset.from_dict({"audio": [str(song)] * 2}).cast_column("audio", Audio(decode=False))
    for inputs in ([song, str(song)], data["audio"], KeyDataset(data, "audio"), (path for path in [song, song])):
        assert list(annotate_song(inputs)) == [expected, expected]
    assert annotate_song([song, song], batch_size=2) == [expected, expected]


def test_settings(song):
    model = head("chord")
    expected = annotate(model, song, window_seconds=3.0, overlap_seconds=0.5, batch_size=2).to_dict()
    assert expected != annotate(model, song).to_dict()
    settings = {"window_seconds": 3.0, "overlap_seconds": 0.5}
    assert annotator(model)(song, batch_size=2, **settings) == expected
    assert annotator(model, batch_size=2, **settings)(song) == expected
    with pytest.raises(
        TypeError, match="no argument `windows`; it has sampling_rate, window_seconds, overlap_seconds"
    ):
        annotator(model)(song, windows=3.0)
    with pytest.raises(ValueError, match="overlap_seconds"):
        annotator(model)(song, window_seconds=3.0, overlap_seconds=5.0)


def test_adapters_and_frames_at_the_rate_of_the_encoder(song, tmp_path):
    head("chord").save_pretrained(tmp_path / "base")
    base = AutoModelForAudioFrameClassification.from_pretrained(tmp_path / "base")
    lora = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["classifier"], init_lora_weights=False)
    adapted = get_peft_model(base, lora).eval()
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(0.0, 2.0)
        if "classifier.modules_to_save" in name:
            parameter.data.mul_(5.0)
    adapted.save_pretrained(tmp_path / "adapter")
    expected = annotate(adapted, song).to_dict()
    assert annotator(str(tmp_path / "adapter"))(song) == expected
    assert annotator(adapted)(song) == expected
    assert expected != annotate(head("chord"), song).to_dict()
    # A model without `label_rate` in its configuration, as the first version wrote it.
    config = head("chord", label_rate=25.0).config
    frames = MusicFMForAudioFrameClassification(config).eval()
    frames.save_pretrained(tmp_path / "frames")
    path = tmp_path / "frames/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"label_rate": None}))
    assert annotator(str(tmp_path / "frames"))(song) == annotate(frames, song).to_dict()


def test_half_precision(folders, song):
    half = annotator(str(folders["chord"]), dtype=torch.bfloat16, heads=[folders["tagging"]])
    assert {model.dtype for model in half.models.values()} == {torch.bfloat16}
    assert half(song).keys() == {"duration", "chords", "tags"}


def test_models_that_cannot_annotate(folders, tmp_path):
    random_model(MusicFMConfig(**TINY)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="does not specify the task of its head"):
        annotator(str(tmp_path))
    with pytest.raises(TypeError, match="MusicFMModel"):
        annotator(MusicFMModel(MusicFMConfig(**TINY)))
    with pytest.raises(ValueError, match="are both for the task chord"):
        annotator(str(folders["chord"]), heads=[head("chord")])
    with pytest.raises(ValueError, match="default"):
        pipeline("music-annotation")


def test_the_pipeline_can_be_saved(folders, song, tmp_path):
    annotate_song = annotator(str(folders["chord"]))
    annotate_song.save_pretrained(tmp_path / "saved")
    assert annotator(str(tmp_path / "saved"))(song) == annotate_song(song)


def test_a_fresh_process_knows_the_pipeline(folders, song):
    code = (
        "import sys, json, musicfm_hf\nfrom transformers import pipeline\n"
        "print(json.dumps(pipeline('music-annotation', sys.argv[1], device='cpu')(sys.argv[2])))"
    )
    command = [sys.executable, "-c", code, str(folders["key"]), str(song)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == annotate(head("key"), song).to_dict()
