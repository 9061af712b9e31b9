"""`musicfm train-text-audio`: its data, loss and checkpoints, what it trains, and what it leaves behind."""

import json
import shutil

import pytest
import torch
from helpers.paths import ROOT
from helpers.processes import on_ranks, run_script
from helpers.recipes import run_recipe
from helpers.runs import assert_same_run, history, losses, results
from helpers.text_audio import (
    NEW,
    SHORT,
    processor,
    save_text_encoder,
    tables,
    text_audio_model,
    tokenizer,
    write_songs,
)
from peft import LoraConfig
from safetensors.torch import load_file
from transformers import AutoModel, AutoProcessor, Trainer, TrainingArguments

from musicfm_hf import MusicFMModel, MusicFMTextAudioModel, ZeroShotTagger
from musicfm_hf.cli.main import main
from musicfm_hf.data.captions import read_captions
from musicfm_hf.text_audio.arguments import TextAudioArguments, TextAudioTrainingArguments
from musicfm_hf.text_audio.data import CaptionCrops, CollatePairs
from musicfm_hf.text_audio.model import build_model
from musicfm_hf.text_audio.trainer import TextAudioTrainer
from musicfm_hf.training.recipes import parse_recipe, recipe_names


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("songs")
    write_songs(folder)
    return folder


@pytest.fixture(scope="module")
def runs(songs, encoder, tmp_path_factory):
    """A folder with the towers of a new model, and with that model trained as a whole and with LoRA."""
    root = tmp_path_factory.mktemp("runs")
    save_text_encoder(root / "text")
    with pytest.MonkeyPatch.context() as patch:
        encoders = ["--audio_model", encoder, "--text_model", root / "text", *NEW]
        train(patch, "towers", root / "towers", songs, *encoders)
        train(patch, "full", root / "full", songs, "--model", root / "towers")
        train(patch, "lora", root / "lora", songs, "--model", root / "towers", "--lora_r", 4)
    return root


def train(monkeypatch, method, output, songs, *flags) -> None:
    run_recipe(monkeypatch, "train_text_audio.py", method, *SHORT, *tables(songs), *flags, "--output_dir", output)


def weights(folder, name="model.safetensors") -> dict[str, torch.Tensor]:
    return load_file(folder / name)


def changed(first: dict, second: dict) -> set[str]:
    return {name for name in first if not first[name].equal(second[name])}


# Recipes and settings


@pytest.mark.parametrize("name", recipe_names("text_audio"))
def test_recipes_are_read(name, tmp_path):
    places = ["--model", "m", "--train", "t", "--validation", "v", "--output_dir", str(tmp_path), "--use_cpu", "true"]
    words = [name.removeprefix("small/"), *([name] if name.startswith("small/") else [])]
    settings, arguments = parse_recipe(
        (TextAudioArguments, TextAudioTrainingArguments), [*words, *places], kind="text_audio"
    )
    assert settings.method == words[0]
    assert arguments.save_steps % arguments.eval_steps == 0
    assert (settings.projection_dim == 128) == (name in ("small/full", "small/towers"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model", "m", "--audio_model", "a"], "Pass either `--model`"),
        (["--audio_model", "a"], "both `--audio_model` and `--text_model`"),
        (["--audio_model", "a", "--text_model", "t", "--method", "lora"], "LoRA adapts a saved model"),
        (["--model", "m", "--freeze_text_encoder", "true"], "`freeze_text_encoder` is for `--method full`"),
        (["--model", "m", "--text_transformer", "[1]"], "`text_transformer` must be a mapping"),
    ],
    ids=["both", "one encoder", "lora", "freeze", "mapping"],
)
def test_settings_that_contradict_each_other(flags, message):
    words = ["train-text-audio", *flags, "--train", "t", "--validation", "v", "--max_steps", "1", "--use_cpu", "true"]
    with pytest.raises(SystemExit, match=message):
        main(words)


def test_models_that_do_not_fit(runs, songs, encoder, tmp_path):
    common = ["train-text-audio", *SHORT, *tables(songs), "--output_dir", str(tmp_path)]
    for flags, message in (
        (["--model", encoder], "is not a model of music and text"),
        (["--model", runs / "lora"], "is an adapter"),
        (["--model", runs / "towers", "--projection_dim", "8"], "has `projection_dim` 12, not 8"),
        (["--audio_model", runs / "text", "--text_model", encoder], "must be an encoder of this package"),
        (["--model", runs / "towers", "--per_device_train_batch_size", "7"], "between 2 and 6 pairs"),
    ):
        with pytest.raises(SystemExit, match=message):
            main([*common, *map(str, flags)])
    assert not list(tmp_path.iterdir())


def test_songs_of_two_splits(runs, songs, tmp_path):
    places = ["--train", songs / "train.jsonl", "--validation", songs / "train.jsonl", "--model", runs / "towers"]
    with pytest.raises(SystemExit, match="6 songs of `--validation` are also in `--train`"):
        main(["train-text-audio", *SHORT, *map(str, places), "--output_dir", str(tmp_path)])


def test_songs_of_two_splits_under_other_paths(runs, songs, tmp_path):
    """The same file through a link to its folder."""
    (tmp_path / "link").symlink_to(songs)
    places = ["--train", songs / "train.jsonl", "--validation", tmp_path / "link/train.jsonl"]
    places += ["--model", runs / "towers"]
    with pytest.raises(SystemExit, match="6 songs of `--validation` are also in `--train`"):
        main(["train-text-audio", *SHORT, *map(str, places), "--output_dir", str(tmp_path / "run")])


def test_a_new_model_on_an_adapted_encoder(runs, encoder, tmp_path):
    """The adapter is merged into the audio encoder."""
    model = MusicFMModel.from_pretrained(encoder)
    model.add_adapter(LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    model.save_pretrained(tmp_path / "adapter")
    expected = model.eval()(torch.ones(1, 24000)).last_hidden_state
    arguments = TextAudioArguments(
        audio_model=str(tmp_path / "adapter"), text_model=str(runs / "text"), train="t", validation="v"
    )
    built, _ = build_model(arguments)
    found = built.audio_model.eval()(torch.ones(1, 24000)).last_hidden_state
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_songs_that_are_no_audio(runs, songs, tmp_path):
    (tmp_path / "x.wav").write_text("no audio")
    (tmp_path / "bad.jsonl").write_text('{"audio": "x.wav", "caption": "slow"}\n')
    places = ["--train", songs / "train.jsonl", "--validation", tmp_path / "bad.jsonl", "--model", runs / "towers"]
    with pytest.raises(SystemExit, match="`--validation` needs at least 1 songs that can be read, got 0"):
        main(["train-text-audio", *SHORT, *map(str, places), "--output_dir", str(tmp_path / "run")])


# Pairs


def crops_of(songs, batch_size=3, seed=0) -> CaptionCrops:
    captioned, _ = read_captions(str(songs / "train.jsonl"))
    return CaptionCrops(captioned, 24000, 24000, 1025, batch_size, batches=6, seed=seed)


def test_a_pair_depends_on_seed_pass_and_song_alone(songs):
    crops, other = crops_of(songs), crops_of(songs, batch_size=2)
    assert torch.from_numpy(crops.pair(1, 2)["input_values"]).equal(torch.from_numpy(other.pair(1, 2)["input_values"]))
    first, later = crops.pair(0, 2), crops.pair(1, 2)
    assert len(first["input_values"]) == 24000
    assert (first["input_values"] != later["input_values"]).any()
    assert (first["input_values"] != crops_of(songs, seed=1).pair(0, 2)["input_values"]).any()
    assert {crops.pair(turn, 0)["caption"] for turn in range(10)} == {"piano music", "happy"}
    assert crops[7]["caption"] == crops_of(songs)[7]["caption"]


def test_a_batch_has_no_song_twice(songs):
    crops = crops_of(songs, batch_size=4)  # of six songs: two are left out of each pass
    assert crops.pass_length == 4
    numbered = {caption: index for index, song in enumerate(crops.songs) for caption in song.captions}
    batches = [{numbered[crops[place]["caption"]] for place in range(start, start + 4)} for start in range(0, 24, 4)]
    assert all(len(batch) == 4 for batch in batches)
    assert set().union(*batches) == set(range(6))


def test_a_song_that_cannot_be_read_is_not_a_pair(songs):
    item = crops_of(songs).pair(0, 5)
    assert (item["is_pair"], len(item["input_values"])) == (False, 1025)
    assert (item["problem"].name, item["problem"].reason) == ("5.wav", "unreadable")


# The loss


def trainer_of(songs, tmp_path, **settings) -> TextAudioTrainer:
    arguments = TextAudioTrainingArguments(
        str(tmp_path), max_steps=1, use_cpu=True, report_to="none", eval_strategy="no", save_strategy="no",
        load_best_model_at_end=False, disable_tqdm=True, **settings,
    )  # fmt: skip
    return TextAudioTrainer(text_audio_model(), arguments, crops_of(songs), [], processor())


def test_the_loss_is_that_of_the_model_on_pairs_that_can_be_read(songs, tmp_path):
    trainer, crops = trainer_of(songs, tmp_path), crops_of(songs)
    items = [crops.pair(0, index) for index in (0, 5, 1, 2)]
    loss = trainer.compute_loss(trainer.model, trainer._prepare_inputs(CollatePairs(processor())(items)))
    readable = CollatePairs(processor())([items[0], *items[2:]])
    batch = {name: value for name, value in readable.items() if name not in ("is_pair", "problems")}
    assert loss.item() == pytest.approx(trainer.model(**batch, return_loss=True).loss.item(), abs=1e-5)
    assert trainer.problem_log.counts == {"unreadable": 1}


def test_a_batch_without_two_pairs_changes_nothing(songs, tmp_path):
    trainer, crops = trainer_of(songs, tmp_path), crops_of(songs)
    items = [crops.pair(0, index) for index in (0, 5)]
    trainer.compute_loss(trainer.model, trainer._prepare_inputs(CollatePairs(processor())(items))).backward()
    assert all(not weight.grad.any() for weight in trainer.model.parameters() if weight.grad is not None)


def test_learning_rates_of_towers_and_encoders(songs, tmp_path):
    trainer = trainer_of(songs, tmp_path, learning_rate=0.1, encoder_learning_rate=0.01, weight_decay=0.5)
    model, rates = trainer.model, {}
    for group in trainer.create_optimizer().param_groups:
        rates |= {id(weight): (group["lr"], group["weight_decay"]) for weight in group["params"]}
    assert rates[id(model.logit_scale)] == (0.1, 0.0)
    assert rates[id(model.audio_tower.projection.weight)] == (0.1, 0.5)
    assert rates[id(model.text_model.encoder.layer[0].attention.self.query.weight)] == (0.01, 0.5)
    assert rates[id(model.audio_model.layers[0].final_layer_norm.weight)] == (0.01, 0.0)
    assert len(rates) == len(list(model.parameters()))


def test_the_trainer_of_transformers(songs, tmp_path):
    """With a collator that asks the model for its loss."""
    collate, model = CollatePairs(processor()), text_audio_model()

    def with_loss(items):
        batch = collate(items)
        return {name: batch[name] for name in batch if name not in ("is_pair", "problems")} | {"return_loss": True}

    settings = TrainingArguments(
        str(tmp_path), max_steps=1, use_cpu=True, report_to="none", remove_unused_columns=False, disable_tqdm=True
    )
    before = model.logit_scale.item()
    Trainer(model, settings, train_dataset=crops_of(songs), data_collator=with_loss).train()
    assert model.logit_scale.item() != before


def two_steps(output, arguments) -> None:
    run_script([str(ROOT / "recipes/train_text_audio.py"), *arguments, "--output_dir", output])


def test_two_processes_equal_one_with_larger_batches(runs, songs, server, tmp_path, monkeypatch):
    model = MusicFMTextAudioModel.from_pretrained(runs / "towers")
    text, audio = model.config.text_config, model.config.audio_config
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
        setattr(text, name, 0.0)
    for name in ("hidden_dropout", "activation_dropout", "attention_dropout", "conformer_conv_dropout"):
        setattr(audio, name, 0.0)
    model.save_pretrained(tmp_path / "model")
    processor(model.config).save_pretrained(tmp_path / "model")
    flags = ["full", *SHORT, *tables(songs), "--model", str(tmp_path / "model"), "--optim", "sgd", "--max_steps", "3"]
    flags += ["--eval_steps", "3", "--save_steps", "3", "--learning_rate", "0.1", "--encoder_learning_rate", "0.1"]
    run_recipe(monkeypatch, "train_text_audio.py", *flags, "--per_device_train_batch_size", 6,
               "--output_dir", tmp_path / "one")  # fmt: skip
    done = on_ranks(server, two_steps, str(tmp_path / "two"), flags, log=tmp_path / "log")  # three pairs each
    assert [code for code, _ in done] == [0, 0], "\n".join(output for _, output in done)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-4)
    one, two, start = (weights(tmp_path / name) for name in ("one", "two", "model"))
    assert len(changed(start, one)) > len(one) / 2
    for name, weight in one.items():
        torch.testing.assert_close(
            two[name], weight, rtol=1e-3, atol=1e-5, msg=lambda text, name=name: f"{name} {text}"
        )
    assert results(tmp_path / "two")["scores"] == results(tmp_path / "one")["scores"]
    assert results(tmp_path / "two")["problems"] == {"unreadable": 1}


# A run from beginning to end


def test_frozen_encoders_stay_as_they_were(runs, encoder):
    towers, text, audio = weights(runs / "towers"), weights(runs / "text"), weights(encoder)
    for name, weight in text.items():
        assert towers[f"text_model.{name}"].equal(weight), name
    for name, weight in audio.items():
        assert towers[f"audio_model.{name}"].equal(weight), name


def test_full_training_changes_encoders_and_not_batch_statistics(runs):
    before, after = weights(runs / "towers"), weights(runs / "full")
    names = changed(before, after)
    assert {name.partition(".")[0] for name in names} == {
        "audio_model", "audio_tower", "text_model", "text_tower", "logit_scale",
    }  # fmt: skip
    assert any("running_mean" in name for name in before)
    assert not [name for name in names if "running_" in name or "num_batches" in name]


def test_an_encoder_without_trainable_weights_is_in_eval_mode():
    model = text_audio_model()
    model.freeze_text_encoder()
    model.train()
    assert (model.training, model.text_model.training, model.audio_model.training) == (True, False, True)


@pytest.mark.parametrize("method", ["towers", "full", "lora"])
def test_a_run_leaves_a_model_that_loads(runs, songs, method):
    folder = runs / method
    model, inputs = (
        AutoModel.from_pretrained(folder).eval(),
        AutoProcessor.from_pretrained(folder)(text=["slow piano"]),
    )
    assert isinstance(model, MusicFMTextAudioModel)
    assert inputs["input_ids"].tolist() == tokenizer()(["slow piano"])["input_ids"]
    assert (folder / "curves.png").is_file()
    assert "5.wav\tunreadable" in (folder / "problems.tsv").read_text()
    card = (folder / "README.md").read_text()
    assert "recall at 10, text to music" in card
    assert "test.jsonl" in card
    tagger = ZeroShotTagger.from_pretrained(str(folder), ["piano", "drums"])
    assert set(tagger(songs / "8.wav")) == {"piano", "drums"}
    assert "/" not in str(model.config.to_dict()["audio_config"].get("_name_or_path", ""))


@pytest.mark.parametrize("method", ["towers", "full", "lora"])
def test_results(runs, method):
    found = results(runs / method)
    assert (found["task"], found["method"]) == ("music and text", method)
    assert found["data"]["songs"] == {"train": 6, "validation": 2, "test": 2}
    assert found["problems"] == {"unreadable": 1}
    assert {"validation", "test"} == set(found["scores"])
    recall = found["scores"]["test"]["text_to_music_recall_at_1"]
    assert (recall["songs"], recall["chance"]) == (2, 0.5)
    rows = found["scores_of_songs"]["test"]
    assert [row["song"] for row in rows] == ["8.wav", "9.wav"]
    assert recall["mean"] == pytest.approx(sum(row["text_to_music_recall_at_1"] for row in rows) / 2)
    best = next(
        entry for entry in history(runs / method) if entry["step"] == found["steps"]["best"] and "eval_map" in entry
    )
    assert found["scores"]["validation"]["map"]["mean"] == pytest.approx(best["eval_map"])
    assert best["eval_map"] == max(entry["eval_map"] for entry in history(runs / method) if "eval_map" in entry)


def test_an_adapter_gives_the_embeddings_of_the_trained_model(runs, songs):
    """The scores of a checkpoint, by the adapter that was saved from it."""
    model, found = AutoModel.from_pretrained(runs / "lora").eval(), results(runs / "lora")
    base = AutoModel.from_pretrained(runs / "towers").eval()
    texts = AutoProcessor.from_pretrained(runs / "lora")(text=["a song with piano"])
    with torch.no_grad():
        ours, before = (part.get_text_features(**texts).pooler_output for part in (model, base))
    assert not torch.allclose(ours, before, atol=1e-4)
    adapter = weights(runs / "lora", "adapter_model.safetensors")
    assert any("audio_tower.projection" in name for name in adapter)
    assert any("text_model" in name and "lora_A" in name for name in adapter)
    assert found["trained_parameters"] == sum(weight.numel() for weight in adapter.values())
    loaded = MusicFMTextAudioModel.from_pretrained(runs / "lora")
    assert loaded.state_dict().keys() == model.state_dict().keys()


def test_a_resumed_run_is_the_same_run(runs, songs, tmp_path, monkeypatch):
    shutil.copytree(runs / "full/checkpoint-2", tmp_path / "again/checkpoint-2")
    train(monkeypatch, "full", tmp_path / "again", songs, "--model", runs / "towers")
    assert_same_run(tmp_path / "again", runs / "full")
    with pytest.raises(SystemExit, match=r"was made with learning_rate 0.01, not 0.02"):
        train(monkeypatch, "full", tmp_path / "again", songs, "--model", runs / "towers", "--learning_rate", 0.02)
    progress = json.loads((tmp_path / "again/checkpoint-4/text_audio.json").read_text())
    assert progress["problems"][0][1] == "5.wav"
