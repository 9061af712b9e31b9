"""Pipelines of Transformers for the package: the two of the model's code with all audio formats, and annotation."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import (
    AudioClassificationPipeline,
    AutoModel,
    AutoModelForAudioClassification,
    FeatureExtractionPipeline,
    Pipeline,
    pipeline,
)
from transformers.pipelines import PIPELINE_REGISTRY

from ..model.pipeline_musicfm import (
    MusicFMAudioClassificationPipeline,
    MusicFMFeatureExtractionPipeline,
    MusicFMPipeline,
    download,
    is_array,
)


class _PackageAudio(MusicFMPipeline):
    """Reads audio as the rest of the package does."""

    def _waveform(self, audio: Any, sampling_rate: int | None) -> np.ndarray:
        """Return audio as a float32 waveform `(samples,)` at the rate of the model."""
        from ..audio.waveform import to_waveform  # loads soundfile and soxr

        return to_waveform(audio, sampling_rate, self.feature_extractor.sampling_rate)


class EmbeddingPipeline(_PackageAudio, MusicFMFeatureExtractionPipeline):
    """
    Pipeline `"feature-extraction"` after `import musicfm_hf`. For MusicFM models, it is
    [`MusicFMFeatureExtractionPipeline`] with the audio of [`musicfm_hf.audio.waveform.to_waveform`]. For other models,
    the constructor returns the pipeline of Transformers.
    """

    _load_tokenizer = None  # optional: other models need one

    def __new__(cls, model: Any, **kwargs: Any) -> Any:
        """Return a pipeline for the model."""
        if _is_musicfm(model):
            return super().__new__(cls)
        return _pipeline_of_transformers(FeatureExtractionPipeline, "tokenizer", model, kwargs)


class ClassificationPipeline(_PackageAudio, MusicFMAudioClassificationPipeline):
    """
    Pipeline `"audio-classification"` after `import musicfm_hf`. For MusicFM models, it is
    [`MusicFMAudioClassificationPipeline`] with the audio of [`musicfm_hf.audio.waveform.to_waveform`]. For other
    models, the constructor returns the pipeline of Transformers.
    """

    _load_feature_extractor = None  # optional: other models need one

    def __new__(cls, model: Any, **kwargs: Any) -> Any:
        """Return a pipeline for the model."""
        if _is_musicfm(model):
            return super().__new__(cls)
        return _pipeline_of_transformers(AudioClassificationPipeline, "feature_extractor", model, kwargs)


class MusicAnnotationPipeline(MusicFMPipeline):
    """
    Pipeline `"music-annotation"`: beats, chords, sections, keys and tags of songs of any length, as
    [`musicfm_hf.annotate`] finds them. The result for a song is that of [`SongAnnotation.to_dict`], a dictionary that
    can be written as JSON.

    Songs are given as for [`MusicFMPipeline`], in all formats that the package reads. A list or a data set of songs is
    annotated one by one.

    Args:
        model: A model with a head whose `config.task` is set, or its folder or repository, which may hold an adapter,
            or several models that were trained jointly.
        heads (*optional*): Further models, or their folders or repositories, one for each further task. Equal
            encoders run once.
        sampling_rate (`int`, *optional*): Rate of arrays, in Hz; that of the model by default.
        window_seconds, overlap_seconds, batch_size (*optional*): As for [`musicfm_hf.annotate`]. They and
            `sampling_rate` are also arguments of a call.

    Raises:
        ValueError: if a model has no task, two models have the same task, or a setting is out of range.
        TypeError: if a model has no head, or an argument is unknown.
    """

    _load_processor = False
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False
    _steps = (("sampling_rate",), ("window_seconds", "overlap_seconds"), ())

    def __init__(self, model: Any, *args: Any, heads: Sequence[Any] = (), **kwargs: Any):
        from .annotators import add_annotators

        heads = [*getattr(model, "joint_models", []), *([heads] if isinstance(heads, str) else heads)]
        self.models: dict[str, Any] = add_annotators(model, heads)
        super().__init__(model, *args, **kwargs)
        for other in self.models.values():
            torch.nn.Module.to(other, self.device)

    def __call__(self, inputs: Any, *args: Any, batch_size: int | None = None, **kwargs: Any) -> Any:
        """Return the annotation of a song, a list of annotations for a list, or an iterator for a data set."""
        windows = batch_size or self._batch_size or 1
        return super().__call__(inputs, *args, batch_size=1, window_batch_size=windows, **kwargs)

    def _sanitize_parameters(
        self, window_batch_size: int | None = None, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """Split the arguments among the steps, or raise a `TypeError` if one is unknown."""
        preprocess, forward, postprocess = super()._sanitize_parameters(**kwargs)
        if window_batch_size is not None:
            forward["window_batch_size"] = window_batch_size
        return preprocess, forward, postprocess

    def preprocess(self, inputs: Any, sampling_rate: int | None = None) -> dict[str, Any]:
        """Download a song if it is a URL, and set the rate of an array."""
        if sampling_rate is None and is_array(inputs):
            sampling_rate = self.model.config.sampling_rate
        return {"audio": download(inputs), "sampling_rate": sampling_rate}

    def _forward(self, model_inputs: Mapping[str, Any], window_batch_size: int = 1, **settings: Any) -> dict[str, Any]:
        """Annotate a song."""
        from .annotation import annotate

        return annotate(self.models, **model_inputs, batch_size=window_batch_size, **settings).to_dict()

    def postprocess(self, model_outputs: dict[str, Any]) -> dict[str, Any]:
        """Return the annotation."""
        return model_outputs


class _AutoModelForAnnotation:
    """Loads a model with a head by its task, as an Auto class does."""

    @classmethod
    def from_pretrained(cls, name: str, **kwargs: Any) -> torch.nn.Module:
        """
        Load a model, or an adapter with its base model. If several models were trained jointly, the first one has the
        others in the list `joint_models`.
        """
        from .annotators import load_annotators

        model, *others = load_annotators([name], **kwargs).values()
        model.joint_models = others  # a list, so that they are not modules of this one
        return model


def register_pipelines() -> None:
    """
    Register the pipelines with Transformers. Its own pipelines go on serving models that are not MusicFM. Repeated
    calls are safe.
    """
    tasks = PIPELINE_REGISTRY.supported_tasks
    classes: dict[str, tuple[type[Pipeline], Any]] = {
        "feature-extraction": (EmbeddingPipeline, (AutoModel,)),
        "audio-classification": (ClassificationPipeline, (AutoModelForAudioClassification,)),
        "music-annotation": (MusicAnnotationPipeline, (_AutoModelForAnnotation,)),
    }
    # Not by `register_pipeline`, which warns about tasks of Transformers, and makes `save_pretrained` copy this file.
    for task, (pipeline_class, auto_classes) in classes.items():
        default = tasks.get(task, {"default": {}, "type": "audio"})
        tasks[task] = default | {"impl": pipeline_class, "pt": auto_classes}


def _is_musicfm(model: Any) -> bool:
    """Return whether a model, even inside a PEFT wrapper, is a MusicFM model, of the package or of a repository."""
    return getattr(getattr(model, "config", None), "model_type", None) == "musicfm"


def _pipeline_of_transformers(pipeline_class: type[Pipeline], part: str, model: Any, arguments: dict[str, Any]) -> Any:
    """Return a pipeline for a model that is not MusicFM. It needs a part that was optional when it was loaded."""
    if arguments.get(part) is None:  # loading it again raises the error that it raised
        arguments = arguments | {part: model.config.name_or_path or None, "pipeline_class": pipeline_class}
        return pipeline(model=model, **arguments)
    return pipeline_class(model=model, **arguments)
