"""
Tags of a clip or a song, any number of them. Which tags there are is a matter of the data set: functions take them as
`labels`. Scores are scikit-learn's.
"""

import warnings
from collections.abc import Sequence

import numpy as np

LABELS = ()  # given by the data
# The one output is as large as the data has tags.
OUTPUTS = ({"name": "tags", "size": None, "problem_type": "multi_label_classification", "loss_weight": 1.0},)
PAPER_RATE = None  # a clip has one output
README_RATE = None
CROP_SECONDS = 29.1
METRIC = "map"


def targets(tags: Sequence[str], labels: Sequence[str]) -> np.ndarray:
    """
    Which of the tags a clip has.

    Args:
        tags (`list[str]`): Of the clip; none, or one twice, are fine.
        labels (`list[str]`): All tags.

    Returns:
        float32 `(len(labels),)`, 1 where the clip has the tag, else 0.

    Raises:
        ValueError: if a tag is not among `labels`, or these name one twice.
    """
    _check_labels(labels)
    if unknown := sorted(set(tags) - set(labels)):
        raise ValueError(f"Tags {unknown} are not among the {len(labels)} of the data: {', '.join(labels)}.")
    return np.array([label in tags for label in labels], dtype=np.float32)


def events(logits: np.ndarray, labels: Sequence[str]) -> dict[str, float]:
    """
    Tags of a song and their probabilities, the highest first: the mean over its clips.

    Args:
        logits (`np.ndarray` of shape `(len(labels),)` or `(clips, len(labels))`): Scores before the sigmoid.
        labels (`list[str]`): Names of the columns.

    Raises:
        ValueError: if logits have another shape or are not finite, or there are no clips.
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
    Macro averages over tags, of a whole set of songs.

    Args:
        references (`np.ndarray` of shape `(songs, len(labels))`): 1 where the song has the tag, else 0.
        estimates (`np.ndarray` of shape `(songs, len(labels))`): Probabilities, or any scores that rise with them.
        labels (`list[str]`): Names of the columns.

    Returns:
        map (`float`): Mean over tags of `sklearn.metrics.average_precision_score`.
        roc_auc (`float`): Mean over tags of `sklearn.metrics.roc_auc_score`. Both are nan if no tag can be scored.
        tags (`dict`): Of each tag that has a song with it and one without: `{"map", "roc_auc", "positives"}`.
        skipped (`list[str]`): The other tags: neither score says anything about them.

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
    What [`score`] gives for sets of as many songs, drawn with replacement. The same seed draws the same songs, so that
    systems can be compared draw by draw.

    Args:
        references, estimates, labels: As for [`score`].
        draws (`int`): How many sets.

    Returns:
        map, roc_auc (float64 `(draws,)`): Means over the tags that can be scored in a set.

    Raises:
        ValueError: as [`score`].
    """
    references, estimates = _checked(references, estimates, labels)
    songs = len(references)
    counts = np.random.default_rng(seed).multinomial(songs, np.full(songs, 1 / songs), size=draws).astype(np.int32)
    found: dict[str, list[np.ndarray]] = {"map": [], "roc_auc": []}
    for truth, scores in zip(references.T, estimates.T, strict=True):
        order = np.argsort(-scores, kind="stable")
        last = np.flatnonzero(np.r_[np.diff(scores[order]) != 0, True])  # of those with the same score
        drawn = counts[:, order]  # (draws, songs)
        # Songs with the tag, and without it, from the highest score down to each different one: (draws, scores).
        right = np.pad((drawn * truth[order]).cumsum(axis=1)[:, last], [(0, 0), (1, 0)])
        wrong = np.pad(drawn.cumsum(axis=1)[:, last], [(0, 0), (1, 0)]) - right
        with np.errstate(divide="ignore", invalid="ignore"):  # nan where a set has no song with or without the tag
            precision = np.nan_to_num(right / (right + wrong))[:, 1:]
            average = (np.diff(right) * precision).sum(axis=1) / right[:, -1]
            area = (np.diff(wrong) * (right[:, 1:] + right[:, :-1]) / 2).sum(axis=1) / (right[:, -1] * wrong[:, -1])
        found["map"].append(np.where(wrong[:, -1] > 0, average, np.nan))
        found["roc_auc"].append(area)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Mean of empty slice")
        return {name: np.nanmean(values, axis=0) for name, values in found.items()}


def _checked(references: np.ndarray, estimates: np.ndarray, labels: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """As integers and float64, both (songs, labels)."""
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
    if isinstance(labels, str) or not len(labels) or len(set(labels)) < len(labels):
        raise ValueError(f"`labels` must name at least one tag, and none twice, got {labels!r}.")
