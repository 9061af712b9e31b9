"""
Calibration of probabilities: that of the items (beats, chords, …) with a probability of 0.8, four of five are right.

The probability of an item is the average of a few outputs of the model, to which the decoder adds what it knows of the
whole song: a weak beat in a steady rhythm is more likely right than its frame shows. Therefore, the probabilities of
items are scaled, not the logits of frames: `sigmoid(slope · logit(p) + offset)`, with two numbers for each kind of
item, fitted on validation songs (Platt, *Probabilistic Outputs for Support Vector Machines*, 1999; the slope is the
inverse of the temperature of Guo et al., *On Calibration of Modern Neural Networks*, ICML 2017). The order of
probabilities, and everything that is decoded, stays as it was.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .annotations import Segment

BINS = 15  # of equal width, as in Guo et al. 2017
UNCERTAIN_SHARE = 0.5
SMALLEST = 1e-9  # probabilities are limited to this distance from 0 and 1
SMALLEST_SLOPE = 0.01  # so that the order of probabilities is kept, whatever validation songs show

Rightness = tuple[np.ndarray, np.ndarray]  # share of each item that is right, and its weight


class Items(NamedTuple):
    """
    Items of songs with their probabilities, which are compared with annotations.

    Attributes:
        probabilities (`np.ndarray` of shape `(items,)`): Probability of each item.
        right (`np.ndarray` of shape `(items,)`): 1 if the item is right, 0 if it is not; for a segment, the share of
            its time that is right.
        weights (`np.ndarray` of shape `(items,)`): Weight of each item: 1 or, for segments, the seconds that can be
            compared; 0 if an item cannot be compared.
    """

    probabilities: np.ndarray
    right: np.ndarray
    weights: np.ndarray


def join_items(parts: Iterable[Items]) -> Items:
    """Return the items of several songs as one."""
    columns = list(zip(*parts, strict=True)) or [[], [], []]
    return Items(*(np.concatenate([np.empty(0), *column]) for column in columns))


def fit_scaling(items: Items, share: float = UNCERTAIN_SHARE) -> dict[str, float]:
    """
    Fit the scaling of probabilities, and the threshold below which items are uncertain.

    The log-likelihood of the right items is maximized, with the targets of Platt 1999, which are slightly less than 1
    and more than 0, so that a few songs do not make the model certain. Weights are relative to their mean.

    Args:
        items ([`Items`]): Items of validation songs, with the probabilities of the model.
        share (`float`): Items below `uncertain_below` are right less often; see [`uncertainty_threshold`].

    Returns:
        `slope`, `offset` and `uncertain_below`; an empty mapping if no item can be compared.

    Raises:
        ValueError: if `share` is not between 0 and 1.
    """
    from scipy.optimize import minimize

    if not 0 <= share <= 1:
        raise ValueError(f"The share of right items must be between 0 and 1, got {share}.")
    items = _comparable(items)
    if not len(items.weights):
        return {}
    weights = items.weights / items.weights.mean()
    positives, negatives = (weights * items.right).sum(), (weights * (1 - items.right)).sum()
    high, low = (positives + 1) / (positives + 2), 1 / (negatives + 2)
    targets, logits = low + (high - low) * items.right, _logit(items.probabilities)
    weights = weights / weights.sum()

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        scaled = parameters[0] * logits + parameters[1]
        values = np.logaddexp(0, scaled) - targets * scaled
        errors = weights * (_sigmoid(scaled) - targets)
        return float(weights @ values), np.array([errors @ logits, errors.sum()])

    bounds = [(SMALLEST_SLOPE, None), (None, None)]
    slope, offset = minimize(loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=bounds).x
    scaling = {"slope": round(float(slope), 6), "offset": round(float(offset), 6)}
    scaled = items._replace(probabilities=scale(items.probabilities, scaling))
    return scaling | {"uncertain_below": round(uncertainty_threshold(scaled, share), 4)}


def scale(probabilities: np.ndarray, scaling: Mapping[str, float] | None) -> np.ndarray:
    """Apply the output of [`fit_scaling`] to probabilities; without a scaling, return them as they are."""
    if not scaling:
        return probabilities
    return _sigmoid(scaling["slope"] * _logit(np.asarray(probabilities, dtype=np.float64)) + scaling["offset"])


def is_uncertain(probabilities: np.ndarray, scaling: Mapping[str, float] | None) -> np.ndarray | None:
    """
    Return which of the probabilities, after [`scale`], are below the threshold; `None` without a threshold.
    """
    threshold = (scaling or {}).get("uncertain_below")
    return None if threshold is None else np.asarray(probabilities) < threshold


def uncertainty_threshold(items: Items, share: float = UNCERTAIN_SHARE) -> float:
    """
    Return the probability at which the share of right items passes `share`: items with a lower probability are right
    less often, and items with a higher probability more often. It is the threshold that minimizes the sum of
    `weight · (right − share)` over the items below it, where the isotonic regression of right items passes `share`.

    Returns:
        A probability halfway between two items, 0 if no items are right less often than `share`, and 1 if all are.
    """
    items = _comparable(items)
    order = np.argsort(items.probabilities, kind="stable")
    probabilities, right, weights = (column[order] for column in items)
    sums = np.r_[0.0, (weights * (right - share)).cumsum()]  # of no item, one item, …
    sums[1:-1][np.diff(probabilities) == 0] = np.inf  # items with equal probabilities stay together
    below = int(np.flatnonzero(sums <= sums.min() + 1e-9)[0])
    if below in (0, len(order)):
        return float(below > 0)
    return float(probabilities[below - 1 : below + 1].mean())


def bin_errors(items: Items, bins: int = BINS) -> tuple[np.ndarray, float]:
    """
    Return the sum of `weight · (right − probability)` in each bin of equal width `(bins,)`, and the sum of all
    weights. Those of several songs can be added.
    """
    items = _comparable(items)
    places = np.minimum((items.probabilities * bins).astype(int), bins - 1)
    errors = items.weights * (items.right - items.probabilities)
    return np.bincount(places, errors, bins), float(items.weights.sum())


def calibration_error(items: Items, bins: int = BINS) -> float:
    """
    Compute the expected calibration error (ECE; Naeini et al. 2015, Guo et al. 2017): the mean difference between the
    probability and the share of right items, over bins of equal width, weighted by the weights of their items.

    Returns:
        0 to 1; nan if no item can be compared.
    """
    errors, total = bin_errors(items, bins)
    return float(np.abs(errors).sum() / total) if total else float("nan")


def time_right(
    reference: Sequence[Segment],
    estimate: Sequence[Segment],
    compare: Callable[[list[str], list[str]], Any],
) -> Rightness:
    """
    Compute the share of the time of each estimated segment that is right.

    Args:
        reference (`list[Segment]`): Annotated segments. Time without a label is not compared.
        estimate (`list[Segment]`): Segments to compare.
        compare (`Callable`): Reference and estimated labels → for each pair the share that is right, or a negative
            number if it is not compared, as the comparisons of `mir_eval.chord` return.

    Returns:
        The shares `(segments,)`, and the seconds that are compared `(segments,)`.
    """
    pieces = [
        (index, min(ours.end, theirs.end) - max(ours.start, theirs.start), theirs.label, ours.label)
        for index, ours in enumerate(estimate)
        for theirs in reference
        if min(ours.end, theirs.end) > max(ours.start, theirs.start)
    ]
    seconds, right = np.zeros((2, len(estimate)))
    if pieces:
        indices, lengths, expected, labels = map(list, zip(*pieces, strict=True))
        scores = np.asarray(compare(expected, labels), dtype=np.float64)
        known = np.where(scores >= 0, lengths, 0.0)
        np.add.at(seconds, indices, known)
        np.add.at(right, indices, known * scores.clip(0))
    return right / np.maximum(seconds, np.finfo(float).tiny), seconds


def equal_labels(parse: Callable[[str], str | None]) -> Callable[[list[str], list[str]], list[float]]:
    """Return a comparison for [`time_right`]: 1 if the parsed labels are equal, -1 if the reference has none."""

    def compare(expected: list[str], labels: list[str]) -> list[float]:
        pairs = zip(map(parse, expected), map(parse, labels), strict=True)
        return [-1.0 if known is None else float(known == label) for known, label in pairs]

    return compare


def _comparable(items: Items) -> Items:
    """Return the items that can be compared."""
    return Items(*(np.asarray(column, dtype=np.float64)[np.asarray(items.weights) > 0] for column in items))


def _logit(probabilities: np.ndarray) -> np.ndarray:
    limited = np.clip(probabilities, SMALLEST, 1 - SMALLEST)
    return np.log(limited) - np.log1p(-limited)


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -values))
