"""Songs with parts that are not music: there is nothing to annotate in them."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from helpers.audio import music
from helpers.models import head

from musicfm_hf.inference.annotation import annotate
from musicfm_hf.inference.music_parts import Part, _clips_with_music
from musicfm_hf.inference.song_annotation import SongAnnotation
from musicfm_hf.tasks.annotations import Segment
from musicfm_hf.tasks.presence import LABELS

RATE = 24000


def with_logits(model, logits):
    """The model, with a head that gives these logits for the label frames of a song, whatever the audio."""
    values = iter(torch.as_tensor(np.array(logits), dtype=torch.float32).split(1))
    model.classifier.score = lambda pooled: torch.cat([next(values) for _ in range(len(pooled))])
    return model


def detector(is_music):
    """A model that detects music in these frames of 0.2 s, with a probability of 0.9."""
    logits = np.log(np.where(np.array(is_music)[:, None], [0.9, 0.1], [0.1, 0.9]))
    return with_logits(head("presence", labels=LABELS, label_rate=5.0), logits)


def one_hot(classes, count):
    return 20.0 * np.eye(count)[classes]


def models_of_ten_seconds(is_music):
    beats = np.full(201, 2)
    beats[5::10], beats[5::40] = 0, 1
    sections = one_hot([1] * 51, 8)
    sections[:, 7] = -5.0
    return {
        "beat": with_logits(head("beat"), one_hot(beats, 3)),
        "structure": with_logits(head("structure"), sections),
        "chord": with_logits(head("chord"), one_hot([9] * 16 + [2] * 20 + [12] * 45, 25)),
        # The key of the applause is clearer than that of the music, which is C.
        "key": with_logits(head("key"), [[2.0, *[0.0] * 24]] * 2 + [[0.0] * 7 + [9.0] + [0.0] * 17] * 3),
        "tagging": with_logits(head("tagging"), [[-np.log(3), np.log(3)]]),
        "presence": detector(is_music),
    }


def test_music_then_applause(tmp_path):
    """Four seconds of music, and six without: results end with the music, and the key is that of the music."""
    found = annotate(models_of_ten_seconds([True] * 20 + [False] * 31), music(9.99), RATE)
    assert found.more["music"] == [Segment(0.0, 4.0, "music"), Segment(4.0, 9.99, "no music")]
    np.testing.assert_allclose(found.beats.times, np.arange(0.25, 4.0, 0.5), atol=1e-9)
    assert found.beats.positions.tolist() == [1, 2, 3, 4] * 2
    assert found.tempo == pytest.approx(120)
    assert found.chords == [Segment(0.0, 2.0, "A:maj"), Segment(2.0, 4.0, "D:maj"), Segment(4.0, 9.99, "N")]
    assert found.probabilities["chords"] == pytest.approx([1, 1, 0.9], abs=1e-6)
    assert found.sections == [Segment(0.0, 4.0, "verse"), Segment(4.0, 9.99, "silence")]
    assert found.keys == [Segment(0.0, 4.0, "C:maj"), Segment(4.0, 9.99, "N")]
    assert found.key == "C:maj"
    assert found.tags == pytest.approx({"slow": 0.75, "loud": 0.25})  # one clip, which has the most music
    found.save(tmp_path, "song", ["json", "lab"])
    content = json.loads((tmp_path / "song.json").read_text())["music"]
    assert [row["probability"] for row in content] == [0.9, 0.9]
    assert SongAnnotation.load(tmp_path / "song.music.lab").more["music"] == found.more["music"]
    found.draw(tmp_path / "song.png", music(9.99), RATE)


def test_beats_keep_to_the_music_after_applause():
    """Two seconds of applause, then music whose first downbeat is found although the applause has other beats."""
    models = models_of_ten_seconds([False] * 11 + [True] * 40)
    found = annotate(models, music(9.99), RATE)
    assert found.more["music"][0] == Segment(0.0, 2.2, "no music")
    np.testing.assert_allclose(found.beats.times, np.arange(2.25, 9.99, 0.5), atol=1e-9)
    assert found.beats.positions[0] == 1
    assert found.chords[:2] == [Segment(0.0, 2.2, "N"), Segment(2.2, 4.5, "D:maj")]


def test_no_music_at_all():
    found = annotate(models_of_ten_seconds([False] * 51), music(9.99), RATE)
    assert len(found.beats.times) == 0
    assert found.chords == found.keys == [Segment(0.0, 9.99, "N")]
    assert found.sections == [Segment(0.0, 9.99, "silence")]
    assert (found.key, found.tags, found.tempo, found.time_signatures) == ("N", {}, None, [])


def test_music_throughout_changes_nothing():
    models = models_of_ten_seconds([True] * 51)
    found = annotate(models, music(9.99), RATE).to_dict()
    assert found.pop("music") == [{"start": 0.0, "end": 9.99, "label": "music", "probability": 0.9}]
    models = models_of_ten_seconds([True] * 51)
    del models["presence"]
    assert found == annotate(models, music(9.99), RATE).to_dict()


def test_silence_is_no_music():
    found = annotate([head("chord"), head("presence", labels=LABELS, label_rate=5.0)], np.zeros(RATE), RATE)
    assert found.more["music"] == [Segment(0.0, 1.0, "no music")]


def test_clips_with_music():
    """Four clips of 10 s; 8 s of the first are music, and 4 s of the third."""

    def parts(*edges):
        return [
            Part(Segment(start, end, ""), number % 2 == 0, 1.0) for number, (start, end) in enumerate(pairwise(edges))
        ]

    assert _clips_with_music(4, parts(0, 8, 20, 24, 40)).tolist() == [0]
    assert _clips_with_music(4, parts(0, 0, 20, 24, 40)).tolist() == [2]
    assert _clips_with_music(4, parts(0, 30, 40)).tolist() == [0, 1, 2]
