"""Estimates of how long the cells of a study take."""

import json
from collections.abc import Sequence
from statistics import median
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from ..model.configuration_musicfm import MusicFMConfig
from ..model.masking_musicfm import sample_mask
from ..model.modeling_musicfm import MusicFMForPreTraining
from .cells import Places
from .plan import Cell, Study

BACKWARD = 2  # the backward pass takes about twice the operations of the forward pass


def pretraining_flops(settings: dict[str, Any]) -> float:
    """
    Count the operations of a pretraining: those of a forward and a backward pass of one crop, which is run once, times
    the number of crops.

    Args:
        settings: Settings of `musicfm pretrain`, including `crop_seconds`, `max_steps` and the batch size.
    """
    config = MusicFMConfig(**settings.get("config", {}))
    samples = round(settings.get("crop_seconds", 30.0) * config.sampling_rate)
    model = MusicFMForPreTraining(config).train()
    generator = torch.Generator().manual_seed(0)
    waveform = 0.1 * torch.randn(1, samples, generator=generator)
    mask = sample_mask(config, torch.tensor([samples]), samples, [generator])
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(input_values=waveform, mask_time_indices=mask)
    crops = settings["max_steps"] * settings.get("per_device_train_batch_size", 8)
    crops *= settings.get("gradient_accumulation_steps", 1)
    return float(counter.get_total_flops()) * (1 + BACKWARD) * crops


def estimate_minutes(study: Study, cells: Sequence[Cell], places: Places) -> list[float | None]:
    """
    Estimate the minutes of each cell's pretraining. A finished cell has its measured duration. The others follow from
    their number of operations, at the median speed of the finished cells or, without any, at `gigaflops` of the study.

    Returns:
        Minutes for each cell, or `None` if the speed is unknown.
    """
    measured = []
    for cell in cells:
        path = places.results(cell)
        contents = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        measured.append(None if contents is None else contents["pretraining"]["seconds"])
    if not any(measured) and not study.gigaflops:
        return [None] * len(cells)
    counts: dict[str, float] = {}
    for cell in cells:
        if cell.variant not in counts:
            counts[cell.variant] = pretraining_flops(dict(cell.settings))
    speeds = [counts[cell.variant] / own for cell, own in zip(cells, measured, strict=True) if own]
    speed = median(speeds) if speeds else (study.gigaflops or 0) * 1e9
    return [
        own / 60 if own is not None else counts[cell.variant] / speed / 60 if speed else None
        for cell, own in zip(cells, measured, strict=True)
    ]
