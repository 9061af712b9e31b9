"""Cards of runs, of folders that version 0.1.0 wrote, and of the published checkpoints."""

import json
import re
import runpy
import shutil

import pytest
from helpers.facts import CHECKPOINT_FACTS, FALSE_CLAIMS
from helpers.finished_run import change_results
from helpers.paths import FIXTURES, ROOT
from huggingface_hub import HfApi, ModelCard

from musicfm_hf.hub.cards import write_card
from musicfm_hf.hub.commits import HubTarget
from musicfm_hf.hub.licenses import license_of
from musicfm_hf.hub.push import push_folder
from musicfm_hf.pretraining.run import base_of

VERSION_0_1 = FIXTURES / "version_0_1"


@pytest.mark.parametrize("name", sorted(path.parent.name for path in VERSION_0_1.glob("*/README.md")))
def test_folders_of_version_0_1_get_cards(name, tmp_path):
    """With the metadata that version 0.1.0 wrote, apart from names of metrics and tags that no pipeline fits."""
    folder = tmp_path / name
    shutil.copytree(VERSION_0_1 / name, folder)
    before = ModelCard.load(folder / "README.md")
    text = write_card(folder).read_text()
    after = ModelCard(text)
    has_frames = json.loads((folder / "config.json").read_text()).get("label_rate") is not None
    assert after.data.pipeline_tag == (None if has_frames else before.data.pipeline_tag)
    for part in ("license", "license_name", "library_name", "tags", "datasets", "base_model"):
        assert after.data.get(part) == before.data.get(part)
    assert metrics(after) == metrics(before)
    assert all(f"| {value:.3f} |" in text for _, value, _ in metrics(after))
    assert re.search(r"`musicfm (finetune|pretrain|train-quantizer|convert)`", text)
    assert "recipes/" not in text
    assert not re.search(r"\{\{|\{%|[:|] None|\bnan\b", text)


def metrics(card: ModelCard) -> list[tuple[str, float, str]]:
    """Kind, value and data set of the scores in the metadata."""
    results = card.data.eval_results or []
    return [(result.metric_type, result.metric_value, result.dataset_name) for result in results]


def test_an_evaluation_of_version_0_1_is_on_the_card(tmp_path):
    folder = tmp_path / "beat_probe"
    shutil.copytree(VERSION_0_1 / "beat_probe", folder)
    evaluation = json.loads((VERSION_0_1 / "evaluation.json").read_text())
    evaluation["music"]["name"] = "others"
    (folder / "evaluations").mkdir()
    (folder / "evaluations/others.json").write_text(json.dumps(evaluation))
    mean = evaluation["models"]["out/beat_probe"]["scores"]["beat_f"]["mean"]
    assert re.search(rf"\| others \| test \| beat F-measure .* \| {mean:.3f} \|", write_card(folder).read_text())


def test_card_of_continued_pretraining(server, tmp_path):
    """It names the model that pretraining continued from, and has its license."""
    folder = tmp_path / "encoder"
    shutil.copytree(VERSION_0_1 / "encoder", folder)
    HfApi().create_repo("alice/base")
    card = b"---\nlicense: cc-by-nc-4.0\n---\n"
    HfApi().upload_file(path_or_fileobj=card, path_in_repo="README.md", repo_id="alice/base")
    uploaded = HfApi().upload_folder(folder_path=folder, repo_id="alice/base", ignore_patterns="*.md")
    (folder / "README.md").unlink()
    change_results(folder, **base_of("alice/base"))
    card = ModelCard(write_card(folder).read_text())
    assert (card.data.license, card.data.base_model) == ("cc-by-nc-4.0", "alice/base")
    assert "**Weights:** cc-by-nc-4.0." in card.text
    assert f"| continued from | `alice/base`, revision `{uploaded.oid}` |" in card.text


def test_a_license_without_an_identifier(tmp_path):
    """The card of a base names it, and so does the card of what is made of it, also if that is written again."""
    (tmp_path / "base").mkdir()
    text = "---\nlicense: other\nlicense_name: research-only-1.0\nlicense_link: LICENSE\n---\n"
    (tmp_path / "base/README.md").write_text(text)
    folder = tmp_path / "encoder"
    shutil.copytree(VERSION_0_1 / "encoder", folder)
    (folder / "README.md").unlink()
    change_results(folder, **base_of(str(tmp_path / "base")))
    for _ in range(2):
        card = ModelCard(write_card(folder).read_text())
        assert (card.data.license, card.data.get("license_name")) == ("other", "research-only-1.0")
        assert "**Weights:** research-only-1.0." in card.text


def test_card_of_an_encoder_alone(tmp_path):
    """Such as one in int8, which has neither the quantizer nor the prediction head."""
    folder = tmp_path / "encoder"
    shutil.copytree(VERSION_0_1 / "encoder", folder)
    text = write_card(folder).read_text()
    assert "so `AutoModelForPreTraining` can continue pretraining" in text
    config = json.loads((folder / "config.json").read_text()) | {"architectures": ["MusicFMModel"]}
    (folder / "config.json").write_text(json.dumps(config))
    text = write_card(folder).read_text()
    assert "these weights cannot continue pretraining" in text
    assert "so `AutoModelForPreTraining` can" not in text


def test_card_of_a_run_that_diverged(tmp_path):
    """Scores that are not numbers are written as null, and left out of the card."""
    folder = tmp_path / "encoder"
    shutil.copytree(VERSION_0_1 / "encoder", folder)
    results = json.loads((folder / "results.json").read_text())
    results["scores"]["eval_cross_entropy"] = None
    (folder / "results.json").write_text(json.dumps(results))
    text = write_card(folder).read_text()
    assert "cross-entropy (nats)" not in text
    assert [kind for kind, _, _ in metrics(ModelCard(text))] == ["accuracy"]


def test_card_has_the_numbers_of_the_results(server, folder):
    write_card(folder, "alice/chord")
    card = ModelCard.load(folder / "README.md")
    card.validate()
    assert "| pop909 | test | major and minor chords (mir_eval majmin) | 0.812 | 0.752 to 0.867 | 50 |" in card.text
    assert "nan" not in card.text.lower()
    assert "roots of chords" not in card.text
    assert "- [pop909](https://example.org/pop909): MIT" in card.text
    assert "@misc{pop}" in card.text
    assert "| wall time | 1.5 minutes |" in card.text
    assert "| seed | 42 |" in card.text
    assert "123,456, of which 12,345 were trained" in card.text
    (result,) = card.data.eval_results
    assert (result.metric_value, result.dataset_name, result.dataset_split) == (0.8125, "pop909", "test")
    assert (card.data.license, card.data.license_name) == ("other", "not-stated")
    assert card.data.pipeline_tag is None  # no pipeline of Transformers decodes label frames


def test_licenses(folder, tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    (base / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    assert license_of(base) == "cc-by-nc-4.0"
    assert license_of(folder) is None  # it has no card yet
    change_results(folder, base_licence=license_of(base))
    (base / "README.md").write_text("---\nlicense: [a\n---\n")
    assert license_of(base) is None
    write_card(folder)
    assert ModelCard.load(folder / "README.md").data.license == "cc-by-nc-4.0"
    write_card(folder, license="mit")
    write_card(folder)  # the one on the card is kept
    card = ModelCard.load(folder / "README.md")
    assert card.data.license == "mit"
    assert "**Weights:** mit." in card.text


def test_evaluations_and_data_on_the_hub(server, folder):
    evaluated = {"task": "chord", "scores": {"majmin": {"mean": 0.5, "songs": 8, "interval": [0.4, 0.6]}}}
    music = {"name": "alice/beatles", "hub_id": "alice/beatles"}
    (folder / "evaluations").mkdir()
    evaluation = {
        "music": music,
        "split": "validation",
        "models": {folder.name: evaluated, "beat": evaluated | {"task": "beat"}},
    }
    (folder / "evaluations/beatles.json").write_text(json.dumps(evaluation))
    push_folder(folder, HubTarget("alice/chord"))
    files = server.files("alice/chord")
    card = ModelCard(files["README.md"].decode())
    assert [result.metric_value for result in card.data.eval_results] == [0.8125, 0.5]
    assert "| alice/beatles | validation | major and minor chords (mir_eval majmin) | 0.500 |" in card.text
    assert files[".eval_results/musicfm_hf.yaml"].decode() == (
        "- dataset:\n    id: alice/beatles\n    task_id: chord\n  value: 0.5\n"
        "  notes: major and minor chords (mir_eval majmin)\n"
    )
    (folder / "evaluations/beatles.json").unlink()
    push_folder(folder, HubTarget("alice/chord"))
    assert ".eval_results/musicfm_hf.yaml" not in server.files("alice/chord")


def test_calibration_errors_are_on_the_card(folder):
    """Those of the run, and those of evaluations; results of earlier versions have none."""
    error = {"ece": {"mean": 0.0341, "interval": [0.024, 0.053]}, "probability": 0.8, "right": 0.8}
    change_results(folder, calibration={"validation": {}, "test": {"chords": error}})
    calibration = {"chords": {"ece": {"mean": 0.125, "interval": [0.1, 0.2]}}}
    evaluated = {"task": "chord", "scores": {"majmin": {"mean": 0.25, "songs": 8}}, "calibration": calibration}
    (folder / "evaluations").mkdir()
    evaluation = {"music": {"name": "beatles"}, "split": "test", "models": {folder.name: evaluated}}
    (folder / "evaluations/beatles.json").write_text(json.dumps(evaluation))
    text = write_card(folder).read_text()
    assert "| pop909 | test | calibration error of chords | 0.034 | 0.024 to 0.053 | 50 |" in text
    assert "| beatles | test | calibration error of chords | 0.125 | 0.100 to 0.200 | 8 |" in text


def test_scores_of_other_models_are_not_on_the_card(folder):
    """From an evaluation of several models, a card takes the scores of the one with the name of the folder."""
    evaluated = {"task": "chord", "scores": {"majmin": {"mean": 0.25, "songs": 8, "interval": [0.2, 0.3]}}}
    better = {"task": "chord", "scores": {"majmin": {"mean": 0.75, "songs": 8, "interval": [0.7, 0.8]}}}
    (folder / "evaluations").mkdir()
    evaluation = {"music": {"name": "beatles"}, "split": "test"}
    path = folder / "evaluations/beatles.json"
    path.write_text(json.dumps(evaluation | {"models": {f"runs/{folder.name}": evaluated, "runs/other": better}}))
    rows = [row for row in write_card(folder).read_text().splitlines() if row.startswith("| beatles")]
    assert [row.split(" | ")[3] for row in rows] == ["0.250"]
    path.write_text(json.dumps(evaluation | {"models": {"runs/other": better}}))
    with pytest.raises(ValueError, match=rf"beatles.json has scores of runs/other, but not of {folder.name}. Remove"):
        write_card(folder)
    evaluation |= {"split": "train", "music": json.loads((folder / "results.json").read_text())["data"]}
    path.write_text(json.dumps(evaluation | {"models": {folder.name: better}}))
    with pytest.raises(ValueError, match=r"has scores of songs that .* was trained on. Remove"):
        write_card(folder)


def test_a_full_disk_leaves_the_present_card(folder, monkeypatch):
    write_card(folder, license="mit")
    before = (folder / "README.md").read_bytes()

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.raises(OSError, match="No space left"):
        write_card(folder, license="cc-by-4.0")
    assert (folder / "README.md").read_bytes() == before


PUBLISHED = runpy.run_path(str(ROOT / "hub_cards/published.py"))


@pytest.mark.parametrize("name", PUBLISHED["CHECKPOINTS"])
def test_published_cards_are_what_the_conversion_writes(name):
    text = (ROOT / f"hub_cards/published/{name}.md").read_text(encoding="utf-8")
    assert text == PUBLISHED["render"](name), "run `python hub_cards/published.py`"
    card = ModelCard(text)
    assert card.data.license == ("mit" if name.startswith("musicfm") else "cc-by-nc-4.0")
    for part in ("## Usage", "## Scores", "limitations", "consent", "## License", "## Citation", "Apache-2.0"):
        assert part in text
    rows = {
        "mert-v1-330m": "| encoder | 24 bert layers, 315,428,864 parameters |",
        "mert-v2-30s": "| encoder | 24 conformer layers, 632,295,808 parameters |",
        "muq-mulan-large": "| parameters | 645,715,969 in both towers |",
    }
    assert rows.get(name, "| encoder | 12 conformer layers, 316,343,296 parameters |") in text


def in_one_line(text: str) -> str:
    """A text without its line breaks, so that a claim is found however it is wrapped."""
    return re.sub(r"\s+", " ", text)


@pytest.mark.parametrize("name", PUBLISHED["CHECKPOINTS"])
def test_published_cards_state_the_facts(name):
    """Those of `helpers/facts.py`, which come from the papers and from the pages of the authors; and no others."""
    text = in_one_line((ROOT / f"hub_cards/published/{name}.md").read_text(encoding="utf-8"))
    assert [fact for fact in CHECKPOINT_FACTS[name] if fact.claim not in text] == []
    assert [claim for claim in FALSE_CLAIMS if claim in text] == []
    others = {fact.claim for other, facts in CHECKPOINT_FACTS.items() if other != name for fact in facts}
    foreign = others - {fact.claim for fact in CHECKPOINT_FACTS[name]}
    assert [claim for claim in foreign if claim in text] == []
    scores = text.partition("## Scores")[2].partition("## Intended use")[0]
    assert "This package has not measured scores of these weights." in scores
    assert not re.search(r"\d?\.\d{2,}", scores.replace(".08", ""))  # no number that would be taken for a score


def test_a_file_that_was_not_published_gets_no_license_and_no_scores(converted):
    """A checkpoint in the layout of MusicFM may have been trained by anybody, on any music."""
    card = ModelCard.load(converted / "README.md")
    assert (card.data.license, card.data.license_name) == ("other", "not-stated")
    text = in_one_line(card.text)
    for claim in (
        "which is not one of the published files",
        "None are known.",
        "training music of this file is not known",
    ):
        assert claim in text
    for facts in CHECKPOINT_FACTS.values():
        assert [fact for fact in facts if fact.claim in text and "key detection" not in fact.claim] == []


def test_every_template_makes_no_false_claim():
    for path in (ROOT / "hub_cards").glob("*.md"):
        text = in_one_line(path.read_text(encoding="utf-8"))
        assert [claim for claim in FALSE_CLAIMS if claim in text] == [], path.name
