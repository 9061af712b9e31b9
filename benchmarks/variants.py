"""
Write the table of the pretraining recipes, with their differences and the numbers of weights of their models.

    python benchmarks/variants.py

Models are built at full size on the meta device, which needs no memory.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from reporting import RESULTS, markdown_table, write_report

from musicfm_hf import MusicFMConfig, MusicFMForPreTraining
from musicfm_hf.training.recipes import read_recipe, recipe_names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_file", type=Path, default=RESULTS / "variants.json")
    arguments = parser.parse_args()
    rows = [describe(name) for name in recipe_names("pretrain")]
    write_report(arguments.output_file, rows, report(rows))


def describe(name: str) -> dict[str, Any]:
    """Return a description of the model of a recipe."""
    recipe = read_recipe(name, kind="pretrain")
    config = MusicFMConfig(**recipe["config"])
    with torch.device("meta"):
        model = MusicFMForPreTraining(config)
    codes = " + ".join(str(size) for size in config.codebook_sizes)
    if len(set(config.codebook_sizes)) == 1 and config.num_codebooks > 1:
        codes = f"{config.num_codebooks} × {config.codebook_sizes[0]}"
    buffers = sum(buffer.numel() for buffer in model.quantizer.buffers())
    return {
        "recipe": name,
        "encoder": f"{config.encoder_type} {config.num_hidden_layers} × {config.hidden_size}",
        "front_end": "waveform" if config.front_end == "waveform" else f"{config.num_mel_bins} mel bands",
        "frame_rate": config.frame_rate,
        "crop_seconds": recipe["crop_seconds"],
        "tokens": f"{config.quantizer_type.replace('_', ' ')}, {codes}",
        "encoder_weights": model.musicfm.num_parameters(),
        "weights": model.num_parameters() + buffers,
    }


def report(rows: list[dict[str, Any]]) -> str:
    """Return the table, with a row for each recipe."""
    cells = [
        [
            f"`{row['recipe']}`",
            row["encoder"],
            row["front_end"],
            f"{row['frame_rate']:g} Hz",
            f"{row['crop_seconds']} s",
            row["tokens"],
            f"{row['encoder_weights']:,}",
            f"{row['weights']:,}",
        ]
        for row in rows
    ]
    header = ["recipe", "encoder", "front end", "rate", "crop", "tokens", "encoder's weights"]
    return markdown_table([*header, "with quantizer and head"], cells)


if __name__ == "__main__":
    main()
