import json
import math
from dataclasses import replace

import numpy as np
import pytest
from helpers.models import TINY, random_model
from helpers.recipes import run_recipe
from PIL import Image

import musicfm_hf.inference.feature_cache
from musicfm_hf import MusicFMConfig
from musicfm_hf.data.labeled import Source
from musicfm_hf.data.labeled_dataset import build, save
from musicfm_hf.data.synthetic import write_song
from musicfm_hf.evaluation.layer_map import best_layer, layer_table, plot_layers, summarize_layers
from musicfm_hf.finetuning.trainer import FinetuningTrainer
from musicfm_hf.training.files import write_json

NAN = float("nan")


def results(validation, test, **more):
    scores = {"validation": {"majmin": {"mean": validation, "songs": 2}}}
    scores["test"] = {"majmin": {"mean": test, "songs": 2, "interval": (test - 0.1, test + 0.1)}}
    return {"scores": scores} | more


def summary(validation, test, weights):
    layers = [results(*pair) for pair in zip(validation, test, strict=True)]
    return summarize_layers("majmin", layers, results(0.55, 0.45, layer_weights=weights))


def test_results_of_a_file_have_null_for_nan(tmp_path):
    write_json(tmp_path / "results.json", results(NAN, NAN))
    read = json.loads((tmp_path / "results.json").read_text())
    assert read["scores"]["test"]["majmin"] == {"mean": None, "songs": 2, "interval": [None, None]}
    found = summarize_layers("majmin", [read, results(0.2, 0.3)], results(0.5, 0.4, layer_weights=[0.5, 0.5]))
    assert np.isnan(found["validation"][0])
    assert found["best"] == 1


def test_best_layer():
    assert best_layer([0.1, 0.5, 0.5, 0.2]) == 1
    assert best_layer([NAN, 0.0, 0.3]) == 2
    assert best_layer([NAN, NAN]) is None


def test_the_best_layer_is_chosen_by_validation():
    found = summary([0.2, 0.6, 0.4], [0.9, 0.3, 0.5], [0.5, 0.25, 0.25])
    assert (found["validation"], found["test"]) == ([0.2, 0.6, 0.4], [0.9, 0.3, 0.5])
    assert (found["best"], found["test_of_best"]["mean"]) == (1, 0.3)
    assert found["weighted_sum"]["validation"] == 0.55
    assert found["weighted_sum"]["test"]["mean"] == 0.45


def test_table():
    lines = layer_table({"small": {"chord": summary([0.2, 0.6, NAN], [0.9, 0.3, 0.5], [0.5, 0.25, 0.25])}}).split("\n")
    assert lines[0] == "## small"
    assert (
        "| chord | majmin | 0.200 | **0.600** | nan | 0.550 | 0.300 [0.200, 0.400] (layer 1) | 0.450 [0.350, 0.550] |"
        in lines
    )
    assert "| chord | 0.500 | 0.250 | 0.250 |" in lines
    nothing = layer_table({"small": {"tagging": summary([NAN], [NAN], [1.0])}})
    assert "| tagging | majmin | nan | 0.550 |  | 0.450" in nothing


def test_picture(tmp_path):
    """A frame is red and nothing else is: one for each task that has a best layer, around its cell."""
    models = {
        "small": {"chord": summary([0.2, 0.6, 0.4], [0.9, 0.3, 0.5], [0.5, 0.25, 0.25])},
        "large $x_": {
            "chord": summary([0.1, 0.2, 0.3, 0.4, 1.0], [0.5] * 5, [0.2] * 5),
            "tagging": summary([NAN] * 5, [0.5] * 5, [0.2] * 5),
        },
    }
    plot_layers(models, tmp_path / "layers.png")
    red = (np.asarray(Image.open(tmp_path / "layers.png").convert("RGB")) == (0xE4, 0x00, 0x2B)).all(axis=2)
    edges = np.flatnonzero(np.diff(red.any(axis=1)))
    assert len(edges) == 4  # above and below two frames
    small, large = (red[top : bottom + 1].any(axis=0).nonzero()[0].mean() for top, bottom in edges.reshape(2, 2))
    assert small < large  # layer 1 of 3, layer 4 of 5


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    folder = tmp_path_factory.mktemp("layerwise")
    random_model(MusicFMConfig(**TINY | {"num_hidden_layers": 2})).save_pretrained(folder / "small")
    songs = [write_song(seed, folder / "audio", seconds=8.0) for seed in range(4)]
    splits = {"train": songs[:2], "validation": [replace(songs[2])], "test": [replace(songs[3])]}
    save(build(splits, Source("", "", "", "")), folder / "data")
    return folder


def probe(monkeypatch, material, *arguments):
    """Runs the recipe; gives how many songs were encoded and how many probes were trained."""
    counts = {"songs": 0, "probes": 0}
    embed_songs, train = musicfm_hf.inference.feature_cache.embed_songs, FinetuningTrainer.train

    def counted(model, songs, *rest):
        for found in embed_songs(model, songs, *rest):
            counts["songs"] += 1
            yield found

    def trained(self, *rest, **named):
        counts["probes"] += 1
        return train(self, *rest, **named)

    monkeypatch.setattr(musicfm_hf.inference.feature_cache, "embed_songs", counted)
    monkeypatch.setattr(FinetuningTrainer, "train", trained)
    flags = {"models": material / "small", "data": material / "data", "output_dir": material / "out"}
    flags |= {"cache": material / "cache", "max_steps": 4, "eval_steps": 2, "save_steps": 2, "use_cpu": "true"}
    flags |= {"per_device_train_batch_size": 4, "disable_tqdm": "true", "window_seconds": 8}
    argv = [text for name, value in flags.items() for text in (f"--{name}", str(value))]
    try:
        run_recipe(monkeypatch, "layers.py", *argv, *arguments)
    finally:
        monkeypatch.undo()
    return counts["songs"], counts["probes"]


def test_recipe(monkeypatch, material, capsys):
    """Two hidden layers: three hidden states, and their sum. Songs are encoded once for both tasks."""
    assert probe(monkeypatch, material, "--tasks", "chord", "key") == (4, 8)
    assert "## small" in capsys.readouterr().out
    out = material / "out"
    names = ["layer_00.json", "layer_01.json", "layer_02.json", "weighted_sum.json"]
    assert sorted(path.name for path in (out / "small/chord").iterdir()) == names
    found = json.loads((out / "layers.json").read_text())
    assert list(found["small"]) == ["chord", "key"]
    for task, rate in (("chord", 8), ("key", 0.5)):
        probes = [json.loads((out / "small" / task / name).read_text()) for name in names]
        assert [one["settings"]["layer"] for one in probes] == [0, 1, 2, None]
        assert {(one["settings"]["rate"], one["training"]["max_steps"]) for one in probes} == {(rate, 4)}
        own = found["small"][task]
        means = [one["scores"]["validation"][own["metric"]]["mean"] for one in probes]
        assert own["validation"] == means[:3]
        assert own["best"] == means.index(max(means[:3]))
        weights = own["weighted_sum"]["layer_weights"]
        assert math.isclose(sum(weights), 1.0, abs_tol=1e-6)
        assert 0 < max(abs(weight - 1 / 3) for weight in weights) < 0.01  # four small steps away from equal
    assert (out / "layers.png").stat().st_size > 5000
    assert (out / "layers.md").read_text().startswith("## small")


def test_models_side_by_side(monkeypatch, material):
    """One like MusicFM, and one like MERT: from the waveform, at 75 Hz, with three hidden layers."""
    config = MusicFMConfig(
        encoder_type="bert",
        front_end="waveform",
        hop_length=320,
        conv_dim=[16] * 7,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=48,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
    )
    random_model(config).save_pretrained(material / "other")
    models = [str(material / name) for name in ("small", "other")]
    output = material / "both"
    arguments = ["--tasks", "chord", "--models", *models, "--output_dir", str(output)]
    songs, probes = probe(monkeypatch, material, *arguments)
    assert (songs, probes) in ((4, 9), (8, 9))  # those of the first may be there
    found = json.loads((output / "layers.json").read_text())
    assert [len(found[name]["chord"]["validation"]) for name in ("small", "other")] == [3, 4]
    assert len(found["other"]["chord"]["weighted_sum"]["layer_weights"]) == 4
    assert probe(monkeypatch, material, *arguments) == (0, 0)


def test_resuming(monkeypatch, material):
    probe(monkeypatch, material, "--tasks", "chord")
    path = material / "out/small/chord/layer_01.json"
    before = json.loads(path.read_text())
    path.unlink()
    assert probe(monkeypatch, material, "--tasks", "chord") == (0, 1)
    assert json.loads(path.read_text())["scores_of_songs"] == before["scores_of_songs"]
    with pytest.raises(SystemExit, match=r"layer_00.json was made with learning_rate 0.001, not 0.5. Pass another"):
        probe(monkeypatch, material, "--tasks", "chord", "--learning_rate", "0.5")


def test_mistakes(monkeypatch, material):
    small = str(material / "small")
    with pytest.raises(SystemExit, match="Two models are called small"):
        probe(monkeypatch, material, "--tasks", "chord", "--models", small, small)
    with pytest.raises(SystemExit, match="do not set `method` or `log_mel`"):
        probe(monkeypatch, material, "--tasks", "chord", "--method", "full")
    with pytest.raises(SystemExit, match=r"Unknown setting --learning_rates. Did you mean --learning_rate\?"):
        probe(monkeypatch, material, "--tasks", "chord", "--learning_rates", "1")
