"""Fine-tuning for retrieval: three methods, saved models, searches by the command."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.finetuning import SHORT_RETRIEVAL
from helpers.songs import write_labeled_song
from transformers import AutoModelForAudioXVector

from musicfm_hf import (
    MusicFMConfig,
    MusicFMForXVector,
    MusicFMModel,
    PassageSettings,
    load_annotators,
    load_audio,
    load_embedder,
)
from musicfm_hf.cli.main import main
from musicfm_hf.data.labeled import Source
from musicfm_hf.data.labeled_dataset import build, load_songs, save
from musicfm_hf.evaluation.evaluate import evaluate_models
from musicfm_hf.finetuning.arguments import RetrievalArguments
from musicfm_hf.finetuning.heads import retrieval_config
from musicfm_hf.hub.cards import write_card
from musicfm_hf.inference.embedding import WindowSettings
from musicfm_hf.inference.encoder_digest import encoder_settings
from musicfm_hf.inference.excerpts import embed_excerpts
from musicfm_hf.tasks.annotations import Segment
from musicfm_hf.tasks.retrieval import get_retrieval_task

FLAGS = [*SHORT_RETRIEVAL, "--embedding_size", "6", "--head_channels", "5"]


@pytest.fixture(scope="module")
def versions(tmp_path_factory):
    """Two songs to train on, two to validate on, two to test on: each in two versions with three phrases."""
    folder = tmp_path_factory.mktemp("versions")
    phrases = [Segment(0.0, 3.0, "A"), Segment(3.0, 6.0, "B"), Segment(6.0, 9.0, "A")]
    splits = {}
    for split, numbers in {"train": (0, 2, 4, 5), "validation": (6, 7, 8, 9), "test": (10, 11, 12, 13)}.items():
        songs = [write_labeled_song(folder, number, split) for number in numbers]
        splits[split] = [
            replace(song, group=f"{split} {index // 2}", more={"phrases": phrases}) for index, song in enumerate(songs)
        ]
    save(build(splits, Source("Synthetic songs.", "", "", "")), folder)
    return folder


@pytest.fixture(scope="module")
def runs(versions, encoder, tmp_path_factory):
    """A probe, and a model that continues from it; as the command leaves them."""
    folder = tmp_path_factory.mktemp("runs")
    places = ["--data", versions, "--cache", folder / "features", "--results", folder / "results"]
    common = [*FLAGS, *places, "--task", "same_material"]
    probe, full, lora = (folder / name for name in ("probe", "full", "lora"))
    train("retrieval/probe", *common, "--model", encoder, "--output_dir", probe)
    train("retrieval/full", *common, "--model", probe, "--keep_head", "true", "--output_dir", full, "--loss", "vicreg")
    train("retrieval/lora", *common, "--model", probe, "--keep_head", "true", "--output_dir", lora, "--speed", "2")
    return folder


def train(*words):
    main(["finetune", *map(str, words)])


def results(folder):
    return json.loads((folder / "results.json").read_text())


@pytest.mark.parametrize("method", ["probe", "full", "lora"])
def test_saved_models_find_what_training_found(runs, versions, method):
    folder = runs / method
    recorded = results(folder)
    assert recorded["task"] == "same_material"
    assert recorded["scores"]["test"].keys() == {"map", "mrr", "recall_at_1", "recall_at_5", "recall_at_10"}
    report = evaluate_models([folder], versions, settings=WindowSettings(window_seconds=30.0, batch_size=8))
    (found,) = report["models"].values()
    assert found["songs"].keys() == {"test 0", "test 1"}
    for name, value in recorded["scores"]["test"].items():
        assert found["scores"][name]["mean"] == pytest.approx(value["mean"], abs=0.05)  # half-precision features
    model = AutoModelForAudioXVector.from_pretrained(folder).eval()
    assert model.config.contrastive_loss == ("vicreg" if method == "full" else "info_nce")
    assert model(torch.randn(2, 24000) * 0.1).embeddings.shape == (2, 6)
    embedder, _ = load_embedder(str(folder))  # for `musicfm index`; adapters load too
    waveform = np.random.default_rng(0).normal(0, 0.1, 30 * 24000).astype(np.float32)
    (embedded,) = embedder.embed_songs([("noise", waveform)], PassageSettings(10.0, 10.0))
    with torch.no_grad():
        whole = model(torch.from_numpy(waveform[None])).embeddings[0]
    assert embedded.vectors.shape == (3, 6)
    assert np.linalg.norm(embedded.vectors, axis=1) == pytest.approx(1.0)
    (embedded,) = embedder.embed_songs([("noise", waveform)], PassageSettings(30.0, 30.0))
    np.testing.assert_allclose(embedded.vectors[0], whole, atol=1e-4)
    card = write_card(folder).read_text(encoding="utf-8")
    assert "AutoModelForAudioXVector" in card
    assert "mean average precision" in card


def test_a_probe_may_be_trained_first_by_the_same_command(runs, versions, encoder, tmp_path):
    """Its pitch maps are those of a probe of its own, and its model is scored before the first step."""
    first = ["--probe_steps", "4", "--probe_batch_size", "4", "--max_steps", "2"]
    places = ["--data", versions, "--cache", runs / "features", "--results", tmp_path / "results"]
    words = ["retrieval/full", *FLAGS, *places, "--task", "same_material", "--model", encoder, *first]
    train(*words, "--output_dir", tmp_path / "full")
    history = results(tmp_path / "full")["history"]
    assert [entry["step"] for entry in history if "eval_map" in entry] == [0, 2]
    started = MusicFMForXVector.from_pretrained(tmp_path / "full/checkpoint-0").classifier
    probe = MusicFMForXVector.from_pretrained(runs / "probe").classifier
    assert started.projector.weight.equal(probe.projector.weight)
    before = MusicFMModel.from_pretrained(encoder).state_dict()
    trained = MusicFMForXVector.from_pretrained(tmp_path / "full").musicfm.state_dict()
    best = results(tmp_path / "full")["steps"]["best"]
    assert all(trained[name].equal(before[name]) for name in before) == (best == 0)


def test_settings_of_the_head_leave_cached_features_valid(encoder, versions):
    """Features are named after the settings of the encoder, which those of the head and of the loss are not."""
    base = MusicFMConfig.from_pretrained(encoder)
    arguments = RetrievalArguments(
        model="m",
        data="d",
        loss="vicreg",
        temperature=0.5,
        embedding_size=7,
        head_frames=9,
        head_channels=3,
        head_kernel=5,
    )
    config = retrieval_config(arguments, base, load_songs(versions, "train"))
    config.vicreg_variance_weight = 3.0
    assert encoder_settings(config) == encoder_settings(base)


def test_a_run_is_not_resumed_with_other_chords(versions):
    """The pitch maps are fitted to the chords of training songs, so they belong to the fingerprint of a run."""
    (song, *_) = load_songs(versions, "train")
    arguments = RetrievalArguments(model="m", data="d")
    other = replace(song, chords=[Segment(0.0, 9.0, "F#:min")])
    assert repr(arguments.annotation_of(song)) == repr(arguments.annotation_of(replace(song)))
    assert repr(arguments.annotation_of(song)) != repr(arguments.annotation_of(other))


def test_the_probe_leaves_the_encoder_as_it_was(runs, encoder):
    probe, full = (MusicFMForXVector.from_pretrained(runs / name).musicfm.state_dict() for name in ("probe", "full"))
    before = MusicFMModel.from_pretrained(encoder).state_dict()
    assert all(probe[name].equal(before[name]) for name in before)
    assert any(not full[name].equal(before[name]) for name in before)


def test_embeddings_of_the_model_and_of_the_cached_head_agree(runs, versions):
    """Excerpts are cut from whole songs, and longer ones into passages whose mean is normalized."""
    model = MusicFMForXVector.from_pretrained(runs / "probe").eval()
    (song, *_) = load_songs(versions, "test")
    (excerpt,) = [phrase for phrase in get_retrieval_task("same_material").excerpts(song) if phrase.number == 1]
    settings = WindowSettings(window_seconds=30.0)
    assert model.config.decoding == {"passage_seconds": 10.0}
    model.config.decoding = {"passage_seconds": 4.0}
    whole = excerpt._replace(start=0.0, end=song.duration)
    found = embed_excerpts(model, [excerpt, whole], settings)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    with torch.no_grad():
        frames = model.musicfm(torch.from_numpy(load_audio(song.audio, 24000))[None]).last_hidden_state
        start, end = round(25 * excerpt.start), round(25 * excerpt.end)
        alone = model.classifier(frames[:, start:end]).embeddings[0]
        # 10 s in passages of about 4 s.
        passages = torch.cat([model.classifier(part).embeddings for part in frames.tensor_split(2, dim=1)])
    np.testing.assert_allclose(found[0], alone, atol=1e-5)
    mean = torch.nn.functional.normalize(passages.mean(0), dim=-1)
    np.testing.assert_allclose(found[1], mean, atol=1e-5)


def test_a_finished_run_is_not_trained_again_and_other_settings_are_refused(runs, versions, encoder):
    places = ["--data", versions, "--cache", runs / "features", "--results", runs / "results", "--model", encoder]
    words = ["retrieval/probe", *FLAGS, *places, "--task", "same_material", "--output_dir", runs / "probe"]
    before = results(runs / "probe")["scores"]
    train(*words)
    assert results(runs / "probe")["scores"] == before
    with pytest.raises(SystemExit, match="loss"):
        train(*words, "--loss", "vicreg")


def test_mistakes_are_named(runs, versions, labeled, encoder):
    places = {"--data": versions, "--model": encoder, "--output_dir": runs / "other"}

    def error(*flags, **changes):
        given = places | {f"--{name}": value for name, value in changes.items()}
        with pytest.raises(SystemExit) as stopped:
            train("retrieval/probe", *FLAGS, *(word for pair in given.items() for word in pair), *flags)
        return str(stopped.value)

    assert "several versions" in error("--task", "same_song", data=labeled)
    assert "computed once: leave `speed`" in error("--speed", "3")
    assert "has no head of this shape" in error("--keep_head", "true")
    assert "the batch size must be even, got 3" in error("--per_device_train_batch_size", "3")
    assert "same_mood" in error("--task", "same_mood")
    with pytest.raises(ValueError, match="one of same_song, same_material"):
        RetrievalArguments(task="same_mood", model="m", data="d")
    with pytest.raises(ValueError, match="`classes_per_song` must be at least 1, got 0"):
        RetrievalArguments(model="m", data="d", classes_per_song=0)
    with pytest.raises(ValueError, match="cannot be used with `random_encoder`"):
        RetrievalArguments(model="m", data="d", random_encoder=True, keep_head=True)
    with pytest.raises(ValueError, match="has nothing to annotate"):
        load_annotators([runs / "probe"])
