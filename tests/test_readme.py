"""What the README says can be done."""

import re

import soundfile
import torch
from helpers.audio import music
from helpers.models import TINY, random_model
from helpers.paths import ROOT
from transformers import AutoConfig

from musicfm_hf import MusicFMConfig, MusicFMFeatureExtractor
from musicfm_hf.finetuning.arguments import TaskArguments
from musicfm_hf.finetuning.heads import add_lora, build_model, head_config, save_finetuned

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_python_snippets_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    random_model(MusicFMConfig(**TINY | {"num_hidden_layers": 12})).save_pretrained("musicfm-msd")
    MusicFMFeatureExtractor().save_pretrained("musicfm-msd")
    soundfile.write("song.mp3", music(3.0), 24000)
    for task in ("beat", "chord"):
        arguments = TaskArguments(task=task, model="musicfm-msd", data="none")
        head = build_model(arguments, head_config(arguments, AutoConfig.from_pretrained("musicfm-msd"), []))
        head.save_pretrained(f"runs/{task}")
    adapted = build_model(arguments, head.config)
    save_finetuned(adapted, add_lora(adapted, arguments), "runs/chord-lora")
    scope = {}
    snippets = re.findall(r"```python\n(.*?)```", README.replace("you/musicfm-chord", "runs/chord-lora"), re.DOTALL)
    assert len(snippets) == 5
    for snippet in snippets:
        # Who begins with this one has not imported the package yet, and the Auto classes would not know the model.
        assert "import musicfm_hf" in snippet or "For" not in snippet
        exec(snippet, scope)
    assert scope["frames"].shape[1] == 32
    assert len(scope["times"]) == len(scope["frames"])
    assert scope["output"].last_hidden_state.shape[0] == 2
    assert scope["logits"].shape == (2, 24, 25)
    torch.testing.assert_close(scope["merged"](**scope["inputs"]).logits, scope["logits"], rtol=0, atol=1e-5)
    assert sorted(path.name for path in (tmp_path / "annotations").iterdir()) == [
        "song.beats",
        "song.chords.lab",
        "song.json",
    ]


def test_files_that_are_named_exist():
    for document in ("README.md", "CONTRIBUTING.md"):
        text = (ROOT / document).read_text(encoding="utf-8")
        named = re.findall(r"(?:recipes|benchmarks|tests|hub_cards)/[\w./-]+\.(?:py|json|md)", text)
        named += re.findall(r"\]\((?!https?:)([^)#]+)\)", text)
        assert named
        assert [name for name in named if not (ROOT / name).exists()] == []


def test_it_opens_with_the_two_commands_and_has_no_gaps():
    assert re.match(r"# musicfm_hf\n\n```bash\nmake demo\b.*\nmake test\n```", README)
    assert "@@" not in README


def test_targets_that_are_named_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for document in ("README.md", "CONTRIBUTING.md"):
        text = (ROOT / document).read_text(encoding="utf-8")
        assert set(re.findall(r"`?make ([a-z-]+)", text)) <= targets
