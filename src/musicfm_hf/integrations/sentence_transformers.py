"""Encoders, and models with an audio tower and a text tower, as a module of sentence-transformers."""

import os
from collections.abc import Sequence
from typing import Any, Self

import torch
from sentence_transformers.base.modality import infer_modality
from sentence_transformers.base.modules import InputModule

from .vectors import (
    audio_vectors,
    check_layer,
    is_text_audio,
    load_with_processor,
    pad_waveforms,
    read_audio,
    vector_size,
)


class MusicFMTransformer(InputModule):
    """
    First module of a `SentenceTransformer` that embeds audio, and texts if the model has a text tower:

        SentenceTransformer(modules=[MusicFMTransformer.from_pretrained("musicfm-msd", layer=7)])

    The vector of a song is the mean over the frames of a hidden state, or the embedding of the audio tower. `encode`
    takes songs of any length: it encodes them in windows, as [`musicfm_hf.embed`] does. Training encodes each song in
    one piece, because it needs the gradients, so train on excerpts.

    Audio is a path, a mapping with `array` and `sampling_rate` or with `bytes` or `path`, or a bare waveform at the
    rate of the model. A string is audio if a file of that name exists, and otherwise text.

    Args:
        model ([`MusicFMModel`] or [`MusicFMTextAudioModel`]): The model.
        processor: Its feature extractor or processor, which is saved with the model.
        layer (`int`, *optional*): Hidden state of an encoder, from 0 to `num_hidden_layers` (the default).

    Raises:
        ValueError: the layer does not exist, or is given for a model with two towers.
        TypeError: the model is of another kind.
    """

    config_file_name = "sentence_musicfm_config.json"
    config_keys = ["layer"]

    def __init__(self, model: Any, processor: Any, layer: int | None = None):
        super().__init__()
        self.has_text = is_text_audio(model)
        check_layer(model, layer)
        self.model, self.processor, self.layer = model, processor, layer
        self.tokenizer = processor.tokenizer if self.has_text else None

    @classmethod
    def from_pretrained(cls, name: str, layer: int | None = None, **kwargs: Any) -> Self:
        """
        Load the model from a folder or a repository.

        Args:
            name (`str`): Folder or repository.
            layer (`int`, *optional*): As for the class.
            kwargs: Arguments for `AutoModel.from_pretrained`, such as `revision` and `dtype`.

        Raises:
            OSError: the model does not exist.
            ValueError, TypeError: as for the class.
        """
        of_the_hub = ("revision", "token", "cache_dir", "subfolder", "local_files_only")
        shared = {key: value for key, value in kwargs.items() if key in of_the_hub}
        return cls(*load_with_processor(name, shared, **kwargs), layer)

    @property
    def modalities(self) -> list[Any]:
        """Kinds of input: `["audio"]`, or `["audio", "text"]`."""
        return ["audio", "text"] if self.has_text else ["audio"]

    def get_embedding_dimension(self) -> int:
        """Return the number of values in a vector."""
        return vector_size(self.model)

    def preprocess(
        self, inputs: Sequence[Any], prompt: str | None = None, task: str | None = None
    ) -> dict[str, torch.Tensor]:
        """
        Prepare a batch of songs or of texts.

        Args:
            inputs: Songs or texts, as described for the class.
            prompt (`str`, *optional*): Words to put before each text.
            task (`str`, *optional*): Not used.

        Returns:
            `input_values` and `audio_attention_mask` `(songs, samples)`, or `input_ids` and `attention_mask`
            `(texts, tokens)`.

        Raises:
            ValueError: the batch has songs and texts, or texts without a text tower, or audio cannot be read.
        """
        items = [_unwrap(item) for item in inputs]
        are_texts = {self._is_text(item) for item in items}
        if len(are_texts) > 1:
            raise ValueError("The batch has songs and texts. Encode them in two calls: their vectors are comparable.")
        if are_texts == {False}:
            input_values, mask = pad_waveforms([read_audio(item, self.model) for item in items])
            return {"input_values": input_values, "audio_attention_mask": mask}
        if not self.has_text:
            raise ValueError(
                f"{items[0]!r} is no file, and this model has no text tower to embed it as a text. `musicfm convert` "
                "makes models with one of MuQ-MuLan."
            )
        return dict(self.processor(text=[(prompt or "") + text for text in items]))

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Add the vectors of a batch from [`preprocess`], `sentence_embedding` `(batch, size)`."""
        if "input_ids" in features:
            vectors = self.model.get_text_features(features["input_ids"], features["attention_mask"]).pooler_output
        else:
            audio = features["input_values"], features["audio_attention_mask"]
            vectors = audio_vectors(self.model, *audio, self.layer)
        return features | {"sentence_embedding": vectors}

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Save the model, its processor and the layer. The folder is also one for `AutoModel.from_pretrained`."""
        self.model.save_pretrained(output_path)
        self.processor.save_pretrained(output_path)
        self.save_config(output_path)

    @classmethod
    def load(
        cls,
        model_name_or_path: str,
        subfolder: str = "",
        token: bool | str | None = None,
        cache_folder: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        model_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Self:
        """Load what [`save`] wrote; `SentenceTransformer(folder, trust_remote_code=True)` calls this."""
        hub = {"token": token, "revision": revision, "local_files_only": local_files_only}
        config = cls.load_config(model_name_or_path, subfolder=subfolder, cache_folder=cache_folder, **hub)
        hub |= {"cache_dir": cache_folder, "subfolder": subfolder}
        return cls.from_pretrained(model_name_or_path, config.get("layer"), **hub | (model_kwargs or {}))

    def _is_text(self, item: Any) -> bool:
        """Return whether an input is a text. Files that sentence-transformers does not know as audio are audio."""
        if not isinstance(item, str) or os.path.isfile(item):
            return False
        return infer_modality(item, supported_modalities=self.modalities) == "text"


def _unwrap(item: Any) -> Any:
    """Return the input in `{"audio": …}` or `{"text": …}`; others unchanged."""
    if isinstance(item, dict) and len(item) == 1 and (key := next(iter(item))) in ("audio", "text"):
        return item[key]
    return item
