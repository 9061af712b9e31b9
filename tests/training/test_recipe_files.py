"""Recipes: found by name, composed of bases, and the same settings as in version 0.1."""

import json
import re
from pathlib import Path

import pytest
from helpers.facts import FINETUNING, MASKS, ROW_SETTINGS, TABLE_1, TRAINING
from helpers.paths import FIXTURES

from musicfm_hf import MusicFMConfig
from musicfm_hf.finetuning.arguments import FinetuningArguments, TaskArguments
from musicfm_hf.training.recipes import find_recipe, parse_recipe, read_recipe, recipe_names

OLD = json.loads((FIXTURES / "recipes_0_1.json").read_text())
# Settings since then: gradient clipping, with the value that was the default; MERT's mix-up; the probe before full
# fine-tuning and LoRA; fewer steps in the demo; and the meters of beats, which the recipe no longer has.
CLIPPED = {"best_rq", "fm1", "fm2", "fm3", "fm4", "fm5", "fm6", "fm7", "fm8", "fm9", "muq"}
PROBE_FIRST = {
    "small": {"probe_steps": 600, "probe_batch_size": 16},
    "demo": {"probe_steps": 100, "probe_batch_size": 16},
}
SHORTER = {
    "demo/lora": {"max_steps": 120, "warmup_steps": 15, "eval_steps": 60, "save_steps": 60},
    "demo/probe": {"max_steps": 160, "eval_steps": 80, "save_steps": 80},
}
PROBE = {"probe_steps": 3000, "probe_learning_rate": 1e-3, "probe_batch_size": 64}
MIXUP = {"mixup_prob": 0.5, "mixup_seconds": [0.5, 1.5], "mixup_max_excerpts": 3}


def write(folder: Path, **recipes: str) -> None:
    for name, text in recipes.items():
        (folder / f"{name}.yaml").write_text(text)


# Those of the package


@pytest.mark.parametrize("old", OLD)
def test_settings_are_those_of_version_0_1(old):
    """The recorded settings of all files, under the names and paths of today and by the paths of then."""
    expected = {TaskArguments.RENAMED_FLAGS.get(name, name): value for name, value in OLD[old].items()}
    kind, name = ("pretrain", old.removeprefix("pretrain/")) if old.startswith("pretrain/") else ("finetune", old)
    if old == "demo/pretrain":  # was read over tiny.yaml, which is its base now
        kind, name, expected = "pretrain", "demo", OLD["pretrain/tiny"] | expected
    if kind == "pretrain" and name in CLIPPED:
        expected["max_grad_norm"] = 1.0
    if name == "fm1":
        expected["config"] = expected["config"] | MIXUP
    if name.startswith("beat/"):  # the meters are those of the training songs
        del expected["decoding"]
    if name.endswith(("/full", "/lora")):
        expected |= PROBE_FIRST.get(name.partition("/")[0], PROBE)
    expected |= SHORTER.get(name, {})
    assert read_recipe(name, kind=kind) == expected
    with pytest.warns(FutureWarning, match=f"is now the recipe `{name}`"):
        assert read_recipe(f"/elsewhere/recipes/{old}.yaml") == expected


@pytest.mark.parametrize("name", TABLE_1)
def test_recipes_of_the_paper_have_its_settings(name):
    """Against `helpers/facts.py`, which has the source of each value."""
    recipe = read_recipe(name, kind="pretrain")
    config = MusicFMConfig(**recipe["config"])
    encoder, layers, rate, seconds, tokens = TABLE_1[name]
    assert (config.encoder_type, config.num_hidden_layers, config.frame_rate) == (encoder, layers, rate)
    assert (recipe["crop_seconds"], config.quantizer_type) == (seconds, tokens)
    assert (config.hidden_size, config.num_attention_heads, config.intermediate_size) == (1024, 16, 4096)
    assert config.front_end == ("waveform" if encoder == "bert" else "mel")
    assert {setting: recipe[setting] for setting in TRAINING} == {key: value for key, (value, _) in TRAINING.items()}
    wanted = MASKS | ROW_SETTINGS.get(name, {})
    found = {setting: getattr(config, setting) for setting in wanted}
    assert found == {setting: pytest.approx(value) for setting, (value, _) in wanted.items()}


def test_recipes_of_fine_tuning_have_the_settings_of_the_paper():
    for name, wanted in FINETUNING.items():
        recipe = read_recipe(name, kind="finetune")
        assert {key: recipe[key] for key in wanted} == {key: value for key, (value, _) in wanted.items()}
    assert "label_rate" not in read_recipe("tagging", kind="finetune")  # one label for a clip


def test_names():
    assert "fm7" in recipe_names("pretrain")
    assert {"chord", "lora", "small/lora"} <= set(recipe_names("finetune"))
    assert not any("_published" in name for name in recipe_names("pretrain"))
    assert [path.name for path in find_recipe("fm7", "pretrain")] == ["fm7.yaml"]
    assert [path.stem for path in find_recipe("chord/lora", "finetune")] == ["chord", "lora"]
    assert [path.parent.name for path in find_recipe("small/lora", "finetune")] == ["small"]


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("chrod/lora", "finetune", "No recipe is called 'chrod/lora'. Did you mean chord/lora?"),
        ("fm77", "pretrain", "Did you mean fm7? Recipes: best_rq, demo, fm1, fm2,"),
        ("nothing like it", "pretrain", "No recipe is called 'nothing like it'. Recipes: best_rq"),
        ("../pretrain/fm7", "finetune", "No recipe is called"),
    ],
)
def test_unknown_names(name, kind, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        find_recipe(name, kind)


def test_no_setting_is_written_in_many_files():
    """At most in four, where the values differ."""
    for kind in ("pretrain", "finetune"):
        folder = find_recipe(recipe_names(kind)[0], kind)[0].parent
        lines: dict[str, list[Path]] = {}
        for path in folder.rglob("*.yaml"):
            for line in path.read_text().splitlines():
                if not line.startswith(("#", "base:")):
                    lines.setdefault(line.partition("#")[0].rstrip(), []).append(path)
        repeated = {line: len(paths) for line, paths in lines.items() if ": " in line and len(paths) > 4}
        assert repeated == {}


# Composition


def test_bases_and_sections(tmp_path):
    write(
        tmp_path,
        root="a: 1\nb: {x: 1, y: {z: 1}}\nc: [1, 2]\nunless method is probe:\n  d: 4\n",
        middle="base: root\nb: {y: {w: 2}}\nmethod: full\n",
        other="c: [3]\n",
        top="base: [middle, other]\nb: {x: 5}\n",
        root2="base: root\nmethod: probe\n",
    )
    settings = read_recipe(str(tmp_path / "top.yaml"))
    expected = {"a": 1, "b": {"x": 5, "y": {"z": 1, "w": 2}}, "c": [3], "d": 4, "method": "full"}
    assert settings == expected
    assert "d" not in read_recipe(str(tmp_path / "root2.yaml"))
    # A later recipe replaces mappings, and settles what a section asks for.
    settings = read_recipe(str(tmp_path / "top.yaml"), str(tmp_path / "root2.yaml"))
    assert settings["b"] == {"x": 1, "y": {"z": 1}}
    assert "d" not in settings
    # If no recipe has the setting, the flags decide.
    assert "d" not in read_recipe(str(tmp_path / "root.yaml"), flags={"method": "probe"})
    assert read_recipe(str(tmp_path / "root.yaml"), flags={"method": "lora"})["d"] == 4


def test_a_recipe_over_one_of_the_package_of_the_same_name(tmp_path):
    write(tmp_path, small="base: small\nmax_steps: 5\nconfig: {hidden_size: 24}\n")
    settings = read_recipe(str(tmp_path / "small.yaml"), kind="pretrain")
    expected = read_recipe("small", kind="pretrain")
    assert settings == expected | {"max_steps": 5, "config": expected["config"] | {"hidden_size": 24}}


def test_wrong_recipes(tmp_path):
    write(tmp_path, a="base: b\n", b="base: a\n", c="base: d\n")
    with pytest.raises(ValueError, match=r"a\.yaml is its own base"):
        read_recipe(str(tmp_path / "a.yaml"))
    with pytest.raises(ValueError, match="A recipe must be a path to a YAML file"):
        read_recipe(str(tmp_path / "c.yaml"))
    with pytest.raises(ValueError, match="No recipe is called 'd'"):
        read_recipe(str(tmp_path / "c.yaml"), kind="pretrain")


def parse(*argv: str) -> TaskArguments:
    places = ["--model", "m", "--data", "d", "--output_dir", "out", "--use_cpu", "true", "--report_to", "none"]
    return parse_recipe((TaskArguments, FinetuningArguments), [*argv, *places], kind="finetune")[0]


def test_augmentation_is_for_waveforms():
    assert [parse(f"chord/{method}").transpose for method in ("probe", "full", "lora")] == [False, True, True]
    assert [parse(f"beat/{method}").tempo for method in ("probe", "full", "lora")] == [0.0, 0.2, 0.2]
    assert parse("chord", "lora").transpose
    assert parse("chord", "small/full", "--method", "full").transpose
    assert not parse("chord/lora", "demo/lora").transpose
    assert not parse("chord/probe", "--method", "full").transpose


def test_old_names_of_settings(tmp_path):
    with pytest.warns(FutureWarning, match="`lora_rank` is now `lora_r`"):
        assert parse("chord/lora", "--lora_rank", "4").lora_r == 4
    with pytest.warns(FutureWarning, match="`lora_targets` is now `lora_target_modules`"):
        assert parse("chord/lora", "--lora-targets", "q_proj", "k_proj").lora_target_modules == ["q_proj", "k_proj"]
    write(tmp_path, mine="rate: 16\nlora_rank: 2\n")
    with pytest.warns(FutureWarning, match="`rate` is now `label_rate`"):
        settings = parse("chord/lora", str(tmp_path / "mine.yaml"))
    assert (settings.label_rate, settings.lora_r) == (16, 2)


def test_help(capsys):
    """It shows the settings of the package and the usual ones of the Trainer, in their one spelling."""
    with pytest.raises(SystemExit):
        parse_recipe((TaskArguments, FinetuningArguments), ["--help"], description="Trains.", prog="musicfm finetune")
    text = capsys.readouterr().out
    assert text.startswith("usage: musicfm finetune [recipe ...]")
    for flag in ("--lora_r N", "--method {probe,full,lora}", "--max_steps N", "--encoder_learning_rate X"):
        assert flag in text
    for flag in ("--lora-r", "--no_whiten", "--deepspeed", "--lora_rank"):
        assert flag not in text
