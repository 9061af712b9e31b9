"""The leaderboard: fields of its entries, and scores that are recorded."""

import json

import leaderboard
import pytest
import yaml
from reporting import RESULTS

ENTRY = {
    "system": "mine",
    "data": "POP909",
    "training": "none",
    "weights": "MIT",
    "command": "musicfm evaluate mine",
    "scores": {"chord majmin": "mine/scores/majmin"},
}


def test_the_table_is_that_of_the_recorded_scores():
    text = (RESULTS / "leaderboard.md").read_text(encoding="utf-8")
    assert leaderboard.tables(leaderboard.read_entries(leaderboard.ENTRIES), RESULTS) == text
    tasks = json.loads((RESULTS / "tasks.json").read_text())
    mean = tasks["table"]["chord"]["full (pretrained)"]["test"]["majmin"]
    assert "small_kmeans, full fine-tuning | " in text
    assert f" {mean:.3f} (" in text


def test_an_added_system_has_a_row(tmp_path):
    (tmp_path / "mine.json").write_text('{"scores": {"majmin": {"mean": 0.5, "interval": [0.25, 0.7512]}}}')
    path = tmp_path / "entries.yaml"
    other = ENTRY | {"system": "other", "scores": {"key key_weighted": "mine/scores/majmin"}, "data": "GTZAN"}
    path.write_text(yaml.safe_dump([ENTRY, other]))
    first, second = leaderboard.tables(leaderboard.read_entries(path), tmp_path).split("\n\n")
    assert first.splitlines()[0] == "| POP909 | chord, majmin | training | weights |"
    assert first.splitlines()[2] == "| mine | 0.500 (0.250 to 0.751) | none | MIT |"
    assert second.splitlines()[2] == "| other | 0.500 (0.250 to 0.751) | none | MIT |"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": ""}, r"Entry 1 \(mine\) .*`weights` must be a str that is not empty"),
        ({"score": 0.9}, "must have the fields system, data"),
        ({"scores": {"chord": "a"}}, "a score is a task and a metric"),
        ({"scores": {"chrod majmin": "a"}}, "chrod"),
    ],
)
def test_wrong_entries(tmp_path, change, message):
    path = tmp_path / "entries.yaml"
    path.write_text(yaml.safe_dump([ENTRY | change]))
    with pytest.raises(ValueError, match=message):
        leaderboard.read_entries(path)
