"""
Compare chroma, MFCCs, means over frames, probes, full fine-tuning and LoRA on the retrieval tasks.

    musicfm prepare pop909 --source POP909 --output_dir data/versions --arranged --versions 2
    python benchmarks/retrieval.py --model runs/small --data data/versions --runs runs/retrieval
    python benchmarks/retrieval.py --data data/versions --runs runs/small_model --store retrieval_small_model
    python benchmarks/retrieval.py --table  # only write the table of recorded runs

All settings are chosen on the validation songs: those of the baselines, and the layer and the normalization of the
means over frames, whose statistics are those of training songs. Probes read a learned sum of all layers and have
three seeds. Full fine-tuning and LoRA continue from the first probe with the same loss, encoder included. "Full, then
probe" trains the second part of the head on the result, as in a probe. All use `musicfm finetune`, and their commands
are recorded with their scores.

Runs are recorded in `runs.json` and `songs.parquet` in `--store`, and not repeated, so an interrupted call can be
repeated, and several processes can share the work (`--tasks`, `--rows`). The script writes `retrieval.json` and
`retrieval.md` beside the store; differences are over test songs, with the paired bootstrap.
"""

import argparse
import json
import shlex
from collections.abc import Callable, Sequence
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from processes import musicfm
from reporting import RESULTS
from retrieval_table import (
    FULL,
    FULL_PROBE,
    LOSSES,
    MEANS,
    METHODS,
    ON_PAIRS,
    PROBE,
    RANDOM_PROBE,
    ROWS,
    write_table,
)
from run_store import RunStore
from transformers import AutoConfig, AutoModel

from musicfm_hf import SMALL_MODEL, MusicFMModel
from musicfm_hf.data.labeled_dataset import load_songs
from musicfm_hf.evaluation.retrieval import average_searches, score_vectors, searches_with_intervals, whitening
from musicfm_hf.evaluation.retrieval_baselines import (
    RETRIEVAL_BASELINES,
    choose_settings,
    frames_of_songs,
    search_with,
)
from musicfm_hf.inference.embedding import WindowSettings
from musicfm_hf.inference.excerpts import mean_excerpts
from musicfm_hf.inference.feature_cache import EncoderFeatures, FeatureCache
from musicfm_hf.tasks.retrieval import METRIC, RETRIEVAL_TASKS, Search, get_retrieval_task
from musicfm_hf.training.records import environment, strip_absolute_paths

SEEDS = (1, 2, 3)
SEVERAL_SEEDS = (PROBE, FULL_PROBE)  # in the others, an encoder is trained
# The encoder learns from pairs too, as a control of the loss on pitch.
ON_PAIRS_FLAGS = ["--pitch_loss", "false", "--encoder_learning_rate", "3e-4", "--warmup_steps", "10"]
ON_PAIRS_FLAGS += [word for name in ("max", "eval", "save") for word in (f"--{name}_steps", "80")]
SHARES = {"centered": np.inf, "whitened": 0.01}  # see `whitening`


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=SMALL_MODEL, help="pretrained encoder; by default that of the small model")
    parser.add_argument("--data", help="data set with two versions of each song")
    parser.add_argument("--runs", type=Path, help="folder for the trained models")
    parser.add_argument("--tasks", nargs="+", default=list(RETRIEVAL_TASKS), choices=list(RETRIEVAL_TASKS))
    parser.add_argument("--rows", nargs="+", default=ROWS, choices=ROWS)
    parser.add_argument("--cache", default=".features", help="folder for features of frozen encoders")
    parser.add_argument("--store", type=Path, default=RESULTS / "retrieval", help="folder for recorded runs")
    parser.add_argument("--table", action="store_true", help="do not run anything; only write the table")
    arguments, arguments.flags = parser.parse_known_args()
    if not arguments.table:
        if missing := [name for name in ("data", "runs") if getattr(arguments, name) is None]:
            parser.error(f"without --table, these are needed: {', '.join(f'--{name}' for name in missing)}")
        study = Study(arguments)
        for row in arguments.rows:
            for task in arguments.tasks:
                study.run_row(task, row)
    write_table(arguments.store)


class Study:
    """All runs for the retrieval tasks. Songs and features are read once."""

    def __init__(self, arguments: argparse.Namespace):
        self.arguments = arguments
        self.store = RunStore(arguments.store)
        self.split = cache(partial(load_songs, arguments.data))
        self.search = cache(lambda task, split: get_retrieval_task(task).search(self.split(split)))
        self.frames = cache(lambda split: frames_of_songs(self.split(split)))
        self.features = cache(lambda is_random, layer: self._features(is_random, layer))

    def run_row(self, task: str, row: str) -> None:
        """Execute the runs of a row for a task that the store does not have."""
        if row in RETRIEVAL_BASELINES:
            self.record(f"{task}_{row}", task, row, partial(self.baseline, task, row))
        elif row in MEANS:
            self.record(f"{task}_{row}", task, row, partial(self.mean, task, row != MEANS[1]))
        elif row == RANDOM_PROBE:
            self.train(task, row, "probe", "info_nce", SEEDS[0], ["--random_encoder", "true"])
        else:
            name, loss = row.rsplit(", ", 1)
            for seed in SEEDS if name in SEVERAL_SEEDS else SEEDS[:1]:
                self.train(task, row, METHODS[name], LOSSES[loss], seed, ON_PAIRS_FLAGS if name == ON_PAIRS else [])

    def record(self, name: str, task: str, row: str, run: Callable[[], dict[str, Any]]) -> None:
        """Record the results of a run that the store does not have."""
        if self.store.read_run(name) is not None:
            return
        print(f"{name} …", flush=True)
        results = {"row": row, "task": task} | run()
        self.store.write({name: results})
        means = {split: values[METRIC]["mean"] for split, values in results["scores"].items()}
        print("  " + ", ".join(f"{split} {value:.4f}" for split, value in means.items()), flush=True)

    def train(self, task: str, row: str, method: str, loss: str, seed: int, flags: Sequence[str] = ()) -> None:
        """Train a model with `musicfm finetune`, and record its results."""
        arguments, name = self.arguments, run_name(task, row, seed)
        base = ["--model", arguments.model]
        if method != "probe" or row.startswith(FULL_PROBE):
            start, loss_name = FULL if method == "probe" else PROBE, row.rsplit(", ", 1)[1]
            base = ["--model", str(arguments.runs / run_name(task, f"{start}, {loss_name}", SEEDS[0]))]
            base += ["--keep_head", "true"]
        words = [*base, "--data", arguments.data, "--task", task, "--loss", loss, "--seed", str(seed), *flags]
        words += ["--output_dir", str(arguments.runs / name)]
        recipes = [f"retrieval/{method}", f"small/retrieval_{method}"]

        def run() -> dict[str, Any]:
            places = ["--results", str(arguments.runs / "results"), "--cache", arguments.cache]
            musicfm("finetune", *recipes, *words, *places, "--disable_tqdm", "true", *arguments.flags)
            results = json.loads((arguments.runs / name / "results.json").read_text())
            shown = [Path(word).name if word.startswith("/") else word for word in [*words, *arguments.flags]]
            return results | {"command": shlex.join(["musicfm", "finetune", *recipes, *shown])}

        self.record(name, task, row, run)

    def baseline(self, task: str, name: str) -> dict[str, Any]:
        """Score a baseline with the settings that are best on validation songs."""
        settings, validation = choose_settings(name, self.search(task, "validation"), self.frames("validation"))
        test = search_with(name, self.search(task, "test"), self.frames("test"), settings)
        return self.results({"validation": validation, "test": test}) | {
            "about": RETRIEVAL_BASELINES[name].about,
            "chosen": settings,
            "librosa": version("librosa"),
        }

    def mean(self, task: str, is_random: bool) -> dict[str, Any]:
        """Score means over frames, of the layer and with the normalization that are best on validation songs."""
        tried = []
        for layer in range(AutoConfig.from_pretrained(self.arguments.model).num_hidden_layers + 1):
            features = self.features(is_random, layer)
            embed = partial(mean_excerpts, cache=features)
            training = embed(self.search(task, "train").queries)
            for name, share in SHARES.items():
                scale = whitening(training, share)
                scores = _score_means(self.search(task, "validation"), embed, scale)
                tried.append((average_searches(scores)[METRIC], layer, name, scores, embed, scale))
        _, layer, name, validation, embed, scale = max(tried, key=lambda one: one[0])
        test = _score_means(self.search(task, "test"), embed, scale)
        return self.results({"validation": validation, "test": test}) | {
            "about": "mean over frames",
            "chosen": {"layer": layer, "normalization": name},
        }

    def results(self, scores: dict[str, dict[str, dict[str, float]]]) -> dict[str, Any]:
        """Return scores of songs with their averages, and the environment."""
        summary = {split: searches_with_intervals(songs) for split, songs in scores.items()}
        return (
            strip_absolute_paths({"data": self.arguments.data})
            | {"scores": summary, "scores_of_songs": scores}
            | environment()
        )

    def _features(self, is_random: bool, layer: int) -> FeatureCache:
        """Return the cache of one layer of the encoder, after computing all layers of all songs in one pass."""
        torch.manual_seed(SEEDS[0])
        config = AutoConfig.from_pretrained(self.arguments.model)
        encoder = MusicFMModel(config) if is_random else AutoModel.from_pretrained(self.arguments.model)
        settings = WindowSettings(window_seconds=30.0, batch_size=8)
        songs = [song for split in ("train", "validation", "test") for song in self.split(split)]
        all_layers = EncoderFeatures(encoder, range(config.num_hidden_layers + 1), settings)
        FeatureCache(self.arguments.cache, all_layers).fill(songs, 1)
        return FeatureCache(self.arguments.cache, EncoderFeatures(encoder, [layer], settings))


def run_name(task: str, row: str, seed: int) -> str:
    """Return the name of a run, which is that of its folder."""
    return f"{task}_{row}_{seed}".replace(", ", "_").replace(" ", "-")


def _score_means(
    search: Search, embed: Callable[[list], np.ndarray], scale: tuple[np.ndarray, np.ndarray]
) -> dict[str, dict[str, float]]:
    """Score a search by the means over frames of its excerpts, centered and scaled."""
    mean, matrix = scale
    queries, gallery = ((embed(part) - mean) @ matrix for part in (search.queries, search.gallery))
    return score_vectors(search, queries, gallery)


if __name__ == "__main__":
    main()
