"""Short runs of pretraining: flags, and a run that is killed."""

import os
import signal
from pathlib import Path

from musicfm_hf.pretraining.trainer import PretrainingTrainer

from .paths import ROOT
from .processes import run_script

RATE = 24000
# Twelve steps of two crops; a checkpoint after every third and an evaluation after every fourth.
SHORT = ["--crop_seconds", "1", "--per_device_train_batch_size", "2", "--validation_crops", "3", "--max_steps", "12"]
SHORT += ["--logging_steps", "1", "--eval_steps", "4", "--save_steps", "3", "--warmup_steps", "3"]
SHORT += ["--disable_tqdm", "true", "--report_to", "none", "--use_cpu", "true", "--bf16", "false"]
SHORT += ["--gradient_accumulation_steps", "1", "--dataloader_num_workers", "0"]
SIZE = ["hidden_size=32", "intermediate_size=64", "num_hidden_layers=2", "num_attention_heads=4"]
SIZE += ["conv_depthwise_kernel_size=7", "subsampling_conv_channels=8"]
TINY = [str(ROOT / "recipes/pretrain/tiny.yaml"), *SHORT, "--set", *SIZE, "codebook_size=32"]


def songs(data: Path, kind: str = "files") -> list[str]:
    """Flags that name the data. Streams cannot be measured."""
    flags = ["--train", str(data / kind), "--validation", str(data / "valid")]
    return flags if kind == "files" else [*flags, "--statistics", "config"]


def run_and_die(arguments: list[str]) -> None:
    """
    Run a script as from the command line, and kill it with its workers in a call of a method of the Trainer: the
    environment variable `DIE_IN` names the method, `DIE_AT` counts its calls.
    """
    if "DIE_IN" in os.environ:
        method, calls = getattr(PretrainingTrainer, os.environ["DIE_IN"]), []

        def counting(*args, **kwargs):
            calls.append(None)
            if len(calls) == int(os.environ["DIE_AT"]):
                os.killpg(0, signal.SIGKILL)
            return method(*args, **kwargs)

        setattr(PretrainingTrainer, os.environ["DIE_IN"], counting)
    run_script(arguments)
