"""The encoder for mteb, on tasks of mteb with data made here."""

import numpy as np
import pytest
import torch
from datasets import Audio, Dataset, DatasetDict
from helpers.audio import encode, music
from helpers.models import TINY, random_model
from helpers.text_audio import processor, text_audio_model
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold

import musicfm_hf
from musicfm_hf import MusicFMConfig

mteb = pytest.importorskip("mteb", reason="pip install '.[mteb]'")

from musicfm_hf.integrations.mteb import MusicFMEncoder  # noqa: E402

RATE = 24000


def rows(songs: list[np.ndarray]) -> list[dict]:
    return [{"bytes": encode(song, RATE, "WAV", "FLOAT"), "path": None} for song in songs]


def with_data(name: str, dataset) -> object:
    """A task of mteb with these data in place of its own."""
    task = mteb.get_task(name)
    task.dataset, task.data_loaded = dataset, True
    return task


def evaluate(model, task) -> dict:
    result = mteb.evaluate(model, task, cache=None, encode_kwargs={"batch_size": 4}, show_progress_bar=False)
    (scores,) = result.task_results[0].scores.values()
    return scores[0]


@pytest.fixture(scope="module")
def songs() -> list[np.ndarray]:
    """Ten songs and ten noises, of different lengths, half of them longer than a window."""
    generator = np.random.default_rng(0)
    seconds = [1.0, 2.6] * 10
    noises = [0.1 * generator.standard_normal(round(RATE * length)).astype(np.float32) for length in seconds[:10]]
    return [music(length, seed=seed) for seed, length in enumerate(seconds[10:])] + noises


def test_classification(songs):
    """The accuracy of GTZANGenre is that of the same classifier on the means of `embed`, fold by fold."""
    model = random_model(MusicFMConfig(**TINY, context_seconds=2.0))
    labels = np.array([0, 1, 0, 1, 0, 0, 1, 0, 1, 1, 1, 0, 0, 1, 0, 1, 1, 0, 1, 0])  # not what one hears
    data = Dataset.from_dict({"audio": rows(songs), "label": labels.tolist()}).cast_column("audio", Audio())
    task = with_data("GTZANGenre", DatasetDict(train=data))
    task.samples_per_label = 100  # all, so that folds do not depend on draws
    scores = evaluate(MusicFMEncoder(model, layer=2), task)
    vectors = np.stack([musicfm_hf.embed(model, song, RATE, layer=2).frames.mean(0).numpy() for song in songs])
    accuracies = []
    for train, test in KFold(task.n_splits, shuffle=True, random_state=task.seed).split(vectors):
        classifier = LogisticRegression(max_iter=100).fit(vectors[train], labels[train])
        accuracies.append(classifier.score(vectors[test], labels[test]))
    assert scores["accuracy"] == pytest.approx(np.mean(accuracies))
    assert 0 < scores["accuracy"] < 1


def test_classification_of_music_and_noise(songs):
    data = Dataset.from_dict({"audio": rows(songs), "label": [0] * 10 + [1] * 10}).cast_column("audio", Audio())
    model = MusicFMEncoder(random_model(MusicFMConfig(**TINY)))
    assert evaluate(model, with_data("GTZANGenre", DatasetDict(train=data)))["accuracy"] == 1.0


def test_zero_shot_classification(songs):
    """The accuracy of ESC50_Zeroshot is that of the highest logit of the model."""
    model = text_audio_model(seed=2)
    words = ["piano", "drums", "fast guitar"]
    texts = processor()(text=words)
    with torch.no_grad():
        logits = [
            model(**texts, input_values=torch.from_numpy(song)[None]).logits_per_audio[0].tolist() for song in songs
        ]
    predicted = np.argmax(logits, 1)
    assert set(predicted) == {1, 2}
    labels = predicted.copy()
    labels[:7] = (labels[:7] + 1) % 3
    data = Dataset.from_dict({"audio": rows(songs), "target": labels.tolist()}).cast_column("audio", Audio())
    task = with_data("ESC50_Zeroshot", DatasetDict(train=data))
    task.get_candidate_labels = lambda: words
    assert evaluate(MusicFMEncoder(model, processor()), task)["accuracy"] == pytest.approx(13 / 20)


def test_retrieval(songs):
    """Ranks of songs for texts in MusicCapsT2ARetrieval are those of the cosines' means, over clips."""
    model, words = text_audio_model(), ["piano", "sad song", "drums"]
    with torch.no_grad():
        texts = model.get_text_features(**processor()(text=words)).pooler_output
        audio = torch.cat([model.get_audio_features(torch.from_numpy(song)[None]).pooler_output for song in songs])
    ranks = (texts @ audio.T).argsort(descending=True).argsort()[:, 3] + 1  # of song 3, for each text
    task = mteb.get_task("MusicCapsT2ARetrieval")
    names = [f"song{number}" for number in range(len(songs))]
    corpus = Dataset.from_dict({"id": names, "audio": rows(songs)}).cast_column("audio", Audio())
    queries = Dataset.from_dict({"id": ["q0", "q1", "q2"], "text": words})
    relevant = {f"q{number}": {"song3": 1} for number in range(3)}
    split = {"corpus": corpus, "queries": queries, "relevant_docs": relevant, "top_ranked": None}
    task.dataset, task.data_loaded = {"default": {task.metadata.eval_splits[0]: split}}, True
    scores = evaluate(MusicFMEncoder(model, processor()), task)
    assert scores["mrr_at_100"] == pytest.approx((1 / ranks).mean().item(), abs=1e-5)


def test_identity_of_results(tmp_path):
    """Results of other weights, layers or precisions have other names."""
    model = random_model(MusicFMConfig(**TINY))
    model.save_pretrained(tmp_path / "runs/tiny")
    first = MusicFMEncoder.from_pretrained(str(tmp_path / "runs/tiny"), device="cpu").mteb_model_meta
    assert (first.name, first.embed_dim, first.modalities) == ("runs/tiny", 32, ["audio"])
    assert first.n_parameters == sum(parameter.numel() for parameter in model.parameters())
    second = MusicFMEncoder.from_pretrained(str(tmp_path / "runs/tiny"), layer=2, dtype=torch.bfloat16)
    assert second.mteb_model_meta.experiment_kwargs == {"layer": 2, "dtype": "bfloat16"}
    random_model(MusicFMConfig(**TINY), seed=1).save_pretrained(tmp_path / "runs/tiny")
    third = MusicFMEncoder.from_pretrained(str(tmp_path / "runs/tiny")).mteb_model_meta
    assert third.revision != first.revision
    unnamed = [MusicFMEncoder(random_model(MusicFMConfig(**TINY), seed)).mteb_model_meta for seed in (0, 0, 1)]
    assert unnamed[0] == unnamed[1]
    assert unnamed[0].revision != unnamed[2].revision


def test_half_precision(songs):
    model = random_model(MusicFMConfig(**TINY))
    loader = torch.utils.data.DataLoader(Dataset.from_dict({"audio": rows(songs[:3])}), batch_size=2)
    expected = MusicFMEncoder(model).encode(loader)
    half = MusicFMEncoder(random_model(MusicFMConfig(**TINY)).to(torch.bfloat16)).encode(loader)
    assert expected.shape == (3, 32)
    assert half.dtype == torch.float32
    assert torch.cosine_similarity(half, expected).min() > 0.99


def test_wrong_use():
    model = MusicFMEncoder(random_model(MusicFMConfig(**TINY)))
    loader = torch.utils.data.DataLoader(Dataset.from_dict({"text": ["piano"]}))
    with pytest.raises(ValueError, match="The task has texts, but this model has no text tower"):
        model.encode(loader)
    with pytest.raises(ValueError, match="The audio is null"):
        model.encode(torch.utils.data.DataLoader(Dataset.from_dict({"audio": [None]})))
    with pytest.raises(TypeError, match="must be a MusicFMModel or a MusicFMTextAudioModel, got Linear"):
        MusicFMEncoder(torch.nn.Linear(1, 1))
