"""
Compare chord vocabularies on the same songs: templates, and models that were fine-tuned alike but for the vocabulary.

    python benchmarks/chords.py --data data/pop909 --runs runs/chords
    python benchmarks/chords.py --data data/pop909 --runs runs/chords --only train --systems full
    python benchmarks/chords.py --data data/pop909 --runs runs/chords_kmeans --model runs/small_kmeans

Models are trained as `musicfm finetune chord/full small/full --vocabulary …` does, with the same seed, but only some
validation songs are scored. They start from the head of a probe on some of the training songs and, by default, from
the encoder of the small model. Smoothing, with what was learned from training songs, is used for a model if it raises
its score on these validation songs. Test songs are scored once.

Models, logits and estimates are kept in `--runs`, and not computed again. With `--only`, a call computes the models
(`train`), the logits (`logits`) or the estimates of templates (`templates`) of some systems and no table, so that
processes can share the work.

The table has all comparisons of `mir_eval.chord` over test songs, paired differences from the first model with Holm's
correction for all of them, and the share of the time that is right for each type of chord.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from chords_table import METRICS, write_table
from machine import describe
from probes import parse, recipes
from reporting import RESULTS
from transformers import AutoConfig

from musicfm_hf import SMALL_MODEL
from musicfm_hf.data.labeled import LabeledSong
from musicfm_hf.evaluation.baselines import BASELINES, fit_priors
from musicfm_hf.evaluation.bootstrap import correct_intervals
from musicfm_hf.evaluation.classical import features_of_songs
from musicfm_hf.evaluation.scoring import Scores, average_scores, difference_of_systems, scores_with_intervals
from musicfm_hf.finetuning.run import finetune, read_split, read_splits, save_run
from musicfm_hf.inference.annotators import load_annotators
from musicfm_hf.inference.embedding import WindowSettings
from musicfm_hf.inference.logits import song_logits
from musicfm_hf.model.configuration_musicfm import MusicFMConfig
from musicfm_hf.tasks import get_task, task_of
from musicfm_hf.tasks.annotations import Segment
from musicfm_hf.tasks.chord_scores import score_types
from musicfm_hf.training.files import complete_file, write_json
from musicfm_hf.training.records import environment, strip_absolute_paths

TASK = "chord"
MODELS = ("majmin", "full")
TEMPLATES = ("templates_true_beats", "templates_sevenths", "templates_inversions", "templates_full")
SCORED_STEPS = 400  # steps between scores of validation songs, which choose the checkpoint
DRAWS = 40_000  # bootstrap samples of a difference; the smallest level after the correction needs many
SMOOTHING = ("chord_seconds", "kinds")  # settings of the decoder

Estimates = Mapping[str, Sequence[Segment]]  # song id → chords


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=SMALL_MODEL, help="pretrained encoder; by default that of the small model")
    parser.add_argument("--data", required=True, help="data set made by `musicfm prepare`")
    parser.add_argument("--runs", type=Path, required=True, help="folder for models, logits and estimates")
    parser.add_argument("--systems", nargs="+", default=list(MODELS), choices=MODELS, help="models")
    parser.add_argument("--cache", default=".features", help="folder for features of the encoder, for the probes")
    parser.add_argument("--probe_songs", type=int, default=100, help="training songs of the probes")
    parser.add_argument("--steps", type=int, default=800, help="steps of training")
    parser.add_argument("--batch_size", type=int, default=8, help="crops in a step")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--validation_songs", type=int, default=20, help="songs on which the decoder is chosen")
    parser.add_argument("--limit", type=int, help="maximum number of test songs")
    parser.add_argument("--only", choices=["train", "logits", "templates"], help="do only this, and no table")
    parser.add_argument("--output_file", type=Path, default=RESULTS / "chords.json")
    arguments = parser.parse_args()
    settings, _ = parse(TASK, "probe", flags_of(MODELS[0], "probe", arguments))
    test = read_split(settings, "test")[: arguments.limit]
    validation = read_split(settings, "validation")[: arguments.validation_songs]
    for system in arguments.systems if arguments.only != "templates" else ():
        train(system, arguments)
        if arguments.only != "train":
            is_smoothed = get_task(TASK, system).learn_decoding is not None
            logits_of(arguments.runs / system, [*(validation if is_smoothed else ()), *test])
    if arguments.only in ("train", "logits"):
        return
    templates = template_estimates(test, arguments.runs)
    if arguments.only is None:
        write_table(arguments.output_file, collect(arguments, validation, test, templates))


def flags_of(vocabulary: str, method: str, arguments: argparse.Namespace) -> list[str]:
    """Return the flags of `musicfm finetune chord/METHOD small/METHOD`. Full fine-tuning starts from the probe."""
    probe = str(arguments.runs / f"{vocabulary}-probe")
    flags = ["--data", arguments.data, "--vocabulary", vocabulary, "--seed", str(arguments.seed)]
    flags += ["--use_cpu", "true", "--dataloader_num_workers", "0", "--report_to", "none"]
    if method == "probe":
        songs = ["--max_train_songs", str(arguments.probe_songs)]
        return [*flags, "--model", arguments.model, *songs, "--output_dir", probe]
    steps, scored = str(arguments.steps), str(min(arguments.steps, SCORED_STEPS))
    flags += ["--model", probe, "--keep_head", "true", "--probe_steps", "0", "--transpose", "false", "--speed", "5"]
    flags += ["--max_steps", steps, "--eval_steps", scored, "--save_steps", scored]
    flags += ["--per_device_train_batch_size", str(arguments.batch_size)]
    return [*flags, "--output_dir", str(arguments.runs / vocabulary)]


def train(vocabulary: str, arguments: argparse.Namespace) -> None:
    """Train a model unless it exists. Test songs are not read."""
    for method in ("probe", "full"):
        words = [*flags_of(vocabulary, method, arguments), "--results", str(arguments.runs / "results")]
        if (Path(words[words.index("--output_dir") + 1]) / "results.json").is_file():
            continue
        settings, training = parse(TASK, method, [*words, "--cache", arguments.cache])
        splits = read_splits(settings)
        songs = {"train": splits["train"], "validation": splits["validation"][: arguments.validation_songs]}
        save_run(finetune(settings, training, songs), settings, training)


def logits_of(folder: Path, songs: Sequence[LabeledSong]) -> dict[str, np.ndarray]:
    """Return the logits of songs, float32 `(label frames, labels)`. Missing ones are computed."""
    paths = {song.id: folder / "logits" / f"{song.id.replace('/', '_')}.npy" for song in songs}
    missing = [song for song in songs if not paths[song.id].is_file()]
    if missing:
        (folder / "logits").mkdir(exist_ok=True)
        (model,) = load_annotators([folder]).values()
        for song, values in song_logits(model, missing, WindowSettings(batch_size=8)):
            with complete_file(paths[song.id]) as path, open(path, "wb") as file:
                np.save(file, values.astype(np.float32))
    return {name: np.load(path) for name, path in paths.items()}


def template_estimates(songs: Sequence[LabeledSong], runs: Path) -> dict[str, Estimates]:
    """Return the chords of each template method, after computing them unless they are in the folder."""
    path = runs / "templates.json"
    if not path.is_file():
        features = features_of_songs(songs, beats=False, chroma=True, num_workers=0, bass=True)
        priors = fit_priors([])
        estimates = {
            name: {song.id: BASELINES[name].estimate(song, features[song.id], priors) for song in songs}
            for name in TEMPLATES
        }
        write_json(path, estimates)
    stored = json.loads(path.read_text())
    return {name: {song.id: [Segment(*row) for row in stored[name][song.id]] for song in songs} for name in TEMPLATES}


def collect(
    arguments: argparse.Namespace,
    validation: Sequence[LabeledSong],
    test: Sequence[LabeledSong],
    templates: Mapping[str, Estimates],
) -> dict[str, Any]:
    """Return the scores of all systems on test songs, and the differences from the first model."""
    systems: dict[str, dict[str, Any]] = {}
    estimates: dict[str, Estimates] = dict(templates)
    for name in TEMPLATES:
        systems[name] = {"about": BASELINES[name].about}
    for name in arguments.systems:
        folder = arguments.runs / name
        config, chosen = choose_decoder(AutoConfig.from_pretrained(folder), folder, validation)
        systems[name] = {"about": task_of(config).about, "commands": commands_of(name, arguments), **chosen}
        logits = logits_of(folder, test)
        estimates[name] = {song.id: task_of(config).decode(config, logits[song.id]) for song in test}
    of_songs = {name: score_songs(test, chords) for name, chords in estimates.items()}
    first = arguments.systems[0]
    for name, system in systems.items():
        system["scores"] = scores_with_intervals(MusicFMConfig(task=TASK), of_songs[name])
        pairs = [(song.chords or [], estimates[name][song.id]) for song in test]
        system["types"] = score_types(pairs)
    used = {"steps": arguments.steps, "batch_size": arguments.batch_size, "seed": arguments.seed}
    used |= {"probe_songs": arguments.probe_songs, "data": arguments.data, "first": first}
    used |= {"songs": {"validation": len(validation), "test": len(test)}}
    found = {"systems": systems, "differences": {TASK: compare(of_songs, first)}, "machine": describe("cpu")}
    return strip_absolute_paths(used) | found | environment()


def commands_of(vocabulary: str, arguments: argparse.Namespace) -> list[str]:
    """Return the commands that train a model as this script does."""
    commands = []
    for method in ("probe", "full"):
        words = ["musicfm", "finetune", *recipes(TASK, method), *flags_of(vocabulary, method, arguments)]
        commands.append(" ".join(strip_absolute_paths({"words": words})["words"]))
    return commands


def compare(of_songs: Mapping[str, Scores], first: str) -> dict[str, dict[str, Any]]:
    """Return the differences of the other systems from the first, with Holm's correction for all of them."""
    drawn = {
        f"{metric}: {name} − {first}": difference_of_systems(TASK, [of_songs[first]], [scores], metric, DRAWS)
        for name, scores in of_songs.items()
        for metric in METRICS
        if name != first
    }
    corrected = correct_intervals(drawn)
    return {name: {"mean": difference.mean} | corrected[name] for name, difference in drawn.items()}


def choose_decoder(
    config: MusicFMConfig, folder: Path, songs: Sequence[LabeledSong]
) -> tuple[MusicFMConfig, dict[str, Any]]:
    """
    Return the configuration with or without smoothing, whichever scores higher on songs, and both scores; without
    learned settings, the configuration as it is.
    """
    if not config.decoding:
        return config, {}
    logits, metric = logits_of(folder, songs), task_of(config).metric
    scores = {}
    for smoothing in (False, True):
        candidate = with_smoothing(config, smoothing)
        chords = {song.id: task_of(candidate).decode(candidate, logits[song.id]) for song in songs}
        scores[smoothing] = average_scores(candidate, score_songs(songs, chords))[metric]
    best = max(scores, key=scores.__getitem__)
    learned = (config.decoding or {}).get("chord_seconds")
    chosen = {"metric": metric, "validation": {"as it is": scores[False], "smoothed": scores[True]}}
    return with_smoothing(config, best), chosen | {"smoothed": best, "chord_seconds": learned}


def with_smoothing(config: MusicFMConfig, smoothing: bool) -> MusicFMConfig:
    """Return a configuration whose decoder smooths with the learned settings, if it has any, or does not."""
    decoding = {key: value for key, value in (config.decoding or {}).items() if smoothing or key not in SMOOTHING}
    return MusicFMConfig.from_dict(config.to_dict() | {"decoding": decoding})


def score_songs(songs: Sequence[LabeledSong], estimates: Estimates) -> Scores:
    """Return the scores of each song."""
    spec = get_task(TASK)
    return {song.id: spec.score_song(spec.annotation_of(song), estimates[song.id]) for song in songs}


if __name__ == "__main__":
    main()
