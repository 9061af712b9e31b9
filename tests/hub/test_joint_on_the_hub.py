"""Models that were trained jointly, on the Hub."""

from helpers.finetuning import SHORT
from huggingface_hub import ModelCard
from transformers import AutoModel, AutoModelForAudioFrameClassification, pipeline

from musicfm_hf import annotate, load_annotators
from musicfm_hf.data.labeled_dataset import load_songs
from musicfm_hf.finetuning.arguments import FinetuningArguments
from musicfm_hf.finetuning.joint import finetune_joint
from musicfm_hf.finetuning.joint_arguments import JointArguments
from musicfm_hf.finetuning.joint_files import save_joint_run
from musicfm_hf.hub.commits import HubTarget
from musicfm_hf.hub.push import push_folder
from musicfm_hf.training.recipes import parse_recipe

NAME = "alice/joint"


def test_pushing_and_loading(server, encoder, labeled, tmp_path):
    """The encoder, which is large, is uploaded once; an unchanged folder is not uploaded again."""
    places = ["--model", encoder, "--data", labeled, "--output_dir", tmp_path / "joint", "--results", tmp_path / "r"]
    words = [*map(str, places), "--tasks", "chord", "key", "--method", "full", *SHORT, "--max_steps", "1"]
    settings, arguments = parse_recipe((JointArguments, FinetuningArguments), words)
    save_joint_run(finetune_joint(settings, arguments), settings, arguments)
    push_folder(tmp_path / "joint", HubTarget(NAME))
    files = server.files(NAME)
    encoders = ["model.safetensors", *(f"{task}/model-00001-of-00002.safetensors" for task in ("chord", "key"))]
    assert len({files[name] for name in encoders}) == 1
    assert len(server.calls("PUT")) == len(
        {content for name, content in files.items() if name.endswith("safetensors")}
    )
    card = ModelCard(files["README.md"].decode())
    assert card.data.pipeline_tag is None  # no pipeline of Transformers takes a model from a subfolder
    assert {result.task_type for result in card.data.eval_results or []} == {"audio-classification"}
    song = load_songs(labeled, "test")[0].audio
    expected = annotate(load_annotators([tmp_path / "joint"]), song).to_dict()
    assert annotate(load_annotators([NAME]), song).to_dict() == expected
    assert pipeline("music-annotation", model=NAME)(song) == expected
    chords = AutoModelForAudioFrameClassification.from_pretrained(NAME, subfolder="chord")
    assert chords.config.task == "chord"
    assert AutoModel.from_pretrained(NAME).config.task_folders == ["chord", "key"]
    push_folder(tmp_path / "joint", HubTarget(NAME))
    assert len(server.calls("PUT")) == 3
