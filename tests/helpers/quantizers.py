"""Small quantizers."""

import torch

from musicfm_hf import MusicFMConfig
from musicfm_hf.model.quantization_musicfm import MusicFMQuantizer, build_quantizer

from .models import TINY

# Features of 4 mel frames and 2 bands: 8 numbers a token.
SMALL = TINY | {"num_mel_bins": 2, "codebook_dim": 2, "codebook_size": 4}


def quantizer_of(**settings) -> MusicFMQuantizer:
    """A quantizer with the small configuration and these changes."""
    return build_quantizer(MusicFMConfig(**SMALL | settings))


def residual_vq(**settings) -> MusicFMQuantizer:
    """A small residual quantizer of two codebooks."""
    return quantizer_of(**{"quantizer_type": "residual_vq", "num_codebooks": 2} | settings)


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    """Standard normal numbers from a seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
