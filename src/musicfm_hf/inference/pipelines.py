"""
Pipelines of Transformers that the package registers: `music-annotation`, and `audio-classification` for audio files.

`import musicfm_hf` loads this file, so it imports the rest of the package only when a pipeline is used.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import (
    AudioClassificationPipeline,
    AutoModelForAudioClassification,
    AutoModelForAudioFrameClassification,
    Pipeline,
)
from transformers.pipelines import PIPELINE_REGISTRY

from ..model.configuration_musicfm import MusicFMConfig


class MusicAnnotationPipeline(Pipeline):
    """
    The pipeline `music-annotation`: audio → beats, chords, sections, keys and tags, as [`musicfm_hf.annotate`] returns
    them.

        annotate = pipeline("music-annotation", model="runs/chord", heads=["runs/beat", "runs/key"])
        annotate("song.mp3")["chords"]

    Args:
        model: Model with a head, or its folder or repository.
        heads (`list`, *optional*): Further models, or their folders or repositories, for other tasks. Models with the
            same encoder share one pass.
        window_seconds, overlap_seconds (`float`, *optional*): As for [`musicfm_hf.annotate`].
    """

    _load_processor = False
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        """
        Annotate audio.

        Args:
            inputs: A path, bytes, a row of a data set, a waveform `(samples,)` at the rate of the model, or a list of
                these.
            kwargs: The arguments of the pipeline, for this call.

        Returns:
            A dictionary for each audio: `duration` in seconds, and `beats`, `chords`, `sections`, `keys`, `key` and
            `tags`, for the tasks of the models; see [`SongAnnotation.to_dict`].

        Raises:
            ValueError: if the audio cannot be read, or two models have the same task.
            TypeError: if an argument does not exist.
        """
        return super().__call__(inputs, **kwargs)

    def _sanitize_parameters(
        self,
        heads: Sequence[Any] | None = None,
        window_seconds: float | None = None,
        overlap_seconds: float | None = None,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        from .annotators import load_annotators

        settings: dict[str, Any] = {}
        if heads is not None:
            names = [head for head in heads if not isinstance(head, torch.nn.Module)]
            loaded = load_annotators(names) if names else {}
            settings["heads"] = [loaded[str(head)].to(self.device) if head in names else head for head in heads]
        if window_seconds is not None:
            settings["window_seconds"] = window_seconds
        if overlap_seconds is not None:
            settings["overlap_seconds"] = overlap_seconds
        return {}, settings, {}

    def preprocess(self, audio: Any) -> dict[str, Any]:
        """Read audio as a waveform at the rate of the model."""
        return {"waveform": _read(audio, self.model.config.sampling_rate)}

    def _forward(self, inputs: dict[str, Any], heads: Sequence[Any] = (), **settings: Any) -> Any:
        from .annotation import annotate

        models = [self.model, *heads]
        return annotate(models, inputs["waveform"], self.model.config.sampling_rate, **settings)

    def postprocess(self, annotation: Any) -> dict[str, Any]:
        """Convert an annotation to values for JSON."""
        return annotation.to_dict()


class AudioFilePipeline(AudioClassificationPipeline):
    """
    The pipeline `audio-classification` of Transformers. For models of this package, it reads files, bytes and rows of
    a data set with [`musicfm_hf.load_audio`], without ffmpeg or torchaudio; for other models, nothing changes.
    """

    def preprocess(self, inputs: Any) -> Any:
        """Read audio, and convert it to inputs of the model."""
        if getattr(self.model.config, "model_type", None) == MusicFMConfig.model_type:
            inputs = _read(inputs, self.feature_extractor.sampling_rate)
        return super().preprocess(inputs)


def _read(audio: Any, sampling_rate: int) -> np.ndarray:
    """Read audio as a waveform at `sampling_rate`. A waveform without a rate has this rate, as in Transformers."""
    from ..audio.waveform import to_waveform

    rate = sampling_rate if isinstance(audio, np.ndarray | torch.Tensor | list) else None
    return to_waveform(audio, rate, sampling_rate)


def register_pipelines() -> None:
    """Register the pipelines. Repeated calls are safe."""
    tasks = PIPELINE_REGISTRY.supported_tasks
    if "music-annotation" not in tasks:
        # The class for clips comes first, because it refuses models for label frames.
        auto_classes = (AutoModelForAudioClassification, AutoModelForAudioFrameClassification)
        PIPELINE_REGISTRY.register_pipeline("music-annotation", MusicAnnotationPipeline, auto_classes, type="audio")
    tasks["audio-classification"] = tasks["audio-classification"] | {"impl": AudioFilePipeline}
