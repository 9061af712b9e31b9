"""The task that docs/new_task.md writes in one file: trained, scored, loaded again, and used."""

import json
import pickle
import re
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from helpers.audio import music
from helpers.finetuning import SHORT
from helpers.paths import ROOT

from musicfm_hf import SongAnnotation
from musicfm_hf.cli.annotate import main as annotate
from musicfm_hf.cli.evaluate import main as evaluate
from musicfm_hf.cli.finetune import main as finetune
from musicfm_hf.cli.push import main as push
from musicfm_hf.data.examples import with_annotation
from musicfm_hf.data.labeled_dataset import load_songs
from musicfm_hf.finetuning.arguments import TaskArguments
from musicfm_hf.finetuning.heads import head_config
from musicfm_hf.hub.cards import write_card
from musicfm_hf.model.configuration_musicfm import MusicFMConfig
from musicfm_hf.tasks import TaskSpec, get_task, known_tasks, load_task_file, register_task, unregister_task
from musicfm_hf.tasks.annotations import Beats, Segment, read_segments


@pytest.fixture
def task_file(tmp_path):
    """The file that the page shows; its task is forgotten afterwards."""
    page = (ROOT / "docs/new_task.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    path = tmp_path / "meter.py"
    path.write_text(code, encoding="utf-8")
    yield path
    if "meter" in known_tasks():
        unregister_task("meter")


@pytest.fixture
def task():
    """A task with all defaults, whose annotations are a further column of songs."""
    yield register_task(TaskSpec(name="mood", column="moods", labels=("calm", "wild")))
    unregister_task("mood")


@pytest.fixture
def song(labeled):
    return replace(load_songs(labeled, "test")[0], more={"moods": [Segment(0, 4, "calm"), Segment(4, 10, "wild")]})


def test_the_file_is_short(task_file):
    assert len(task_file.read_text().splitlines()) <= 45


def test_its_task_is_trained_scored_and_used(task_file, encoder, labeled, tmp_path, capsys):
    places = ["--model", encoder, "--data", labeled, "--output_dir", tmp_path / "runs/meter"]
    places += ["--cache", tmp_path / "features", "--results", tmp_path / "results", "--task_file", task_file]
    finetune(["probe", *SHORT, *map(str, places)])
    results = json.loads((tmp_path / "runs/meter/results.json").read_text())
    assert results["task"] == "meter"
    assert 0 <= results["scores"]["test"]["accuracy"]["mean"] <= 1
    unregister_task("meter")

    evaluate([str(tmp_path / "runs/meter"), "--data", str(labeled), "--device", "cpu", "--task_file", str(task_file)])
    shown = f"accuracy                 {results['scores']['test']['accuracy']['mean']:.3f}"
    assert shown in capsys.readouterr().out
    card = write_card(tmp_path / "runs/meter").read_text(encoding="utf-8")
    assert "Time signature: 3/4 or 4/4" in card
    assert 'annotation.more["meters"]' in card
    assert 'load_task_file("meter.py")' in card
    unregister_task("meter")

    soundfile.write(tmp_path / "song.wav", music(5.0), 24000)
    models = ["--models", str(tmp_path / "runs/meter"), "--task_file", str(task_file), "--device", "cpu"]
    with pytest.raises(SystemExit) as ended:
        annotate([str(tmp_path / "song.wav"), *models, "--output_dir", str(tmp_path / "annotations")])
    assert not ended.value.code
    names = {path.name for path in (tmp_path / "annotations").iterdir() if not path.name.startswith(".")}
    assert names == {"song.json", "song.meters.lab", "song.png"}
    segments = read_segments(tmp_path / "annotations/song.meters.lab")
    assert segments[0].start == 0
    assert segments[-1].end == 5.0
    assert {segment.label for segment in segments} <= {"3/4", "4/4"}
    content = json.loads((tmp_path / "annotations/song.json").read_text())
    assert all(0.5 <= event["probability"] <= 1 for event in content["meters"])
    unregister_task("meter")

    with pytest.raises(SystemExit, match=r"got 'meter'.*--task_file"):
        annotate([str(tmp_path / "song.wav"), *models[:2], "--output_dir", str(tmp_path / "other")])


def test_a_push_knows_it(task_file, tmp_path, monkeypatch):
    known = []
    monkeypatch.setattr("musicfm_hf.cli.push.push", lambda *_, **__: known.extend(known_tasks()))
    push([str(tmp_path), "you/musicfm-meter", "--task_file", str(task_file)])
    assert "meter" in known


def test_its_annotations_are_counted_in_beats(task_file, song):
    spec = load_task_file(task_file)
    waltz = replace(song, beats=Beats(np.arange(7) * 0.5, np.arange(7) % 3 + 1))
    assert spec.annotation_of(waltz) == [Segment(0.0, 1.5, "3/4"), Segment(1.5, 3.0, "3/4")]
    assert not spec.is_annotated(replace(song, beats=None))
    assert not spec.is_annotated(replace(song, beats=Beats(np.arange(3.0), np.zeros(3, int))))


def test_worker_processes_load_the_file_again(task_file):
    spec = load_task_file(task_file)
    content = pickle.dumps(spec)
    unregister_task("meter")
    assert pickle.loads(content).name == "meter"
    assert get_task("meter").labels == spec.labels


def test_flags_that_disagree(task_file):
    places = {"model": "m", "data": "d", "task_file": str(task_file)}
    assert TaskArguments(**places).task == "meter"
    with pytest.raises(ValueError, match=r"meter.py defines the task meter, not chord\."):
        TaskArguments(task="chord", **places)
    with pytest.raises(ValueError, match="`transpose` is not an augmentation for the task meter"):
        TaskArguments(method="full", transpose=True, **places)
    assert TaskArguments(method="full", speed=2, **places).speed == 2


def test_annotations_in_a_column_of_their_own(task, song):
    assert task.annotation_of(song) == [Segment(0, 4, "calm"), Segment(4, 10, "wild")]
    assert with_annotation([song, replace(song, more={})], "mood", "here") == [song]
    config = head_config(TaskArguments(task="mood", model="m", data="d"), MusicFMConfig(), [song])
    assert (config.id2label, config.label_rate, config.label_centered) == ({0: "calm", 1: "wild"}, 1.0, False)
    assert config.classifier_slices == [
        {"name": "mood", "size": 2, "problem_type": "single_label_classification", "loss_weight": 1.0}
    ]
    targets = task.make_targets(config, task.annotation_of(song), 4, start=2.6)
    assert targets.tolist() == [[1, 0], [0, 1], [0, 1], [0, 1]]
    logits = np.log([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]])
    events = task.decode(config, logits)
    assert events == [Segment(0, 2, "calm"), Segment(2, 3, "wild")]
    np.testing.assert_allclose(task.event_probabilities(config, logits, events), [0.85, 0.7])
    assert task.score_song(task.annotation_of(song), [Segment(0, 5, "calm"), Segment(5, 8, "wild")]) == {
        "accuracy": pytest.approx(0.7)
    }
    assert np.isnan(task.score_song([], events)["accuracy"])
    with pytest.raises(ValueError, match="'sad' is not one of the labels calm, wild"):
        task.make_targets(config, [Segment(0, 1, "sad")], 4)


def test_labels_of_the_data(song):
    spec = TaskSpec(name="any", column="moods")
    assert spec.label_names([song, replace(song, more={"moods": [Segment(0, 1, "sad")]})]) == ["calm", "sad", "wild"]
    config = MusicFMConfig(task="any", id2label={0: "calm"}, label_rate=1.0)
    assert spec.make_targets(config, song.more["moods"], 8).sum(1).tolist() == [1] * 4 + [-100] * 4  # wild is unknown


def test_results_of_other_tasks_are_kept(tmp_path):
    annotation = SongAnnotation(
        6.0, more={"moods": [Segment(0.0, 6.0, "calm")], "genre": "rock", "moment": {"x": 0.7}}
    )
    assert annotation.to_dict() == {
        "duration": 6.0,
        "moods": [{"start": 0.0, "end": 6.0, "label": "calm"}],
        "genre": "rock",
        "moment": {"x": 0.7},
    }
    paths = annotation.save(tmp_path, "song")
    assert [path.name for path in paths] == ["song.json", "song.moods.lab", "song.moment.tags"]
    annotation.draw(tmp_path / "song.png", music(6.0), 24000)


@pytest.mark.parametrize(
    ("name", "code", "error", "message"),
    [
        ("none.py", None, FileNotFoundError, "none.py does not exist"),
        ("task.txt", "", ValueError, "task.txt is not a Python file"),
        ("empty.py", "", ValueError, "empty.py does not define a task: it needs `TASK = TaskSpec"),
        (
            "chord.py",
            "from musicfm_hf.tasks import TaskSpec\nTASK = TaskSpec(name='chord', column='harmony')",
            ValueError,
            "The task chord .* cannot be added",
        ),
        (
            "column.py",
            "from musicfm_hf.tasks import TaskSpec\nTASK = TaskSpec(name='harmony', column='chords')",
            ValueError,
            "the task chord has the column chords",
        ),
        (
            "clips.py",
            "from musicfm_hf.tasks import TaskSpec\nTASK = TaskSpec(name='genre', column='genre', label_rate=None)",
            ValueError,
            "labels whole clips .* it needs `targets`, `events` and `score`",
        ),
    ],
)
def test_files_that_are_not_tasks(tmp_path, name, code, error, message):
    if code is not None:
        (tmp_path / name).write_text(code)
    before = known_tasks()
    with pytest.raises(error, match=message):
        load_task_file(tmp_path / name)
    assert known_tasks() == before


def test_only_tasks_are_registered():
    with pytest.raises(TypeError, match="A task must be a TaskSpec, got str"):
        register_task("chord")
    with pytest.raises(ValueError, match="got 'mood'"):
        unregister_task("mood")
