"""MusicFM in the Hugging Face ecosystem. Importing the package registers its classes with the Auto classes."""

from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForAudioClassification,
    AutoModelForAudioFrameClassification,
    AutoModelForPreTraining,
)

from .audio.reading import load_audio
from .conversion.convert import convert_checkpoint
from .inference.annotation import annotate
from .inference.annotators import load_models
from .inference.embedding import embed
from .inference.song import SongAnnotation
from .model.configuration_musicfm import MusicFMConfig
from .model.feature_extraction_musicfm import MusicFMFeatureExtractor
from .model.modeling_musicfm import (
    MusicFMForAudioClassification,
    MusicFMForAudioFrameClassification,
    MusicFMForPreTraining,
    MusicFMModel,
    MusicFMPreTrainedModel,
    MusicFMQuantizerModel,
)

__version__ = "0.1.0"

AutoConfig.register("musicfm", MusicFMConfig)
AutoFeatureExtractor.register(MusicFMConfig, MusicFMFeatureExtractor)
AutoModel.register(MusicFMConfig, MusicFMModel)
AutoModelForPreTraining.register(MusicFMConfig, MusicFMForPreTraining)
AutoModelForAudioClassification.register(MusicFMConfig, MusicFMForAudioClassification)
AutoModelForAudioFrameClassification.register(MusicFMConfig, MusicFMForAudioFrameClassification)

# So that `save_pretrained` puts the code beside the weights.
MusicFMConfig.register_for_auto_class()
MusicFMFeatureExtractor.register_for_auto_class()
MusicFMModel.register_for_auto_class("AutoModel")
MusicFMForPreTraining.register_for_auto_class("AutoModelForPreTraining")
MusicFMForAudioClassification.register_for_auto_class("AutoModelForAudioClassification")
MusicFMForAudioFrameClassification.register_for_auto_class("AutoModelForAudioFrameClassification")

__all__ = [
    "MusicFMConfig",
    "MusicFMFeatureExtractor",
    "MusicFMForAudioClassification",
    "MusicFMForAudioFrameClassification",
    "MusicFMForPreTraining",
    "MusicFMModel",
    "MusicFMPreTrainedModel",
    "MusicFMQuantizerModel",
    "SongAnnotation",
    "annotate",
    "convert_checkpoint",
    "embed",
    "load_audio",
    "load_models",
]
