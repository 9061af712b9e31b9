"""Encoders, and models with an audio tower and a text tower, for the audio tasks of mteb (MAEB)."""

from pathlib import Path
from typing import Any, Self

import torch
from datasets import Audio
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ModelMeta
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..inference.encoder_digest import weights_digest
from ..inference.model_files import resolve_model
from .vectors import check_layer, embed_audio, embed_texts, is_text_audio, load_with_processor, vector_size


class MusicFMEncoder(AbsEncoder):
    """
    Model for `mteb.evaluate`:

        mteb.evaluate(MusicFMEncoder.from_pretrained("musicfm-msd", layer=7), mteb.get_tasks(["GTZANGenre"]))

    The vector of a song is the mean over the frames of a hidden state, or the embedding of the audio tower. Songs of
    any length are encoded in windows. Audio is decoded by this package, so that neither torchcodec nor torchaudio is
    needed. mteb keeps results by name, revision, layer and dtype, so those of other weights are not taken for these.

    Args:
        model ([`MusicFMModel`] or [`MusicFMTextAudioModel`]): The model.
        processor (*optional*): Processor of a model with two towers.
        layer (`int`, *optional*): Hidden state of an encoder, from 0 to `num_hidden_layers` (the default).
        name (`str`, *optional*): Name in the results, as `organization/model`; by default that of the class.
        revision (`str`, *optional*): Revision in the results; by default a digest of the weights.

    Raises:
        ValueError: the layer does not exist, or is given for a model with two towers.
        TypeError: the model is of another kind.
    """

    def __init__(
        self,
        model: Any,
        processor: Any = None,
        layer: int | None = None,
        name: str | None = None,
        revision: str | None = None,
    ):
        has_text = is_text_audio(model)
        check_layer(model, layer)
        self.model, self.processor, self.layer = model, processor, layer
        experiment: dict[str, Any] = {} if layer is None else {"layer": layer}
        if model.dtype != torch.float32:
            experiment["dtype"] = str(model.dtype).removeprefix("torch.")
        settings = {
            "name": name or f"musicfm_hf/{type(model).__name__}",
            "revision": revision or weights_digest(model),
            "n_parameters": model.num_parameters(),
            "embed_dim": vector_size(model),
            "modalities": ["audio", "text"] if has_text else ["audio"],
            "framework": ["PyTorch", "Transformers"],
            # A song of several clips has the mean of their similarities, as in the output of the model.
            "similarity_fn_name": "dot" if has_text else "cosine",
            "use_instructions": False,
            "experiment_kwargs": experiment or None,
        }
        unknown = {key: None for key, field in ModelMeta.model_fields.items() if field.is_required()}
        self.mteb_model_meta = ModelMeta(**unknown | settings)

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        revision: str | None = None,
        device: str | torch.device | None = None,
        layer: int | None = None,
        **kwargs: Any,
    ) -> Self:
        """
        Load the model from a folder or a repository.

        Args:
            name (`str`): Folder or repository.
            revision (`str`, *optional*): Branch, tag or commit of the repository.
            device (*optional*): Device for the model; a GPU if one exists.
            layer (`int`, *optional*): As for the class.
            kwargs: Arguments for `AutoModel.from_pretrained`, such as `dtype`.

        Raises:
            OSError: the model does not exist.
            ValueError, TypeError: as for the class.
        """
        folder, revision = resolve_model(name, revision)
        model, processor = load_with_processor(folder, **kwargs)
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if Path(name).is_dir():
            name = "/".join(Path(name).resolve().parts[-2:])
        return cls(model.to(device), processor, layer, name, revision)

    def encode(self, inputs: Any, *, show_progress_bar: bool = False, **kwargs: Any) -> torch.Tensor:
        """
        Embed the rows of a data set.

        Args:
            inputs (`DataLoader`): Rows of a `datasets.Dataset` with `audio`, `text` or both.
            show_progress_bar (`bool`): Show the progress on the terminal.
            kwargs: Task, split and prompt, which are not used.

        Returns:
            float32 `(rows, size)` on the CPU. A row with audio and text has the sum of their vectors, as those of
            mteb's own models of this kind.

        Raises:
            ValueError: a row has no audio, or audio that cannot be read, or a text if the model has no text tower.
        """
        dataset = inputs.dataset
        columns = {"audio", "text"} & set(dataset.column_names)
        if "text" in columns and self.processor is None:
            raise ValueError(
                "The task has texts, but this model has no text tower, or was made without its processor."
            )
        if isinstance(dataset.features.get("audio"), Audio):
            dataset = dataset.cast_column("audio", Audio(decode=False))
        rows = DataLoader(dataset, inputs.batch_size, num_workers=inputs.num_workers, collate_fn=list)
        vectors = []
        for batch in tqdm(rows, disable=not show_progress_bar):
            parts = []
            if "audio" in columns:
                parts.append(embed_audio(self.model, [row["audio"] for row in batch], self.layer))
            if "text" in columns:
                parts.append(embed_texts(self.model, self.processor, [row["text"] for row in batch]))
            vectors.append(torch.stack(parts).sum(0))
        return torch.cat(vectors)
