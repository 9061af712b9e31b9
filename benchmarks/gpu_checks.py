"""Checks of small models on a GPU, for `gpu.py`. They also run on a CPU, except for what a CPU does not have."""

import contextlib
import importlib.util
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn

from musicfm_hf import MusicFMConfig, MusicFMForPreTraining, MusicFMModel
from musicfm_hf.training.trainer import selective_checkpointing

RATE = 24000
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SMALL = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "subsampling_conv_channels": 16}


def noise(batch_size: int, seconds: float, device: str, scale: float = 0.1) -> torch.Tensor:
    """Return random waveforms `(batch, samples)`."""
    generator = torch.Generator().manual_seed(0)
    return scale * torch.randn(batch_size, round(seconds * RATE), generator=generator).to(device)


class SkippedError(Exception):
    """Raised by a check that cannot run on this machine."""


def small_model(device: str, model_class: Callable = MusicFMModel, **values: Any) -> Any:
    """Return a small model with random weights."""
    torch.manual_seed(0)
    model = model_class(MusicFMConfig(**SMALL | {"num_hidden_layers": 3} | values))
    return model.to(device).eval()


def padded(device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return three waveforms of different lengths in a batch, and their mask."""
    batch = noise(3, 4.0, device)
    lengths = torch.tensor([96000, 50123, 31000], device=device)
    mask = torch.arange(96000, device=device) < lengths[:, None]
    return torch.where(mask, batch, 3.0), mask.long()


def largest_difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest absolute difference, in float32."""
    return (found.float().cpu() - expected.float().cpu()).abs().max().item()


def require(value: float, limit: float, name: str) -> str:
    """Return a description of a value, or raise an `AssertionError` if it is above the limit or not a number."""
    if not value <= limit:
        raise AssertionError(f"{name} is {value:.3g}, above {limit:g}")
    return f"{name} {value:.2g}, limit {limit:g}"


@torch.no_grad()
def check_cpu(device: str) -> str:
    """Outputs equal those of the CPU, in float32."""
    audio = noise(2, 3.0, "cpu")
    expected = small_model("cpu")(audio).last_hidden_state
    return require(largest_difference(small_model(device)(audio.to(device)).last_hidden_state, expected), 2e-3, "diff")


@torch.no_grad()
def check_padding(device: str, front_end: str) -> str:
    """Items of a padded batch equal the items alone."""
    values: dict[str, Any] = {}
    if front_end == "convnext":
        values = {"front_end": "convnext", "convnext_channels": [16, 64], "convnext_depths": [1, 1]}
        values |= {"subsampling_time_strides": [2, 2], "conformer_conv_norm": "layer_norm"}
    elif front_end == "waveform":
        values = {"front_end": "waveform", "encoder_type": "bert", "hop_length": 320, "conv_dim": [16] * 7}
    model = small_model(device, **values)
    batch, mask = padded(device)
    outputs, frames = model(batch, mask).last_hidden_state, model.frames_mask(mask)
    worst = 0.0
    for item in range(len(batch)):
        alone = model(batch[item : item + 1, : int(mask[item].sum())]).last_hidden_state[0]
        worst = max(worst, largest_difference(outputs[item][frames[item]], alone))
    return require(worst, 1e-3, "diff")


@torch.no_grad()
def check_attention(device: str, implementation: str) -> str:
    """An attention implementation equals eager attention in the valid frames of a padded batch."""
    if implementation == "flash_attention_2" and importlib.util.find_spec("flash_attn") is None:
        raise SkippedError("flash_attn is not installed")
    if implementation != "sdpa" and device == "cpu":
        raise SkippedError("needs a GPU")
    batch, mask = padded(device)
    dtype = torch.float32 if implementation == "sdpa" else torch.bfloat16
    outputs = []
    for name in ("eager", implementation):
        model = small_model(device, attn_implementation=name).to(dtype)
        outputs.append(model(batch, mask).last_hidden_state[model.frames_mask(mask)])
    return require(largest_difference(*outputs), 1e-3 if dtype == torch.float32 else 0.1, "diff")


@torch.no_grad()
def check_precision(device: str, name: str) -> str:
    """Half precision is close to float32, for quiet music too, because the mel stays in float32."""
    worst = 0.0
    for scale in (0.1, 1e-4):
        audio = noise(2, 3.0, device, scale)
        expected = small_model(device)(audio).last_hidden_state
        half = small_model(device).to(DTYPES[name])
        worst = max(
            worst, 1 - torch.cosine_similarity(half(audio).last_hidden_state.float(), expected, -1).min().item()
        )
    return require(worst, 5e-3, "1 - cosine")


@torch.no_grad()
def check_compiled(device: str) -> str:
    """A compiled model equals the model, for two lengths."""
    if device == "cpu":
        raise SkippedError("tests/model compiles on a CPU")
    model = small_model(device)
    compiled = torch.compile(small_model(device), dynamic=True)
    pairs = [(compiled(audio), model(audio)) for audio in (noise(2, 3.0, device), noise(3, 4.4, device))]
    worst = max(largest_difference(found.last_hidden_state, expected.last_hidden_state) for found, expected in pairs)
    return require(worst, 2e-3, "diff")


def training_gradients(model: nn.Module, device: str) -> list[torch.Tensor]:
    """Return the gradients of one step of masked pretraining with fixed masks."""
    generator = torch.Generator(device).manual_seed(0)
    model.zero_grad()
    model(noise(2, 4.0, device), generator=generator).loss.backward()
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


def check_checkpointing(device: str, selective: bool) -> str:
    """Gradients with activation checkpointing equal those without."""
    rates = dict.fromkeys(("hidden_dropout", "attention_dropout", "activation_dropout", "conformer_conv_dropout"), 0.0)
    gradients = []
    for enabled in (False, True):
        model = small_model(device, MusicFMForPreTraining, codebook_size=64, **rates).train()
        if enabled:
            model.gradient_checkpointing_enable(selective_checkpointing() if selective else {"use_reentrant": False})
        gradients.append(training_gradients(model, device))
    worst = max(largest_difference(found, expected) for found, expected in zip(*gradients, strict=True))
    return require(worst, 1e-3, "diff of gradients")


@contextlib.contextmanager
def one_process(device: str) -> Iterator[None]:
    """Run a process group of one process."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29531", "RANK": "0", "WORLD_SIZE": "1"}
    torch.distributed.init_process_group("gloo" if device == "cpu" else "nccl", rank=0, world_size=1)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def check_fsdp(device: str) -> str:
    """A sharded model with one process has the loss of the model."""
    if device == "cpu":
        raise SkippedError("tests/pretraining shards on a CPU")
    from torch.distributed.fsdp import fully_shard

    audio = noise(2, 4.0, device)
    model = small_model(device, MusicFMForPreTraining, codebook_size=64)
    expected = model(audio, generator=torch.Generator(device).manual_seed(0)).loss.item()
    with one_process(device):
        for layer in model.musicfm.layers:
            fully_shard(layer)
        fully_shard(model)
        loss = model(audio, generator=torch.Generator(device).manual_seed(0)).loss
        loss.backward()
    return require(abs(loss.item() - expected), 1e-3, "diff of the loss")


def check_deepspeed(device: str) -> str:
    """A step with DeepSpeed's ZeRO stage 2 has the loss of the model."""
    if importlib.util.find_spec("deepspeed") is None:
        raise SkippedError("deepspeed is not installed")
    if device == "cpu":
        raise SkippedError("needs a GPU")
    import deepspeed

    audio = noise(2, 4.0, device)
    model = small_model(device, MusicFMForPreTraining, codebook_size=64)
    expected = model(audio, generator=torch.Generator(device).manual_seed(0)).loss.item()
    with one_process(device):
        settings = {"train_micro_batch_size_per_gpu": 2, "zero_optimization": {"stage": 2}}
        settings["optimizer"] = {"type": "Adam", "params": {"lr": 1e-4}}
        engine, *_ = deepspeed.initialize(model=model, config=settings)
        loss = engine(audio, generator=torch.Generator(device).manual_seed(0)).loss
        engine.backward(loss)
        engine.step()
    return require(abs(loss.item() - expected), 1e-3, "diff of the loss")


CHECKS: dict[str, Callable[[str], str]] = {
    "equal to the CPU, float32": check_cpu,
    **{f"padding, {name}": partial(check_padding, front_end=name) for name in ("mel", "convnext", "waveform")},
    **{
        f"attention, {name}": partial(check_attention, implementation=name)
        for name in ("sdpa", "flex_attention", "flash_attention_2")
    },
    **{f"precision, {name}": partial(check_precision, name=name) for name in ("bfloat16", "float16")},
    "compiled, two lengths": check_compiled,
    "checkpointing": partial(check_checkpointing, selective=False),
    "selective checkpointing": partial(check_checkpointing, selective=True),
    "FSDP, one process": check_fsdp,
    "DeepSpeed, one process": check_deepspeed,
}
