"""MusicFM in the Hugging Face ecosystem. Importing the package registers its classes with the Auto classes."""

from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForPreTraining

from .audio import load_audio
from .conversion import convert_checkpoint
from .inference import embed
from .model.configuration_musicfm import MusicFMConfig
from .model.feature_extraction_musicfm import MusicFMFeatureExtractor
from .model.modeling_musicfm import MusicFMForPreTraining, MusicFMModel, MusicFMPreTrainedModel, MusicFMQuantizerModel

__version__ = "0.1.0"

AutoConfig.register("musicfm", MusicFMConfig)
AutoFeatureExtractor.register(MusicFMConfig, MusicFMFeatureExtractor)
AutoModel.register(MusicFMConfig, MusicFMModel)
AutoModelForPreTraining.register(MusicFMConfig, MusicFMForPreTraining)

# So that `save_pretrained` puts the code beside the weights.
MusicFMConfig.register_for_auto_class()
MusicFMFeatureExtractor.register_for_auto_class()
MusicFMModel.register_for_auto_class("AutoModel")
MusicFMForPreTraining.register_for_auto_class("AutoModelForPreTraining")

__all__ = [
    "MusicFMConfig",
    "MusicFMFeatureExtractor",
    "MusicFMForPreTraining",
    "MusicFMModel",
    "MusicFMPreTrainedModel",
    "MusicFMQuantizerModel",
    "convert_checkpoint",
    "embed",
    "load_audio",
]
