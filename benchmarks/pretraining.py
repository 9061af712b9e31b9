"""
A few minutes of pretraining for every kind of tokens, encoder and rate, in one table.

    python recipes/prepare.py pop909 --source POP909 --output data/pop909 --arranged
    python benchmarks/pretraining.py --train data/pop909/train.txt --validation data/pop909/valid.txt \
        --output benchmarks/results/pretraining_variants.json

All are recipes/pretrain/small.yaml with the changes listed here. Scores are those of the last evaluation, on the same
crops with the same masks; of several codebooks they are averages.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "recipes/pretrain/small.yaml"
BERT = ["encoder_type=bert", "hidden_act=gelu", "do_stable_layer_norm=true", "num_hidden_layers=6"]
# Name → changes of the configuration, and flags.
VARIANTS: dict[str, tuple[list[str], list[str]]] = {
    "random projection, conformer, 25 Hz": ([], []),
    "… targets normalised globally": ([], ["--statistics", "global"]),
    "k-means on mel and chroma": (
        ["quantizer_type=kmeans", "kmeans_features=[mel, chroma]", "num_codebooks=2", "codebook_size=[300, 200]"],
        [],
    ),
    "residual VQ, 4 codebooks": (["quantizer_type=residual_vq", "num_codebooks=4", "codebook_size=1024"], []),
    "bert, 25 Hz": (BERT, []),
    "bert, waveform, 75 Hz": (
        [*BERT, "front_end=waveform", "hop_length=320", f"conv_dim={[64] * 7}", "do_normalize=true"],
        [],
    ),
    "conformer, 50 Hz": (["subsampling_time_strides=[2, 1]"], []),
    "conformer, 75 Hz": (["subsampling_time_strides=[1, 1]", "hop_length=320"], []),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", required=True)
    parser.add_argument("--validation", required=True)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--quantizer-steps", type=int, default=500, help="of the residual VQ")
    parser.add_argument("--parallel", type=int, default=2, help="runs at a time; each has its share of the cores")
    parser.add_argument("--output", type=Path, required=True, help="JSON; a Markdown table is written beside it")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        stats = Path(folder) / "stats.json"
        run("prepare.py", "stats", arguments.train, "--output", str(stats), "--max-hours", "1", threads=os.cpu_count())
        with ThreadPoolExecutor(arguments.parallel) as pool:
            rows = list(pool.map(lambda name: train(name, Path(folder), stats, arguments), VARIANTS))
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(rows, indent=1) + "\n")
    table = to_table(rows)
    arguments.output.with_suffix(".md").write_text(table + "\n")
    print(table)


def train(name: str, folder: Path, stats: Path, arguments: argparse.Namespace) -> dict:
    changes, flags = VARIANTS[name]
    output = folder / str(list(VARIANTS).index(name))
    threads = max(1, (os.cpu_count() or 1) // arguments.parallel)
    common = ["--train", arguments.train, "--validation", arguments.validation, "--stats", str(stats)]
    settings = ["--set", *changes] if changes else []
    if any(change.startswith("quantizer_type") for change in changes):
        quantizer = f"{output}_quantizer"
        steps = ["--steps", str(arguments.quantizer_steps), "--hours", "2"]
        run("train_quantizer.py", str(RECIPE), *common, *settings, "--output", quantizer, *steps, threads=threads)
        flags = [*flags, "--quantizer", quantizer]
    length = ["--max_steps", str(arguments.steps), "--eval_steps", str(arguments.steps), "--save_strategy", "no"]
    quiet = ["--report_to", "none", "--disable_tqdm", "true"]
    run(
        "pretrain.py",
        str(RECIPE),
        *common,
        *settings,
        *flags,
        *length,
        *quiet,
        "--output_dir",
        str(output),
        threads=threads,
    )
    results = json.loads((output / "results.json").read_text())
    training = [entry for entry in results["history"] if "perplexity" in entry or "perplexity_0" in entry][-1]
    return {
        "name": name,
        "changes": changes,
        "flags": flags[:2] if "--statistics" in flags else [],
        "steps": arguments.steps,
        "seconds": results["seconds"],
        "parameters": results["parameters"],
        "perplexity": [value for key, value in training.items() if key.startswith("perplexity")],
        "top_token_share": [value for key, value in training.items() if key.startswith("top_token_share")],
        "scores": {name.removeprefix("eval_"): value for name, value in results["scores"].items()},
        "machine": results["machine"],
    }


def run(script: str, *arguments: str, threads: int | None) -> None:
    command = [sys.executable, str(ROOT / "recipes" / script), *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": str(threads)}, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr[-2000:]}")


def to_table(rows: list[dict]) -> str:
    lines = [
        f"{rows[0]['steps']} steps each; {rows[0]['machine']}.",
        "",
        "| | weights | time | perplexity | top token | cross-entropy | unigram's | accuracy | most frequent | copy |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        scores = row["scores"]
        cells = [
            row["name"],
            f"{row['parameters'] / 1e6:.1f} M",
            f"{row['seconds'] / 60:.1f} min",
            ", ".join(f"{value:.0f}" for value in row["perplexity"]),
            ", ".join(f"{value:.3f}" for value in row["top_token_share"]),
            f"{scores['cross_entropy']:.2f}",
            f"{scores['unigram_cross_entropy']:.2f}",
            f"{scores['accuracy']:.3f}",
            f"{scores['accuracy_most_frequent']:.3f}",
            f"{scores['accuracy_copy']:.3f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
