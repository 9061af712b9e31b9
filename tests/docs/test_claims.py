"""README, docs and recipes do not claim more than was run or measured."""

import re

import pytest
from helpers.documents import DOCUMENTS
from helpers.paths import ROOT

NOT_RUN = re.compile(r"DeepSpeed|FSDP|flash[ _]attention", re.IGNORECASE)
README = (ROOT / "README.md").read_text(encoding="utf-8")
EVALUATION = (ROOT / "docs/evaluation.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_pages_that_name_what_was_never_run_say_so(document):
    text = document.read_text(encoding="utf-8")
    if NOT_RUN.search(text):
        assert re.search(r"\bnot (been )?run\b", text, re.IGNORECASE)


def test_what_was_never_run_is_named():
    statement = re.search(r"[^.]*have not been run yet\.", README)[0]
    guide = (ROOT / "docs/pretraining.md").read_text(encoding="utf-8").partition("**Not run so far:**")[2]
    for text in (statement, guide[:200]):
        assert {"deepspeed", "fsdp", "flash attention"} <= {name.lower() for name in NOT_RUN.findall(text)}
    for name in ("deepspeed_zero2", "fsdp"):
        assert "far" in (ROOT / f"recipes/accelerate/{name}.yaml").read_text().splitlines()[0]


def test_scores_come_with_their_caveats():
    """The missing control, other tools, what a correction leaves, labels by a rule, and too much pretraining."""
    for text in (README, EVALUATION):
        plain = re.sub(r"\s+", " ", text)
        for words in ("from random weights", "Chordino", "Essentia", "by a rule"):
            assert words in plain
    for words in ("Bonferroni", "lacks full fine-tuning from random weights", "makes the probes worse"):
        assert words in re.sub(r"\s+", " ", EVALUATION)
    titles = re.findall(r"^#+ (.+)$", README + EVALUATION, re.MULTILINE)
    assert not [title for title in titles if "good for" in title or "pretraining adds" in title]


def test_key_scores_say_which_fifths_count():
    for path in ("src/musicfm_hf/tasks/key.py", "src/musicfm_hf/metrics/key.py", "docs/evaluation.md"):
        text = re.sub(r"\s+", " ", (ROOT / path).read_text(encoding="utf-8"))
        assert re.search(r"fifth below[^.]*(0|none|mir_eval)", text), path
        assert "MIREX" in text
