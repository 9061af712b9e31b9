"""Configuration of models with an audio tower and a text tower."""

import copy
import math
from typing import Any, ClassVar, Self

from transformers import PreTrainedConfig, XLMRobertaConfig

from .configuration_musicfm import MusicFMConfig

_AUTO_MAP = {
    "AutoConfig": "configuration_text_audio_musicfm.MusicFMTextAudioConfig",
    "AutoModel": "modeling_text_audio_musicfm.MusicFMTextAudioModel",
}

# Settings of both transformers, with the values of MuQ-MuLan-large. Its audio transformer has no layers.
_TRANSFORMER = {
    "hidden_size": 768,
    "num_hidden_layers": 0,
    "num_attention_heads": 8,
    "head_dim": 64,
    "intermediate_size": 2048,
    "attention_dropout": 0.0,
    "hidden_dropout": 0.0,
}


class MusicFMTextAudioConfig(PreTrainedConfig):
    r"""
    Configuration of a [`MusicFMTextAudioModel`]. The defaults describe the towers of MuQ-MuLan-large (arXiv
    2501.01108), with the encoder of [`MusicFMConfig`]'s own defaults.

    Args:
        audio_config (`dict` or [`MusicFMConfig`], *optional*): Configuration of the audio encoder.
        text_config (`dict` or [`XLMRobertaConfig`], *optional*): Configuration of the text encoder.
        audio_layer (`int`, *optional*): Hidden state of the audio encoder that its tower reads, from 0 (the input of
            the first layer) to `audio_config.num_hidden_layers` (the default). Later layers are not computed.
        audio_transformer, text_transformer (`dict`, *optional*): Transformer on top of each encoder: `hidden_size`
            (768), `num_hidden_layers` (0 for audio and 8 for texts), `num_attention_heads` (8), `head_dim` (64),
            `intermediate_size` (2048), `attention_dropout` (0) and `hidden_dropout` (0). Settings that are left out
            have these values.
        projection_dim (`int`, defaults to 512): Width of the space that both towers share.
        clip_seconds (`float`, defaults to 10.0): Length of the clips that longer audio is cut into.
        logit_scale_init_value (`float`, defaults to 10.0): Initial factor between cosine similarities and logits.
        use_decoupled_loss (`bool`, defaults to `True`): Leave the matching pair out of the denominator of the
            contrastive loss (Yeh et al.: *Decoupled Contrastive Learning*, arXiv 2110.06848).
        initializer_range (`float`, defaults to 0.02): Standard deviation of new linear weights.
        kwargs: Arguments of [`PreTrainedConfig`].

    Raises:
        ValueError: if a value is out of range, or a setting of a transformer does not exist.
    """

    model_type: ClassVar[str] = "musicfm_text_audio"
    sub_configs: ClassVar[dict[str, type[PreTrainedConfig]]] = {
        "audio_config": MusicFMConfig,
        "text_config": XLMRobertaConfig,
    }

    audio_config: Any = None  # a MusicFMConfig after construction
    text_config: Any = None  # an XLMRobertaConfig after construction
    audio_layer: int | None = None
    audio_transformer: Any = None  # a dictionary after construction
    text_transformer: Any = None
    projection_dim: int = 512
    clip_seconds: float = 10.0
    logit_scale_init_value: float = 10.0
    use_decoupled_loss: bool = True
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        for name, config_class in self.sub_configs.items():
            value = getattr(self, name)
            if value is None or isinstance(value, dict):
                # `from_dict` warns of keys that a newer version wrote, where the constructor would raise
                setattr(self, name, config_class.from_dict(value) if value else config_class())
            elif not isinstance(value, config_class):
                raise ValueError(f"`{name}` must be a {config_class.__name__}, got a {type(value).__name__}.")
        self.audio_transformer = _TRANSFORMER | (self.audio_transformer or {})
        self.text_transformer = _TRANSFORMER | {"num_hidden_layers": 8} | (self.text_transformer or {})
        super().__post_init__(**kwargs)
        self._check_values()

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Self:
        """Create a configuration as [`PreTrainedConfig`] does, and check its values."""
        loaded: Any = super().from_dict(config_dict, **kwargs)
        (loaded[0] if isinstance(loaded, tuple) else loaded)._check_values()  # `from_pretrained` may have set values
        return loaded

    def to_dict(self) -> dict[str, Any]:
        """
        Return the values as [`PreTrainedConfig`] does, with `auto_map` for this model alone, and without the paths
        that its encoders were loaded from.
        """
        values = super().to_dict()
        for part in self.sub_configs:
            values[part] = copy.deepcopy(values[part])
            for name in ("auto_map", "custom_pipelines", "_name_or_path"):
                values[part].pop(name, None)
        return values | {"auto_map": (values.get("auto_map") or {}) | _AUTO_MAP}

    @property
    def sampling_rate(self) -> int:
        """Sampling rate of `input_values`, in Hz."""
        return self.audio_config.sampling_rate

    @property
    def clip_samples(self) -> int:
        """Length of a clip in samples."""
        return round(self.clip_seconds * self.sampling_rate)

    def _check_values(self) -> None:
        """Raise a `ValueError` that names the first invalid value."""
        for name in ("audio_transformer", "text_transformer"):
            for key, value in getattr(self, name).items():
                if key not in _TRANSFORMER:
                    raise ValueError(f"`{name}` has no setting `{key}`. Its settings are {', '.join(_TRANSFORMER)}.")
                if key.endswith("dropout"):
                    valid, need = _is_number(value) and 0 <= value <= 1, "a probability between 0 and 1"
                elif key == "num_hidden_layers":
                    valid, need = type(value) is int and value >= 0, "an integer of at least 0"
                else:
                    valid, need = type(value) is int and value > 0, "a positive integer"
                if not valid:
                    raise ValueError(f"`{name}[{key!r}]` must be {need}, got {value!r}.")
        layers, layer = self.audio_config.num_hidden_layers, self.audio_layer
        if not (layer is None or (type(layer) is int and 0 <= layer <= layers)):
            raise ValueError(
                f"`audio_layer` must be between 0 and {layers} (the layers of the encoder), got {layer!r}."
            )
        if type(self.projection_dim) is not int or self.projection_dim < 1:
            raise ValueError(f"`projection_dim` must be a positive integer, got {self.projection_dim!r}.")
        for name in ("clip_seconds", "logit_scale_init_value", "initializer_range"):
            value = getattr(self, name)
            if not (_is_number(value) and value > 0):
                raise ValueError(f"`{name}` must be a positive number, got {value!r}.")
        if self.clip_samples < self.audio_config.min_samples:
            least = self.audio_config.min_samples / self.sampling_rate
            raise ValueError(
                f"`clip_seconds` must be at least {least:.3f} s for this encoder, got {self.clip_seconds}."
            )


def _is_number(value: Any) -> bool:
    """Return whether a value is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


__all__ = ["MusicFMTextAudioConfig"]
