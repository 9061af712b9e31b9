"""Tiny models with an audio tower and a text tower, and their tokenizer."""

import json
from pathlib import Path

import soundfile
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, XLMRobertaModel

from musicfm_hf import (
    MusicFMFeatureExtractor,
    MusicFMTextAudioConfig,
    MusicFMTextAudioModel,
    MusicFMTextAudioProcessor,
)
from musicfm_hf.text_audio.arguments import TextAudioArguments
from musicfm_hf.text_audio.model import add_lora

from .audio import music
from .models import TINY

WORDS = "piano drums sad happy slow fast song of a the with guitar voice music".split()
TOWER = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "head_dim": 8,
    "intermediate_size": 24,
}


def text_audio_config(**changes) -> MusicFMTextAudioConfig:
    text = {"vocab_size": 4 + len(WORDS), "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    text |= {"intermediate_size": 32, "max_position_embeddings": 40, "type_vocab_size": 1}
    settings = {
        "audio_config": dict(TINY),
        "text_config": text | {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2},
        "audio_transformer": TOWER,
        "text_transformer": TOWER,
        "projection_dim": 12,
        "clip_seconds": 1.0,
    }
    return MusicFMTextAudioConfig(**settings | changes)


def text_audio_model(seed: int = 0, **changes) -> MusicFMTextAudioModel:
    """A model with random weights, larger than those of a new model, so that inputs make a difference."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = MusicFMTextAudioModel(text_audio_config(**changes))
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.data.normal_(0.0, 0.3)
    return model.eval()


def tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer that knows a few words, with the special tokens of XLM-RoBERTa."""
    vocabulary = {word: number for number, word in enumerate(["<s>", "<pad>", "</s>", "<unk>", *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing("<s> $A </s>", None, [("<s>", 0), ("</s>", 2)])
    special = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=38, **special)


def processor(config: MusicFMTextAudioConfig | None = None) -> MusicFMTextAudioProcessor:
    extractor = MusicFMFeatureExtractor.from_model_config(config or text_audio_config())
    return MusicFMTextAudioProcessor(extractor, tokenizer())


def save_adapter(base: Path, folder: Path, with_config: bool = True) -> MusicFMTextAudioModel:
    """Save a LoRA adapter with random weights, as training does, and return the adapted model."""
    model = MusicFMTextAudioModel.from_pretrained(base)
    with torch.random.fork_rng():
        torch.manual_seed(2)
        adapted = add_lora(model, TextAudioArguments(str(base), train="train", validation="validation", method="lora"))
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_(0.0, 0.3)
    adapted.save_pretrained(folder)
    if with_config:
        model.config.save_pretrained(folder)
    processor().save_pretrained(folder)
    return adapted.eval().get_base_model()


def write_songs(folder: Path, count: int = 10) -> None:
    """
    Ten short songs with a caption each, and three tables: six to train on, one of them no audio; two and two to
    validate and test on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(count):
        name = f"{number}.wav"
        soundfile.write(folder / name, music(1.5 + 0.1 * number, seed=number), 24000)
        words = [WORDS[number], WORDS[(number + 3) % len(WORDS)]]
        caption = f"a song with {words[0]}" if number % 2 else [f"{words[0]} music", words[1]]
        rows.append({"audio": name, "caption": caption})
    (folder / "5.wav").write_text("no audio")
    for split, part in {"train": rows[:6], "valid": rows[6:8], "test": rows[8:]}.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))


def save_text_encoder(folder: Path) -> Path:
    """A tiny XLM-RoBERTa with random weights, and its tokenizer."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        XLMRobertaModel(text_audio_config().text_config, add_pooling_layer=False).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


TOWERS = json.dumps(TOWER)
# Flags of a short run: five usable songs of six, three pairs in a batch, so a pass has two batches.
SHORT = ["--per_device_train_batch_size", "3", "--max_steps", "4", "--eval_steps", "2", "--save_steps", "2"]
SHORT += ["--logging_steps", "1", "--warmup_steps", "1", "--learning_rate", "0.01", "--encoder_learning_rate", "0.001"]
SHORT += ["--use_cpu", "true", "--disable_tqdm", "true", "--dataloader_num_workers", "0", "--report_to", "none"]
NEW = ["--audio_transformer", TOWERS, "--text_transformer", TOWERS, "--projection_dim", "12", "--clip_seconds", "1.0"]


def tables(folder: Path, *splits: str) -> list[str]:
    """Flags that name the tables of [`write_songs`]."""
    names = {"train": "train", "validation": "valid", "test": "test"}
    return [part for split in splits or names for part in (f"--{split}", str(folder / f"{names[split]}.jsonl"))]
