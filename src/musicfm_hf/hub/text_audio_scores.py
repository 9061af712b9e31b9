"""Scores of models of music and text on their cards."""

from typing import Any

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
        if name in scores
    ]
