"""
Measure the parts of embedding a catalog, and all of it: a folder of mixed files that is written for this purpose.

    python benchmarks/catalog.py --files 16 --dtype int8
    python benchmarks/catalog.py --recipe small_kmeans --output_file benchmarks/results/catalog_small.json

Files are wav, flac, mp3 and ogg, mono and stereo, from 8 to 96 kHz. Their lengths are from 2 s to 8 minutes, with
about the same number of files for each factor of two. Measured in turn, for each number of decoding processes:

- decoding and resampling alone, as `musicfm embed` does it;
- the model alone, from decoded audio, with the batches of `musicfm embed`;
- `musicfm embed --pool mean`, which does both at once, and writes the files.

The time of the last one, divided by the larger of the others, is 1 if neither waits for the other; divided by their
sum, it is 1 if they never overlap. The model has random weights, and the size of the published ones or of a recipe.
"""

import argparse
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import describe, seconds_of
from reporting import RESULTS, markdown_table, write_report
from sound_files import write

from musicfm_hf import MusicFMConfig, MusicFMModel, WindowSettings, embed_files
from musicfm_hf.data.catalog import Song, list_sources
from musicfm_hf.data.decoding import SongLoader
from musicfm_hf.data.synthetic import compose, synthesize
from musicfm_hf.inference.embedding import embed_songs
from musicfm_hf.model.int8_musicfm import quantize_to_int8
from musicfm_hf.training.recipes import read_recipe

ROOT = Path(__file__).resolve().parents[1]
LOSSLESS_RATES = (8000, 16000, 22050, 32000, 44100, 48000, 96000)
MP3_RATES = (32000, 44100, 48000)  # at 16 and 22.05 kHz, the encoder writes mono frames with errors
FORMATS = {  # format and subtype of libsndfile, and rates
    "wav": ("WAV", "PCM_16", LOSSLESS_RATES),
    "flac": ("FLAC", "PCM_16", LOSSLESS_RATES),
    "mp3": ("MP3", "MPEG_LAYER_III", MP3_RATES),
    "ogg": ("OGG", "VORBIS", LOSSLESS_RATES),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=500)
    parser.add_argument("--shortest_seconds", type=float, default=2.0)
    parser.add_argument("--longest_seconds", type=float, default=480.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--recipe", help="recipe of `musicfm pretrain` with the size of the model")
    parser.add_argument("--layer", type=int, default=7)
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--num_workers", type=int, nargs="+", default=[1], help="processes that decode")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16", "int8"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output_file", type=Path, default=RESULTS / "catalog.json")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    values = {} if arguments.recipe is None else read_recipe(str(ROOT / f"recipes/pretrain/{arguments.recipe}.yaml"))
    model = MusicFMModel(MusicFMConfig(**values.get("config", {})))
    if arguments.dtype == "int8":
        quantize_to_int8(model)
    else:
        model = model.to(arguments.device, getattr(torch, arguments.dtype))
    model.eval()
    lengths = draw_lengths(arguments.files, arguments.shortest_seconds, arguments.longest_seconds, arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        write_catalog(Path(folder) / "music", lengths, arguments.seed)
        sources = list_sources(Path(folder) / "music")
        settings = WindowSettings(
            min(arguments.layer, model.config.num_hidden_layers), batch_size=arguments.batch_size
        )
        values = describe_catalog(sources, lengths, model, settings) | {"dtype": arguments.dtype}
        values["machine"] = describe(arguments.device) | {"processors": torch.get_num_threads()}
        values["rows"] = measure(model, sources, Path(folder), settings, arguments.num_workers)
    for row in values["rows"]:
        row["audio_seconds_per_second"] = values["audio_seconds"] / row["together"]
        row["decoded_seconds_per_second"] = values["audio_seconds"] / row["decoding"]
    write_report(arguments.output_file, values, report(values))


def draw_lengths(files: int, shortest: float, longest: float, seed: int) -> list[float]:
    """Draw lengths in seconds whose logarithm is uniform."""
    return np.exp(np.random.default_rng(seed).uniform(math.log(shortest), math.log(longest), files)).tolist()


def write_catalog(folder: Path, lengths: list[float], seed: int) -> None:
    """Write a file of each length, in a format, at a rate and with channels that are drawn."""
    folder.mkdir()
    generator = np.random.default_rng([seed, 1])
    songs: dict[int, np.ndarray] = {}
    for number, seconds in enumerate(lengths):
        ending = list(FORMATS)[number % len(FORMATS)]
        file_format, subtype, rates = FORMATS[ending]
        rate, channels = int(generator.choice(rates)), int(generator.integers(1, 3))
        if rate not in songs:
            songs[rate] = synthesize(compose(seed), rate)
        write(folder / f"{number:05d}.{ending}", songs[rate][:, :channels], seconds, rate, file_format, subtype)


def describe_catalog(
    sources: list[Song], lengths: list[float], model: MusicFMModel, settings: WindowSettings
) -> dict[str, Any]:
    """Return the size of the catalog and of the model."""
    return {
        "files": len(sources),
        "megabytes": sum(Path(path).stat().st_size for _, path in sources) / 1e6,
        "audio_seconds": sum(lengths),
        "shortest_seconds": min(lengths),
        "longest_seconds": max(lengths),
        "weights": sum(parameter.numel() for parameter in model.parameters()),
        "layer": settings.layer,
        "batch_size": settings.batch_size,
    }


def measure(
    model: MusicFMModel, sources: list[Song], folder: Path, settings: WindowSettings, workers: list[int]
) -> list[dict[str, Any]]:
    """Return the seconds of decoding, of the model and of both, for each number of decoding processes."""
    config = model.config
    decoded = folder / "decoded"
    decoded.mkdir()
    for song in SongLoader(sources, config.sampling_rate, config.min_samples):  # files are in the page cache then
        np.save(decoded / song.name, song.content)
    device = str(model.device)
    exhaust(embed_songs(model, [("warm-up", np.zeros(config.sampling_rate, np.float32))], settings))
    rows = []
    for count in workers:
        loader = SongLoader(sources, config.sampling_rate, config.min_samples, count, in_order=False)
        output_dir = folder / f"embeddings_{count}"
        row = {
            "num_workers": count,
            "decoding": seconds_of(lambda loader=loader: exhaust(loader)),
            "model": seconds_of(lambda: exhaust(embed_songs(model, waveforms(decoded), settings)), device),
            "together": seconds_of(
                lambda count=count, output_dir=output_dir: embed_files(
                    model, sources, output_dir, settings, "mean", num_workers=count, progress=False
                ),
                device,
            ),
        }
        larger, both = max(row["decoding"], row["model"]), row["decoding"] + row["model"]
        rows.append(row | {"ratio_to_larger": row["together"] / larger, "ratio_to_sum": row["together"] / both})
    return rows


def waveforms(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the decoded songs."""
    for path in sorted(folder.iterdir()):
        yield path.name, np.load(path)


def exhaust(items: Any) -> None:
    """Iterate to the end."""
    for _ in items:
        pass


def report(values: dict[str, Any]) -> str:
    """Return the machine, the catalog, and a row for each number of decoding processes."""
    machine = values["machine"]
    lengths = f"from {values['shortest_seconds']:.0f} to {values['longest_seconds']:.0f} s"
    catalog = f"{values['files']} files, {lengths}, {values['audio_seconds'] / 3600:.1f} hours in all"
    model = f"{values['weights'] / 1e6:.1f} million weights, `layer={values['layer']}`, {values['dtype']}"
    head = f"{machine['device']}; torch {machine['torch']}. {catalog}. Model of {model}, batches of "
    head += f"{values['batch_size']} windows.\n"
    rows = [
        [
            f"{row['num_workers']}",
            *(f"{row[name]:.1f} s" for name in ("decoding", "model", "together")),
            f"{row['ratio_to_larger']:.2f}",
            f"{row['ratio_to_sum']:.2f}",
            f"{row['audio_seconds_per_second']:.1f}",
        ]
        for row in values["rows"]
    ]
    header = ["decoding processes", "decoding alone", "model alone", "together", "larger part = 1", "sum = 1"]
    return head + "\n" + markdown_table([*header, "audio s per s"], rows)


if __name__ == "__main__":
    main()
