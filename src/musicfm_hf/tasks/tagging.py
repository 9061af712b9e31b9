"""
Tags: any number of them for each clip or song. The set of tags depends on the data set, so functions take it as
`labels`. Scores are those of scikit-learn.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .calibration import Rightness
from .spec import Score, SetScores, TaskSpec


def targets(tags: Sequence[str], labels: Sequence[str]) -> np.ndarray:
    """
    Compute the targets of a clip.

    Args:
        tags (`list[str]`): Tags of the clip; may be empty or contain duplicates.
        labels (`list[str]`): All tags.

    Returns:
        float32 `(len(labels),)`: 1 for tags of the clip, 0 for others.

    Raises:
        ValueError: if a tag is not among `labels`, or `labels` contains duplicates.
    """
    _check_labels(labels)
    if unknown := sorted(set(tags) - set(labels)):
        raise ValueError(f"Tags {unknown} are not among the {len(labels)} of the data: {', '.join(labels)}.")
    return np.array([label in tags for label in labels], dtype=np.float32)


def events(logits: np.ndarray, labels: Sequence[str]) -> dict[str, float]:
    """
    Return the tags of a song with their probabilities, averaged over its clips, with the highest first.

    Args:
        logits (`np.ndarray` of shape `(len(labels),)` or `(clips, len(labels))`): Scores before the sigmoid.
        labels (`list[str]`): Names of the columns.

    Raises:
        ValueError: if logits have another shape or are not finite, or have no clips.
    """
    _check_labels(labels)
    logits = np.asarray(logits, dtype=np.float64)
    if logits.ndim not in (1, 2) or not logits.size or logits.shape[-1] != len(labels):
        raise ValueError(f"Logits must have the shape ({len(labels)},) or (clips, {len(labels)}), got {logits.shape}.")
    if not np.isfinite(logits).all():
        raise ValueError(f"Logits must be finite, got {logits[~np.isfinite(logits)][0]}.")
    probabilities = np.exp(-np.logaddexp(0, -logits)).reshape(-1, len(labels)).mean(axis=0)
    order = np.argsort(-probabilities, kind="stable")
    return {labels[index]: float(probabilities[index]) for index in order}


def score(references: np.ndarray, estimates: np.ndarray, labels: Sequence[str]) -> dict:
    """
    Compute macro averages over tags of a set of songs.

    Args:
        references (`np.ndarray` of shape `(songs, len(labels))`): 1 if the song has the tag, and 0 otherwise.
        estimates (`np.ndarray` of shape `(songs, len(labels))`): Probabilities, or any scores in the same order.
        labels (`list[str]`): Names of the columns.

    Returns:
        map (`float`): Mean over tags of `sklearn.metrics.average_precision_score`.
        roc_auc (`float`): Mean over tags of `sklearn.metrics.roc_auc_score`. Both are nan if no tag can be scored.
        tags (`dict`): `{"map", "roc_auc", "positives"}` of each tag that some songs have and some do not.
        skipped (`list[str]`): The other tags, for which the scores are undefined.

    Raises:
        ValueError: if shapes do not agree, references are not 0 or 1, or estimates are not finite.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    references, estimates = _checked(references, estimates, labels)
    positives = references.sum(axis=0)
    tags = {
        label: {
            "map": float(average_precision_score(references[:, index], estimates[:, index])),
            "roc_auc": float(roc_auc_score(references[:, index], estimates[:, index])),
            "positives": int(positives[index]),
        }
        for index, label in enumerate(labels)
        if 0 < positives[index] < len(references)
    }
    return {
        **{name: float(np.mean([tag[name] for tag in tags.values()] or np.nan)) for name in ("map", "roc_auc")},
        "tags": tags,
        "skipped": [label for label in labels if label not in tags],
    }


def bootstrap(
    references: np.ndarray, estimates: np.ndarray, labels: Sequence[str], draws: int = 1000, seed: int = 0
) -> dict[str, np.ndarray]:
    """
    Compute the averages of [`score`] for bootstrap samples: sets of the same number of songs, drawn with replacement.
    The same seed draws the same songs, so that systems can be compared draw by draw.

    Args:
        references, estimates, labels: As for [`score`].
        draws (`int`): Number of sets.

    Returns:
        map, roc_auc (float64 `(draws,)`): Means over the tags that can be scored in a set.

    Raises:
        ValueError: as [`score`].
    """
    references, estimates = _checked(references, estimates, labels)
    songs = len(references)
    counts = np.random.default_rng(seed).multinomial(songs, np.full(songs, 1 / songs), size=draws).astype(np.int32)
    samples: dict[str, list[np.ndarray]] = {"map": [], "roc_auc": []}
    for truth, scores in zip(references.T, estimates.T, strict=True):
        order = np.argsort(-scores, kind="stable")
        last = np.flatnonzero(np.r_[np.diff(scores[order]) != 0, True])  # of each run of equal scores
        drawn = counts[:, order]  # (draws, songs)
        # Songs with the tag, and without it, from the highest score down to each distinct one: (draws, scores).
        right = np.pad((drawn * truth[order]).cumsum(axis=1)[:, last], [(0, 0), (1, 0)])
        wrong = np.pad(drawn.cumsum(axis=1)[:, last], [(0, 0), (1, 0)]) - right
        with np.errstate(divide="ignore", invalid="ignore"):  # nan if all songs of a set have the tag, or none has it
            precision = np.nan_to_num(right / (right + wrong))[:, 1:]
            average = (np.diff(right) * precision).sum(axis=1) / right[:, -1]
            area = (np.diff(wrong) * (right[:, 1:] + right[:, :-1]) / 2).sum(axis=1) / (right[:, -1] * wrong[:, -1])
        samples["map"].append(np.where(wrong[:, -1] > 0, average, np.nan))
        samples["roc_auc"].append(area)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Mean of empty slice")
        return {name: np.nanmean(values, axis=0) for name, values in samples.items()}


def _checked(references: np.ndarray, estimates: np.ndarray, labels: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Check references and estimates, both (songs, labels), and convert them to integers and float64."""
    _check_labels(labels)
    references, estimates = np.asarray(references), np.asarray(estimates, dtype=np.float64)
    if references.shape != estimates.shape or references.ndim != 2 or references.shape[1] != len(labels):
        raise ValueError(
            f"References and estimates must both have the shape (songs, {len(labels)}), got {references.shape} and "
            f"{estimates.shape}."
        )
    if not np.isin(references, (0, 1)).all():
        raise ValueError(f"References must be 0 or 1, got {references[~np.isin(references, (0, 1))][0]}.")
    if not np.isfinite(estimates).all():
        song, tag = np.argwhere(~np.isfinite(estimates))[0]
        raise ValueError(f"Estimates must be finite, got {estimates[song, tag]} for {labels[tag]!r} in song {song}.")
    return references.astype(int), estimates


def _check_labels(labels: Sequence[str]) -> None:
    """Raise a `ValueError` if labels are missing or contain duplicates."""
    if isinstance(labels, str) or not len(labels) or len(set(labels)) < len(labels):
        raise ValueError(f"`labels` must name at least one tag, without duplicates, got {labels!r}.")


def known_targets(tags: Sequence[str], labels: Sequence[str]) -> np.ndarray:
    """Compute [`targets`], ignoring tags that no training song has and that are therefore not in `labels`."""
    return targets([tag for tag in tags if tag in labels], labels)


def score_song(tags: Sequence[str], probabilities: Mapping[str, float]) -> dict[str, Any]:
    """
    Return the input of [`SetScores`]: the `probabilities` of all tags, sorted by name, and the `tags` of the song.
    """
    return {"probabilities": dict(sorted(probabilities.items())), "tags": list(tags)}


def right(tags: Sequence[str], probabilities: Mapping[str, float], results: Mapping[str, Any]) -> dict[str, Rightness]:
    """Return which tags a song has, in the order of `probabilities`."""
    has = np.array([float(tag in tags) for tag in probabilities])
    return {"tags": (has, np.ones(len(has)))}


def average(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Average over tags: `map` and `roc_auc` of [`score`]."""
    scores = score(*_to_arrays(rows))
    return {"map": scores["map"], "roc_auc": scores["roc_auc"]}


def details(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return, for `map` and `roc_auc`, the score of each of the `tags` and the list of `skipped` tags."""
    scores = score(*_to_arrays(rows))
    return {
        name: {"tags": {tag: values[name] for tag, values in scores["tags"].items()}, "skipped": scores["skipped"]}
        for name in ("map", "roc_auc")
    }


def _to_arrays(rows: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return references and estimates (songs, tags), and the tags."""
    labels = list(rows[0]["probabilities"])
    references = np.array([[label in row["tags"] for label in labels] for row in rows], dtype=int)
    return references, np.array([[row["probabilities"][label] for label in labels] for row in rows]), labels


TASK = TaskSpec(
    name="tagging",
    column="tags",
    order=4,
    labels=None,
    outputs=({"name": "tags", "size": None, "problem_type": "multi_label_classification", "loss_weight": 1.0},),
    label_rate=None,
    crop_seconds=29.1,
    empty_is_annotated=True,
    targets=known_targets,
    events=events,
    probabilities=None,
    right=right,
    silence=lambda duration: {},
    metric="map",
    scores={
        "map": Score("mean_average_precision", "mean average precision over tags"),
        "roc_auc": Score("roc_auc", "ROC-AUC over tags"),
    },
    score=score_song,
    set_scores=SetScores(
        average=average,
        draw=lambda rows, draws=1000: bootstrap(*_to_arrays(rows), draws),
        details=details,
        labels=lambda row: tuple(row["probabilities"]),
    ),
    about="Tags",
    limits="It predicts the tags of its training data and no others. A predicted tag that the labels lack is not "
    "necessarily wrong.",
    strip=None,
    file_format="tags",
)
