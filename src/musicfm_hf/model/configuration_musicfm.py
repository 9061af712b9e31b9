"""The one description of a MusicFM encoder: front end, subsampling, conformer."""

import difflib
import math
from typing import Any, ClassVar

from transformers import PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.utils import logging

logger = logging.get_logger(__name__)

# What `PreTrainedConfig` itself takes or writes without declaring a field for it.
_INHERITED_KEYS = {
    "_attn_implementation",
    "_commit_hash",
    "_name_or_path",
    "attn_implementation",
    "auto_map",
    "experts_implementation",
    "model_type",
    "name_or_path",
    "num_labels",
    "output_attentions",
    "per_layer_config",
    "quantization_config",
    "tie_last_hidden_states",
    "torch_dtype",
}


class MusicFMConfig(PreTrainedConfig):
    r"""
    Configuration of a [`MusicFMModel`]. The defaults are the published 25 Hz checkpoints (Won, Hung, Le: *A Foundation
    Model for Music Informatics*, arXiv 2311.03318), with the statistics of the MSD one.

    Args:
        hidden_size (`int`, defaults to 1024): Width of the encoder.
        num_hidden_layers (`int`, defaults to 12): Conformer layers.
        num_attention_heads (`int`, defaults to 16): Attention heads; must divide `hidden_size` into even parts.
        intermediate_size (`int`, defaults to 4096): Width inside both feed-forward modules of a layer.
        hidden_act (`str`, defaults to `"swish"`): Activation of the feed-forward and convolution modules.
        hidden_dropout (`float`, defaults to 0.1): Dropout after the subsampling and after each module of a layer.
        activation_dropout (`float`, defaults to 0.1): Dropout inside the feed-forward modules.
        attention_dropout (`float`, defaults to 0.1): Dropout of the attention weights.
        conformer_conv_dropout (`float`, defaults to 0.1): Dropout after the convolution module.
        conv_depthwise_kernel_size (`int`, defaults to 31): Kernel of the depthwise convolution, in frames; odd.
        rotary_embedding_base (`float`, defaults to 10000): Base of the rotary position embedding.
        layer_norm_eps (`float`, defaults to 1e-5): Epsilon of the layer norms.
        initializer_range (`float`, defaults to 0.02): Standard deviation of new linear weights.
        sampling_rate (`int`, defaults to 24000): Sampling rate of `input_values`, in Hz.
        n_fft (`int`, defaults to 2048): Length of the Fourier transform and its window, in samples; even.
        hop_length (`int`, defaults to 240): Distance of mel frames, in samples.
        num_mel_bins (`int`, defaults to 128): Mel bands between 0 Hz and half the sampling rate.
        mel_mean (`float`, defaults to 6.768444971712967): Mean of the log-mel spectrogram, in dB.
        mel_std (`float`, defaults to 18.417922652295623): Standard deviation of the log-mel spectrogram, in dB.
        subsampling_conv_channels (`int`, defaults to 512): Channels of the two residual convolution blocks.
        subsampling_time_strides (`list[int]`, defaults to `[2, 2]`): Time stride of each block, 1 or 2. With a mel at
            100 Hz, `[2, 2]` gives 25 frames per second and `[2, 1]` gives 50.

    Raises:
        ValueError: for an impossible value (named), or for an argument that does not exist (with the nearest one that
            does). An unknown key in a saved configuration is kept and warned about instead.
    """

    model_type: ClassVar[str] = "musicfm"

    hidden_size: int = 1024
    num_hidden_layers: int = 12
    num_attention_heads: int = 16
    intermediate_size: int = 4096
    hidden_act: str = "swish"
    hidden_dropout: float = 0.1
    activation_dropout: float = 0.1
    attention_dropout: float = 0.1
    conformer_conv_dropout: float = 0.1
    conv_depthwise_kernel_size: int = 31
    rotary_embedding_base: float = 10000.0
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    sampling_rate: int = 24000
    n_fft: int = 2048
    hop_length: int = 240
    num_mel_bins: int = 128
    mel_mean: float = 6.768444971712967
    mel_std: float = 18.417922652295623
    subsampling_conv_channels: int = 512
    subsampling_time_strides: list[int] | tuple[int, ...] = (2, 2)

    def __post_init__(self, **kwargs):
        if unknown := sorted(self._unknown_keys(kwargs)):
            key = unknown[0]
            near = difflib.get_close_matches(key, self._known_keys(), n=1)
            hint = f" Did you mean `{near[0]}`?" if near else ""
            raise ValueError(f"MusicFMConfig has no argument `{key}`.{hint}")
        if isinstance(self.subsampling_time_strides, tuple):
            self.subsampling_time_strides = list(self.subsampling_time_strides)  # as JSON gives it back
        self._check_values()
        super().__post_init__(**kwargs)

    @classmethod
    def _known_keys(cls) -> set[str]:
        return set(cls.__dataclass_fields__) | _INHERITED_KEYS

    @classmethod
    def _unknown_keys(cls, keys) -> set[str]:
        return set(keys) - cls._known_keys()

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs):
        """As in [`PreTrainedConfig`]; a key that this version does not know is kept as it is, with a warning."""
        unknown = cls._unknown_keys(config_dict)
        for key in sorted(unknown):
            logger.warning(f"The saved configuration has a key that MusicFMConfig does not know and ignores: `{key}`.")
        loaded = super().from_dict({k: v for k, v in config_dict.items() if k not in unknown}, **kwargs)
        config = loaded[0] if isinstance(loaded, tuple) else loaded
        for key in unknown:
            setattr(config, key, config_dict[key])
        config._check_values()  # once more: `from_pretrained(..., key=value)` sets values after the constructor
        return loaded

    @classmethod
    def from_json_file(cls, json_file):
        """As in [`PreTrainedConfig`], through `from_dict`."""
        return cls.from_dict(cls._dict_from_json_file(json_file))

    def to_dict(self) -> dict[str, Any]:
        """As in [`PreTrainedConfig`], with every Auto class that these weights can serve in `auto_map`."""
        values = super().to_dict()
        ours = {
            "AutoConfig": "configuration_musicfm.MusicFMConfig",
            "AutoModel": "modeling_musicfm.MusicFMModel",
        }
        return values | {"auto_map": ours | (values.get("auto_map") or {})}

    @property
    def samples_per_frame(self) -> int:
        """Samples from one output frame to the next: 960 at 25 Hz."""
        return self.hop_length * math.prod(self.subsampling_time_strides)

    @property
    def frame_rate(self) -> float:
        """Output frames per second."""
        return self.sampling_rate / self.samples_per_frame

    @property
    def min_samples(self) -> int:
        """The shortest audio that can be encoded, in samples: the reflected edge must exist, and one mel frame."""
        return max(self.n_fft // 2 + 1, self.hop_length)

    def frame_counts(self, samples):
        """
        Frames of the mel, after the first and after the second convolution block (the output), for a number of samples
        or a tensor of such numbers. A partial mel frame is dropped, a partial output frame is kept.
        """
        counts = [samples // self.hop_length]
        for stride in self.subsampling_time_strides:
            counts.append((counts[-1] + stride - 1) // stride)
        return tuple(counts)

    def _check_values(self) -> None:
        def require(condition: bool, name: str, need: str) -> None:
            if not condition:
                raise ValueError(f"`{name}` must be {need}, got {getattr(self, name)!r}.")

        def is_number(name: str, kinds: type | tuple[type, ...]) -> bool:
            value = getattr(self, name)
            return isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)

        for name in [
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
            "conv_depthwise_kernel_size",
            "sampling_rate",
            "n_fft",
            "hop_length",
            "num_mel_bins",
            "subsampling_conv_channels",
        ]:
            require(is_number(name, int) and getattr(self, name) > 0, name, "a positive integer")
        for name in ["rotary_embedding_base", "layer_norm_eps", "initializer_range", "mel_std"]:
            require(is_number(name, (int, float)) and getattr(self, name) > 0, name, "a positive number")
        require(is_number("mel_mean", (int, float)), "mel_mean", "a number")
        for name in ["hidden_dropout", "activation_dropout", "attention_dropout", "conformer_conv_dropout"]:
            valid = is_number(name, (int, float)) and 0 <= getattr(self, name) <= 1
            require(valid, name, "a probability between 0 and 1")
        require(self.hidden_act in ACT2FN, "hidden_act", f"one of {', '.join(sorted(ACT2FN))}")
        require(
            self.hidden_size % (2 * self.num_attention_heads) == 0,
            "num_attention_heads",
            f"a divisor of `hidden_size` ({self.hidden_size}) with an even quotient (rotary embedding)",
        )
        require(self.conv_depthwise_kernel_size % 2 == 1, "conv_depthwise_kernel_size", "odd")
        require(self.n_fft % 2 == 0, "n_fft", "even")
        require(self.hop_length <= self.n_fft, "hop_length", f"at most `n_fft` ({self.n_fft})")
        strides = self.subsampling_time_strides
        valid = isinstance(strides, list) and len(strides) == 2 and all(s in (1, 2) for s in strides)
        require(valid, "subsampling_time_strides", "two strides, each 1 or 2")


__all__ = ["MusicFMConfig"]
