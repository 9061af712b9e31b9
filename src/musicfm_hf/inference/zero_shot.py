"""Zero-shot tags: similarities of songs with words, by a model with an audio tower and a text tower."""

import hashlib
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch

from ..audio.waveform import to_waveform
from ..model.feature_extraction_musicfm import normalize_waveform
from ..model.modeling_text_audio_musicfm import MusicFMTextAudioModel
from .embedding import eval_mode
from .encoder_digest import weights_digest


class ZeroShotTagger:
    """
    Similarity of songs with tags that are given in words, for models such as MuQ-MuLan. Tags are embedded once.

    Args:
        model ([`MusicFMTextAudioModel`]): The model, in any dtype and on any device. It is used in eval mode, and its
            mode is restored.
        processor ([`MusicFMTextAudioProcessor`]): Its processor.
        tags (`list[str]`): Words or phrases, such as `["piano", "sad", "1980s"]`.
        template (`str`, defaults to `"{}"`): Text of a tag; `{}` stands for the tag.

    Raises:
        ValueError: if there are no tags, a tag is empty or repeated, or the template has no `{}`.
        TypeError: if the model has no text tower, or the tags are not a list of texts.
    """

    def __init__(self, model: MusicFMTextAudioModel, processor: Any, tags: Sequence[str], template: str = "{}"):
        if not isinstance(model, MusicFMTextAudioModel):
            raise TypeError(
                f"`model` must be a MusicFMTextAudioModel, got {type(model).__name__}. Tags in words need a model "
                "with a text tower, such as MuQ-MuLan."
            )
        if isinstance(tags, str) or not all(isinstance(tag, str) for tag in tags):
            raise TypeError(f'`tags` must be a list of texts, such as ["piano", "sad"], got {tags!r}.')
        self.tags = [tag.strip() for tag in tags]
        if not self.tags or not all(self.tags) or len(set(self.tags)) < len(self.tags):
            raise ValueError(f"`tags` must be different texts that are not empty, got {list(tags)}.")
        if "{}" not in template:
            raise ValueError(f"`template` must contain {{}} in place of the tag, got {template!r}.")
        self.model, self.template = model, template
        texts = processor(text=[template.replace("{}", tag) for tag in self.tags]).to(model.device)
        with torch.inference_mode(), eval_mode(model):
            self.embeds = model.get_text_features(**texts).pooler_output.float()

    @classmethod
    def from_pretrained(
        cls, name: str, tags: Sequence[str], template: str = "{}", device: Any = "cpu", **kwargs: Any
    ) -> Self:
        """
        Load the model and its processor from a folder or a repository.

        Args:
            name (`str`): Folder or repository.
            tags, template: As for the class.
            device: Device for the model.
            kwargs: Arguments for `AutoModel.from_pretrained`, such as `dtype`.

        Raises:
            OSError: if the model does not exist, or has no tokenizer.
        """
        from transformers import AutoModel, AutoProcessor

        try:
            processor = AutoProcessor.from_pretrained(name)
        except (OSError, ValueError) as error:
            raise OSError(
                f"The processor of {name} cannot be loaded. Convert the model again with access to its tokenizer: "
                f"{error}"
            ) from error
        model = AutoModel.from_pretrained(name, **kwargs).eval().to(device)
        return cls(model, processor, tags, template)

    @property
    def sampling_rate(self) -> int:
        """Sampling rate of the model, in Hz."""
        return self.model.config.sampling_rate

    def __call__(self, audio: Any, sampling_rate: int | None = None) -> dict[str, float]:
        """
        Compute the similarity of a song with each tag.

        Args:
            audio: A waveform `(samples,)` with its `sampling_rate`; or a path, `bytes`, or a row of a data set. See
                [`musicfm_hf.audio.waveform.to_waveform`].
            sampling_rate (`int`, *optional*): Rate of a waveform in Hz.

        Returns:
            Cosine similarities between -1 and 1 by tag, the highest first. For songs of several clips, it is the mean
            over clips. A similarity is not a probability.

        Raises:
            ValueError, TypeError: if the audio is not as described.
        """
        waveform = to_waveform(audio, sampling_rate, self.sampling_rate)
        config = self.model.config.audio_config
        least = config.min_samples
        if config.do_normalize:
            waveform = normalize_waveform(waveform)
        if len(waveform) < least:
            waveform = np.pad(waveform, (0, least - len(waveform)))
        inputs = torch.from_numpy(waveform)[None].to(self.model.device)
        with torch.inference_mode(), eval_mode(self.model):
            embeds = self.model.get_audio_features(inputs).pooler_output[0].float()
        similarities = (self.embeds @ embeds).tolist()
        order = np.argsort(similarities)[::-1]
        return {self.tags[index]: similarities[index] for index in order}

    def digest(self) -> str:
        """Return a hash of all that the similarities depend on: weights, precision, tags and template."""
        settings = [weights_digest(self.model), str(self.model.dtype), self.template, *self.tags]
        return hashlib.sha256("\0".join(settings).encode()).hexdigest()
