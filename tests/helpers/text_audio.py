"""Tiny models with an audio tower and a text tower, and their tokenizer."""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from musicfm_hf import (
    MusicFMFeatureExtractor,
    MusicFMTextAudioConfig,
    MusicFMTextAudioModel,
    MusicFMTextAudioProcessor,
)

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
