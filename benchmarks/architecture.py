"""
Compute shares that the documentation states for the published MusicFM, from its layers, without timing anything.

    python benchmarks/architecture.py

Multiplications are counted for a forward pass over 30 s with direct convolutions and without logits. Weights trained
with LoRA are those of `musicfm finetune chord/lora`, including the head. Models have full size, on the meta device.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from reporting import RESULTS
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from musicfm_hf import MusicFMConfig, MusicFMForAudioFrameClassification, MusicFMModel
from musicfm_hf.finetuning.arguments import TaskArguments
from musicfm_hf.finetuning.heads import add_lora, head_config
from musicfm_hf.training.files import write_json

SECONDS = 30
CODES = 4096  # of the published checkpoints


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_file", type=Path, default=RESULTS / "architecture.json")
    arguments = parser.parse_args()
    config = MusicFMConfig()
    write_json(arguments.output_file, shares_of_multiplications(config) | {"lora": lora_weights(config, "chord")})


def shares_of_multiplications(config: MusicFMConfig) -> dict[str, Any]:
    """
    Count the multiplications of a forward pass, of its 3×3 convolutions with stride 1 and with stride 2 (without those
    on the spectrogram, which has one channel), and of the logits of all frames.
    """
    with torch.device("meta"):
        model = MusicFMModel(config).train()  # in training mode: direct convolutions
        waveform = torch.empty(1, SECONDS * config.sampling_rate)
    convolutions = {(1, 1): 0, (2, 2): 0}  # stride → multiplications

    def count(module: nn.Conv2d, inputs: Any, output: torch.Tensor) -> None:
        convolutions[module.stride] += output.numel() * module.weight[0].numel()

    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3) and module.in_channels > 1:
            module.register_forward_hook(count)
    with FlopCounterMode(display=False) as counter:
        frames = model(waveform).last_hidden_state.shape[1]
    total = counter.get_total_flops() // 2  # one addition for each multiplication
    logits = frames * config.hidden_size * CODES
    return {
        "multiplications": total,
        **{
            f"convolutions_with_stride_{stride}": {"multiplications": number, "share": number / total}
            for (stride, _), number in convolutions.items()
        },
        "logits": {"multiplications": logits, "share": logits / (total + logits)},
    }


def lora_weights(base: MusicFMConfig, task: str) -> dict[str, Any]:
    """Return the number of weights that are trained with LoRA, and their share."""
    settings = TaskArguments(task=task, model="none", data="none", method="lora")
    with torch.device("meta"):
        model = MusicFMForAudioFrameClassification(head_config(settings, base, []))
        weights = model.num_parameters()
        adapted = add_lora(model, settings)
    trained = sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
    adapters = trained - sum(parameter.numel() for parameter in model.classifier.modules_to_save.parameters())
    return {"trained": trained, "weights": weights + adapters, "share": trained / (weights + adapters)}


if __name__ == "__main__":
    main()
