"""
Train a model of music and text on POP909, and measure how well captions and songs of the test set find each other, and
how well instruments are found by their names.

    musicfm prepare pop909 --source POP909 --output_dir data/pop909 --arranged
    python benchmarks/text_audio.py --data data/pop909 --audio_model runs/small --output_dir runs/text_audio

Captions are written from the tags, such as "A slow song in minor with trumpet, harp and flute.", in a few wordings; a
test song has one. The text encoder is a small XLM-RoBERTa with random weights, whose tokenizer is trained on the
captions. Further flags are those of `musicfm train-text-audio`. The run resumes, as the command does.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from processes import musicfm
from reporting import RESULTS, markdown_table, write_report
from sklearn.metrics import roc_auc_score
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, XLMRobertaConfig, XLMRobertaModel

from musicfm_hf import ZeroShotTagger
from musicfm_hf.data.labeled import LabeledSong
from musicfm_hf.data.labeled_dataset import load_songs
from musicfm_hf.evaluation.bootstrap import centered_interval
from musicfm_hf.hub.card_scores import TEXT_AUDIO_SCORES
from musicfm_hf.training.files import write_text

TEMPLATES = (
    "A {tempo} song in {mode} with {instruments}.",
    "{instruments}, {tempo}, {mode}",
    "This {tempo} piece features {instruments} and is in {mode}.",
    "Music in a {mode} key at a {tempo} tempo, played by {instruments}.",
)
TEMPOS, MODES = ("slow", "medium", "fast"), ("major", "minor")
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of `musicfm prepare pop909 --arranged`")
    parser.add_argument("--audio_model", required=True, help="a pretrained small encoder")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for captions, text encoder and model")
    parser.add_argument("--recipes", nargs="+", default=["towers", "small/towers"], help="recipes of the training")
    parser.add_argument("--output_file", type=Path, default=RESULTS / "text_audio.json")
    arguments, flags = parser.parse_known_args()
    captions, text_model = arguments.output_dir / "captions", arguments.output_dir / "text"
    splits = {split: load_songs(arguments.data, split) for split in ("train", "validation", "test")}
    write_captions(splits, captions)
    if not (text_model / "config.json").is_file():
        save_text_encoder(captions / "train.jsonl", text_model)
    run = arguments.output_dir / "model"
    places = [part for split in splits for part in (f"--{split}", str(captions / f"{split}.jsonl"))]
    places += ["--audio_model", arguments.audio_model, "--text_model", str(text_model), "--output_dir", str(run)]
    musicfm("train-text-audio", *arguments.recipes, *places, *flags)
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    values = {
        "scores": results["scores"],
        "tags": score_tags(str(run), splits["test"]),
        "songs": {split: len(songs) for split, songs in splits.items()},
        **{name: results[name] for name in ("training", "settings", "parameters", "seconds", "steps", "machine")},
    }
    write_report(arguments.output_file, values, report(values))


def write_captions(splits: dict[str, list[LabeledSong]], folder: Path) -> None:
    """Write a table of captions for each split: all wordings for training songs, and the first for others."""
    for split, songs in splits.items():
        templates = TEMPLATES if split == "train" else TEMPLATES[:1]
        rows = [
            {"audio": song.audio, "caption": [caption(song, template) for template in templates]} for song in songs
        ]
        write_text(folder / f"{split}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def caption(song: LabeledSong, template: str) -> str:
    """Return a text with the tempo, the mode and the instruments of a song."""
    tags = list(song.tags or ())
    names = instruments(tags)
    tempo, mode = (next(tag for tag in tags if tag in known) for known in (TEMPOS, MODES))
    listed = " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
    text = template.format(tempo=tempo, mode=mode, instruments=listed)
    return text[0].upper() + text[1:]


def instruments(tags: Sequence[str]) -> list[str]:
    """Return the tags that are neither a tempo nor a mode, in words."""
    return [tag.replace("_", " ") for tag in tags if tag not in (*TEMPOS, *MODES)]


def save_text_encoder(table: Path, folder: Path) -> None:
    """Train a tokenizer on a table of captions, and save it with a small XLM-RoBERTa with random weights."""
    rows = [json.loads(line) for line in table.read_text(encoding="utf-8").splitlines()]
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL, show_progress=False)
    backend.train_from_iterator((text for row in rows for text in row["caption"]), trainer)
    backend.post_processor = processors.TemplateProcessing("<s> $A </s>", None, [("<s>", 0), ("</s>", 2)])
    names = dict(zip(("bos_token", "pad_token", "eos_token", "unk_token", "mask_token"), SPECIAL, strict=True))
    PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=64, **names).save_pretrained(folder)
    size = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256}
    config = XLMRobertaConfig(
        vocab_size=backend.get_vocab_size(), max_position_embeddings=68, type_vocab_size=1, **size
    )
    torch.manual_seed(0)
    XLMRobertaModel(config, add_pooling_layer=False).save_pretrained(folder)


def score_tags(model: str, songs: Sequence[LabeledSong]) -> dict[str, Any]:
    """Return the area under the ROC curve of instruments, which are named in words, with a bootstrap interval."""
    names = sorted({name for song in songs for name in instruments(song.tags or ())})
    tagger = ZeroShotTagger.from_pretrained(model, names, "A song with {}.")
    paths = [song.audio for song in songs]
    estimates = np.array([[similarities[name] for name in names] for similarities in map(tagger, paths)])
    truth = np.array([[name in instruments(song.tags or ()) for name in names] for song in songs])
    areas = roc_areas(truth, estimates)
    generator = np.random.default_rng(0)
    draws = [generator.integers(len(songs), size=len(songs)) for _ in range(1000)]
    samples = np.array([np.nanmean(roc_areas(truth[draw], estimates[draw])) for draw in draws])
    mean = float(np.nanmean(areas))
    tags = dict(zip(names, areas.tolist(), strict=True))
    return {"roc_auc": mean, "interval": centered_interval(samples, mean), "tags": tags}


def roc_areas(truth: np.ndarray, estimates: np.ndarray) -> np.ndarray:
    """Return the area under the ROC curve of each tag; nan if all songs or no songs have it."""
    columns = zip(truth.T, estimates.T, strict=True)
    return np.array([roc_auc_score(own, found) if 0 < own.sum() < len(own) else np.nan for own, found in columns])


def report(values: dict[str, Any]) -> str:
    """Return a table of the scores of test songs."""
    rows = []
    for name, (_, label) in TEXT_AUDIO_SCORES.items():
        score = values["scores"]["test"][name]
        interval = "{:.2f} to {:.2f}".format(*score["interval"])
        rows.append([label, f"{score['mean']:.2f}", interval, f"{score['chance']:.2f}"])
    tags = values["tags"]
    interval = "{:.2f} to {:.2f}".format(*tags["interval"])
    rows.append([f"ROC-AUC of {len(tags['tags'])} instruments in words", f"{tags['roc_auc']:.2f}", interval, "0.50"])
    return markdown_table([f"{values['songs']['test']} test songs", "value", "95 % interval", "chance"], rows)


if __name__ == "__main__":
    main()
