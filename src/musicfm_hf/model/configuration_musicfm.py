"""Configuration of all MusicFM models: front end, encoder, pretraining targets and masks, heads."""

import copy
import difflib
import math
import os
from collections.abc import Iterable
from typing import Any, ClassVar, Self, TypeVar

from transformers import PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.utils import logging

from .pipeline_musicfm import CUSTOM_PIPELINES

logger = logging.get_logger(__name__)

Count = TypeVar("Count")  # an integer, or a tensor of them

# Auto class → the class that it loads from these weights.
_AUTO_MAP = {
    "AutoConfig": "configuration_musicfm.MusicFMConfig",
    "AutoModel": "modeling_musicfm.MusicFMModel",
    "AutoModelForAudioClassification": "modeling_musicfm.MusicFMForAudioClassification",
    "AutoModelForAudioFrameClassification": "modeling_musicfm.MusicFMForAudioFrameClassification",
    "AutoModelForAudioXVector": "modeling_musicfm.MusicFMForXVector",
    "AutoModelForPreTraining": "modeling_musicfm.MusicFMForPreTraining",
}

_POSITIVE_INTEGERS = (
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
    "num_conv_pos_embeddings",
    "num_conv_pos_embedding_groups",
    "num_codebooks",
    "codebook_dim",
    "kmeans_mel_bins",
    "kmeans_chroma_bins",
    "mixup_max_excerpts",
    "cqt_bins",
    "cqt_bins_per_octave",
    "classifier_proj_size",
    "pitch_maps",
    "pitch_frames",
    "pitch_channels",
    "pitch_kernel",
    "xvector_output_dim",
)
_POSITIVE_NUMBERS = (
    "rotary_embedding_base",
    "layer_norm_eps",
    "convnext_layer_norm_eps",
    "initializer_range",
    "context_seconds",
    "mask_seconds",
    "kmeans_window_seconds",
    "cqt_fmin",
    "contrastive_temperature",
)
_NUMBERS_FROM_ZERO = (
    "cqt_loss_weight",
    "mask_noise_std",
    "unmasked_loss_weight",
    "vicreg_invariance_weight",
    "vicreg_variance_weight",
    "vicreg_covariance_weight",
)
_PROBABILITIES = (
    "hidden_dropout",
    "activation_dropout",
    "attention_dropout",
    "conformer_conv_dropout",
    "feat_proj_dropout",
    "mask_prob",
    "mixup_prob",
    "classifier_dropout",
)

# Keys that `PreTrainedConfig` accepts or writes without declaring a field for them.
_INHERITED_KEYS = {
    "_attn_implementation",
    "_commit_hash",
    "_name_or_path",
    "attn_implementation",
    "auto_map",
    "custom_pipelines",
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
    Configuration of a [`MusicFMModel`] and of the models built on it. The defaults describe the published 25 Hz
    checkpoints (Won, Hung, Le: *A Foundation Model for Music Informatics*, arXiv 2311.03318), with the mel statistics
    of the one trained on the Million Song Dataset. Other values of the same arguments describe MuQ (arXiv 2501.01108),
    MERT (arXiv 2306.00107) and MERT-v2 (huggingface.co/m-a-p/MERT-v2-30s).

    Args:
        encoder_type (`str`, defaults to `"conformer"`): `"conformer"` (rotary positions) or `"bert"` (the encoder of
            HuBERT, with a positional convolution).
        front_end (`str`, defaults to `"mel"`): `"mel"` (log-mel spectrogram and 2-D convolutions), `"convnext"`
            (log-mel spectrogram and ConvNeXt V2 over time, as in MERT-v2) or `"waveform"` (HuBERT's 1-D convolutions).
        hidden_size (`int`, defaults to 1024): Width of the encoder.
        num_hidden_layers (`int`, defaults to 12): Number of encoder layers.
        num_attention_heads (`int`, defaults to 16): Number of attention heads; `hidden_size` divided by it must be
            even.
        intermediate_size (`int`, defaults to 4096): Width inside the feed-forward modules of a layer.
        hidden_act (`str`, defaults to `"swish"`): Activation of the feed-forward and convolution modules.
        hidden_dropout (`float`, defaults to 0.1): Dropout after the subsampling and after the feed-forward modules,
            and in `"bert"` also after the attention module.
        activation_dropout (`float`, defaults to 0.1): Dropout inside the feed-forward modules.
        attention_dropout (`float`, defaults to 0.1): Dropout of the attention weights and, in a `"conformer"`, after
            the attention module, as in the wav2vec 2.0 conformer.
        conformer_conv_dropout (`float`, defaults to 0.1): Dropout after the convolution module.
        conv_depthwise_kernel_size (`int`, defaults to 31): Kernel of the depthwise convolution, in frames; odd.
        conformer_conv_norm (`str`, defaults to `"batch_norm"`): Norm after the depthwise convolution: `"batch_norm"`,
            or `"layer_norm"` as in MERT-v2.
        rotary_embedding_base (`float`, defaults to 10000): Base of the rotary position embedding.
        rotary_after_projection (`bool`, defaults to `False`): Rotate queries and keys, as in MERT-v2, not the input of
            their projections.
        use_final_layer_norm (`bool`, defaults to `True`): End a pre-norm encoder with a layer norm; MERT-v2 has none.
        layer_norm_eps (`float`, defaults to 1e-5): Epsilon of the layer norms.
        initializer_range (`float`, defaults to 0.02): Standard deviation of new linear weights.
        sampling_rate (`int`, defaults to 24000): Sampling rate of `input_values`, in Hz.
        context_seconds (`float`, defaults to 30.0): Length of audio that the encoder was trained on. Longer songs are
            encoded in windows of this length, unless the caller chooses another one.
        n_fft (`int`, defaults to 2048): Length of the Fourier transform and its window, in samples; even.
        hop_length (`int`, defaults to 240): Samples from one mel frame to the next. It must divide the number of
            samples in an output frame, even with the `"waveform"` front end, because targets are computed from mel
            frames.
        num_mel_bins (`int`, defaults to 128): Mel bands between 0 Hz and half the sampling rate.
        mel_mean (`float` or `list[float]`, defaults to 6.768444971712967): Mean of the log-mel spectrogram in dB: one
            number for all bands, as published, or one for each.
        mel_std (`float` or `list[float]`, defaults to 18.417922652295623): Standard deviation of the log-mel
            spectrogram in dB, in the same form.
        subsampling_conv_channels (`int`, defaults to 512): Channels of the two residual convolution blocks.
        subsampling_time_strides (`list[int]`, defaults to `[2, 2]`): Time stride of each block or stage, 1 or 2. With
            a mel at 100 Hz, `[2, 2]` gives 25 frames per second and `[2, 1]` gives 50. `"convnext"` needs a stride for
            each of its stages; MERT-v2 has `[1, 2, 2]`.
        convnext_channels, convnext_depths (`list[int]`, default to `[128, 512, 1024]` and `[3, 4, 5]`): Width and
            number of layers of each stage of the `"convnext"` front end. The last width must be `hidden_size`; a stage
            with a stride of 1 has the width before it, which for the first stage is `num_mel_bins`.
        convnext_layer_norm_eps (`float`, defaults to 1e-6): Epsilon of the layer norms of that front end.
        conv_dim, conv_kernel, conv_stride (`list[int]`): Channels, kernels and strides of the `"waveform"` front end.
        feat_extract_activation (`str`, defaults to `"gelu"`): Activation of the `"waveform"` front end and of the
            positional convolution.
        feat_proj_dropout (`float`, defaults to 0.0): Dropout after the projection of the `"waveform"` front end.
        do_normalize (`bool`, defaults to `False`): Whether the encoder expects waveforms of mean 0 and variance 1, as
            MERT does. The feature extractor, `musicfm_hf.embed` and pretraining normalize them; [`MusicFMModel`] does
            not.
        do_stable_layer_norm (`bool`, defaults to `False`): Place the layer norms of `"bert"` before the modules of a
            layer (MERT-330M), not after them (MERT-95M).
        num_conv_pos_embeddings (`int`, defaults to 128): Kernel of the positional convolution of `"bert"`.
        num_conv_pos_embedding_groups (`int`, defaults to 16): Groups of the positional convolution.
        freeze_batch_norm (`bool`, *optional*): Use the stored batch-norm statistics in training as well. By default,
            statistics change only in masked pretraining, and only those of norms whose weights are trained. Set it to
            `False` to train an encoder from random weights in another way.
        quantizer_type (`str`, defaults to `"random_projection"`): Quantizer that computes the target tokens of
            pretraining: `"random_projection"` (MusicFM), `"residual_vq"` (MuQ) or `"kmeans"` (HuBERT, MERT).
        num_codebooks (`int`, defaults to 1): Tokens per frame; for `"kmeans"`, one for each of `kmeans_features`.
        codebook_size (`int` or `list[int]`, defaults to 4096): Number of codes in each codebook: 4096 in the published
            checkpoints, 8192 in the paper.
        codebook_dim (`int`, defaults to 16): Width of the codes.
        quantizer_seed (`int`, defaults to 0): Seed of the random projection and of new codebooks.
        target_mel_mean, target_mel_std (`float` or `list[float]`, *optional*): Statistics that normalize the log-mel
            spectrogram for the targets; `mel_mean` and `mel_std` by default. With one value per band, many more codes
            are used.
        kmeans_features (`list[str]`, defaults to `["mel"]`): Features to cluster, one or several of `"mel"`,
            `"chroma"`, `"texture"` (means and deviations of mel bands around a frame) and `"harmony"` (means of pitch
            classes).
        kmeans_window_seconds (`float`, defaults to 1.0): Length of the window of `"texture"` and `"harmony"`.
        kmeans_mel_bins, kmeans_chroma_bins (`int`, default to 229 and 264): Sizes of these features, by default those
            of MERT. MERT's normalization is not published; here, the features are power in dB, standardized over the
            data that the clusters are fitted to.
        mask_type (`str`, defaults to `"noise"`): `"noise"` replaces cells of a fixed grid of the waveform by Gaussian
            noise; `"embedding"` replaces spans of frames before the encoder by a learned vector, as MERT does.
        mask_prob (`float`, defaults to 0.6): Probability that a cell is masked. For spans, the expected share of
            masked frames if no spans overlapped.
        mask_seconds (`float`, defaults to 0.4): Length of a cell or a span.
        mask_noise_std (`float`, defaults to 0.1): Standard deviation of the noise.
        unmasked_loss_weight (`float`, defaults to 0.0): Weight of a frame that is not masked in the pretraining loss,
            where a masked frame has 1; `pred_nomask_weight` in HuBERT's code. Above 0, the encoder also learns to
            describe frames that it hears.
        mixup_prob (`float`, defaults to 0.0): Probability that excerpts of other items of the batch are added to an
            item in pretraining, as in MERT. Targets are those of the clean waveform, and evaluation is not affected.
        mixup_seconds (`list[float]`, defaults to `[0.5, 1.5]`): Shortest and longest duration of an excerpt, those of
            MERT-330M.
        mixup_max_excerpts (`int`, defaults to 3): Largest number of excerpts in an item, as in MERT.
        cqt_loss_weight (`float`, defaults to 0.0): Weight of the mean squared error of MERT's constant-Q
            reconstruction; 0 for none.
        cqt_bins, cqt_bins_per_octave (`int`, default to 336 and 48): Size of the constant-Q transform.
        cqt_fmin (`float`, defaults to 32.7): Lowest frequency of the constant-Q transform, in Hz.
        task (`str`, *optional*): Task of the head: `"beat"`, `"chord"`, `"structure"`, `"key"`, `"tagging"`, or a task
            of your own, so that a saved model decodes its own outputs.
        vocabulary (`str`, *optional*): Set of labels of that task, if it has several, such as `"full"` for chords.
        decoding (`dict`, *optional*): Settings of the decoder of that task.
        calibration (`dict`, *optional*): Result of that task → `slope` and `offset`, with which the log-odds of its
            probabilities are scaled, and `uncertain_below`, the probability below which an item is uncertain.
        task_folders (`list[str]`, *optional*): Subfolders with the models for single tasks, in a folder of heads that
            were trained together; each is named after its task.
        label_rate (`float`, *optional*): Label frames per second. If not given, the model has one label for the whole
            clip.
        label_centered (`bool`, defaults to `False`): Label frame j describes the time j / `label_rate` (beats), not
            the interval that begins there.
        classifier_layer (`int`, *optional*): Hidden state that the head reads; the last by default.
        use_weighted_layer_sum (`bool`, defaults to `False`): The head reads a learned weighted sum of all hidden
            states.
        classifier_proj_size (`int`, defaults to 512): Width of the hidden layer of the head.
        classifier_dropout (`float`, defaults to 0.0): Dropout after the hidden layer of the head.
        classifier_outputs (`list[dict]`, *optional*): Slices of the logits in order, each with `name`, `size`,
            `problem_type` (`"single_label_classification"`: softmax; `"multi_label_classification"`: sigmoids) and
            `loss_weight`. By default, a single output with all labels and the `problem_type` of the configuration.
        class_weights (`list[float]`, *optional*): Weight of each label in the loss; for sigmoids, of its positives.
        pitch_maps (`int`, defaults to 2): Number of maps of twelve pitch classes that the head of
            [`MusicFMForXVector`] computes from each frame.
        pitch_frames (`int`, defaults to 32): Number of intervals into which that head divides a clip.
        pitch_channels, pitch_kernel (`int`, default to 16 and 3): Channels, and odd kernel in intervals, of the
            convolution over these maps.
        xvector_output_dim (`int`, defaults to 256): Size of the embeddings of that head.
        contrastive_loss (`str`, *optional*): Loss of that head: `"info_nce"` or `"vicreg"`; `None` in models with
            another head.
        contrastive_temperature (`float`, defaults to 0.1): Temperature of `"info_nce"`.
        vicreg_invariance_weight, vicreg_variance_weight, vicreg_covariance_weight (`float`, default to 25.0, 25.0 and
            1.0): Weights of the three terms of `"vicreg"`, by default those of the paper.

    Raises:
        ValueError: if a value is invalid or an argument does not exist; the message names it and the most similar
            argument. An unknown key in a saved configuration is kept instead, with a warning.
    """

    model_type: ClassVar[str] = "musicfm"
    keys_to_ignore_at_inference: ClassVar[list[str]] = [
        "logits",
        "accuracy",
        "tokens",
        "mask_time_indices",
        "cqt_loss",
        "hidden_states",
        "attentions",
    ]

    encoder_type: str = "conformer"
    front_end: str = "mel"
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
    conformer_conv_norm: str = "batch_norm"
    rotary_embedding_base: float = 10000.0
    rotary_after_projection: bool = False
    use_final_layer_norm: bool = True
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    sampling_rate: int = 24000
    context_seconds: float = 30.0
    n_fft: int = 2048
    hop_length: int = 240
    num_mel_bins: int = 128
    mel_mean: float | list[float] = 6.768444971712967
    mel_std: float | list[float] = 18.417922652295623
    subsampling_conv_channels: int = 512
    subsampling_time_strides: list[int] | tuple[int, ...] = (2, 2)
    convnext_channels: list[int] | tuple[int, ...] = (128, 512, 1024)
    convnext_depths: list[int] | tuple[int, ...] = (3, 4, 5)
    convnext_layer_norm_eps: float = 1e-6
    conv_dim: list[int] | tuple[int, ...] = (512, 512, 512, 512, 512, 512, 512)
    conv_kernel: list[int] | tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_stride: list[int] | tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    feat_extract_activation: str = "gelu"
    feat_proj_dropout: float = 0.0
    do_normalize: bool = False
    do_stable_layer_norm: bool = False
    num_conv_pos_embeddings: int = 128
    num_conv_pos_embedding_groups: int = 16
    freeze_batch_norm: bool | None = None
    quantizer_type: str = "random_projection"
    num_codebooks: int = 1
    codebook_size: int | list[int] = 4096
    codebook_dim: int = 16
    quantizer_seed: int = 0
    target_mel_mean: float | list[float] | None = None
    target_mel_std: float | list[float] | None = None
    kmeans_features: list[str] | tuple[str, ...] = ("mel",)
    kmeans_mel_bins: int = 229
    kmeans_chroma_bins: int = 264
    kmeans_window_seconds: float = 1.0
    mask_type: str = "noise"
    mask_prob: float = 0.6
    mask_seconds: float = 0.4
    mask_noise_std: float = 0.1
    unmasked_loss_weight: float = 0.0
    mixup_prob: float = 0.0
    mixup_seconds: list[float] | tuple[float, ...] = (0.5, 1.5)
    mixup_max_excerpts: int = 3
    cqt_loss_weight: float = 0.0
    cqt_bins: int = 336
    cqt_bins_per_octave: int = 48
    cqt_fmin: float = 32.7
    task: str | None = None
    vocabulary: str | None = None
    decoding: dict | None = None
    calibration: dict | None = None
    task_folders: list[str] | None = None
    label_rate: float | None = None
    label_centered: bool = False
    classifier_layer: int | None = None
    use_weighted_layer_sum: bool = False
    classifier_proj_size: int = 512
    classifier_dropout: float = 0.0
    classifier_outputs: list[dict] | None = None
    class_weights: list[float] | None = None
    pitch_maps: int = 2
    pitch_frames: int = 32
    pitch_channels: int = 16
    pitch_kernel: int = 3
    xvector_output_dim: int = 256
    contrastive_loss: str | None = None
    contrastive_temperature: float = 0.1
    vicreg_invariance_weight: float = 25.0
    vicreg_variance_weight: float = 25.0
    vicreg_covariance_weight: float = 1.0

    def __post_init__(self, **kwargs: Any) -> None:
        if unknown := sorted(self._unknown_keys(kwargs)):
            raise ValueError(f"MusicFMConfig has no argument `{unknown[0]}`.{self._suggest(unknown[0])}")
        for name in self.__dataclass_fields__:
            if isinstance(value := getattr(self, name), tuple):
                setattr(self, name, list(value))  # as JSON would load it
        if "custom_pipelines" in kwargs and not type(self).__module__.startswith("transformers_modules"):
            # The package registers its pipelines. With their entries, `pipeline()` would need `trust_remote_code`.
            kwargs["custom_pipelines"] = _of_others(kwargs["custom_pipelines"])
        super().__post_init__(**kwargs)
        self._check_values()

    @classmethod
    def _known_keys(cls) -> set[str]:
        return set(cls.__dataclass_fields__) | _INHERITED_KEYS

    @classmethod
    def _unknown_keys(cls, keys: Iterable[str]) -> set[str]:
        return set(keys) - cls._known_keys()

    @classmethod
    def has_setting(cls, key: str) -> bool:
        """Return whether this is the name of a setting."""
        return key in cls._known_keys()

    @classmethod
    def _suggest(cls, key: str, similarity: float = 0.6) -> str:
        """Return a hint at the most similar key, or an empty text."""
        near = difflib.get_close_matches(key, sorted(cls._known_keys()), n=1, cutoff=similarity)
        return f" Did you mean `{near[0]}`?" if near else ""

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """
        Read a configuration as [`PreTrainedConfig`] does.

        Raises:
            OSError: if the folder or repository has no configuration, for which Transformers would return the default.
            ValueError: if it holds a model of another type, whose weights Transformers would replace by random ones.
        """
        values, rest = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        if "model_type" not in values:
            raise OSError(f"{pretrained_model_name_or_path} has no config.json of a model.")
        if values["model_type"] != cls.model_type:
            raise ValueError(
                f"{pretrained_model_name_or_path} holds a model of the type {values['model_type']}, not "
                f"{cls.model_type}. Load it with `AutoModel.from_pretrained`."
            )
        return values, rest

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Self:
        """
        Create a configuration as [`PreTrainedConfig`] does. Unknown keys of a saved configuration are kept, with a
        warning.

        Raises:
            ValueError: if a value is invalid, or a keyword argument is similar to a setting without being one.
        """
        is_of_0_1 = "transformers_version" in config_dict and "context_seconds" not in config_dict
        if is_of_0_1 and config_dict.get("freeze_batch_norm") is False:
            config_dict = config_dict | {"freeze_batch_norm": None}  # version 0.1 wrote its default, false
        unknown = cls._unknown_keys(config_dict)
        for key in sorted(unknown):
            logger.warning(
                f"The saved configuration has a key that MusicFMConfig does not know and ignores: `{key}`."
                f"{cls._suggest(key)}"
            )
        if not kwargs.get("return_unused_kwargs"):  # otherwise, the caller may know them
            for key in sorted(cls._unknown_keys(kwargs) - {"return_unused_kwargs", "_from_auto", "_from_pipeline"}):
                if hint := cls._suggest(key, similarity=0.8):
                    raise ValueError(f"MusicFMConfig has no argument `{key}`.{hint}")
                logger.warning(f"MusicFMConfig has no argument `{key}` and ignores it.")
        # Before the values of the saved head are checked, as they may be replaced because it does not fit.
        of_head = {name: kwargs[name] for name in ("classifier_outputs", "class_weights") if name in kwargs}
        config_dict = config_dict | of_head
        loaded: Any = super().from_dict({k: v for k, v in config_dict.items() if k not in unknown}, **kwargs)
        config = loaded[0] if isinstance(loaded, tuple) else loaded
        for key in unknown:
            setattr(config, key, config_dict[key])
        config._check_values()  # once more: `from_pretrained(..., key=value)` sets values after the constructor
        return loaded

    @classmethod
    def from_json_file(cls, json_file: str | os.PathLike) -> Self:
        """Load a configuration as [`PreTrainedConfig`] does, through `from_dict`."""
        return cls.from_dict(cls._dict_from_json_file(json_file))

    def to_dict(self) -> dict[str, Any]:
        """
        Return the values as [`PreTrainedConfig`] does, with every Auto class that can load these weights in
        `auto_map`, and the pipelines in `custom_pipelines`. Entries for classes of this package are replaced, because
        they may point to the file or repository that they were loaded from; other entries are kept.
        """
        values = super().to_dict()
        for name in ("keys_to_ignore_at_inference", "use_cache"):  # set by models and the Trainer
            values.pop(name, None)
        ours = {reference.split(".")[-1] for reference in _AUTO_MAP.values()}
        auto_map = values.get("auto_map") or {}
        others = {auto: name for auto, name in auto_map.items() if str(name).split(".")[-1] not in ours}
        pipelines = {
            name: pipeline
            for name, pipeline in CUSTOM_PIPELINES.items()
            if name == "feature-extraction" or "MusicFMForAudioClassification" in (self.architectures or [])
        }
        pipelines = copy.deepcopy(pipelines) | _of_others(values.get("custom_pipelines") or {})
        return values | {"auto_map": _AUTO_MAP | others, "custom_pipelines": pipelines}

    @property
    def samples_per_frame(self) -> int:
        """Number of samples from one output frame to the next: 960 at 25 Hz."""
        if self.front_end == "waveform":
            return math.prod(self.conv_stride)
        return self.hop_length * math.prod(self.subsampling_time_strides)

    @property
    def frame_rate(self) -> float:
        """Number of output frames, and of target tokens, per second."""
        return self.sampling_rate / self.samples_per_frame

    @property
    def frame_offset(self) -> float:
        """
        Center of the first output frame, in frames: 0 for `"mel"`; 0.625 (8.3 ms) for `"waveform"`; 0.375 (15 ms) for
        MERT-v2, whose strided convolutions average two neighboring frames each.
        """
        if self.front_end == "convnext":
            return (math.prod(self.subsampling_time_strides) - 1) / 2 / math.prod(self.subsampling_time_strides)
        return self.min_samples / 2 / self.samples_per_frame if self.front_end == "waveform" else 0.0

    @property
    def min_samples(self) -> int:
        """
        Shortest audio that can be encoded, in samples: for `"mel"`, enough to reflect at the edges and for one mel
        frame; for `"convnext"`, also for one output frame; for `"waveform"`, one output frame.
        """
        if self.front_end == "waveform":
            return self.window_samples(1)
        if self.front_end == "convnext":
            return max(self.n_fft // 2 + 1, self.window_samples(1))
        return max(self.n_fft // 2 + 1, self.hop_length)

    def window_samples(self, frames: int) -> int:
        """Return the smallest number of samples that yields this many complete output frames."""
        if self.front_end != "waveform":
            return frames * self.samples_per_frame
        for kernel, stride in zip(reversed(self.conv_kernel), reversed(self.conv_stride), strict=True):
            frames = (frames - 1) * stride + kernel
        return frames

    def frame_counts(self, samples: Count) -> tuple[Count, ...]:
        """
        Return the number of frames after each step of the front end, for a number of samples or a tensor of such
        numbers; the last one is the number of output frames. The steps of `"mel"` are the mel spectrogram, which drops
        a partial frame, and the two convolution blocks, which keep it. The steps of `"convnext"` are the mel
        spectrogram and the stages, which drop it. The steps of `"waveform"` are its convolutions.
        """
        count: Any = samples
        counts: list[Any] = []
        if self.front_end == "waveform":
            for kernel, stride in zip(self.conv_kernel, self.conv_stride, strict=True):
                count = (count - kernel) // stride + 1
                counts.append(count)
            return tuple(counts)
        counts.append(count // self.hop_length)
        partial = 0 if self.front_end == "convnext" else 1  # whether a partial frame counts
        for stride in self.subsampling_time_strides:
            counts.append((counts[-1] + partial * (stride - 1)) // stride)
        return tuple(counts)

    @property
    def codebook_sizes(self) -> list[int]:
        """Number of codes in each codebook."""
        sizes = self.codebook_size
        return list(sizes) if isinstance(sizes, list) else [sizes] * self.num_codebooks

    @property
    def kmeans_window_frames(self) -> int:
        """Number of frames in the window of the `"texture"` and `"harmony"` features."""
        return max(1, round(self.kmeans_window_seconds * self.frame_rate))

    @property
    def mask_frames(self) -> int:
        """Number of frames in a mask cell or span."""
        return round(self.mask_seconds * self.frame_rate)

    @property
    def classifier_slices(self) -> list[dict]:
        """`classifier_outputs`, or, if it is not set, a single output with all labels."""
        if self.classifier_outputs is not None:
            return self.classifier_outputs
        kind = self.problem_type or "single_label_classification"
        return [{"name": "labels", "size": self.num_labels, "problem_type": kind, "loss_weight": 1.0}]

    @property
    def classifier_layers(self) -> list[int]:
        """Indices of the hidden states that the head reads: one, or all of them for a learned weighted sum."""
        if self.use_weighted_layer_sum:
            return list(range(self.num_hidden_layers + 1))
        return [self.num_hidden_layers if self.classifier_layer is None else self.classifier_layer]

    @property
    def head_class(self) -> str:
        """Name of the model class for this head: for embeddings, for frames at `label_rate`, or for whole clips."""
        if self.contrastive_loss is not None:
            return "MusicFMForXVector"
        return "MusicFMForAudioClassification" if self.label_rate is None else "MusicFMForAudioFrameClassification"

    def _check_values(self) -> None:
        """Raise a `ValueError` that names the first invalid value."""
        self._check_numbers()
        self._check_mel()
        self._check_encoder()
        self._check_targets()
        self._check_head()

    def _require(self, condition: bool, name: str, need: str) -> None:
        """Raise a `ValueError` unless the condition holds for the value `name`."""
        if not condition:
            raise ValueError(f"`{name}` must be {need}, got {getattr(self, name)!r}.")

    def _is_number(self, name: str, kinds: type[int] | tuple[type[int], type[float]]) -> bool:
        """Return whether a value is a finite number of these types."""
        value = getattr(self, name)
        return isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)

    def _is_list(self, name: str, kinds: type[int] | tuple[type[int], type[float]], positive: bool = True) -> bool:
        """Return whether a value is a list of finite numbers of these types, all positive if `positive` is true."""
        values = getattr(self, name)
        return isinstance(values, list) and all(
            isinstance(v, kinds) and not isinstance(v, bool) and math.isfinite(v) and (v > 0 or not positive)
            for v in values
        )

    def _check_numbers(self) -> None:
        """Check each value that is a number or one of a fixed set of names, independently of the others."""
        choices = {
            "encoder_type": ("conformer", "bert"),
            "front_end": ("mel", "convnext", "waveform"),
            "conformer_conv_norm": ("batch_norm", "layer_norm"),
            "quantizer_type": ("random_projection", "residual_vq", "kmeans"),
            "mask_type": ("noise", "embedding"),
            "hidden_act": tuple(sorted(ACT2FN)),
            "feat_extract_activation": tuple(sorted(ACT2FN)),
        }
        for name, allowed in choices.items():
            self._require(getattr(self, name) in allowed, name, f"one of {', '.join(allowed)}")
        for name in _POSITIVE_INTEGERS:
            self._require(self._is_number(name, int) and getattr(self, name) > 0, name, "a positive integer")
        for name in _POSITIVE_NUMBERS:
            self._require(self._is_number(name, (int, float)) and getattr(self, name) > 0, name, "a positive number")
        for name in _NUMBERS_FROM_ZERO:
            valid = self._is_number(name, (int, float)) and getattr(self, name) >= 0
            self._require(valid, name, "0 or a positive number")
        for name in _PROBABILITIES:
            valid = self._is_number(name, (int, float)) and 0 <= getattr(self, name) <= 1
            self._require(valid, name, "a probability between 0 and 1")

    def _check_mel(self) -> None:
        """Check the Fourier transform and the statistics of the mel spectrogram."""
        for name in ("mel_mean", "mel_std", "target_mel_mean", "target_mel_std"):
            positive = name.endswith("std")
            if isinstance(getattr(self, name), list):
                valid = self._is_list(name, (int, float), positive) and len(getattr(self, name)) == self.num_mel_bins
            elif name.startswith("target") and getattr(self, name) is None:
                valid = True
            else:
                valid = self._is_number(name, (int, float)) and (getattr(self, name) > 0 or not positive)
            need = f"a {'positive ' * positive}number, or {self.num_mel_bins} (`num_mel_bins`) of them"
            self._require(valid, name, need)
        self._require(self.n_fft % 2 == 0, "n_fft", "even")
        self._require(self.hop_length <= self.n_fft, "hop_length", f"at most `n_fft` ({self.n_fft})")

    def _check_encoder(self) -> None:
        """Check the widths of the encoder, and the convolutions of the front ends."""
        if self.encoder_type == "conformer":
            self._require(
                self.hidden_size % (2 * self.num_attention_heads) == 0,
                "num_attention_heads",
                f"a divisor of `hidden_size` ({self.hidden_size}) with an even quotient (rotary embedding)",
            )
        else:
            for name in ("num_attention_heads", "num_conv_pos_embedding_groups"):
                valid = self.hidden_size % getattr(self, name) == 0
                self._require(valid, name, f"a divisor of `hidden_size` ({self.hidden_size})")
        self._require(self.conv_depthwise_kernel_size % 2 == 1, "conv_depthwise_kernel_size", "odd")
        for name in ("convnext_channels", "convnext_depths"):
            valid = self._is_list(name, int) and len(getattr(self, name)) == len(self.convnext_channels) > 0
            self._require(valid, name, "a list of positive integers, as long as `convnext_channels`")
        strides, steps = self.subsampling_time_strides, 2
        if self.front_end == "convnext":
            steps = len(self.convnext_channels)
            valid = self.convnext_channels[-1] == self.hidden_size
            self._require(valid, "convnext_channels", f"widths that end with `hidden_size` ({self.hidden_size})")
        valid = isinstance(strides, list) and len(strides) == steps and all(s in (1, 2) for s in strides)
        self._require(valid, "subsampling_time_strides", f"{steps} strides, each 1 or 2")
        if self.front_end == "convnext":  # a convolution of kernel 2 without a stride would lose a frame
            stages = zip([self.num_mel_bins, *self.convnext_channels], self.convnext_channels, strides, strict=False)
            valid = all(stride == 2 or width == channels for width, channels, stride in stages)
            need = f"widths that change only with a stride of 2, from {self.num_mel_bins} (`num_mel_bins`)"
            self._require(valid, "convnext_channels", need)
        for name in ("conv_dim", "conv_kernel", "conv_stride"):
            valid = self._is_list(name, int) and len(getattr(self, name)) == len(self.conv_dim) > 0
            self._require(valid, name, "a list of positive integers, as long as `conv_dim`")

    def _check_head(self) -> None:
        """Check the values that matter only to a model with a head."""
        require = self._require
        require(self.task is None or (isinstance(self.task, str) and self.task != ""), "task", "the name of a task")
        folders = self.task_folders
        valid = folders is None or (isinstance(folders, list) and all(isinstance(name, str) for name in folders))
        require(valid, "task_folders", "a list of the names of folders")
        require(self.label_rate is None or self.label_rate > 0, "label_rate", "a positive number of Hz")
        layer = self.classifier_layer
        valid = layer is None or (type(layer) is int and 0 <= layer <= self.num_hidden_layers)
        require(valid, "classifier_layer", f"between 0 and {self.num_hidden_layers} (`num_hidden_layers`)")
        kinds = ("single_label_classification", "multi_label_classification")
        require(self.problem_type in (None, *kinds), "problem_type", f"one of {', '.join(kinds)}")
        both = self.classifier_layer is not None and self.use_weighted_layer_sum
        require(not both, "classifier_layer", "left out if `use_weighted_layer_sum` is true")
        for output in self.classifier_outputs or []:
            valid = {"name", "size", "problem_type"} <= set(output) and output["problem_type"] in kinds
            require(
                valid, "classifier_outputs", f"dictionaries with name, size and problem_type ({' or '.join(kinds)})"
            )
        sizes = sum(output["size"] for output in self.classifier_outputs or [])
        valid = self.classifier_outputs is None or sizes == self.num_labels
        require(
            valid, "classifier_outputs", f"outputs with {self.num_labels} labels in total, as in `id2label`, or `None`"
        )
        valid = self.class_weights is None or len(self.class_weights) == self.num_labels
        require(valid, "class_weights", f"{self.num_labels} numbers, one for each label, or `None`")
        require(self.pitch_kernel % 2 == 1, "pitch_kernel", "odd")
        losses = (None, "info_nce", "vicreg")
        require(self.contrastive_loss in losses, "contrastive_loss", "info_nce or vicreg, or None for other heads")

    def _check_targets(self) -> None:
        """Check the values that matter only in pretraining."""
        require = self._require
        if isinstance(self.codebook_size, list):
            valid = self._is_list("codebook_size", int) and len(self.codebook_size) == self.num_codebooks
            require(valid, "codebook_size", f"a positive integer, or {self.num_codebooks} (`num_codebooks`) of them")
        else:
            valid = type(self.codebook_size) is int and self.codebook_size > 0
            require(valid, "codebook_size", "a positive integer or a list of them")
        require(type(self.quantizer_seed) is int, "quantizer_seed", "an integer")
        features = self.kmeans_features
        valid = (
            isinstance(features, list)
            and len(features) > 0
            and set(features) <= {"mel", "chroma", "texture", "harmony"}
        )
        require(valid, "kmeans_features", "a list of `mel`, `chroma`, `texture` and `harmony`")
        if self.quantizer_type == "kmeans":
            require(
                len(features) == self.num_codebooks, "num_codebooks", f"{len(features)}, one for each of {features}"
            )
        require(
            self.samples_per_frame % self.hop_length == 0,
            "hop_length",
            f"a divisor of the {self.samples_per_frame} samples of an output frame",
        )
        if self.cqt_loss_weight > 0:
            highest, nyquist = self.cqt_fmin * 2 ** (self.cqt_bins / self.cqt_bins_per_octave), self.sampling_rate / 2
            require(
                highest <= nyquist, "cqt_bins", f"few enough that all lie below {nyquist:g} Hz (`sampling_rate` / 2)"
            )
        seconds = self.mixup_seconds
        valid = self._is_list("mixup_seconds", (int, float)) and len(seconds) == 2 and seconds[0] <= seconds[1]
        require(valid, "mixup_seconds", "the shortest and the longest duration, both positive")
        cell = self.mask_seconds * self.frame_rate
        valid = round(cell) >= 1 and (self.mask_type == "embedding" or math.isclose(cell, round(cell), rel_tol=1e-6))
        require(valid, "mask_seconds", f"a whole number of frames ({1 / self.frame_rate:g} s each)")


def _of_others(pipelines: dict[str, dict]) -> dict[str, dict]:
    """Return the entries of `custom_pipelines` that are not for pipelines of this package."""
    ours = {str(entry["impl"]).split(".")[-1] for entry in CUSTOM_PIPELINES.values()}
    return {name: entry for name, entry in pipelines.items() if str(entry.get("impl")).split(".")[-1] not in ours}


__all__ = ["MusicFMConfig"]
