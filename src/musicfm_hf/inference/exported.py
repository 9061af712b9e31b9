"""
Exported models in place of PyTorch models.

A folder that `musicfm export` wrote has the graph (`model.onnx`, `model.xml` or `model.pt2`), the configuration of the
encoder (`config.json`), a description of the graph with the outcome of its check (`export.json`), and for each head
its configuration and weights (`heads/NAME`).
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoModel
from transformers.modeling_outputs import BaseModelOutput

from ..model.configuration_musicfm import MusicFMConfig
from ..model.int8_musicfm import MusicFMInt8Config
from ..model.keywords_musicfm import check_keywords
from ..model.modeling_musicfm import (
    MusicFMForAudioClassification,
    MusicFMForAudioFrameClassification,
    MusicFMForXVector,
    MusicFMModel,
    MusicFMPreTrainedModel,
)
from ..model.modeling_text_audio_musicfm import MusicFMTextAudioModel
from ..model.outputs_musicfm import MusicFMQuantizerOutput
from ..model.padding_musicfm import check_input
from .runtimes import Run, model_files, open_runtime

DESCRIPTION = "export.json"
HEADS = "heads"  # folder

HEAD_CLASSES = {
    head_class.__name__: head_class
    for head_class in (MusicFMForAudioFrameClassification, MusicFMForAudioClassification, MusicFMForXVector)
}
ExportedHead = MusicFMForAudioFrameClassification | MusicFMForAudioClassification | MusicFMForXVector


class _ExportedModel(MusicFMPreTrainedModel):
    """
    Model whose computation is an exported graph. It has no weights, but a digest of its files in their place, so that
    models are compared, and outputs recorded, by what is in these files.
    """

    digest: torch.Tensor

    def __init__(self, config: MusicFMConfig, run: Run, digest: bytes):
        super().__init__(config)
        self.register_buffer("digest", torch.tensor(list(digest), dtype=torch.uint8))
        self.run = run
        self.post_init()

    @property
    def device(self) -> torch.device:
        """Device of the digest; inputs on any device are accepted."""
        return self.digest.device

    @property
    def dtype(self) -> torch.dtype:
        """Always float32, the dtype of the outputs."""
        return torch.float32

    def _run(
        self, input_values: torch.Tensor, attention_mask: torch.Tensor | None, names: Sequence[str], least: int
    ) -> list[torch.Tensor]:
        """Check the input, and compute these outputs."""
        check_input(input_values, attention_mask, least)
        if attention_mask is None:
            attention_mask = torch.ones_like(input_values, dtype=torch.bool)
        return self.run(input_values.float(), attention_mask.bool(), names)


class ExportedEncoder(_ExportedModel):
    """
    Exported encoder, which takes the place of a [`MusicFMModel`] in [`musicfm_hf.embed`], [`musicfm_hf.annotate`] and
    the commands. They use its configuration, `output_frames`, `frame_times`, and `forward` with one or several layers.

    Args:
        config ([`MusicFMConfig`]): Configuration of the encoder; its last layer is the last one in the graph.
        run: Function that [`open_runtime`] returns.
        digest (`bytes`): Digest of the files of the model.
        states: Layers whose hidden states are outputs of the graph, with the names of these outputs.
    """

    def __init__(self, config: MusicFMConfig, run: Run, digest: bytes, states: Mapping[int, str]):
        super().__init__(config, run, digest)
        self.states = dict(states)

    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        layer: int | None = None,
        output_hidden_states: bool | Sequence[int] = False,
        return_dict: bool = True,
        **kwargs: Any,
    ) -> BaseModelOutput:
        """
        Compute hidden states. The arguments are those of [`MusicFMModel.forward`].

        Returns:
            [`BaseModelOutput`], float32 on the CPU.

        Raises:
            ValueError: if an input is not as described there, or a layer was not exported.
        """
        check_keywords(kwargs, self.forward)
        last = self.config.num_hidden_layers if layer is None else layer
        wanted = list(range(last + 1)) if output_hidden_states is True else list(output_hidden_states or [])
        layers = sorted({last, *wanted})
        if missing := [index for index in layers if index not in self.states]:
            raise ValueError(
                f"This model was exported with the hidden states {', '.join(map(str, self.states))}, without "
                f"{', '.join(map(str, missing))}: use `musicfm export MODEL --layer {missing[-1]}`."
            )
        names = [self.states[index] for index in layers]
        states = dict(
            zip(layers, self._run(input_values, attention_mask, names, self.config.min_samples), strict=True)
        )
        hidden_states: Any = tuple(states[k] if k in wanted else None for k in range(last + 1)) if wanted else None
        return BaseModelOutput(last_hidden_state=states[last], hidden_states=hidden_states)


class ExportedQuantizer(_ExportedModel):
    """Exported quantizer, which takes the place of a [`MusicFMQuantizerModel`]."""

    def forward(
        self, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> MusicFMQuantizerOutput:
        """Quantize waveforms, as [`MusicFMQuantizerModel.forward`] does."""
        least = self.config.n_fft // 2 + 1
        return MusicFMQuantizerOutput(*self._run(input_values, attention_mask, ["tokens", "tokens_mask"], least))


EncoderModel = MusicFMModel | ExportedEncoder


def is_exported(folder: str | os.PathLike) -> bool:
    """Return whether a folder holds an exported model."""
    return (Path(folder) / DESCRIPTION).is_file()


def read_description(folder: str | os.PathLike) -> dict[str, Any]:
    """
    Read the description of an exported model.

    Raises:
        FileNotFoundError: if the folder holds no exported model.
    """
    if not is_exported(folder):
        raise FileNotFoundError(f"{folder} holds no exported model: `musicfm export` writes one.")
    return json.loads((Path(folder) / DESCRIPTION).read_text(encoding="utf-8"))


def load_exported(
    folder: str | os.PathLike, device: str = "cpu"
) -> ExportedEncoder | ExportedQuantizer | ExportedHead | dict[str, ExportedHead]:
    """
    Load a model that `musicfm export` wrote, in any of its formats.

    The encoder runs in ONNX Runtime, OpenVINO or AOTInductor with as many threads as `torch.get_num_threads()`. Heads,
    which take hardly any time, run in PyTorch, so that songs of any length are annotated as with the original model.

    Args:
        folder: Folder that `musicfm export` wrote.
        device (`str`): Device of the encoder: `"cpu"`; for ONNX also `"cuda"`, with onnxruntime-gpu; for OpenVINO also
            `"gpu"` and `"npu"`. A package of AOTInductor runs on the device that it was compiled for.

    Returns:
        For an encoder, a model for [`musicfm_hf.embed`]; for a head, a model of its class, such as
        [`MusicFMForAudioFrameClassification`], for [`musicfm_hf.annotate`], whose encoder is exported; for several
        heads, a dictionary of such models by task, which [`musicfm_hf.annotate`] takes as well.

    Raises:
        FileNotFoundError: if the folder holds no exported model.
        ImportError: if the runtime is not installed.
        ValueError: if the runtime does not support the device.
    """
    folder, description = Path(folder), read_description(folder)
    config = MusicFMConfig.from_json_file(folder / "config.json")
    if description["format"] == "aoti":
        device = description["device"]
    run = open_runtime(folder, description["format"], list(description["outputs"]), device)
    digest = files_digest(folder)
    if description["part"] == "quantizer":
        return ExportedQuantizer(config, run, digest).eval()
    states = {int(layer): name for layer, name in description["hidden_states"].items()}
    encoder = ExportedEncoder(config, run, digest, states).eval()
    if description["part"] == "encoder":
        return encoder
    heads = {name: _load_head(folder / HEADS / name, encoder) for name in description["heads"]}
    return heads if len(heads) > 1 else next(iter(heads.values()))


def load_encoder(
    folder: str | os.PathLike,
    device: str | None,
    default_device: torch.device,
    dtype: torch.dtype = torch.float32,
    quantization_config: MusicFMInt8Config | None = None,
) -> EncoderModel:
    """
    Load the encoder of a saved model in a dtype on a device, or of an exported model, which has its own precision and
    runs on the CPU unless a device is given.

    Raises:
        OSError: if the folder holds no model.
        ValueError: if the folder holds a model for text and audio or an exported quantizer, the runtime does not
            support the device, or an exported model would have to be quantized.
    """
    if not is_exported(folder):
        loaded: Any = AutoModel.from_pretrained(folder, dtype=dtype, quantization_config=quantization_config)
        if isinstance(loaded, MusicFMTextAudioModel):
            raise ValueError(
                f"{folder} holds a model for text and audio, which has one embedding for each passage of a song: "
                "`musicfm index` writes them. Pass an encoder or a model with a head."
            )
        return loaded.to(device or default_device)
    check_exported_precision(folder, quantization_config)
    return encoder_of(load_exported(folder, device or "cpu"), folder)


def encoder_of(model: Any, folder: str | os.PathLike) -> ExportedEncoder:
    """
    Return the encoder of what [`load_exported`] loaded.

    Raises:
        ValueError: if it is a quantizer.
    """
    if isinstance(model, ExportedQuantizer):
        raise ValueError(f"{folder} holds an exported quantizer. Export an encoder: `musicfm export MODEL`.")
    if isinstance(model, dict):
        model = next(iter(model.values()))
    return model if isinstance(model, ExportedEncoder) else model.musicfm


def check_exported_precision(folder: str | os.PathLike, quantization_config: Any) -> None:
    """
    Raises:
        ValueError: if an exported model would have to be quantized.
    """
    if quantization_config is not None:
        raise ValueError(
            f"The exported model in {folder} has a precision of its own: leave out `--quantize`, and export in int8 "
            "with `musicfm export --quantize int8`."
        )


def load_exported_heads(folder: str | os.PathLike) -> dict[str, ExportedHead]:
    """
    Load the models with a head of an exported folder, by the folder and the name of the head.

    Raises:
        ValueError: if the folder holds an exported model without a head.
    """
    models = load_exported(folder)
    if isinstance(models, ExportedEncoder | ExportedQuantizer):
        raise ValueError(
            f"{folder} holds an exported {read_description(folder)['part']} without a head. Export a model "
            "with a head: `musicfm export RUN`."
        )
    if isinstance(models, dict):
        return {f"{folder}/{HEADS}/{name}": model for name, model in models.items()}
    return {str(folder): models}


def files_digest(folder: str | os.PathLike) -> bytes:
    """Return the SHA-256 of the SHA-256 of the files of an exported model."""
    digest = hashlib.sha256()
    for path in model_files(Path(folder)):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.digest()


def _load_head(folder: Path, encoder: ExportedEncoder) -> ExportedHead:
    """Load a head, and put it on the encoder."""
    config = MusicFMConfig.from_json_file(folder / "config.json")
    (name,) = config.architectures or [config.head_class]
    head_class: Any = HEAD_CLASSES[name]
    with torch.device("meta"):
        model = head_class(config)
    model.classifier = head_class.head_class(config)
    model.classifier.load_state_dict(load_file(folder / "model.safetensors"))
    model.musicfm = encoder
    return model.eval()
