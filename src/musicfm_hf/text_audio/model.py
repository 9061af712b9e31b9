"""Models of music and text to train: built from encoders or loaded, with frozen parts or LoRA matrices."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoProcessor, AutoTokenizer, XLMRobertaConfig, XLMRobertaModel

from ..model.adapters_musicfm import find_base, merge_adapters
from ..model.configuration_musicfm import MusicFMConfig
from ..model.configuration_text_audio_musicfm import MusicFMTextAudioConfig
from ..model.feature_extraction_musicfm import MusicFMFeatureExtractor
from ..model.int8_musicfm import check_float
from ..model.modeling_musicfm import MusicFMModel
from ..model.modeling_text_audio_musicfm import MusicFMTextAudioModel
from ..model.processing_text_audio_musicfm import MusicFMTextAudioProcessor
from .arguments import TextAudioArguments

# Linear layers of the audio encoders, of XLM-RoBERTa, and of the transformers of the towers.
_LORA_TARGETS = (
    "q_proj k_proj v_proj out_proj intermediate_dense output_dense query key value dense up_proj gate_proj down_proj"
).split()

_ENCODERS = ("audio_model.", "text_model.")


def is_encoder(name: str) -> bool:
    """Return whether a parameter, given by its name, belongs to one of the encoders."""
    return any(part in name for part in _ENCODERS)


def build_model(arguments: TextAudioArguments) -> tuple[MusicFMTextAudioModel, MusicFMTextAudioProcessor]:
    """
    Load the model to start from, or build one with new towers on two encoders, with frozen parts as the method
    specifies.

    Raises:
        ValueError: a model is of another kind, or has other settings than the arguments.
        OSError: a model or its tokenizer cannot be loaded.
    """
    model, processor = _load(arguments) if arguments.model else _build_new(arguments)
    if model.config.audio_config.freeze_batch_norm is False:
        model.config.audio_config.freeze_batch_norm = None  # batch statistics move in masked pretraining alone
    if arguments.method == "towers":
        model.freeze_audio_encoder()
    if arguments.method == "towers" or arguments.freeze_text_encoder:
        model.freeze_text_encoder()
    return model, processor


def add_lora(model: MusicFMTextAudioModel, arguments: TextAudioArguments) -> Any:
    """
    Add LoRA matrices to linear layers of encoders and towers, and return the model. The projections into the common
    space are trained whole.

    Raises:
        ValueError: if the model has no layer that `arguments.lora_target_modules` names.
    """
    from peft import LoraConfig, get_peft_model

    leaves = {name.rpartition(".")[2] for name, module in model.named_modules() if not list(module.children())}
    targets = arguments.lora_target_modules or [name for name in _LORA_TARGETS if name in leaves]
    if missing := sorted(set(targets) - leaves):
        raise ValueError(f"The model has no layers {', '.join(missing)}; it has {', '.join(sorted(leaves))}.")
    lora = LoraConfig(
        r=arguments.lora_r,
        lora_alpha=arguments.lora_alpha,  # type: ignore[arg-type]  # PEFT divides it by `r`
        lora_dropout=arguments.lora_dropout,
        target_modules=rf"(audio|text)_(model|tower)\..*\.({'|'.join(targets)})",
        modules_to_save=["audio_tower.projection", "text_tower.projection"],
        revision=arguments.revision,
    )
    return get_peft_model(model, lora)


def _load(arguments: TextAudioArguments) -> tuple[MusicFMTextAudioModel, MusicFMTextAudioProcessor]:
    """Load a model of music and text with its processor."""
    name = arguments.model
    at_revision: dict[str, Any] = {} if arguments.revision is None else {"revision": arguments.revision}
    if find_base(name, **at_revision) is not None:
        raise ValueError(f"{name} is an adapter. Pass its base model, or merge the adapter into it with PEFT first.")
    config = AutoConfig.from_pretrained(name, **at_revision)
    if not isinstance(config, MusicFMTextAudioConfig):
        raise ValueError(
            f"{name} is not a model of music and text. Pass an encoder of music as `--audio_model`, and an "
            "XLM-RoBERTa as `--text_model`."
        )
    check_float(config, name, "trained")
    for key, value in arguments.model_settings().items():
        present = getattr(config, key)
        wanted = {**present, **value} if isinstance(value, dict) else value
        if present != wanted:
            raise ValueError(
                f"{name} has `{key}` {present}, not {value}: leave the setting out, because only new models take it."
            )
    try:
        processor = AutoProcessor.from_pretrained(name, **at_revision)
    except (OSError, ValueError) as error:
        raise OSError(f"The processor of {name} cannot be loaded: {error}") from error
    folder = Path(name)
    place = str(folder.resolve()) if folder.is_dir() else name  # recorded in adapters
    return MusicFMTextAudioModel.from_pretrained(place, dtype=torch.float32, **at_revision), processor


def _build_new(arguments: TextAudioArguments) -> tuple[MusicFMTextAudioModel, MusicFMTextAudioProcessor]:
    """Build a model with new towers on an encoder of music and one of texts."""
    audio_config = AutoConfig.from_pretrained(arguments.audio_model)
    text_config = AutoConfig.from_pretrained(arguments.text_model)
    if not isinstance(audio_config, MusicFMConfig):
        raise ValueError(f"`--audio_model` must be an encoder of this package, got a {audio_config.model_type} model.")
    if not isinstance(text_config, XLMRobertaConfig):
        raise ValueError(f"`--text_model` must be an XLM-RoBERTa, got a {text_config.model_type} model.")
    check_float(audio_config, arguments.audio_model, "trained")
    config = MusicFMTextAudioConfig(
        audio_config=MusicFMConfig.from_dict(audio_config.to_dict()),
        text_config=XLMRobertaConfig.from_dict(text_config.to_dict()),
        **arguments.model_settings(),
    )
    model = MusicFMTextAudioModel(config)
    audio = MusicFMModel.from_pretrained(arguments.audio_model)
    merge_adapters(audio)
    text = XLMRobertaModel.from_pretrained(arguments.text_model, add_pooling_layer=False)
    model.audio_model.load_state_dict(audio.state_dict())
    model.text_model.load_state_dict(text.state_dict())
    try:
        tokenizer = AutoTokenizer.from_pretrained(arguments.text_model)
    except (OSError, ValueError) as error:
        raise OSError(f"The tokenizer of {arguments.text_model} cannot be loaded: {error}") from error
    extractor = MusicFMFeatureExtractor.from_model_config(config)
    return model, MusicFMTextAudioProcessor(extractor, tokenizer)
