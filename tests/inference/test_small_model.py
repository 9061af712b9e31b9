"""The small model that is a part of the package."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import soundfile
from helpers.recipes import run_recipe
from transformers import AutoConfig, AutoModel, AutoModelForAudioFrameClassification, AutoModelForAudioXVector

from musicfm_hf import SMALL_MODEL, SearchIndex, annotate, load_annotators
from musicfm_hf.cli import annotate as command
from musicfm_hf.cli.main import find_small_model, main
from musicfm_hf.data.synthetic import write_song
from musicfm_hf.evaluation import evaluate as evaluation
from musicfm_hf.evaluation.evaluate import evaluate, evaluate_models
from musicfm_hf.hub.cards import write_card
from musicfm_hf.hub.licenses import license_of
from musicfm_hf.inference.annotate_files import AnnotatedFiles
from musicfm_hf.tasks import get_task, known_tasks
from musicfm_hf.tasks.annotations import SONG_COLUMNS, Segment


@pytest.fixture(scope="module")
def models():
    return load_annotators()


def test_size_and_tasks(models):
    size = sum(path.stat().st_size for path in Path(SMALL_MODEL).rglob("*"))
    assert size <= 12e6
    assert {model.config.task for model in models.values()} == set(known_tasks())
    encoder, *others = (model.musicfm for model in models.values())
    assert all(other is encoder for other in others)
    search = AutoModelForAudioXVector.from_pretrained(SMALL_MODEL, subfolder="same_song")
    heads = [parameter for model in (*models.values(), search) for parameter in model.classifier.parameters()]
    assert sum(parameter.numel() for parameter in (*encoder.parameters(), *heads)) <= 6e6
    assert AutoModel.from_pretrained(SMALL_MODEL).config.frame_rate == 25
    assert license_of(SMALL_MODEL) == "apache-2.0"


def test_what_is_saved_from_it_is_a_model_of_its_own(tmp_path, models):
    """Without the folders of the other models."""
    config = AutoConfig.from_pretrained(SMALL_MODEL, task="key", id2label={0: "a", 1: "b"}, label_rate=10.0)
    head = AutoModelForAudioFrameClassification.from_pretrained(SMALL_MODEL, config=config)
    head.save_pretrained(tmp_path / "head")
    (loaded,) = load_annotators(tmp_path / "head").values()  # one folder needs no list
    assert (loaded.config.task, loaded.config.num_labels) == ("key", 2)
    encoder = AutoModel.from_pretrained(SMALL_MODEL)
    encoder.save_pretrained(tmp_path / "encoder")
    assert AutoModel.from_pretrained(tmp_path / "encoder").config.task_folders is None
    encoder.save_pretrained(tmp_path / "encoder")


def test_scores_of_a_composed_song(models, tmp_path):
    """A simple song, by another synthesizer than those of its training songs."""
    song = write_song(11, tmp_path, 30.0)
    annotation = annotate(models, song.audio)
    least = {"beat": ("beat_f", 0.95), "chord": ("majmin", 0.9), "key": ("key_weighted", 1.0)}
    for task, (score, value) in least.items():
        spec = get_task(task)
        assert spec.score_song(spec.annotation_of(song), annotation.get(spec.column))[score] >= value


def test_search_finds_a_song_that_is_played_faster_and_higher(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed in (11, 12):
        write_song(seed, tmp_path / "music", 40.0)
    waveform, rate = soundfile.read("music/11.flac")
    soundfile.write("higher.wav", waveform, round(rate * 2 ** (2 / 12)))  # by two semitones
    main(["index", "music", "--model", "musicfm-small/same_song", "--output_dir", "index", "--num_workers", "0"])
    first, second = SearchIndex.load("index").search("higher.wav")
    assert (first.song, second.song) == ("11.flac", "12.flac")
    assert first.score > second.score + 0.1


def test_its_name_in_commands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["song.mp3", "--models", "runs/beat", "musicfm-small", "--output_dir", "musicfm-small"]
    assert find_small_model("annotate", words) == [*words[:3], SMALL_MODEL, *words[4:]]
    assert find_small_model("evaluate", ["musicfm-small", "--data", "x"]) == [SMALL_MODEL, "--data", "x"]
    assert find_small_model("export", ["musicfm-small/chord", "--output_dir", "x"])[0] == f"{SMALL_MODEL}/chord"
    assert find_small_model("train-text-audio", ["--audio_model", "musicfm-small"])[1] == SMALL_MODEL
    assert find_small_model("embed", ["a", "--model=musicfm-small"]) == ["a", f"--model={SMALL_MODEL}"]
    head = "musicfm-small/same_song"
    assert find_small_model("index", ["a", "--model", head]) == ["a", "--model", f"{SMALL_MODEL}/same_song"]
    assert find_small_model("push", ["runs/small", "musicfm-small"]) == ["runs/small", "musicfm-small"]
    Path("musicfm-small").mkdir()
    assert find_small_model("annotate", words) == words


def test_its_name_in_scripts(tmp_path, monkeypatch):
    used = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "load_annotators", lambda folders, **options: used.extend(folders) or {})
    monkeypatch.setattr(command, "annotate_files", lambda *arguments, **options: AnnotatedFiles(0, []))
    song = write_song(3, tmp_path / "songs", 8.0)
    with pytest.raises(SystemExit):
        run_recipe(monkeypatch, "annotate.py", song.audio, "--models", "musicfm-small", "--device", "cpu")
    assert used == [SMALL_MODEL]


def test_its_card(tmp_path):
    """In the package, Python finds the model by a constant; on the card of a copy on the Hub, by the ID."""
    copy = tmp_path / "musicfm-small"
    shutil.copytree(SMALL_MODEL, copy)
    card = (copy / "README.md").read_text(encoding="utf-8")
    assert "load_annotators([musicfm_hf.SMALL_MODEL])" in card
    assert 'from_pretrained(musicfm_hf.SMALL_MODEL, subfolder="beat")' in card
    assert "--models musicfm-small " in card
    write_card(copy, place="musicfm_hf.SMALL_MODEL")
    assert (copy / "README.md").read_text(encoding="utf-8") == card  # with all scores
    write_card(copy, "someone/small")
    pushed = (copy / "README.md").read_text(encoding="utf-8")
    assert 'load_annotators(["someone/small"])' in pushed
    assert 'from_pretrained("someone/small", subfolder="beat")' in pushed
    scores, training = card.index("## Scores"), card.index("## Training")
    assert card[scores:training] == pushed[pushed.index("## Scores") : pushed.index("## Training")]


@pytest.mark.parametrize("place", ["{}", "{}/chord", "{}/", "{}/../musicfm-small/chord", "link", "relative"])
def test_it_is_not_calibrated_in_place(tmp_path, monkeypatch, place):
    """However its path is written."""
    song = SimpleNamespace(**dict.fromkeys(SONG_COLUMNS) | {"chords": [Segment(0.0, 1.0, "C:maj")]}, more={})
    monkeypatch.setattr(evaluation, "load_songs_of", lambda data, split: [song])
    monkeypatch.chdir(Path(SMALL_MODEL).parent if place == "relative" else tmp_path)
    (tmp_path / "link").symlink_to(SMALL_MODEL)
    model = "musicfm-small/chord" if place == "relative" else place.format(SMALL_MODEL)
    with pytest.raises(ValueError, match=r"a part of the package.*Copy its folder"):
        evaluate_models([model], "data", calibrate=0.5)
    with pytest.raises(ValueError, match=r"a part of the package.*Copy its folder"):
        evaluate(SMALL_MODEL, "data", task="chord", calibrate=0.5)


def test_it_annotates_by_default(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    song = write_song(3, tmp_path / "songs", 8.0)
    with pytest.raises(SystemExit) as stopped:
        command.main([str(song.audio), "--device", "cpu"])
    assert stopped.value.code == 0
    assert Path("annotations/3.json").is_file()
    assert Path("annotations/3.png").is_file()


def test_no_pictures_without_matplotlib(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "is_matplotlib_available", lambda: False)
    song = write_song(3, tmp_path / "songs", 8.0)
    with pytest.raises(SystemExit):
        command.main([str(song.audio), "--output_dir", str(tmp_path / "out"), "--device", "cpu"])
    assert "matplotlib is not installed" in capsys.readouterr().out
    assert (tmp_path / "out/3.json").is_file()
    assert not (tmp_path / "out/3.png").exists()
