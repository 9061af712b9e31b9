"""The finished cards of hub_cards/published, and what every card says. Cards of runs are in test_hub.py."""

import runpy

import pytest
from helpers.paths import ROOT
from huggingface_hub import ModelCard

PUBLISHED = runpy.run_path(str(ROOT / "hub_cards/published.py"))


@pytest.mark.parametrize("name", PUBLISHED["CHECKPOINTS"])
def test_published_cards_are_what_the_conversion_writes(name):
    text = (ROOT / f"hub_cards/published/{name}.md").read_text(encoding="utf-8")
    assert text == PUBLISHED["render"](name), "run `python hub_cards/published.py`"
    card = ModelCard(text)
    assert card.data.license == ("mit" if name.startswith("musicfm") else "cc-by-nc-4.0")
    for part in ("## Use", "## Scores", "limits", "rights and consent", "## Licence", "## Citation", "Apache-2.0"):
        assert part in text
    parameters = {"mert-v1-330m": "24 bert layers, 315,428,864"}.get(name, "12 conformer layers, 316,343,296")
    assert f"| encoder | {parameters} parameters |" in text
