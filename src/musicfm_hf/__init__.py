"""
MusicFM in the Hugging Face ecosystem.

Importing the package registers its classes with the Auto classes, and its pipelines with `transformers.pipeline`.
Everything else is imported on first use.
"""

import sys
import warnings
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0.dev0"

# Folder of the small model, which is a part of the package; see docs/small_model.md.
SMALL_MODEL = str(Path(__file__).parent / "musicfm-small")

# Module → the public names that it defines.
_EXPORTS = {
    ".audio.reading": ("load_audio",),
    ".conversion.convert": ("convert_checkpoint",),
    ".data.examples": ("collate_examples",),
    ".evaluation.evaluate": ("evaluate",),
    ".export.export": ("export_model",),
    ".finetuning.run": ("finetune",),
    ".hub.push": ("push",),
    ".inference.annotation": ("annotate",),
    ".inference.annotators": ("load_annotators",),
    ".inference.embed_files": ("embed_files",),
    ".inference.embedding": (
        "FrameEmbeddings",
        "WindowSettings",
        "embed",
    ),
    ".inference.exported": ("load_exported",),
    ".inference.precision": ("fastest_precision",),
    ".inference.song_annotation": ("SongAnnotation",),
    ".inference.zero_shot": ("ZeroShotTagger",),
    ".model.configuration_musicfm": ("MusicFMConfig",),
    ".model.feature_extraction_musicfm": ("MusicFMFeatureExtractor",),
    ".model.int8_musicfm": ("MusicFMInt8Config",),
    ".model.modeling_musicfm": (
        "MusicFMClassifierOutput",
        "MusicFMForAudioClassification",
        "MusicFMForAudioFrameClassification",
        "MusicFMForPreTraining",
        "MusicFMForPreTrainingOutput",
        "MusicFMForXVector",
        "MusicFMModel",
        "MusicFMPreTrainedModel",
        "MusicFMQuantizerModel",
        "MusicFMQuantizerOutput",
    ),
    ".model.configuration_text_audio_musicfm": ("MusicFMTextAudioConfig",),
    ".model.modeling_text_audio_musicfm": ("MusicFMTextAudioModel", "MusicFMTextAudioOutput"),
    ".model.processing_text_audio_musicfm": ("MusicFMTextAudioProcessor",),
    ".search.build": (
        "BuildSettings",
        "IndexSummary",
    ),
    ".search.embedders": ("load_embedder",),
    ".search.index_files": ("index_files",),
    ".search.passages": ("PassageSettings",),
    ".search.search_index": (
        "SearchIndex",
        "SearchResult",
    ),
    ".text_audio.run": ("train_text_audio",),
    ".tasks": (
        "TaskSpec",
        "register_task",
    ),
    ".tasks.annotations": (
        "Beats",
        "Segment",
    ),
}
_MODULE_OF = {name: module for module, names in _EXPORTS.items() for name in names}
# Names of 0.1, deprecated until they are removed in 0.3.
_RENAMED = {"load_models": "load_annotators"}

__all__ = sorted(["SMALL_MODEL", *_MODULE_OF])

if TYPE_CHECKING:  # the same names, for type checkers and editors
    from .audio.reading import load_audio as load_audio
    from .conversion.convert import convert_checkpoint as convert_checkpoint
    from .data.examples import collate_examples as collate_examples
    from .evaluation.evaluate import evaluate as evaluate
    from .export.export import export_model as export_model
    from .finetuning.run import finetune as finetune
    from .hub.push import push as push
    from .inference.annotation import annotate as annotate
    from .inference.annotators import load_annotators as load_annotators
    from .inference.embed_files import embed_files as embed_files
    from .inference.embedding import FrameEmbeddings as FrameEmbeddings
    from .inference.embedding import WindowSettings as WindowSettings
    from .inference.embedding import embed as embed
    from .inference.exported import load_exported as load_exported
    from .inference.precision import fastest_precision as fastest_precision
    from .inference.song_annotation import SongAnnotation as SongAnnotation
    from .inference.zero_shot import ZeroShotTagger as ZeroShotTagger
    from .model.configuration_musicfm import MusicFMConfig as MusicFMConfig
    from .model.configuration_text_audio_musicfm import MusicFMTextAudioConfig as MusicFMTextAudioConfig
    from .model.feature_extraction_musicfm import MusicFMFeatureExtractor as MusicFMFeatureExtractor
    from .model.int8_musicfm import MusicFMInt8Config as MusicFMInt8Config
    from .model.modeling_musicfm import MusicFMClassifierOutput as MusicFMClassifierOutput
    from .model.modeling_musicfm import MusicFMForAudioClassification as MusicFMForAudioClassification
    from .model.modeling_musicfm import MusicFMForAudioFrameClassification as MusicFMForAudioFrameClassification
    from .model.modeling_musicfm import MusicFMForPreTraining as MusicFMForPreTraining
    from .model.modeling_musicfm import MusicFMForPreTrainingOutput as MusicFMForPreTrainingOutput
    from .model.modeling_musicfm import MusicFMForXVector as MusicFMForXVector
    from .model.modeling_musicfm import MusicFMModel as MusicFMModel
    from .model.modeling_musicfm import MusicFMPreTrainedModel as MusicFMPreTrainedModel
    from .model.modeling_musicfm import MusicFMQuantizerModel as MusicFMQuantizerModel
    from .model.modeling_musicfm import MusicFMQuantizerOutput as MusicFMQuantizerOutput
    from .model.modeling_text_audio_musicfm import MusicFMTextAudioModel as MusicFMTextAudioModel
    from .model.modeling_text_audio_musicfm import MusicFMTextAudioOutput as MusicFMTextAudioOutput
    from .model.processing_text_audio_musicfm import MusicFMTextAudioProcessor as MusicFMTextAudioProcessor
    from .search.build import BuildSettings as BuildSettings
    from .search.build import IndexSummary as IndexSummary
    from .search.embedders import load_embedder as load_embedder
    from .search.index_files import index_files as index_files
    from .search.passages import PassageSettings as PassageSettings
    from .search.search_index import SearchIndex as SearchIndex
    from .search.search_index import SearchResult as SearchResult
    from .tasks import TaskSpec as TaskSpec
    from .tasks import register_task as register_task
    from .tasks.annotations import Beats as Beats
    from .tasks.annotations import Segment as Segment
    from .text_audio.run import train_text_audio as train_text_audio


def register_auto_classes() -> None:
    """
    Register the classes with the Auto classes, their code for `save_pretrained`, and the pipelines. Repeated calls are
    safe.
    """
    import transformers

    from .inference.pipelines import register_pipelines
    from .model.configuration_musicfm import MusicFMConfig
    from .model.configuration_text_audio_musicfm import MusicFMTextAudioConfig
    from .model.feature_extraction_musicfm import MusicFMFeatureExtractor
    from .model.modeling_musicfm import (
        MusicFMForAudioClassification,
        MusicFMForAudioFrameClassification,
        MusicFMForPreTraining,
        MusicFMForXVector,
        MusicFMModel,
    )
    from .model.modeling_text_audio_musicfm import MusicFMTextAudioModel
    from .model.processing_text_audio_musicfm import MusicFMTextAudioProcessor

    transformers.AutoConfig.register("musicfm", MusicFMConfig, exist_ok=True)
    transformers.AutoFeatureExtractor.register(MusicFMConfig, MusicFMFeatureExtractor, exist_ok=True)
    transformers.AutoProcessor.register(MusicFMConfig, MusicFMFeatureExtractor, exist_ok=True)
    MusicFMConfig.register_for_auto_class()
    MusicFMFeatureExtractor.register_for_auto_class()
    for auto_class, model_class in {
        "AutoModel": MusicFMModel,
        "AutoModelForPreTraining": MusicFMForPreTraining,
        "AutoModelForAudioClassification": MusicFMForAudioClassification,
        "AutoModelForAudioFrameClassification": MusicFMForAudioFrameClassification,
        "AutoModelForAudioXVector": MusicFMForXVector,
    }.items():
        getattr(transformers, auto_class).register(MusicFMConfig, model_class, exist_ok=True)
        model_class.register_for_auto_class(auto_class)
    transformers.AutoConfig.register("musicfm_text_audio", MusicFMTextAudioConfig, exist_ok=True)
    transformers.AutoFeatureExtractor.register(MusicFMTextAudioConfig, MusicFMFeatureExtractor, exist_ok=True)
    transformers.AutoProcessor.register(MusicFMTextAudioConfig, MusicFMTextAudioProcessor, exist_ok=True)
    transformers.AutoModel.register(MusicFMTextAudioConfig, MusicFMTextAudioModel, exist_ok=True)
    MusicFMTextAudioConfig.register_for_auto_class()
    MusicFMTextAudioProcessor.register_for_auto_class()
    MusicFMTextAudioModel.register_for_auto_class("AutoModel")
    register_pipelines()


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use."""
    if name in _RENAMED:
        from .training.deprecation import REMOVED_IN

        message = (
            f"musicfm_hf.{name} is now musicfm_hf.{_RENAMED[name]}; the old name will be removed in {REMOVED_IN}."
        )
        warnings.warn(message, FutureWarning, stacklevel=2)
        return globals().get(_RENAMED[name]) or __getattr__(_RENAMED[name])
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULE_OF[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _is_command() -> bool:
    """
    Return whether this process is the `musicfm` command. The command registers the classes itself, so that its help
    page does not wait for torch.
    """
    words = sys.orig_argv
    script = Path(words[1]).name if len(words) > 1 else ""
    return script in ("musicfm", "musicfm.exe") or ("-m", "musicfm_hf") in pairwise(words)


if not _is_command():
    register_auto_classes()
