"""
Cards of the published checkpoints as `musicfm convert` writes them. `python hub_cards/published.py` updates them in
`hub_cards/published`.
"""

import json
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import XLMRobertaConfig

from musicfm_hf import MusicFMConfig, MusicFMModel, MusicFMTextAudioConfig, MusicFMTextAudioModel
from musicfm_hf.conversion.musicfm import PUBLISHED_STATS
from musicfm_hf.hub.cards import write_card
from musicfm_hf.training.files import write_text

FOLDER = Path(__file__).parent / "published"


class Checkpoint(NamedTuple):
    """Facts about a published checkpoint that a conversion would record."""

    family: str
    source_name: str  # the converted file
    license: str
    config: dict[str, Any]  # settings that differ from the defaults, which are those of MusicFM
    variant: str | None = None
    has_head: bool = True


CHECKPOINTS = {
    "musicfm-fma": Checkpoint("musicfm", "pretrained_fma.pt", "mit", {}, variant="fma"),
    "musicfm-msd": Checkpoint("musicfm", "pretrained_msd.pt", "mit", {}, variant="msd"),
    "muq-large-msd-iter": Checkpoint(
        "muq",
        "model.safetensors",
        "cc-by-nc-4.0",
        {"quantizer_type": "residual_vq", "num_codebooks": 8, "codebook_size": 1024},
    ),
    "mert-v1-330m": Checkpoint(
        "mert",
        "pytorch_model.bin",
        "cc-by-nc-4.0",
        {
            "encoder_type": "bert",
            "front_end": "waveform",
            "hop_length": 320,
            "num_hidden_layers": 24,
            "hidden_act": "gelu",
            "do_stable_layer_norm": True,
            "do_normalize": True,
            "mask_type": "embedding",
        },
        has_head=False,
    ),
    "mert-v2-30s": Checkpoint(
        "mert2",
        "model.safetensors",
        "cc-by-nc-4.0",
        {
            "front_end": "convnext",
            "subsampling_time_strides": [1, 2, 2],
            "num_hidden_layers": 24,
            "hidden_act": "gelu",
            "conformer_conv_norm": "layer_norm",
            "rotary_after_projection": True,
            "use_final_layer_norm": False,
        },
        has_head=False,
    ),
    "muq-mulan-large": Checkpoint("mulan", "model.safetensors", "cc-by-nc-4.0", {}, has_head=False),
}

# The configuration of xlm-roberta-base, which MuQ-MuLan-large names as its text encoder.
XLM_ROBERTA_BASE = {"vocab_size": 250002, "max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5}


def render(name: str) -> str:
    """Return the card of a published checkpoint."""
    checkpoint = CHECKPOINTS[name]
    values = dict(checkpoint.config)
    if checkpoint.variant is not None:
        values["mel_mean"], values["mel_std"] = PUBLISHED_STATS[checkpoint.variant]
    config: MusicFMConfig | MusicFMTextAudioConfig
    if checkpoint.family == "mulan":
        config = MusicFMTextAudioConfig(text_config=XLMRobertaConfig(**XLM_ROBERTA_BASE))
    else:
        config = MusicFMConfig(**values)
    with torch.device("meta"):
        model = MusicFMModel(config) if isinstance(config, MusicFMConfig) else MusicFMTextAudioModel(config)
    facts = {
        "family": checkpoint.family,
        "variant": checkpoint.variant,
        "sha256": None,
        "num_parameters": model.num_parameters(),
        "licence": checkpoint.license,
        "source_name": checkpoint.source_name,
        "has_head": checkpoint.has_head,
    }
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        (Path(folder) / "conversion.json").write_text(json.dumps(facts), encoding="utf-8")
        return write_card(folder, name).read_text(encoding="utf-8")


def main() -> None:
    """Write the cards of all published checkpoints."""
    FOLDER.mkdir(exist_ok=True)
    for name in CHECKPOINTS:
        write_text(FOLDER / f"{name}.md", render(name))


if __name__ == "__main__":
    main()
