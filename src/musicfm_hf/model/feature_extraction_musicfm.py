"""Feature extractor that converts audio arrays to the `input_values` and `attention_mask` of the models."""

import difflib
import os
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature, PreTrainedConfig, SequenceFeatureExtractor
from transformers.utils import logging

logger = logging.get_logger(__name__)

_SETTINGS = (
    "feature_size",
    "sampling_rate",
    "padding_value",
    "return_attention_mask",
    "min_samples",
    "do_normalize",
    "attention_mask_name",
)
_INTEGER_FULL_SCALE = {"int8": 2.0**7, "int16": 2.0**15, "int32": 2.0**31}
_TO_MONO = {"mean": None, "left": 0, "right": -1}  # channel, or none for the average
_CANCELED = 1e-4  # energy of the average, relative to that of the channels, from which they do not cancel: -40 dB


class MusicFMBatchFeature(BatchFeature):
    """[`BatchFeature`] whose waveforms stay in float32, because half precision would lose quiet music."""

    def to(self, *args: Any, **kwargs: Any) -> "MusicFMBatchFeature":
        """Move or cast as [`BatchFeature`] does, except that waveforms keep their dtype."""
        waveforms = self.data["input_values"]
        super().to(*args, **kwargs)
        if isinstance(waveforms, torch.Tensor):
            self.data["input_values"] = waveforms.to(self.data["input_values"].device)
        return self


class MusicFMFeatureExtractor(SequenceFeatureExtractor):
    r"""
    Feature extractor that checks audio, converts it to float32 mono and pads it into a batch. The spectrogram is
    computed inside the model.

    Args:
        feature_size (`int`, defaults to 1): Values per sample; a waveform has one.
        sampling_rate (`int`, defaults to 24000): Sampling rate that the model expects, in Hz.
        padding_value (`float`, defaults to 0.0): Value of the padding; it does not affect the model.
        return_attention_mask (`bool`, defaults to `True`): Return `attention_mask` by default.
        min_samples (`int`, defaults to 1025): Shortest audio that the model can encode, in samples.
        do_normalize (`bool`, defaults to `False`): Scale each waveform to mean 0 and variance 1, as the feature
            extractor of MERT does.
        attention_mask_name (`str`, defaults to `"attention_mask"`): Name of the mask in the output. It is
            `"audio_attention_mask"` for models that also take texts, whose mask is `attention_mask`.

    Raises:
        ValueError: if another argument is similar to one of these. Transformers keeps any other name as it is.
    """

    model_input_names = ["input_values", "attention_mask"]

    def __init__(
        self,
        feature_size: int = 1,
        sampling_rate: int = 24000,
        padding_value: float = 0.0,
        return_attention_mask: bool = True,
        min_samples: int = 1025,
        do_normalize: bool = False,
        attention_mask_name: str = "attention_mask",
        **kwargs: Any,
    ):
        for name in kwargs:
            if near := difflib.get_close_matches(name, _SETTINGS, n=1, cutoff=0.8):
                raise ValueError(f"MusicFMFeatureExtractor has no argument `{name}`. Did you mean `{near[0]}`?")
        super().__init__(feature_size=feature_size, sampling_rate=sampling_rate, padding_value=padding_value, **kwargs)
        self.return_attention_mask = return_attention_mask
        self.min_samples = min_samples
        self.do_normalize = do_normalize
        self.attention_mask_name = attention_mask_name

    @classmethod
    def from_model_config(cls, config: PreTrainedConfig) -> "MusicFMFeatureExtractor":
        """Return the feature extractor of a model with this [`MusicFMConfig`] or [`MusicFMTextAudioConfig`]."""
        encoder = getattr(config, "audio_config", config)
        return cls(
            sampling_rate=encoder.sampling_rate,
            min_samples=encoder.min_samples,
            do_normalize=encoder.do_normalize,
            attention_mask_name="attention_mask" if encoder is config else "audio_attention_mask",
        )

    def __call__(
        self,
        raw_audio: Any,
        sampling_rate: int | None = None,
        padding: bool | str | None = None,
        max_length: int | None = None,
        truncation: bool = False,
        pad_to_multiple_of: int | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
        to_mono: str | None = None,
    ) -> BatchFeature:
        """
        Args:
            raw_audio: One waveform of shape `(samples,)`, or a batch: a list of waveforms of any lengths, or an array
                `(batch, samples)`. Waveforms are NumPy arrays, torch tensors or lists of floats, with floating-point
                values in [-1, 1], or int8, int16, int32 or uint8 values, which are divided by their full scale. With
                `to_mono`, each waveform is `(channels, samples)`. Rows of a data set, with `array` and
                `sampling_rate`, are waveforms with their rate.
            sampling_rate (`int`, *optional*): Sampling rate of `raw_audio` in Hz. Pass it so that it is checked.
            padding: `True` or `"longest"`, `"max_length"`, or `False`. By default, the batch is padded if
                `return_tensors` is given. Without tensors, a collator pads it later, and can then mask the padding.
            max_length (`int`, *optional*): Length in samples, for `padding="max_length"` and `truncation`.
            truncation (`bool`): Cut waveforms that are longer than `max_length`.
            pad_to_multiple_of (`int`, *optional*): Round the padded length up to a multiple of this.
            return_attention_mask (`bool`, *optional*): Return a mask with 1 for samples and 0 for padding; on by
                default.
            return_tensors (`str`, *optional*): `"pt"` or `"np"`.
            to_mono (`str`, *optional*): Conversion to mono: the `"mean"` of all channels, or the `"left"` or `"right"`
                channel.

        Returns:
            [`BatchFeature`] with `input_values` `(batch, samples)` float32 and `attention_mask` `(batch, samples)`.

        Raises:
            ValueError: if `sampling_rate` differs from that of the model; or if audio is empty, too short, not finite,
                or has several channels and `to_mono` is not given. The message names the item.
            TypeError: if audio is not numeric.
        """
        if truncation and max_length is not None and max_length < self.min_samples:
            raise ValueError(f"`max_length` is {max_length} samples, but the model needs at least {self.min_samples}.")
        waveforms = self.waveforms(raw_audio, sampling_rate, to_mono)
        if padding is None:
            padding = return_tensors is not None or pad_to_multiple_of is not None
        padded = self.pad(
            BatchFeature({"input_values": waveforms}),
            padding=padding,
            max_length=max_length,
            truncation=truncation,
            pad_to_multiple_of=pad_to_multiple_of,
            return_attention_mask=return_attention_mask,
            return_tensors=return_tensors,
        )
        if "attention_mask" in padded:
            padded[self.attention_mask_name] = padded.pop("attention_mask")
        return MusicFMBatchFeature(padded.data)

    def waveforms(
        self, raw_audio: Any, sampling_rate: int | None = None, to_mono: str | None = None
    ) -> list[np.ndarray]:
        """
        Check audio and return its waveforms, each float32 `(samples,)`, without padding and without copies of what is
        float32 already. Arguments and errors are those of a call.
        """
        raw_audio, sampling_rate = _unwrap_rows(raw_audio, sampling_rate)
        if sampling_rate is None:
            logger.warning_once(
                f"No `sampling_rate` was passed to {type(self).__name__}: the audio is assumed to be at "
                f"{self.sampling_rate} Hz. Pass `sampling_rate` so that it is checked."
            )
        if sampling_rate is not None and sampling_rate != self.sampling_rate:
            raise ValueError(
                f"The audio is at {sampling_rate} Hz, but the model needs {self.sampling_rate} Hz. Resample it, or "
                f"read the file with `musicfm_hf.load_audio(path, sampling_rate={self.sampling_rate})`."
            )
        if to_mono is not None and to_mono not in _TO_MONO:
            raise ValueError(f"`to_mono` must be one of {', '.join(_TO_MONO)}, got {to_mono!r}.")
        items = _split_batch(raw_audio, waveform_ndim=1 if to_mono is None else 2)
        return [self._waveform(item, index, to_mono) for index, item in enumerate(items)]

    def _waveform(self, item: Any, index: int, to_mono: str | None) -> np.ndarray:
        """Check item `index` and return it as float32 `(samples,)`."""
        audio = _as_float32(_as_array(item, index), index)
        if to_mono is not None and audio.ndim == 2 and audio.shape[0] > 0:
            if audio.shape[0] > audio.shape[1]:
                raise ValueError(
                    f"Item {index} has shape {audio.shape}, with more channels than samples. `to_mono` needs "
                    "(channels, samples): transpose it."
                )
            audio = _mix(audio, _TO_MONO[to_mono], f"Item {index}")
        if audio.ndim != 1:
            raise ValueError(
                f"Item {index} has shape {audio.shape}, but the model needs one channel, (samples,). For audio of "
                "shape (channels, samples), choose `to_mono='mean'`, 'left' or 'right'."
            )
        if len(audio) == 0:
            raise ValueError(f"Item {index} is empty.")
        if len(audio) < self.min_samples:
            hint = " Is it (samples, channels)? Transpose it and choose `to_mono`." if len(audio) < 16 else ""
            raise ValueError(
                f"Item {index} has {len(audio)} samples, but the model needs at least {self.min_samples} "
                f"({self.min_samples / self.sampling_rate:.3f} s).{hint}"
            )
        peak = max(float(audio.max()), -float(audio.min()))  # makes no copy of the audio; NaN stays NaN
        if not np.isfinite(peak):
            bad = int(np.flatnonzero(~np.isfinite(audio))[0])
            raise ValueError(f"Item {index} has NaN or infinite values, the first at sample {bad}.")
        if peak > 100:
            logger.warning_once(
                f"Item {index} has a peak of {peak:.0f}, but floating-point audio is expected in [-1, 1]. Was it "
                "converted from integers without scaling?"
            )
        if self.do_normalize:
            audio = normalize_waveform(audio)
        return audio


def channels_cancel(average_energy: float, energies: np.ndarray) -> bool:
    """
    Return whether the channels of audio cancel each other out, as in music whose sides have opposite signs.

    Args:
        average_energy (`float`): Sum of squares of the average of all channels.
        energies (`np.ndarray` of shape `(channels,)`): Sum of squares of each channel.
    """
    return len(energies) > 1 and average_energy < _CANCELED * float(energies.mean())


def choose_channel(energies: np.ndarray) -> int:
    """
    Return the index of the channel to use if channels cancel each other out: the first one that is less than 3 dB
    weaker than the loudest, so that all parts of a song use the same.
    """
    return int(np.argmax(2 * energies >= energies.max()))


def explain_canceled(name: str, channel: int) -> str:
    """Return the warning about audio whose channels cancel each other out."""
    return (
        f"The channels of {name} cancel each other out: their average is more than 40 dB weaker than they are. "
        f"Channel {channel + 1} is used instead."
    )


def _mix(audio: np.ndarray, channel: int | None, name: str) -> np.ndarray:
    """Return a channel of audio `(channels, samples)`, or the average, unless the channels cancel each other out."""
    if channel is not None:
        return audio[channel]
    average, energies = audio.mean(axis=0), np.einsum("ij,ij->i", audio, audio)
    if channels_cancel(float(np.dot(average, average)), energies):
        chosen = choose_channel(energies)
        warnings.warn(explain_canceled(name, chosen), stacklevel=5)
        return audio[chosen]
    return average


def mean_and_deviation(audio: np.ndarray) -> tuple[np.floating, np.floating]:
    """Return the mean and the standard deviation of a waveform `(samples,)` by which `do_normalize` scales it."""
    return audio.mean(), np.sqrt(audio.var() + 1e-7)


def normalize_waveform(audio: np.ndarray, scale: tuple[np.floating, np.floating] | None = None) -> np.ndarray:
    """
    Scale a waveform `(samples,)` to zero mean and unit variance, as `do_normalize` does. For a part of a song, `scale`
    is the mean and the deviation of the song.
    """
    mean, deviation = mean_and_deviation(audio) if scale is None else scale
    return (audio - mean) / deviation


def decoded_row(decoder: Any) -> dict[str, Any]:
    """Return the row with the samples of a decoder, such as torchcodec's `AudioDecoder`, averaged to mono."""
    samples = decoder.get_all_samples()
    array = np.asarray(samples.data, dtype=np.float32)
    return {"array": _mix(array, None, "The audio"), "sampling_rate": samples.sample_rate}


def _unwrap_rows(raw_audio: Any, sampling_rate: int | None) -> tuple[Any, int | None]:
    """
    Return the waveforms in one row of a data set, or a list of rows, with their sampling rate. Return other audio
    unchanged.

    Raises:
        ValueError: if rows have different rates, or one that differs from `sampling_rate`, or lack `array`.
    """
    is_batch = isinstance(raw_audio, list | tuple)
    items = raw_audio if is_batch else [raw_audio]
    items = [decoded_row(item) if hasattr(item, "get_all_samples") else item for item in items]
    if not items or not isinstance(items[0], Mapping):
        return raw_audio, sampling_rate
    arrays = []
    rates = set() if sampling_rate is None else {sampling_rate}
    for index, item in enumerate(items):
        array = item.get("array", item.get("raw")) if isinstance(item, Mapping) else None
        if array is None or item.get("sampling_rate") is None:
            keys = f"keys {[*item]}" if isinstance(item, Mapping) else type(item).__name__
            raise ValueError(
                f"Item {index} must be a row with `array` and `sampling_rate`, got {keys}. Read files with "
                "`musicfm_hf.load_audio`."
            )
        arrays.append(array)
        rates.add(item["sampling_rate"])
    if len(rates) > 1:
        raise ValueError(f"All audio must have one sampling rate, got {', '.join(map(str, sorted(rates)))} Hz.")
    return (arrays if is_batch else arrays[0]), rates.pop()


def _split_batch(raw_audio: Any, waveform_ndim: int) -> list:
    """Return the list of waveforms in one array of `waveform_ndim` axes, or in a batch with one more axis."""
    if isinstance(raw_audio, (list, tuple)):
        if len(raw_audio) == 0:
            raise ValueError("`raw_audio` is an empty list; it needs at least one waveform.")
        is_one_waveform = waveform_ndim == 1 and all(isinstance(x, (int, float, np.number)) for x in raw_audio)
        return [raw_audio] if is_one_waveform else list(raw_audio)
    audio = _as_array(raw_audio, 0)
    if audio.ndim == waveform_ndim + 1:
        if len(audio) == 0:
            raise ValueError(f"`raw_audio` has shape {audio.shape}; it needs at least one waveform.")
        return list(audio)
    return [audio]


def _as_array(item: Any, index: int) -> np.ndarray:
    """Return an item as a NumPy array, without changing its values."""
    if isinstance(item, torch.Tensor):
        item = item.detach().cpu()
        return (item.float() if item.dtype == torch.bfloat16 else item).numpy()
    if item is None:
        raise ValueError(f"Item {index} is null (`None`): leave this row out.")
    if isinstance(item, (str, bytes, os.PathLike)):
        raise TypeError(
            f"Item {index} is a file or its bytes, not a waveform: read it with `musicfm_hf.load_audio`. Got "
            f"{type(item).__name__}."
        )
    try:
        return np.asarray(item)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"Item {index} is not an array of numbers: {error}") from error


def _as_float32(audio: np.ndarray, index: int) -> np.ndarray:
    """Return audio as float32, with integers divided by their full scale."""
    if audio.dtype.kind == "f":
        with np.errstate(over="ignore"):  # an overflow is reported as not finite
            return audio.astype(np.float32, copy=False)
    if audio.dtype.name in _INTEGER_FULL_SCALE:
        peak = max(int(audio.max(initial=0)), -int(audio.min(initial=0)))
        if audio.dtype.name == "int32" and 0 < peak <= 2**15:
            logger.warning_once(
                f"Item {index} is int32 with a peak of {peak}, which is nearly silent: the full scale is 2**31. Pass "
                "samples of 16 bits as int16."
            )
        return (audio / _INTEGER_FULL_SCALE[audio.dtype.name]).astype(np.float32)
    if audio.dtype.name == "uint8":
        return ((audio.astype(np.float32)) - 128.0) / 128.0
    raise TypeError(
        f"Item {index} has dtype {audio.dtype}; pass floating point in [-1, 1], or int8, int16, int32 or uint8 PCM."
    )


__all__ = [
    "MusicFMFeatureExtractor",
    "channels_cancel",
    "choose_channel",
    "decoded_row",
    "explain_canceled",
    "mean_and_deviation",
    "normalize_waveform",
]
