"""
Pretrain for a few minutes with every kind of token, encoder and frame rate, and compare the results in one table.

    musicfm prepare pop909 --source POP909 --output_dir data/pop909 --arranged
    python benchmarks/pretraining.py --train data/pop909/train.txt --validation data/pop909/valid.txt

All runs use the recipe `small` with the changes listed here. Scores are from the last evaluation, on the same crops
with the same masks, and are averaged over codebooks.
"""

import argparse
import json
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from processes import musicfm
from reporting import RESULTS, markdown_table, write_report


class Variant(NamedTuple):
    """Changes of the configuration, and flags of `musicfm pretrain`."""

    changes: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()


BERT = ("encoder_type=bert", "hidden_act=gelu", "do_stable_layer_norm=true", "num_hidden_layers=6")
KMEANS = ("quantizer_type=kmeans", "kmeans_features=[mel, chroma]", "num_codebooks=2", "codebook_size=[300, 200]")
RESIDUAL_VQ = ("quantizer_type=residual_vq", "num_codebooks=4", "codebook_size=1024")
WAVEFORM = ("front_end=waveform", "hop_length=320", f"conv_dim={[64] * 7}", "do_normalize=true")
VARIANTS = {
    "random projection, conformer, 25 Hz": Variant(),
    "… targets normalised globally": Variant(flags=("--statistics", "global")),
    "k-means on mel and chroma": Variant(KMEANS),
    "residual VQ, 4 codebooks": Variant(RESIDUAL_VQ),
    "bert, 25 Hz": Variant(BERT),
    "bert, waveform, 75 Hz": Variant((*BERT, *WAVEFORM)),
    "conformer, 50 Hz": Variant(("subsampling_time_strides=[2, 1]",)),
    "conformer, 75 Hz": Variant(("subsampling_time_strides=[1, 1]", "hop_length=320")),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", required=True)
    parser.add_argument("--validation", required=True)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--quantizer_steps", type=int, default=500, help="steps of the residual VQ")
    parser.add_argument("--parallel", type=int, default=2, help="number of simultaneous runs, which share the cores")
    parser.add_argument("--output_file", type=Path, default=RESULTS / "pretraining_variants.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stats = ["--output_file", str(folder / "stats.json"), "--max_hours", "1"]
        musicfm("prepare", "stats", arguments.train, *stats, OMP_NUM_THREADS=str(os.cpu_count()))
        with ThreadPoolExecutor(arguments.parallel) as pool:
            rows = list(pool.map(lambda variant: train(variant, folder, arguments), VARIANTS))
    write_report(arguments.output_file, rows, report(rows))


def train(name: str, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Pretrain a variant, after training its quantizer if it needs one."""
    changes, flags = VARIANTS[name]
    output = folder / str(list(VARIANTS).index(name))
    threads = str(max(1, (os.cpu_count() or 1) // arguments.parallel))
    common = ["small", "--train", arguments.train, "--validation", arguments.validation]
    common += ["--stats", str(folder / "stats.json"), *(["--set", *changes] if changes else [])]
    quantizer = []
    if any(change.startswith("quantizer_type") for change in changes):
        quantizer = ["--quantizer", f"{output}_quantizer"]
        length = ["--steps", str(arguments.quantizer_steps), "--hours", "2"]
        musicfm("train-quantizer", *common, "--output_dir", quantizer[1], *length, OMP_NUM_THREADS=threads)
    length = ["--max_steps", str(arguments.steps), "--eval_steps", str(arguments.steps), "--save_strategy", "no"]
    places = ["--output_dir", str(output), "--report_to", "none", "--disable_tqdm", "true"]
    musicfm("pretrain", *common, *flags, *quantizer, *length, *places, OMP_NUM_THREADS=threads)
    return summarize(name, arguments.steps, json.loads((output / "results.json").read_text()))


def summarize(name: str, steps: int, results: dict[str, Any]) -> dict[str, Any]:
    """Return the results of a run that are in the table."""
    training = [entry for entry in results["history"] if "perplexity" in entry or "perplexity_0" in entry][-1]
    return {
        "name": name,
        "changes": list(VARIANTS[name].changes),
        "flags": list(VARIANTS[name].flags),
        "steps": steps,
        "seconds": results["seconds"],
        "parameters": results["parameters"],
        "perplexity": [value for key, value in training.items() if key.startswith("perplexity")],
        "top_token_share": [value for key, value in training.items() if key.startswith("top_token_share")],
        "scores": {key.removeprefix("eval_"): value for key, value in results["scores"].items()},
        "machine": results["machine"],
    }


def report(rows: list[dict[str, Any]]) -> str:
    """Return the machine and a table with a row for each variant."""
    cells = []
    for row in rows:
        scores = row["scores"]
        cells.append(
            [
                row["name"],
                f"{row['parameters'] / 1e6:.1f} M",
                f"{row['seconds'] / 60:.1f} min",
                ", ".join(f"{value:.0f}" for value in row["perplexity"]),
                ", ".join(f"{value:.3f}" for value in row["top_token_share"]),
                *(f"{scores[key]:.2f}" for key in ("cross_entropy", "unigram_cross_entropy")),
                *(f"{scores[key]:.3f}" for key in ("accuracy", "accuracy_most_frequent", "accuracy_copy")),
            ]
        )
    header = ["", "weights", "time", "perplexity", "top token", "cross-entropy", "unigram's", "accuracy"]
    table = markdown_table([*header, "most frequent", "copy"], cells)
    return f"{rows[0]['steps']} steps each; {rows[0]['machine']}.\n\n" + table


if __name__ == "__main__":
    main()
