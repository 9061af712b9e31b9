"""
The cards of the published checkpoints, as recipes/convert.py writes them: `python hub_cards/published.py` writes them
into `hub_cards/published`.
"""

import json
import tempfile
from pathlib import Path

import torch

from musicfm_hf import MusicFMConfig, MusicFMModel
from musicfm_hf.conversion.musicfm import PUBLISHED_STATS
from musicfm_hf.hub.cards import write_card
from musicfm_hf.training.arguments import read_recipe

ROOT = Path(__file__).parents[1]
# Name → family, variant, the recipe that describes the encoder, the file that is converted, is there a head.
CHECKPOINTS = {
    "musicfm-fma": ("musicfm", "fma", "fm9", "pretrained_fma.pt", True),
    "musicfm-msd": ("musicfm", "msd", "fm7", "pretrained_msd.pt", True),
    "muq-large-msd-iter": ("muq", None, "muq", "model.safetensors", True),
    "mert-v1-330m": ("mert", None, "fm1", "pytorch_model.bin", False),
}


def render(name: str) -> str:
    """The card of a published checkpoint."""
    family, variant, recipe, source, has_head = CHECKPOINTS[name]
    values = read_recipe(recipe, kind="pretrain")["config"]
    if variant is not None:
        values["mel_mean"], values["mel_std"] = PUBLISHED_STATS[variant]
    config = MusicFMConfig(**values)
    with torch.device("meta"):
        weights = MusicFMModel(config).num_parameters()
    licence = "mit" if family == "musicfm" else "cc-by-nc-4.0"
    facts = {"family": family, "variant": variant, "sha256": None, "num_parameters": weights, "licence": licence}
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        facts |= {"source_name": source, "has_head": has_head}
        (Path(folder) / "conversion.json").write_text(json.dumps(facts), encoding="utf-8")
        return write_card(folder, name).read_text(encoding="utf-8")


def main() -> None:
    for name in CHECKPOINTS:
        path = ROOT / f"hub_cards/published/{name}.md"
        path.parent.mkdir(exist_ok=True)
        path.write_text(render(name), encoding="utf-8")


if __name__ == "__main__":
    main()
