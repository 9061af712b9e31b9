"""README, docs and recipes do not claim more than was run or measured."""

import json
import re

import pytest
from helpers.claims import SOURCES, check_claim, check_sentence, sentences
from helpers.documents import DOCUMENTS
from helpers.paths import ROOT

NOT_RUN = re.compile(r"DeepSpeed|FSDP|flash[ _]attention", re.IGNORECASE)
README = (ROOT / "README.md").read_text(encoding="utf-8")
EVALUATION = (ROOT / "docs/evaluation.md").read_text(encoding="utf-8")
COMPARING_PAGES = [ROOT / f"docs/{name}.md" for name in ("evaluation", "measurements", "scoring")]


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
    for words in ("Holm", "These are single seeds", "makes the probes worse", "In domain"):
        assert words in re.sub(r"\s+", " ", EVALUATION)
    titles = re.findall(r"^#+ (.+)$", README + EVALUATION, re.MULTILINE)
    assert not [title for title in titles if "good for" in title or "pretraining adds" in title]


def test_pages_compare_what_was_compared():
    claims = [path.read_text(encoding="utf-8").count("<!-- claim:") for path in COMPARING_PAGES]
    assert claims[0] >= 8
    assert claims[1] >= 2


@pytest.mark.parametrize("page", COMPARING_PAGES, ids=lambda path: path.name)
def test_comparisons_are_those_that_hold_after_the_correction(page):
    """Sentences that compare name their rows, and the recorded differences support them."""
    results = {name: json.loads((ROOT / f"benchmarks/results/{name}.json").read_text()) for name in SOURCES.values()}
    text = page.read_text(encoding="utf-8")
    found = sentences(text)
    assert text.count("<!-- claim:") == sum(sentence.count("<!-- claim:") for sentence in found)
    assert [problem for sentence in found if (problem := check_sentence(sentence, results))] == []


def difference(mean: float, low: float, high: float) -> dict:
    return {"mean": mean, "corrected_interval": [low, high]}


DIFFERENCES = {
    "majmin: full (a) − probe (b)": difference(0.1, 0.05, 0.15),
    "majmin, 24 songs: full (a) − probe (b)": difference(-0.1, -0.15, -0.05),
    "majmin: full (a) − LoRA (a)": difference(0.1, -0.01, 0.21),
}


@pytest.mark.parametrize(
    ("sentence", "problem"),
    [
        ("Chords are better.<!-- claim: POP909 chord majmin: full (a) > probe (b) -->", None),
        ("Chords are worse.<!-- claim: POP909 chord majmin: probe (b) < full (a) -->", None),
        ("Few are worse.<!-- claim: POP909 chord majmin at 24 songs: full (a) < probe (b) -->", None),
        ("No better one.<!-- claim: POP909 chord majmin: full (a) ~ LoRA (a) -->", None),
        ("It is lower today.<!-- no claim: a trial -->", None),
        ("Beats and downbeats, and true beats of the song.", None),
        ("Chords are better.", "names no claim"),
        ("Scores are\nhigher with it, .9 of them.", "compares .*higher"),
        ("It beats the baseline.", "compares .*beats"),
        ("Better.<!-- claim: POP909 chord majmin: full (a) > LoRA (a) -->", "interval of -0.010 to \\+0.210"),
        ("Worse.<!-- claim: POP909 chord majmin: full (a) < probe (b) -->", "does not support it"),
        ("Same.<!-- claim: POP909 chord majmin: full (a) ~ probe (b) -->", "interval of \\+0.050"),
        ("Few.<!-- claim: POP909 chord majmin at 24 songs: full (a) > probe (b) -->", "does not support it"),
        ("Eight.<!-- claim: POP909 chord majmin at 8 songs: full (a) > probe (b) -->", "not among the recorded"),
        ("Keys.<!-- claim: POP909 key majmin: full (a) > probe (b) -->", "not among the recorded"),
        ("Elsewhere.<!-- claim: GTZAN chord majmin: full (a) > probe (b) -->", "has another form"),
        (
            "Two.<!-- claim: POP909 chord majmin: full (a) > probe (b); POP909 chord majmin: full (a) > LoRA (a) -->",
            "LoRA",
        ),
    ],
)
def test_a_comparison_that_is_not_supported_is_found(sentence, problem):
    (found,) = sentences(f"# A better title\n\n```bash\necho better\n```\n\n{sentence}\n\n| better |\n| --- |\n")
    message = check_sentence(found, {"tasks": {"differences": {"chord": DIFFERENCES}}})
    assert message is None if problem is None else re.search(problem, message)


def test_sentences_are_told_apart():
    text = "- One is <!-- number: a/b -->.5<!-- end -->.<!-- claim: c -->\n  Two: 0.5. Three\n- Four!<!-- claim: d -->"
    assert sentences(text) == ["- One is .5.<!-- claim: c -->", "Two: 0.5.", "Three", "- Four!<!-- claim: d -->"]
    assert check_claim("POP909 chord", {}).startswith("has another form")


def test_key_scores_say_which_fifths_count():
    for path in ("src/musicfm_hf/tasks/key.py", "src/musicfm_hf/metrics/key.py", "docs/scoring.md"):
        text = re.sub(r"\s+", " ", (ROOT / path).read_text(encoding="utf-8"))
        assert re.search(r"fifth below[^.]*(0|none|mir_eval)", text), path
        assert "MIREX" in text
