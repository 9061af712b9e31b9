"""What training recipes share: settings, checkpoints, curves; and the files of settings themselves."""

import ast
import json
import math
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
from accelerate.utils import FullyShardedDataParallelPlugin, fsdp_utils
from helpers.launching import launched
from helpers.models import TINY
from helpers.paths import FIXTURES
from matplotlib.image import imread
from safetensors.torch import load_file
from torch import nn
from transformers import TrainerControl, TrainerState, TrainingArguments

from musicfm_hf import MusicFMConfig, MusicFMForPreTraining
from musicfm_hf.pretraining.arguments import DataArguments, ModelArguments, PretrainingArguments
from musicfm_hf.training import curves
from musicfm_hf.training.files import write_json
from musicfm_hf.training.recipes import parse_recipe, read_recipe, recipe_names
from musicfm_hf.training.records import require_same_settings
from musicfm_hf.training.trainer import ResumableTrainer, find_checkpoint

RECIPES = recipe_names("pretrain")


# Settings


def test_without_an_accelerator_bfloat16_needs_no_other_flag(tmp_path, monkeypatch):
    """Transformers refuses `bf16` without an accelerator, unless `use_cpu` says that the CPU is meant."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    arguments = PretrainingArguments(str(tmp_path), max_steps=1, bf16=True, report_to="none")
    assert arguments.use_cpu
    assert arguments.device == torch.device("cpu")


@dataclass
class Settings:
    name: str = "none"
    songs: list[str] = field(default_factory=list)
    rates: list[float] | None = None
    quick: bool = False
    fine: bool = True
    steps: int = 1
    rate: float = 0.5
    options: str = "{}"


@dataclass
class Checked:
    limit: int = 1

    def __post_init__(self):
        if self.limit < 1:
            raise ValueError(f"`limit` must be at least 1, got {self.limit}.")


def parse(tmp_path, text: str, *flags: str) -> tuple[Settings, Checked]:
    (tmp_path / "recipe.yaml").write_text(text)
    return parse_recipe((Settings, Checked), [str(tmp_path / "recipe.yaml"), *flags])


def test_flags_over_yaml(tmp_path):
    text = (
        "name: a b\nsongs: [one two, three]\nrates: [1, 2.5e-1]\nquick: true\nfine: false\nsteps: -3\nrate: -1e-05\n"
        "options: {x: [1, 2], y: null, z: {w: true}}\nlimit: 5\n"
    )
    settings, checked = parse(tmp_path, text)
    options = {"x": [1, 2], "y": None, "z": {"w": True}}
    assert settings == Settings("a b", ["one two", "three"], [1.0, 0.25], True, False, -3, -1e-5, json.dumps(options))
    assert checked == Checked(5)
    over = ["--songs", "four", "--quick", "false", "--fine", "--name=c", "--rates", "3", "4", "--options", "{}"]
    settings, _ = parse(tmp_path, text, *over)
    assert settings == Settings("c", ["four"], [3.0, 4.0], False, True, -3, -1e-5, "{}")
    settings, _ = parse(tmp_path, "songs: one\nname:\nquick: no\n", "--quick")  # nothing is the default
    assert settings == Settings("none", ["one"], quick=True)
    assert parse_recipe((Settings,), ["--steps", "4"]) == (Settings(steps=4),)


@pytest.mark.parametrize(
    ("text", "flags", "message"),
    [
        ("stepps: 3", [], "Unknown setting --stepps. Did you mean --steps?"),
        ("steps: 3", ["--rats", "1", "2"], "Unknown setting --rats. Did you mean --rate"),
        (
            "steps: 3",
            ["--nam=x"],
            "Unknown setting --nam. Did you mean --name?",
        ),  # no abbreviation
        ("steps: 3", ["--zzzzz"], "Unknown setting --zzzzz. `--help` lists them."),
        ("steps: 3", ["stray"], "Unknown setting stray"),
        ("limt: 0\nlimit: 0", [], "Unknown setting --limt. Did you mean --limit?"),  # before what a class says
        ("steps: many", [], "--steps: invalid int value: 'many'"),
        ("quick: perhaps", [], "--quick"),
        ("- steps", [], "recipe.yaml must hold `name: value` lines"),
        ("steps: [", [], "recipe.yaml is not YAML"),
    ],
)
def test_typos(tmp_path, capsys, text, flags, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        parse(tmp_path, text, *flags)
    assert len(str(caught.value)) < 500  # without a list of all flags
    assert capsys.readouterr() == ("", "")


def test_other_wrong_settings(tmp_path):
    with pytest.raises(ValueError, match=f"The file {tmp_path / 'none.yaml'} does not exist"):
        parse_recipe((Settings,), [str(tmp_path / "none.yaml")])
    with pytest.raises(ValueError, match="`limit` must be at least 1, got 0"):
        parse(tmp_path, "limit: 0")


# Checkpoints


class Little(nn.Module):
    """Two weights, and a loss that draws on the generator."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, -1.0]))

    def forward(self, x):
        return {"loss": (self.weight * x * (1 + torch.rand(2))).square().sum()}


class LittleTrainer(ResumableTrainer):
    """Notes in every checkpoint which step it is of."""

    def save_progress(self, folder):
        (folder / "progress.txt").write_text(str(self.state.global_step))


def train_little(output: Path, die_at: int | None = None, limit: int = 1, resume: str | None = None) -> None:
    """Six steps. Changes on the disk while step 4 is saved are counted; a kill comes before change `die_at`."""
    settings = {"max_steps": 6, "save_steps": 2, "save_total_limit": limit, "logging_steps": 1, "learning_rate": 0.01}
    settings |= {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "remove_unused_columns": False}
    arguments = TrainingArguments(str(output), **settings)
    torch.manual_seed(0)
    data = [{"x": torch.tensor([1.0, number])} for number in range(100)]
    trainer = LittleTrainer(Little(), arguments, train_dataset=data)
    events = EventCounter(output, die_at)
    save = trainer._save_checkpoint

    def counted(*args):
        events.counting = trainer.state.global_step == 4
        save(*args)
        events.counting = False

    trainer._save_checkpoint = counted
    trainer.train(resume_from_checkpoint=resume or find_checkpoint(output))
    print("EVENTS", events.names)


class EventCounter:
    """Kills the process before the `die_at`th change below a folder."""

    NAMES = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree")

    def __init__(self, folder: Path, die_at: int | None):
        self.folder, self.die_at = str(folder), die_at
        self.counting = False
        self.names: list[str] = []
        sys.addaudithook(self.hook)
        for module, name in ((torch, "save"), (safetensors.torch, "save_file")):
            setattr(module, name, self.half_written(name, getattr(module, name)))

    def hook(self, event: str, args: tuple) -> None:
        if not self.counting or event not in self.NAMES:
            return
        path = args[0]
        # Below a folder that is being removed, names come without it.
        if isinstance(path, str) and (path.startswith(self.folder) or not path.startswith("/")):
            self.count(event)

    def half_written(self, name: str, function: Callable) -> Callable:
        def write(values, path, *args, **kwargs):
            if self.counting:
                Path(path).write_bytes(b"half of it")
                self.count(f"{name} {Path(path).name}")
            return function(values, path, *args, **kwargs)

        return write

    def count(self, name: str) -> None:
        self.names.append(name)
        if len(self.names) == self.die_at:
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="session")
def whole(server, tmp_path_factory):
    """A run that kept all its checkpoints, and the changes in saving one where the last alone is kept."""
    root = tmp_path_factory.mktemp("whole")
    code, log = server.run(train_little, root / "run", None, 9, log=root / "log")
    assert code == 0, log
    code, log = server.run(train_little, root / "last", log=root / "log")
    assert code == 0, log
    assert os.listdir(root / "last") == ["checkpoint-6"]
    assert_complete(root / "last/checkpoint-6", root / "run")
    events = ast.literal_eval(re.search(r"EVENTS (\[.*\])", log)[1])
    return SimpleNamespace(folder=root / "run", events=events, renamed=events.index("os.rename") + 1)


def assert_complete(checkpoint: Path, run: Path) -> None:
    """A checkpoint has all that it has in a run that was not interrupted."""
    expected = run / checkpoint.name
    assert sorted(os.listdir(checkpoint)) == sorted(os.listdir(expected))
    assert (checkpoint / "progress.txt").read_text() == checkpoint.name.removeprefix("checkpoint-")
    weights = load_file(checkpoint / "model.safetensors")["weight"]
    assert weights.equal(load_file(expected / "model.safetensors")["weight"])
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.load(checkpoint / name, weights_only=False)
    history = [json.loads((path / "trainer_state.json").read_text())["log_history"] for path in (checkpoint, expected)]
    assert [entry["loss"] for entry in history[0]] == [entry["loss"] for entry in history[1]]


def kill_while_saving(server, whole, tmp_path, numbers) -> None:
    """Kill before each of these changes on the disk; look at what is left; and bring the run to its end."""
    output = tmp_path / "run"
    for number in numbers:
        if number > whole.renamed:  # step 4 is saved for good
            shutil.rmtree(output, ignore_errors=True)
        code, log = server.run(train_little, output, number, log=tmp_path / "log")
        assert code == -signal.SIGKILL, log
        last = Path(find_checkpoint(output))
        assert last.name == ("checkpoint-2" if number <= whole.renamed else "checkpoint-4")
        assert_complete(last, whole.folder)
        if number >= whole.renamed:
            code, log = server.run(train_little, output, log=tmp_path / "log")
            assert code == 0, log
            assert os.listdir(output) == ["checkpoint-6"]
            assert_complete(output / "checkpoint-6", whole.folder)


def test_killed_while_saving(server, whole, tmp_path):
    """Half the weights, half the optimizer, before the renaming, and in the middle of deleting the previous one."""
    names = [whole.events.index(name) + 1 for name in ("save_file model.safetensors", "save optimizer.pt")]
    last = len(whole.events)
    assert whole.events[last - 2] == "os.remove"
    kill_while_saving(server, whole, tmp_path, [*names, whole.renamed, last - 1])


@pytest.mark.slow
def test_killed_at_every_moment_of_saving(server, whole, tmp_path):
    assert len(whole.events) > 20
    kill_while_saving(server, whole, tmp_path, range(1, len(whole.events) + 1))


def test_going_on_from_an_earlier_checkpoint(server, whole, tmp_path):
    """Later checkpoints are replaced."""
    output = tmp_path / "run"
    shutil.copytree(whole.folder, output)
    (output / "checkpoint-4/model.safetensors").write_bytes(b"")
    (output / "checkpoint-4/stray").touch()
    (output / ".incomplete/checkpoint-8").mkdir(parents=True)
    resume = str(output / "checkpoint-2")
    code, log = server.run(train_little, output, None, 9, resume, log=tmp_path / "log")
    assert code == 0, log
    assert sorted(os.listdir(output)) == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]
    for step in (2, 4, 6):
        assert_complete(output / f"checkpoint-{step}", whole.folder)


def test_other_processes_do_not_touch_the_saved_model(tmp_path, monkeypatch):
    """The Trainer calls `_save` on every process, at moments of its own, also after the first one has finished."""
    arguments = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none")
    trainer = ResumableTrainer(MusicFMForPreTraining(MusicFMConfig(**TINY)), arguments)
    trainer.save_model()
    written = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert {"config.json", "model.safetensors"} <= written.keys()
    monkeypatch.setattr(TrainingArguments, "should_save", False)
    trainer.save_model()
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == written


def test_find_checkpoint(tmp_path):
    assert find_checkpoint(tmp_path / "none") is None
    for name in (".incomplete/checkpoint-30", "checkpoint-4", "checkpoint-12", "checkpoint-x"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "checkpoint-20").touch()
    assert find_checkpoint(tmp_path) == str(tmp_path / "checkpoint-12")


# Curves and results


def test_curves(tmp_path, monkeypatch):
    monkeypatch.setattr(curves, "SECONDS_BETWEEN", 0)
    panels = {"loss": ["loss", "eval_loss"], "nothing": ["absent"]}
    callback = curves.CurveCallback(panels)
    arguments = TrainingArguments(str(tmp_path / "run"), use_cpu=True, report_to="none")
    (tmp_path / "run").mkdir(exist_ok=True)
    history = [
        {"loss": 3.0, "step": 1},
        {"eval_loss": 2.5, "step": 1},
        {"loss": 2.0, "step": 2},
        {"epoch": 1, "step": 2},
    ]
    state = TrainerState(log_history=history, is_world_process_zero=False)
    callback.on_save(arguments, state, TrainerControl())
    assert os.listdir(tmp_path / "run") == []
    state.is_world_process_zero = True
    callback.on_save(arguments, state, TrainerControl())
    assert os.listdir(tmp_path / "run") == ["curves.png"]
    picture = imread(tmp_path / "run/curves.png")
    height, width = picture.shape[:2]
    assert (height, width) == (440, 1144)  # inches and 110 dots in each
    empty = picture[:, width // 2 :, :3]
    assert (picture[..., :3].max(-1) - picture[..., :3].min(-1) > 0.3).any()  # lines on the left have colours
    assert not (empty.max(-1) - empty.min(-1) > 0.3).any()
    monkeypatch.setattr(curves, "SECONDS_BETWEEN", 1000)
    (tmp_path / "run/curves.png").unlink()
    callback.on_save(arguments, state, TrainerControl())
    assert os.listdir(tmp_path / "run") == []  # it was drawn a moment ago
    callback.on_train_end(arguments, TrainerState(), TrainerControl())
    assert imread(tmp_path / "run/curves.png").shape == picture.shape
    (tmp_path / "run/curves.png").unlink()
    monkeypatch.setattr(curves, "is_matplotlib_available", lambda: False)
    callback.on_train_end(arguments, state, TrainerControl())  # training does not fail at its end
    assert os.listdir(tmp_path / "run") == []


def test_settings_have_to_be_the_same():
    there = {"seed": 1, "rates": [1, 2], "gone": 5, "layer": None}
    require_same_settings("runs/a", there, {"seed": 1, "rates": (1, 2), "layer": None, "later": 0}, "--output")
    message = r"runs/a was made with seed 1, not 2; layer None, not 0; later None, not 3. Pass another `--output`"
    with pytest.raises(ValueError, match=message):
        require_same_settings("runs/a", there, {"seed": 2, "rates": [1, 2], "layer": 0, "later": 3}, "--output")


def test_write_json(tmp_path):
    path = tmp_path / "new/results.json"
    write_json(path, {"a": 1, "b": [float("nan"), float("inf"), 0.5], "c": (None, "NaN")})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1, "b": [None, None, 0.5], "c": [None, "NaN"]}
    assert os.listdir(path.parent) == ["results.json"]


# The files of settings


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_build(name):
    """Every file is read, its configuration is possible, and the model has that many frames, codes and targets."""
    settings, data, arguments = parse_recipe(
        (ModelArguments, DataArguments, PretrainingArguments),
        [name, "--bf16", "false", "--use_cpu", "true"],
        kind="pretrain",
    )
    config = MusicFMConfig(**json.loads(settings.config))
    with torch.device("meta"):
        model = MusicFMForPreTraining(config)
        waveform = torch.zeros(2, round(data.crop_seconds * config.sampling_rate))
    rates = {"fm1": 75, "fm2": 75, "fm3": 75, "fm4": 75, "fm5": 75, "fm6": 50}
    assert config.frame_rate == rates.get(name, 25)
    expected = round(data.crop_seconds * config.frame_rate) - (config.front_end == "waveform")
    assert model.musicfm(waveform).last_hidden_state.shape == (2, expected, config.hidden_size)
    if name.startswith("fm"):
        assert data.crop_seconds == (5 if name in ("fm1", "fm2", "fm4") else 30)
        assert arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps == 32
        sizes = {"fm1": [300, 200], "fm7": [4096], "fm9": [4096]}
        assert config.codebook_sizes == sizes.get(name, [8192])


def test_size_of_fm7():
    """Weights, quantizer and head are the tensors of the published file, less what nothing calls."""
    layout = json.loads((FIXTURES / "musicfm/checkpoint_layout_full.json").read_text())
    assert len(layout) == 465
    unused = re.compile("cls_token|preprocessor_melspec|pos_conv_embed|embed_positions")
    called = {key: math.prod(entry["shape"]) for key, entry in layout.items() if not unused.search(key)}
    assert len(called) == 465 - 7
    statistics = sum(size for key, size in called.items() if re.search("running_|num_batches_tracked", key))
    recipe = read_recipe("fm7", kind="pretrain")
    with torch.device("meta"):
        model = MusicFMForPreTraining(MusicFMConfig(**recipe["config"]))
    weights = sum(parameter.numel() for parameter in model.parameters())
    quantizer = sum(buffer.numel() for buffer in model.quantizer.buffers())
    assert weights + quantizer == sum(called.values()) - statistics == 320_615_424
    assert sum(tensor.numel() for tensor in model.state_dict().values()) == sum(called.values())


def test_launching(monkeypatch):
    launcher, environment, args = launched(monkeypatch, "cpu", "--main_process_port", "0")
    assert (launcher, args.nproc_per_node) == ("multi_gpu_launcher", "2")
    launcher, environment, args = launched(monkeypatch, "ddp", "--main_process_port", "0", "--num_processes", "3")
    assert (launcher, args.nproc_per_node) == ("multi_gpu_launcher", "3")
    assert environment["ACCELERATE_MIXED_PRECISION"] == "bf16"
    launcher, environment, args = launched(monkeypatch, "deepspeed_zero2", "--main_process_port", "0")
    assert launcher == "deepspeed_launcher"
    names = ["ZERO_STAGE", "GRADIENT_ACCUMULATION_STEPS", "GRADIENT_CLIPPING", "MIXED_PRECISION"]
    assert [environment[f"ACCELERATE_{name}".replace("ZERO", "DEEPSPEED_ZERO")] for name in names] == [
        "2", "auto", "auto", "bf16",
    ]  # fmt: skip


@pytest.mark.parametrize("encoder", ["conformer", "bert"])
def test_fsdp_wraps_every_layer(monkeypatch, encoder):
    flags = [] if encoder == "conformer" else ["--fsdp_transformer_layer_cls_to_wrap", "MusicFMBertLayer"]
    launcher, environment, _ = launched(monkeypatch, "fsdp", "--main_process_port", "0", *flags)
    assert launcher == "multi_gpu_launcher"
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2
    assert str(plugin.state_dict_type) == "StateDictType.FULL_STATE_DICT"
    model = MusicFMForPreTraining(MusicFMConfig(**TINY, encoder_type=encoder))
    plugin.set_auto_wrap_policy(model)
    policy = fsdp_utils.fsdp2_prepare_auto_wrap_policy(plugin, model)
    assert [module for module in model.modules() if policy(module)] == list(model.musicfm.layers)
