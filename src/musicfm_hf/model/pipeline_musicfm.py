"""Pipelines of Transformers for MusicFM models: `"feature-extraction"` and `"audio-classification"`."""

import io
import os
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import AudioClassificationPipeline, FeatureExtractionPipeline, Pipeline
from transformers.utils import logging

from .feature_extraction_musicfm import MusicFMFeatureExtractor, decoded_row

logger = logging.get_logger(__name__)

# Task → its entry in `custom_pipelines` of a configuration, which Transformers looks up in a repository with code.
CUSTOM_PIPELINES = {
    "feature-extraction": {"impl": "pipeline_musicfm.MusicFMFeatureExtractionPipeline", "pt": ["AutoModel"]},
    "audio-classification": {
        "impl": "pipeline_musicfm.MusicFMAudioClassificationPipeline",
        "pt": ["AutoModelForAudioClassification"],
    },
}

_FUNCTIONS = {
    "softmax": lambda logits: logits.softmax(-1),
    "sigmoid": torch.sigmoid,
    "none": lambda logits: logits,
}


class MusicFMPipeline(Pipeline):
    """
    Base class that reads audio and checks arguments.

    An item is
        - a path, a URL, `bytes` or a binary file object, in any format that libsndfile reads, with any number of
          channels;
        - a mapping with `array` (or `raw`) and `sampling_rate`, or with `bytes` or `path`, such as a row of an audio
          column of `datasets`; or a decoder (torchcodec's `AudioDecoder`);
        - a NumPy array or tensor `(samples,)`, at `sampling_rate` Hz if it is given, and at the rate of the model
          otherwise.

    A list, a column or a `KeyDataset` of items is a batch. Audio is resampled to the rate of the model, and padding in
    batches does not affect the results. Every call puts the model in eval mode.
    """

    model: Any
    feature_extractor: Any
    _steps: tuple[tuple[str, ...], ...] = ((), (), ())  # arguments of `preprocess`, `_forward` and `postprocess`

    def __init__(self, model: Any, *args: Any, feature_extractor: Any = None, **kwargs: Any):
        if feature_extractor is None:
            feature_extractor = MusicFMFeatureExtractor.from_model_config(model.config)
        elif isinstance(feature_extractor, str):
            feature_extractor = MusicFMFeatureExtractor.from_pretrained(feature_extractor)
        super().__init__(model, *args, feature_extractor=feature_extractor, **kwargs)

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the result for one item, a list of results for a list, or an iterator of results for a data set."""
        if isinstance(inputs, Sequence) and not isinstance(inputs, str | bytes | bytearray | memoryview | list):
            return list(super().__call__((item for item in inputs), *args, **kwargs))  # such as a column of `datasets`
        return super().__call__(inputs, *args, **kwargs)

    def check_model_type(self, supported_models: Any) -> None:
        """Do nothing, because Transformers does not know the models of other packages."""

    def _sanitize_parameters(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """Split the arguments among the steps, or raise a `TypeError` if one is unknown."""
        kwargs.pop("local_files_only", None)  # `pipeline()` hands it on
        names = [name for step in self._steps for name in step]
        for name in kwargs:
            if name not in names:
                raise TypeError(f"{type(self).__name__} has no argument `{name}`; it has {', '.join(names)}.")
        preprocess, forward, postprocess = (
            {name: kwargs[name] for name in step if name in kwargs} for step in self._steps
        )
        return preprocess, forward, postprocess

    def preprocess(self, inputs: Any, sampling_rate: int | None = None) -> dict[str, torch.Tensor]:
        """Read one item into `input_values` `(1, samples)` float32 and `attention_mask`."""
        rate = self.feature_extractor.sampling_rate
        if sampling_rate is None and is_array(inputs):
            sampling_rate = rate
        waveform = self._waveform(download(inputs), sampling_rate)
        seconds, context = len(waveform) / rate, self.model.config.context_seconds
        if seconds > 2 * context:
            logger.warning_once(
                f"{seconds:.0f} s of audio are encoded at once, but the encoder was trained on {context:g} s. The "
                "functions `musicfm_hf.embed` and `musicfm_hf.annotate` encode songs in windows."
            )
        return dict(self.feature_extractor(waveform, rate, return_attention_mask=True, return_tensors="pt"))

    def _waveform(self, audio: Any, sampling_rate: int | None) -> np.ndarray:
        """Return audio as a float32 waveform `(samples,)` at the rate of the model."""
        return read_waveform(audio, sampling_rate, self.feature_extractor.sampling_rate)


class MusicFMFeatureExtractionPipeline(MusicFMPipeline, FeatureExtractionPipeline):
    """
    Pipeline `"feature-extraction"`: hidden states of the encoder, for audio as described for [`MusicFMPipeline`]. The
    audio is encoded at once; `musicfm_hf.embed` encodes songs in windows.

    Arguments of a call, or of `pipeline()`:
        layer (`int`, *optional*): Hidden state, from 0 to `config.num_hidden_layers` (the default).
        return_tensors (`bool`, *optional*): Return a tensor `(1, frames, hidden_size)` instead of nested lists.
        sampling_rate (`int`, *optional*): Rate of arrays, in Hz.

    Raises:
        TypeError: if an argument is unknown.
        ValueError: if audio cannot be read, or is empty, too short, or an array with several channels.
    """

    _load_tokenizer = False
    _steps = (("sampling_rate",), ("layer",), ("return_tensors",))

    def _forward(self, model_inputs: dict[str, torch.Tensor], layer: int | None = None) -> dict[str, torch.Tensor]:
        """Encode, and count the frames of each item."""
        encoder = without_peft(self.model).base_model.eval()
        hidden_states = encoder(**model_inputs, layer=layer).last_hidden_state
        counts = encoder.config.frame_counts(model_inputs["attention_mask"].sum(-1))[-1]
        return {"last_hidden_state": hidden_states, "counts": counts}

    def postprocess(self, model_outputs: dict[str, torch.Tensor], return_tensors: bool = False) -> Any:
        """Return the frames of one item, without padding."""
        frames = model_outputs["last_hidden_state"][:, : int(model_outputs["counts"])]
        return frames if return_tensors else frames.float().tolist()


class MusicFMAudioClassificationPipeline(MusicFMPipeline, AudioClassificationPipeline):
    """
    Pipeline `"audio-classification"`: labels of a clip with their scores, for audio as described for
    [`MusicFMPipeline`].

    Arguments of a call, or of `pipeline()`:
        top_k (`int`, *optional*): Number of labels to return; all by default.
        function_to_apply (`str`, *optional*): `"softmax"`, `"sigmoid"` or `"none"`; by default, for each output of the
            head, what its `problem_type` implies.
        sampling_rate (`int`, *optional*): Rate of arrays, in Hz.

    Raises:
        TypeError: if the model does not classify clips, or an argument is unknown.
        ValueError: if audio cannot be read, or is empty, too short, or an array with several channels.
    """

    _load_feature_extractor = False
    _steps = (("sampling_rate",), (), ("top_k", "function_to_apply"))

    def __init__(self, model: Any, *args: Any, **kwargs: Any):
        if "MusicFMForAudioClassification" not in {parent.__name__ for parent in type(without_peft(model)).__mro__}:
            raise TypeError(
                f"The pipeline needs MusicFMForAudioClassification, got {type(model).__name__}. For models with label "
                'frames, use `musicfm_hf.annotate` or the pipeline "music-annotation" of musicfm_hf.'
            )
        kwargs.setdefault("top_k", None)
        super().__init__(model, *args, **kwargs)

    def _sanitize_parameters(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """Split the arguments among the steps, or raise an error if one is invalid."""
        function, top_k = kwargs.get("function_to_apply"), kwargs.get("top_k")
        if function is not None and function not in _FUNCTIONS:
            raise ValueError(f"`function_to_apply` must be one of {', '.join(_FUNCTIONS)}, got {function!r}.")
        if top_k is not None and top_k < 1:
            raise ValueError(f"`top_k` must be at least 1, got {top_k}.")
        return super()._sanitize_parameters(**kwargs)

    def _forward(self, model_inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Classify."""
        return {"logits": self.model.eval()(**model_inputs).logits}

    def postprocess(
        self, model_outputs: dict[str, torch.Tensor], top_k: int | None = None, function_to_apply: str | None = None
    ) -> list[dict[str, Any]]:
        """Return labels of one item with their scores, the highest first."""
        config, logits = self.model.config, model_outputs["logits"][0].float()
        if function_to_apply is None:
            outputs = config.classifier_slices
            scores = torch.cat(
                [
                    _FUNCTIONS["softmax" if output["problem_type"] == "single_label_classification" else "sigmoid"](
                        part
                    )
                    for output, part in zip(outputs, logits.split([output["size"] for output in outputs]), strict=True)
                ]
            )
        else:
            scores = _FUNCTIONS[function_to_apply](logits)
        values, indices = scores.topk(len(scores) if top_k is None else min(top_k, len(scores)))
        return [
            {"score": value, "label": config.id2label[index]}
            for value, index in zip(values.tolist(), indices.tolist(), strict=True)
        ]


def without_peft(model: Any) -> Any:
    """Return the model inside PEFT's wrapper."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def is_array(audio: Any) -> bool:
    """Return whether audio is an array, whose rate is not known."""
    return isinstance(audio, np.ndarray | torch.Tensor | list | tuple)


def download(audio: Any) -> Any:
    """Return the content of a URL, and other audio unchanged."""
    if not (isinstance(audio, str) and audio.startswith(("http://", "https://"))):
        return audio
    with urllib.request.urlopen(audio) as response:
        return response.read()


def read_waveform(audio: Any, sampling_rate: int | None, target_rate: int) -> np.ndarray:
    """
    Read audio without the package musicfm_hf, which reads more formats, and files to their end if their header gives
    another length.

    Args:
        audio: An item as described for [`MusicFMPipeline`], except URLs.
        sampling_rate (`int`, *optional*): Rate of an array, in Hz. Files and mappings have their own.
        target_rate (`int`): Rate of the result, in Hz.

    Returns:
        float32 `(samples,)`.

    Raises:
        ImportError: if soundfile or soxr is needed but not installed.
        ValueError: if the audio is null, not audio, empty, not mono, or has no sampling rate or two of them.
    """
    if audio is None:
        raise ValueError("The audio is null (`None`): leave this row out, or pass a path, bytes or a waveform.")
    own_rate = to_mono = None
    if hasattr(audio, "get_all_samples"):
        audio = decoded_row(audio)
    if isinstance(audio, Mapping):
        keys, own_rate = [*audio], audio.get("sampling_rate")
        audio = next((audio[key] for key in ("array", "raw", "bytes", "path") if audio.get(key) is not None), None)
        if audio is None:
            raise ValueError(f"A row needs `array` and `sampling_rate`, `bytes` or `path`, got the keys {keys}.")
    if isinstance(audio, str | os.PathLike | bytes | bytearray | memoryview) or hasattr(audio, "read"):
        audio, own_rate = _read_file(audio)
        to_mono = "mean"
    if own_rate is not None and sampling_rate is not None:
        raise ValueError(f"Files and rows have their own sampling rate: omit `sampling_rate`, got {sampling_rate}.")
    rate = sampling_rate if own_rate is None else own_rate
    if rate is None:
        raise ValueError("A waveform needs its `sampling_rate`.")
    extractor = MusicFMFeatureExtractor(sampling_rate=rate, min_samples=1)
    waveforms = extractor(audio, rate, padding=False, to_mono=to_mono, return_attention_mask=False)["input_values"]
    if len(waveforms) != 1:
        raise ValueError(f"An item must be one waveform of shape (samples,), got {len(waveforms)} of them.")
    return waveforms[0] if rate == target_rate else _resample(waveforms[0], rate, target_rate)


def _read_file(source: Any) -> tuple[np.ndarray, int]:
    """Read a file into an array `(channels, samples)` float32, and its sampling rate."""
    try:
        import soundfile
    except ImportError as error:
        raise ImportError(
            "Reading audio files needs soundfile and soxr: `pip install soundfile soxr`. Or pass "
            "{'array': waveform, 'sampling_rate': rate}."
        ) from error
    name = f"audio of {len(source)} bytes" if isinstance(source, bytes | bytearray | memoryview) else str(source)
    if isinstance(source, str | os.PathLike):
        if not os.path.isfile(source):
            raise FileNotFoundError(f"The file {name} does not exist.")
    elif not hasattr(source, "read"):
        source = io.BytesIO(source)
    try:
        audio, rate = soundfile.read(source, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise ValueError(f"{name} is not audio that libsndfile can read ({error.error_string}).") from error
    if len(audio) == 0:
        raise ValueError(f"{name} has no samples.")
    return audio.T, rate


def _resample(waveform: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
    """Resample a waveform `(samples,)` at high quality."""
    try:
        import soxr
    except ImportError as error:
        raise ImportError(f"Resampling from {from_rate} to {to_rate} Hz needs soxr: `pip install soxr`.") from error
    return soxr.resample(waveform, from_rate, to_rate, "HQ")


__all__ = [
    "CUSTOM_PIPELINES",
    "MusicFMAudioClassificationPipeline",
    "MusicFMFeatureExtractionPipeline",
    "MusicFMPipeline",
    "download",
    "is_array",
    "read_waveform",
    "without_peft",
]
