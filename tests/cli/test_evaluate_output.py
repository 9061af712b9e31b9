"""The file of scores that `musicfm evaluate` writes."""

import json

import pytest

from musicfm_hf.cli import evaluate


def test_a_folder_is_refused_before_anything_is_scored(tmp_path):
    with pytest.raises(SystemExit, match=r"Not evaluated: `--output_file` must name a file, and .* is a folder"):
        evaluate.main(["no_model", "--data", "no_data", "--output_file", str(tmp_path)])


def test_scores_are_saved_before_they_are_printed(tmp_path, monkeypatch):
    """A terminal that cannot show the name of a song does not cost the scores."""

    def fail(*arguments):
        raise UnicodeEncodeError("ascii", "é", 0, 1, "not in this encoding")

    report = {"models": {"chord": {"task": "chord"}}}
    monkeypatch.setattr(evaluate, "evaluate_models", lambda *arguments: report)
    monkeypatch.setattr(evaluate, "print_scores", fail)
    with pytest.raises(UnicodeEncodeError):
        evaluate.main(["chord", "--data", "data", "--output_file", str(tmp_path / "scores.json")])
    assert json.loads((tmp_path / "scores.json").read_text()) == report
