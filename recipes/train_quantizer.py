"""
Train what target tokens come from, for a variant whose `quantizer_type` is kmeans or residual_vq.

    python recipes/train_quantizer.py recipes/pretrain/muq.yaml --train music/ --output quantizers/muq
    python recipes/pretrain.py recipes/pretrain/muq.yaml --train music/ --quantizer quantizers/muq --output_dir muq

Codebook use and reconstruction error on songs that were kept out are printed and written to `report.json`.
"""

import argparse
import json
from itertools import islice
from pathlib import Path

import yaml

from musicfm_hf import MusicFMConfig, MusicFMQuantizerModel
from musicfm_hf.cli.flags import add_hub_flags, share_result
from musicfm_hf.data.catalogue import describe_source, list_sources
from musicfm_hf.data.crops import CropLoader, collate_crops, fixed_crops
from musicfm_hf.data.sources import open_source
from musicfm_hf.hub.push import hub_target
from musicfm_hf.pretraining.data import keep_for_validation
from musicfm_hf.pretraining.model import config_values, mel_settings
from musicfm_hf.pretraining.quantizers import describe_quantizer, fit_kmeans, train_residual_vq
from musicfm_hf.training.records import environment, recorded, write_json


def main() -> None:
    arguments = parse_arguments()
    try:
        train(arguments)
    except (ValueError, OSError, yaml.YAMLError) as error:
        raise SystemExit(f"Not trained: {error}") from error


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, help="YAML of recipes/pretrain; its `config` and `statistics` count")
    parser.add_argument("--train", nargs="+", required=True, help="as in recipes/pretrain.py")
    parser.add_argument("--validation", nargs="+", help="songs to report on; a share of `--train` by default")
    parser.add_argument("--validation-fraction", type=float, default=0.02, help="of songs, without `--validation`")
    parser.add_argument("--output", type=Path, required=True, help="where the quantizer goes")
    parser.add_argument("--stats", type=Path, help="JSON of `recipes/prepare.py stats`; measured if not given")
    parser.add_argument("--set", nargs="*", default=[], help="name=value … of MusicFMConfig, over the recipe's")
    parser.add_argument("--steps", type=int, default=10000, help="batches for residual_vq")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--crop-seconds", type=float, default=5.0)
    parser.add_argument("--learning-rate", type=float, default=1e-4, help="of residual_vq")
    parser.add_argument("--hours", type=float, default=5.0, help="of audio for kmeans; its features stay in memory")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--num-workers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    add_hub_flags(parser)
    return parser.parse_args()


def train(arguments: argparse.Namespace) -> None:
    recipe = yaml.safe_load(arguments.recipe.read_text(encoding="utf-8"))
    if not isinstance(recipe, dict):
        raise ValueError(f"{arguments.recipe} must hold `name: value` lines.")
    target = hub_target(arguments, arguments.output)
    values = config_values(recipe.get("config") or {}, arguments.set)
    music = [describe_source(source) for source in arguments.train]
    sources = [open_source(source) for source in arguments.train]
    kind = recipe.get("statistics", "band")
    if kind != "config":
        path = arguments.stats or arguments.output / "stats.json"
        if arguments.stats is not None and not path.is_file():
            raise ValueError(f"There is no file {path}.")
        values = mel_settings(kind, path, sources, arguments.seed) | values
    config = MusicFMConfig(**values)
    if config.quantizer_type == "random_projection":
        raise ValueError("`quantizer_type` is random_projection, which is not trained: pretrain right away.")

    if arguments.validation:
        validation = [song for source in arguments.validation for song in list_sources(source)]
    else:
        sources, validation = keep_for_validation(sources, arguments.validation_fraction)
    needed = {"sampling_rate": config.sampling_rate, "min_samples": config.n_fft // 2 + 1}
    loader = CropLoader(
        sources,
        crop_seconds=arguments.crop_seconds,
        batch_size=arguments.batch_size,
        seed=arguments.seed,
        num_workers=arguments.num_workers,
        **needed,
    )
    loader.check()
    model = MusicFMQuantizerModel(config).to(arguments.device)
    history: list = []
    if config.quantizer_type == "kmeans":
        batches = round(arguments.hours * 3600 / (arguments.crop_seconds * arguments.batch_size))
        fit_kmeans(model, islice(loader, max(1, batches)), arguments.seed)
    else:
        history = train_residual_vq(model, loader, arguments.steps, arguments.learning_rate, arguments.seed)
    model.save_pretrained(arguments.output)

    report = {}
    if validation:
        crops = fixed_crops(validation, arguments.crop_seconds, 256, arguments.seed, **needed)
        batches = (collate_crops([crops[index]]) for index in range(len(crops)))
        report = describe_quantizer(model, batches)
        print(json.dumps(report, indent=1))
    settings = recorded({name: str(value) for name, value in vars(arguments).items() if not name.startswith("hub_")})
    write_json(
        arguments.output / "report.json",
        {
            "validation": report,
            "music": music,
            "settings": settings,
            "history": history[:: max(1, len(history) // 200)],
            **environment(),
        },
    )
    share_result(arguments.output, target)


if __name__ == "__main__":
    main()
