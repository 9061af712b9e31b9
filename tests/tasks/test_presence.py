"""Music or no music: labels, decoding, scores."""

import numpy as np
import pytest
from helpers.models import config_of

from musicfm_hf.tasks import get_task
from musicfm_hf.tasks.annotations import Segment
from musicfm_hf.tasks.presence import average, events, label_of, music_parts, score


def test_kinds_of_sounds():
    assert [label_of(text) for text in ("music", "music and speech", "speech", "no music")] == [
        "music", "music", "no music", "no music",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="'song' is not one of music, no music"):
        label_of("song")


def test_targets_are_those_of_most_of_a_frame():
    config = config_of("presence", 1.0)
    annotation = [Segment(0, 1.6, "music and speech"), Segment(1.6, 3, "applause")]
    targets = get_task("presence").make_targets(config, annotation, 4)
    assert targets.tolist() == [[1, 0], [1, 0], [0, 1], [-100, -100]]


def test_short_parts_are_not_decoded():
    logits = np.zeros((50, 2))
    logits[:, 0] = 1.0
    logits[20:22] = [0.0, 1.0]  # 0.4 s
    logits[40:] = [0.0, 1.0]
    assert events(logits, 5.0) == [Segment(0.0, 8.0, "music"), Segment(8.0, 10.0, "no music")]
    assert len(events(logits, 5.0, min_seconds=0.0)) == 4  # music, no music, music, no music
    assert music_parts(events(logits, 5.0)) == [True, False]


def test_a_threshold_favors_music():
    """Log-odds of no music of 2 are a probability of .88, those of 3 one of .95."""
    logits = np.zeros((40, 2))
    logits[:, 0] = 5.0
    logits[10:20] = [0.0, 2.0]
    logits[30:] = [0.0, 3.0]
    assert [segment.start for segment in events(logits, 5.0)] == [0.0, 2.0, 4.0, 6.0]
    assert events(logits, 5.0, threshold=0.9) == [Segment(0.0, 6.0, "music"), Segment(6.0, 8.0, "no music")]
    with pytest.raises(ValueError, match=r"`threshold` is a probability between 0 and 1, got 1\.0"):
        events(logits, 5.0, threshold=1.0)


def test_scores_by_hand():
    """8 s of music, 6 of them found, and 2 s of speech, 1 of which is called music."""
    reference = [Segment(0, 8, "music"), Segment(8, 10, "speech")]
    estimate = [Segment(0, 2, "no music"), Segment(2, 9, "music"), Segment(9, 10, "no music")]
    found = score(reference, estimate)
    assert found["accuracy"] == pytest.approx(0.7)
    other = score([Segment(0, 10, "noise")], [Segment(0, 10, "no music")])
    averages = average([found, other])
    assert averages["accuracy"] == pytest.approx(0.85)
    assert averages["music_f"] == pytest.approx(2 * 6 / (8 + 7))
    assert averages["no_music_f"] == pytest.approx(2 * 11 / (12 + 13))
    assert np.isnan(average([other])["music_f"])
    assert np.isnan(score([], estimate)["accuracy"])


def test_time_without_a_label_is_not_scored():
    reference = [Segment(0, 4, "music"), Segment(6, 10, "noise")]
    found = score(reference, [Segment(0, 10, "music")])
    assert found["accuracy"] == pytest.approx(0.5)
    assert found["music_estimated"] == pytest.approx(8)
