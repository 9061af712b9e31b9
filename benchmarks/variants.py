"""
The table of variants: every YAML of recipes/pretrain, built at full size without memory.

    python benchmarks/variants.py
"""

from pathlib import Path

import torch
import yaml

from musicfm_hf import MusicFMConfig, MusicFMForPreTraining

RECIPES = Path(__file__).parents[1] / "recipes/pretrain"


def main() -> None:
    print("| recipe | encoder | front end | rate | crop | tokens | encoder's weights | with quantizer and head |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for path in sorted(RECIPES.glob("*.yaml")):
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
        config = MusicFMConfig(**recipe["config"])
        with torch.device("meta"):
            model = MusicFMForPreTraining(config)
        encoder = f"{config.encoder_type} {config.num_hidden_layers} × {config.hidden_size}"
        codes = " + ".join(str(size) for size in config.codebook_sizes)
        if len(set(config.codebook_sizes)) == 1 and config.num_codebooks > 1:
            codes = f"{config.num_codebooks} × {config.codebook_sizes[0]}"
        tokens = f"{config.quantizer_type.replace('_', ' ')}, {codes}"
        front_end = "waveform" if config.front_end == "waveform" else f"{config.num_mel_bins} mel bands"
        weights = model.musicfm.num_parameters()
        buffers = sum(buffer.numel() for buffer in model.quantizer.buffers())
        print(
            f"| `{path.stem}` | {encoder} | {front_end} | {config.frame_rate:g} Hz | {recipe['crop_seconds']} s "
            f"| {tokens} | {weights:,} | {model.num_parameters() + buffers:,} |"
        )


if __name__ == "__main__":
    main()
