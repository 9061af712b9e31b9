"""Scores on cards: rows of their tables, and entries of their metadata."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult

from ..tasks import get_task
from ..tasks.retrieval import RETRIEVAL_SCORES, RETRIEVAL_TASKS
from ..tasks.spec import Score
from ..training.files import matching_files

MUSIC_AND_TEXT = "music and text"  # `task` in the results of `musicfm train-text-audio`

# Scores of models of music and text: name → (kind of the score, label), for both directions.
TEXT_AUDIO_SCORES = {
    f"{direction}_{name}": (kind, f"{label}, {shown}")
    for direction, shown in (("text_to_music", "text to music"), ("music_to_text", "music to text"))
    for name, kind, label in (
        ("recall_at_1", "recall_at_1", "recall at 1"),
        ("recall_at_5", "recall_at_5", "recall at 5"),
        ("recall_at_10", "recall_at_10", "recall at 10"),
        ("map", "mean_average_precision", "mean average precision"),
        ("median_rank", "median_rank", "median rank"),
    )
}


PRETRAINING_SCORES = {
    "eval_cross_entropy": "cross-entropy (nats)",
    "eval_unigram_cross_entropy": "cross-entropy of the token frequencies (baseline)",
    "eval_accuracy": "accuracy",
    "eval_accuracy_most_frequent": "accuracy of always predicting the most frequent token (baseline)",
    "eval_accuracy_copy": "accuracy of copying the nearest unmasked token (baseline)",
}


def pretraining_rows(scores: Mapping[str, float | None]) -> list[dict[str, str]]:
    """Return rows of the scores of masked pretraining, for the table of a card."""
    return [
        {"label": label, "shown": f"{scores[name]:.3f}"}
        for name, label in PRETRAINING_SCORES.items()
        if scores.get(name) is not None  # nan is written as null
    ]


def text_audio_rows(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Return rows of the scores of test songs, for the table of a card and for its metadata."""
    scores, tested = results["scores"].get("test", {}), results["test_data"]
    return [
        {"kind": kind, "label": label, "value": scores[name]["mean"], "songs": scores[name]["songs"]}
        | {
            "data": tested["name"],
            "hub_id": tested.get("hub_id"),
            "split": "test",
            "shown": f"{scores[name]['mean']:.3f}",
        }
        | {"interval": "{:.3f} to {:.3f}".format(*scores[name]["interval"]), "chance": f"{scores[name]['chance']:.3f}"}
        for name, (kind, label) in TEXT_AUDIO_SCORES.items()
        if name in scores and scores[name]["mean"] is not None
    ]


def eval_results(task: str, rows: list[dict[str, Any]]) -> list[EvalResult]:
    """Return rows of scores as metadata of a card."""
    return [
        EvalResult(
            task_type="audio-classification",
            task_name=task,
            dataset_type=row["hub_id"] or row["data"],
            dataset_name=row["data"],
            dataset_split=row["split"],
            metric_type=row["kind"],
            metric_name=row["label"],
            metric_value=row["value"],
        )
        for row in rows
    ]


def score_rows(folder: Path, results: dict[str, Any], name: str | None = None) -> list[dict[str, Any]]:
    """
    Return rows of scores and calibration errors on test songs, from the training run and from evaluations on other
    data. There, the model has the name of the folder, or `name`, the last parts of its path.
    """
    rows = []
    tested = {key: results.get(key, {}).get("test", {}) for key in ("scores", "calibration")}
    listed = _listed_scores(results["task"], results.get("settings", {}).get("vocabulary"))
    evaluations = _evaluations(folder, results, name or folder.resolve().name)
    for data, split, entry in [(results["data"], "test", tested), *evaluations]:
        found = [(listed[key], entry["scores"][key]) for key in listed if key in entry["scores"]]
        for kind, summary in entry.get("calibration", {}).items():
            songs = max((value["songs"] for _, value in found), default=0)
            error = Score("expected_calibration_error", f"calibration error of {kind.replace('_', ' ')}")
            found.append((error, summary["ece"] | {"songs": songs}))
        for score, value in found:
            if value["mean"] is not None and not math.isnan(value["mean"]):
                low, high = value.get("interval", (None, None))
                rows.append(
                    {"data": data["name"], "hub_id": data.get("hub_id"), "split": split}
                    | {"kind": score.kind, "label": score.label, "value": value["mean"], "songs": value["songs"]}
                    | {"shown": f"{value['mean']:.3f}", "interval": "" if low is None else f"{low:.3f} to {high:.3f}"}
                )
    return rows


def joint_score_rows(folder: Path, results: dict[str, Any]) -> list[dict[str, Any]]:
    """Return rows of the scores of models that were trained jointly, and of their heads for retrieval, by `task`."""
    rows = []
    for task, source in results["data"]["tasks"].items():
        of_task = results | {"task": task, "data": source}
        for key in ("scores", "calibration"):
            of_task[key] = {split: parts[task] for split, parts in results.get(key, {}).items() if task in parts}
        of_task["settings"] = {"vocabulary": results["settings"].get(f"{task}.vocabulary")}
        rows += [row | {"task": task} for row in score_rows(folder, of_task, f"{folder.resolve().name}/{task}")]
    for task, of_head in retrieval_heads(folder).items():
        rows += [row | {"task": task} for row in score_rows(folder / task, of_head)]
    return rows


def retrieval_heads(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the results of the heads for retrieval that were added to models that were trained jointly, by task."""
    files = {task: folder / task / "results.json" for task in RETRIEVAL_TASKS}
    return {task: json.loads(path.read_text(encoding="utf-8")) for task, path in files.items() if path.is_file()}


def _listed_scores(task: str, vocabulary: str | None) -> Mapping[str, Score]:
    """Return the scores of a task that cards list."""
    return RETRIEVAL_SCORES if task in RETRIEVAL_TASKS else get_task(task, vocabulary).scores


def _evaluations(folder: Path, results: dict[str, Any], name: str) -> list[tuple[dict[str, Any], str, dict[str, Any]]]:
    """
    Return the data, split and results of each file in `evaluations`.

    Raises:
        ValueError: an evaluation is for another model, or for songs that this model was trained on.
    """
    evaluations, last = [], len(Path(name).parts)
    for path in matching_files(folder / "evaluations", "*.json"):
        evaluation = json.loads(path.read_text(encoding="utf-8"))
        found = [
            entry for model, entry in evaluation["models"].items() if Path(*Path(model).parts[-last:]) == Path(name)
        ]
        if not found and last > 1:
            continue  # of other tasks
        if not found:
            raise ValueError(
                f"{path} has scores of {', '.join(evaluation['models'])}, but not of {name}. Remove the file."
            )
        if evaluation["split"] == "train" and evaluation["music"]["name"] == results["data"]["name"]:
            raise ValueError(f"{path} has scores of songs that {name} was trained on. Remove the file.")
        split = evaluation["split"] + (", with audio effects" if evaluation.get("effects") else "")
        evaluations.append((evaluation["music"], split, found[0]))
    return evaluations
