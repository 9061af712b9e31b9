"""Processor that prepares music and texts for models with an audio tower and a text tower."""

from typing import Any

from transformers import BatchFeature, ProcessorMixin

from .feature_extraction_musicfm import MusicFMBatchFeature


class MusicFMTextAudioProcessor(ProcessorMixin):
    """
    Feature extractor for music and tokenizer for texts in one.

    Args:
        feature_extractor ([`MusicFMFeatureExtractor`]): Feature extractor of the audio tower.
        tokenizer: Tokenizer of the text tower.
    """

    def __init__(self, feature_extractor: Any, tokenizer: Any):
        super().__init__(feature_extractor, tokenizer)

    def __call__(
        self,
        text: str | list[str] | None = None,
        audio: Any = None,
        sampling_rate: int | None = None,
        padding: bool | str = True,
        truncation: bool = True,
        return_tensors: str | None = "pt",
        to_mono: str | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """
        Prepare texts, music or both, each padded into a batch.

        Args:
            text (`str` or `list[str]`, *optional*): Texts. They are cut at the longest length of the tokenizer.
            audio: Waveforms, as in [`MusicFMFeatureExtractor`].
            sampling_rate (`int`, *optional*): Sampling rate of `audio` in Hz. Pass it so that it is checked.
            padding, truncation, kwargs: Arguments of the tokenizer. Audio is padded to the longest waveform of the
                batch, unless `padding` is `False`.
            to_mono (`str`, *optional*): Conversion of audio with several channels, as in [`MusicFMFeatureExtractor`].
            return_tensors (`str`, *optional*): `"pt"` or `"np"`; lists if it is `None`.

        Returns:
            [`BatchFeature`] with `input_ids` and `attention_mask` `(texts, tokens)` of texts, and `input_values` and
            `audio_attention_mask` `(songs, samples)` of audio.

        Raises:
            ValueError: if neither `text` nor `audio` is given; for audio, see [`MusicFMFeatureExtractor`].
        """
        if text is None and audio is None:
            raise ValueError("Pass `text`, `audio` or both.")
        if text is None and kwargs:
            raise TypeError(f"Without `text`, the processor takes no arguments {', '.join(kwargs)}.")
        values: dict[str, Any] = {}
        if text is not None:
            values |= self.tokenizer(
                text, padding=padding, truncation=truncation, return_tensors=return_tensors, **kwargs
            )
        if audio is None:
            return BatchFeature(values)
        values |= self.feature_extractor(
            audio,
            sampling_rate,
            padding=padding not in (False, "do_not_pad"),  # a length in tokens does not apply to audio
            return_attention_mask=True,
            return_tensors=return_tensors,
            to_mono=to_mono,
        )
        return MusicFMBatchFeature(values)

    @property
    def model_input_names(self) -> list[str]:
        """Names of all outputs."""
        return [*self.tokenizer.model_input_names, "input_values", self.feature_extractor.attention_mask_name]


__all__ = ["MusicFMTextAudioProcessor"]
