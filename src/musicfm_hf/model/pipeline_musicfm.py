"""Transformers pipelines that take audio files, for repositories whose models run without the package."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import torch
from transformers import AudioClassificationPipeline, Pipeline


def read_audio(audio: Any, sampling_rate: int) -> np.ndarray:
    """
    Read audio as a mono waveform `(samples,)`, float32, with soundfile and soxr.

    Args:
        audio: A path, a URL, the bytes of a file, a waveform `(samples,)` at `sampling_rate`; or a mapping with
            `array` (or `raw`) and `sampling_rate`, or with `bytes` or `path`.
        sampling_rate (`int`): Rate of the result in Hz.

    Raises:
        ValueError: if the audio is none of these.
        ImportError: if a file or another rate needs soundfile and soxr, and they are not installed.
    """
    rate = sampling_rate
    if isinstance(audio, Mapping):
        array = next((audio[key] for key in ("array", "raw", "bytes", "path") if audio.get(key) is not None), None)
        if array is None:
            raise ValueError(f"Audio needs `array` and `sampling_rate`, `bytes` or `path`, got keys {[*audio]}.")
        audio, rate = array, audio.get("sampling_rate", sampling_rate)
    if isinstance(audio, str) and audio.startswith(("http://", "https://")):
        with urlopen(audio) as response:
            audio = response.read()
    try:
        import soundfile
        import soxr
    except ModuleNotFoundError as error:
        raise ImportError("Reading audio files needs soundfile and soxr: `pip install soundfile soxr`.") from error
    if isinstance(audio, str | Path | bytes | bytearray):
        file = io.BytesIO(audio) if isinstance(audio, bytes | bytearray) else audio
        samples, rate = soundfile.read(file, dtype="float32")
        waveform = samples if samples.ndim == 1 else samples.mean(axis=1)
    else:
        waveform = np.asarray(audio.cpu() if isinstance(audio, torch.Tensor) else audio, dtype=np.float32)
    return waveform if rate == sampling_rate else soxr.resample(waveform, rate, sampling_rate, "HQ")


class MusicFMFeatureExtractionPipeline(Pipeline):
    """
    The pipeline `feature-extraction` for [`MusicFMModel`]: audio → embeddings of frames. All of the audio is encoded
    at once; for long songs, use `musicfm_hf.embed`.
    """

    _load_processor = False
    _load_image_processor = False
    _load_feature_extractor = True
    _load_tokenizer = False

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        """
        Embed audio.

        Args:
            inputs: A path, a URL, bytes, a waveform `(samples,)` at the rate of the model, a mapping with `array` and
                `sampling_rate`, or a list of these.
            layer (`int`, *optional*): Hidden state to return; the last by default.
            return_tensors (`bool`, *optional*): Return a tensor instead of nested lists.

        Returns:
            `(1, frames, hidden_size)` for each audio.
        """
        return super().__call__(inputs, **kwargs)

    def _sanitize_parameters(self, layer: int | None = None, return_tensors: bool = False) -> tuple[dict, dict, dict]:
        return {}, {} if layer is None else {"layer": layer}, {"return_tensors": return_tensors}

    def preprocess(self, audio: Any) -> Any:
        """Read audio, and convert it to inputs of the model."""
        rate = self.feature_extractor.sampling_rate
        return self.feature_extractor(self.read(audio, rate), sampling_rate=rate, return_tensors="pt")

    def _forward(self, inputs: Any, layer: int | None = None) -> Any:
        outputs = self.model(**inputs, layer=layer)
        mask = inputs.get("attention_mask")
        counts = None if mask is None else self.model.frames_mask(mask).sum(-1, keepdim=True)
        return {"last_hidden_state": outputs.last_hidden_state, "counts": counts}

    def postprocess(self, outputs: Any, return_tensors: bool = False) -> Any:
        """Remove the frames of padding."""
        frames = outputs["last_hidden_state"]
        if outputs["counts"] is not None:
            frames = frames[:, : int(outputs["counts"])]
        return frames if return_tensors else frames.tolist()

    read = staticmethod(read_audio)


class MusicFMAudioClassificationPipeline(AudioClassificationPipeline):
    """
    The pipeline `audio-classification` for [`MusicFMForAudioClassification`]. Unlike that of Transformers, it needs
    neither ffmpeg nor torchaudio for files, bytes and other sampling rates.
    """

    def preprocess(self, inputs: Any) -> Any:
        """Read audio, and convert it to inputs of the model."""
        return super().preprocess(self.read(inputs, self.feature_extractor.sampling_rate))

    read = staticmethod(read_audio)


__all__ = ["MusicFMAudioClassificationPipeline", "MusicFMFeatureExtractionPipeline", "read_audio"]
