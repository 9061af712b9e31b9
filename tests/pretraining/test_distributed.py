"""Masked pretraining in several processes, which gloo joins."""

import json
import os
import signal
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from accelerate.state import PartialState
from accelerate.utils import DistributedType
from helpers.audio import music
from helpers.launching import launched
from helpers.paths import ROOT
from helpers.pretraining import RATE, SIZE, TINY, run_and_die, songs
from helpers.processes import on_ranks
from helpers.runs import assert_same_run, history, losses, results
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor
from transformers import AutoModelForPreTraining

from musicfm_hf import MusicFMConfig, MusicFMForPreTraining, load_audio
from musicfm_hf.data.crop_reader import ProblemLog
from musicfm_hf.data.crops import CropLoader, fixed_crops
from musicfm_hf.data.sources import open_source
from musicfm_hf.pretraining.arguments import PretrainingArguments
from musicfm_hf.pretraining.data import noise_generators
from musicfm_hf.pretraining.trainer import PretrainingTrainer

TINY_CONFIG = {name: int(value) for name, value in (setting.split("=") for setting in SIZE)} | {"codebook_size": 32}
NO_DROPOUT = {f"{name}_dropout": 0.0 for name in ("hidden", "activation", "attention", "conformer_conv")}


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Seven songs, of which one cannot be read, and three to validate on; the good ones in three `.parquet` files."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    root = tmp_path_factory.mktemp("songs")
    for folder in ("files", "bad", "valid", "parquet"):
        (root / folder).mkdir()
    rows = []
    for number in range(10):
        path = root / ("files" if number < 7 else "valid") / f"{number}.wav"
        soundfile.write(path, music(2.0 + 0.1 * number, seed=number), RATE)
        rows.append({"path": path.name, "bytes": path.read_bytes()})
        if number < 5:
            (root / "bad" / path.name).symlink_to(path)
    (root / "bad/5.mp3").write_text("no music")
    (root / "bad/6.mp3").write_text("none either")
    for shard, part in enumerate((rows[:1], rows[1:3], rows[3:7])):
        pq.write_table(pa.table({"audio": part}), root / f"parquet/{shard}.parquet")
    return root


def pretrain_on_ranks(server, output: Path, *flags, function=run_and_die) -> list[str]:
    arguments = [str(ROOT / "recipes/pretrain.py"), *map(str, flags), "--output_dir", str(output)]
    done = on_ranks(server, function, arguments, log=output.with_suffix(".log"))
    assert [code for code, _ in done] == [0, 0], "\n".join(text for _, text in done)
    return [text for _, text in done]


# One step


class Given:
    """A loader of given batches, again and again."""

    def __init__(self, batches):
        self.batches = batches
        self.problems = ProblemLog()

    def __iter__(self):
        while True:
            yield from self.batches


def items() -> list[dict[str, torch.Tensor]]:
    """Five crops of which 13, 0, 1, 0 and 25 masked frames count; the fourth is masked beyond its end only."""
    frames, samples = 25, RATE
    masks = torch.zeros(5, frames, dtype=torch.bool)
    masks[0, ::2] = masks[2, 7] = masks[3, 1:] = masks[4] = True
    found = []
    for number in range(5):
        valid = torch.arange(samples) < (1025 if number == 3 else samples)
        waveform = torch.from_numpy(music(1.0, seed=number)) * valid
        item = {"input_values": waveform, "seeds": torch.tensor(number), "mask_time_indices": masks[number]}
        found.append(item | {"attention_mask": valid.long()})
    return found


def stack(batch: list[int]) -> dict[str, torch.Tensor]:
    given = items()
    return {name: torch.stack([given[index][name] for index in batch]) for name in given[0]}


def build_model() -> MusicFMForPreTraining:
    torch.manual_seed(0)
    config = MusicFMConfig(**TINY_CONFIG, **NO_DROPOUT, freeze_batch_norm=True, cqt_loss_weight=1.0)
    return MusicFMForPreTraining(config)


def step(output: Path, batches: list[list[int]]) -> None:
    """One step of gradient descent on some of the items, of those of this rank; what changed goes to a file."""
    rank, ranks = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    mine = [stack(batch) for batch in batches[rank::ranks]]
    model = build_model()
    settings = {"max_steps": 1, "learning_rate": 1.0, "lr_scheduler_type": "constant", "optim": "sgd"}
    settings |= {"gradient_accumulation_steps": len(mine), "logging_steps": 1, "max_grad_norm": 0.0}
    settings |= {"use_cpu": True, "report_to": "none", "save_strategy": "no", "disable_tqdm": True}
    trainer = PretrainingTrainer(model, PretrainingArguments(str(output), **settings), Given(mine))
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    trainer.train()
    if rank == 0:
        changes = {name: weight - before[name] for name, weight in model.state_dict().items()}
        torch.save((changes, trainer.state.log_history[0]), f"{output}.pt")


@pytest.fixture(scope="session")
def one_batch(server, tmp_path_factory):
    """What a step on all five items at once does."""
    output = tmp_path_factory.mktemp("step") / "whole"
    code, log = server.run(step, output, [[0, 1, 2, 3, 4]], log=output.with_suffix(".log"))
    assert code == 0, log
    changes, entry = torch.load(f"{output}.pt")
    batch, model = stack([0, 1, 2, 3, 4]), build_model().train()
    generators = noise_generators(batch.pop("seeds").tolist(), "cpu")
    with torch.no_grad():
        outputs = model(**batch, generator=generators)
    assert outputs.mask_time_indices.sum(1).tolist() == [13, 0, 1, 0, 25]
    assert entry["loss"] == pytest.approx(outputs.loss.item(), rel=1e-5)
    assert entry["cross_entropy"] == pytest.approx(outputs.loss.item() - outputs.cqt_loss.item(), rel=1e-5)
    assert max(change.abs().max() for change in changes.values()) > 0.01
    assert all(change.abs().max() > 0 for name, change in changes.items() if name.startswith(("head", "cqt_head")))
    return changes, entry


@pytest.mark.parametrize(
    ("ranks", "batches"),
    [
        (1, [[0, 1], [2, 3, 4]]),  # accumulation
        (1, [[1, 3], [4, 0, 2]]),  # in the first micro-step nothing is masked
        (2, [[0, 1], [2, 3, 4]]),
        (2, [[0, 2, 4], [1, 3]]),  # on the second rank nothing is masked
        (2, [[0], [1, 3], [2], [4]]),  # two ranks of two micro-steps
    ],
)
def test_a_step_is_that_of_one_batch(server, one_batch, tmp_path, ranks, batches):
    """Masked frames count alike, wherever they are, though some batches have many of them and some none."""
    output = tmp_path / "run"
    if ranks == 1:
        done = [server.run(step, output, batches, log=tmp_path / "log")]
    else:
        done = on_ranks(server, step, output, batches, log=tmp_path / "log")
    assert [code for code, _ in done] == [0] * ranks, done
    changes, entry = torch.load(f"{output}.pt")
    for name, change in one_batch[0].items():
        torch.testing.assert_close(changes[name], change, rtol=0, atol=1e-5)
    for name in ("loss", "cross_entropy", "accuracy", "perplexity", "codes_used", "audio_hours", "grad_norm"):
        assert entry[name] == pytest.approx(one_batch[1][name], rel=1e-5), name


# FSDP, by its file. Accelerate knows it on accelerators alone, so that it must take the processes for such.


def sharded(function, *arguments, mixed_precision: str = "no") -> None:
    with pytest.MonkeyPatch.context() as patch:
        environment = launched(patch, "fsdp", "--main_process_port", "0")[1]
    assert environment["ACCELERATE_MIXED_PRECISION"] == "bf16"
    os.environ |= {name: value for name, value in environment.items() if "FSDP" in name}
    os.environ["ACCELERATE_MIXED_PRECISION"] = mixed_precision
    set_up = PretrainingArguments.__post_init__

    def deceive(self):
        set_up(self)
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU

    PretrainingArguments.__post_init__ = deceive
    function(*arguments)


def sharded_step(output: Path, batches: list[list[int]], mixed_precision: str) -> None:
    train = PretrainingTrainer.train

    def gather(self):
        train(self)
        state = {name: getattr(t, "full_tensor", lambda t=t: t)() for name, t in self.model.state_dict().items()}
        assert sum(isinstance(weight, DTensor) for weight in self.model.parameters()) > 50
        self.model.state_dict = lambda: state

    PretrainingTrainer.train = gather
    sharded(step, output, batches, mixed_precision=mixed_precision)


def sharded_recipe(arguments: list[str]) -> None:
    sharded(run_and_die, arguments)


def test_a_sharded_step(server, one_batch, tmp_path):
    output = tmp_path / "run"
    done = on_ranks(server, sharded_step, output, [[0, 1], [2, 3, 4]], "no", log=tmp_path / "log")
    assert [code for code, _ in done] == [0, 0], done
    changes, entry = torch.load(f"{output}.pt")
    for name, change in one_batch[0].items():
        torch.testing.assert_close(changes[name], change, rtol=0, atol=1e-5)
    assert entry["loss"] == pytest.approx(one_batch[1]["loss"], rel=1e-6)

    # In half precision the encoder is rounded, waveform and tokens are not.
    done = on_ranks(server, sharded_step, output, [[0, 1], [2, 3, 4]], "bf16", log=tmp_path / "log")
    assert [code for code, _ in done] == [0, 0], done
    changes, half = torch.load(f"{output}.pt")
    assert {change.dtype for change in changes.values() if change.is_floating_point()} == {torch.float32}
    assert 0 < abs(half["loss"] - entry["loss"]) < 0.02
    for name in ("perplexity", "codes_used", "top_token_share", "accuracy_copy"):
        assert half[name] == entry[name]


def test_a_sharded_run(server, data, tmp_path):
    """It is the same when it was interrupted, and leaves the same folder as any other."""
    flags = [*TINY, *songs(data), "--max_steps", "4"]
    arguments = [str(ROOT / "recipes/pretrain.py"), *flags, "--output_dir", str(tmp_path / "killed")]
    die = {"DIE_IN": "training_step", "DIE_AT": "4"}
    done = on_ranks(server, sharded_recipe, arguments, log=tmp_path / "log", environments={0: die, 1: die})
    assert [code for code, _ in done] == [-signal.SIGKILL] * 2, done
    pretrain_on_ranks(server, tmp_path / "killed", *flags, function=sharded_recipe)
    pretrain_on_ranks(server, tmp_path / "whole", *flags, function=sharded_recipe)
    assert_same_run(tmp_path / "killed", tmp_path / "whole")
    assert not list(tmp_path.rglob("*fsdp*.py"))
    config = json.loads((tmp_path / "whole/config.json").read_text())
    assert config["auto_map"]["AutoModelForPreTraining"] == "modeling_musicfm.MusicFMForPreTraining"
    assert (tmp_path / "whole/modeling_musicfm.py").is_file()
    AutoModelForPreTraining.from_pretrained(tmp_path / "whole")


# The recipe

FROZEN = [f"{name}=0" for name in NO_DROPOUT] + ["freeze_batch_norm=true"]


def run_and_tell(arguments: list[str]) -> None:
    """The recipe; prints the seeds of the crops that are trained on."""
    prepare = PretrainingTrainer._prepare_inputs

    def tell(self, inputs):
        if self.model.training:
            print("SEEDS", inputs["seeds"].tolist())
        return prepare(self, inputs)

    PretrainingTrainer._prepare_inputs = tell
    run_and_die(arguments)


def test_two_processes_are_one_with_larger_batches(server, data, tmp_path):
    """The same losses and evaluations, and all songs once in each pass."""
    flags = [*TINY, *FROZEN, *songs(data), "--per_device_eval_batch_size", "1", "--seed", "3"]
    code, log = server.run(
        run_and_die,
        [str(ROOT / "recipes/pretrain.py"), *map(str, flags), "--output_dir", str(tmp_path / "one")],
        log=tmp_path / "log",
    )
    assert code == 0, log
    flags += ["--per_device_train_batch_size", "1", "--per_device_eval_batch_size", "2"]
    texts = pretrain_on_ranks(server, tmp_path / "two", *flags, function=run_and_tell)
    assert results(tmp_path / "two")["training"]["world_size"] == 2
    one, two = history(tmp_path / "one"), history(tmp_path / "two")
    assert len(losses(tmp_path / "one")) == 12
    # Not against what the tokens seen so far predict, which a process counts for itself between two logs.
    own = ("unigram_cross_entropy", "accuracy_most_frequent")
    for expected, found in zip(one, two, strict=True):
        assert found.keys() == expected.keys()
        for name in expected.keys() - set(own):
            assert found[name] == pytest.approx(expected[name], rel=2e-3, abs=1e-6), (name, expected["step"])
    assert two[0]["loss"] == pytest.approx(one[0]["loss"], rel=1e-6)
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=1e-4)

    # Which songs they were: those that the loader names for these seeds.
    seeds = [
        [seed for line in text.splitlines() if line.startswith("SEEDS") for seed in json.loads(line[6:])]
        for text in texts
    ]
    assert [len(own) for own in seeds] == [12, 12]
    loader = CropLoader([open_source(data / "files")], crop_seconds=1.0, batch_size=2, seed=3)
    audio = [load_audio(data / f"files/{number}.wav", RATE) for number in range(7)]
    names = {}
    for batch in islice(loader, 12):
        for seed, crop in zip(batch["seeds"].tolist(), batch["input_values"].numpy(), strict=True):
            found = [(np.lib.stride_tricks.sliding_window_view(song, 16) == crop[:16]).all(1).any() for song in audio]
            (names[seed],) = np.flatnonzero(found).tolist()
    seen = [names[seed] for pair in zip(*seeds, strict=True) for seed in pair]
    for start in (0, 7, 14):
        assert sorted(seen[start : start + 7]) == list(range(7))


def test_streams_on_two_processes(server, data, tmp_path):
    """Shards of 1, 2 and 4 songs; one process is killed, the other does not wait for ever; both go on alike."""
    flags = [*TINY, *songs(data, "parquet"), "--dataloader_num_workers", "1"]
    arguments = [str(ROOT / "recipes/pretrain.py"), *map(str, flags), "--output_dir", str(tmp_path / "killed")]
    environments = {1: {"DIE_IN": "training_step", "DIE_AT": "8"}}
    done = on_ranks(server, run_and_die, arguments, log=tmp_path / "log", environments=environments)
    assert done[1][0] == -signal.SIGKILL
    assert done[0][0] not in (0, -signal.SIGKILL)  # it ended by itself
    assert sorted(path.name for path in (tmp_path / "killed").glob("checkpoint-*")) == ["checkpoint-3", "checkpoint-6"]
    pretrain_on_ranks(server, tmp_path / "killed", *flags)
    pretrain_on_ranks(server, tmp_path / "whole", *flags)
    assert_same_run(tmp_path / "killed", tmp_path / "whole")
    assert not (tmp_path / "killed/.incomplete").exists()


def test_what_is_evaluated_is_what_is_saved(server, data, tmp_path):
    """Each process has batch statistics of its own. And with this seed only the second one meets the bad files."""
    flags = [*TINY, "--train", data / "bad", "--validation", data / "valid", "--max_steps", "2", "--seed", "45"]
    pretrain_on_ranks(server, tmp_path / "run", *flags)
    found = results(tmp_path / "run")
    model = MusicFMForPreTraining.from_pretrained(tmp_path / "run")
    arguments = PretrainingArguments(str(tmp_path / "again"), max_steps=1, use_cpu=True, report_to="none")
    crops = fixed_crops([(path.name, str(path)) for path in sorted((data / "valid").iterdir())], 1.0, 3)
    again = PretrainingTrainer(model, arguments, Given([]), crops).evaluate()
    assert again["eval_loss"] == pytest.approx(found["scores"]["eval_loss"], rel=1e-6)
    assert again["eval_accuracy"] == pytest.approx(found["scores"]["eval_accuracy"])
    assert found["problems"] == {"unreadable": 2}
    lines = (tmp_path / "run/problems.tsv").read_text().splitlines()
    assert sorted(line.split("\t")[1] for line in lines[1:]) == ["5.mp3", "6.mp3"]


def test_the_best_checkpoint_on_two_processes(server, data, tmp_path):
    """It is kept, named where it is, and loaded by both at the end. They find each other without being told how."""
    flags = [
        *TINY,
        "--use_cpu",
        str(torch.accelerator.is_available()),
        *songs(data),
        "--load_best_model_at_end",
        "true",
        "--save_steps",
        "4",
        "--save_total_limit",
        "1",
    ]
    flags += ["--learning_rate", "1.0", "--greater_is_better", "true"]  # the loss comes down, so an early one is best
    texts = pretrain_on_ranks(server, tmp_path / "run", *flags)
    evaluated = {
        entry["step"]: entry["eval_loss"]
        for entry in results(tmp_path / "run")["history"][:-1]
        if "eval_loss" in entry
    }
    best = max(evaluated, key=evaluated.get)
    assert best < 12
    folder = tmp_path / f"run/checkpoint-{best}"
    assert results(tmp_path / "run")["scores"]["eval_loss"] == pytest.approx(evaluated[best], rel=1e-6)
    weights, kept = (load_file(path / "model.safetensors") for path in (tmp_path / "run", folder))
    assert all(weights[name].equal(kept[name]) for name in kept)
    assert not any("Could not locate the best model" in text for text in texts)


@pytest.mark.slow
@pytest.mark.parametrize(
    "program", [["-m", "musicfm_hf", "pretrain"], ["recipes/pretrain.py"]], ids=["command", "script"]
)
def test_accelerate_launch(data, tmp_path, program):
    """The file for processors starts two processes."""
    flags = [*TINY, *songs(data), "--max_steps", "2", "--output_dir", tmp_path / "run"]
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "recipes/accelerate/cpu.yaml"]
    command += ["--main_process_port", "0", *program, *map(str, flags)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert results(tmp_path / "run")["training"]["world_size"] == 2
    assert results(tmp_path / "run")["history"][0]["audio_hours"] == pytest.approx(4 / 3600)
