"""Log-mel, chroma and constant-Q spectrograms of waveforms: inputs of the encoder and features of its targets."""

import functools
import math

import torch
from torch import nn
from transformers.utils.generic import maybe_autocast

from .configuration_musicfm import MusicFMConfig
from .padding_musicfm import align_left, valid_frames


class MusicFMLogMel(nn.Module):
    """
    Normalized log-mel spectrogram of waveforms, in float32 regardless of the dtype of the model.

    The module holds no tensors. The window and the filters are computed at each call, which costs almost nothing, so
    that casts, the meta device and checkpoints cannot change them.

    Args:
        config ([`MusicFMConfig`]): Fourier transform, hop and bands.
        mean, std (`float` or `list[float]`, *optional*): Statistics in dB, one for all bands or one for each;
            `config.mel_mean` and `config.mel_std` by default.
        num_mel_bins (`int`, *optional*): Mel bands; `config.num_mel_bins` by default.
    """

    def __init__(
        self,
        config: MusicFMConfig,
        mean: float | list[float] | None = None,
        std: float | list[float] | None = None,
        num_mel_bins: int | None = None,
    ):
        super().__init__()
        self.config = config
        self.mean = config.mel_mean if mean is None else mean
        self.std = config.mel_std if std is None else std
        self.num_mel_bins = num_mel_bins or config.num_mel_bins

    def forward(self, input_values: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """`(batch, samples)` → `(batch, samples // hop_length, num_mel_bins)`, zero beyond each item's own end."""
        with maybe_autocast(input_values.device.type, enabled=False):
            return self.from_power(power_spectrum(input_values, attention_mask, self.config), attention_mask)

    def from_power(self, power: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """Compute the log-mel spectrogram from the output of [`power_spectrum`]."""
        with maybe_autocast(power.device.type, enabled=False):
            mel = power @ self.filters().to(power.device)  # (batch, mel frames, bands)
            mel = 10.0 * torch.log10(mel.clamp(min=1e-10))
            mel = (mel - self._statistic(self.mean, mel)) / self._statistic(self.std, mel)
            if attention_mask is not None:
                counts = attention_mask.bool().sum(-1) // self.config.hop_length
                mel = mel * valid_frames(0, mel.shape[1], counts)[..., None]
        return mel

    def _statistic(self, value: float | list[float], mel: torch.Tensor) -> float | torch.Tensor:
        """Return a number, or a tensor of one number for each band."""
        return torch.tensor(value, dtype=torch.float32, device=mel.device) if isinstance(value, list) else value

    def filters(self) -> torch.Tensor:
        """Return triangles on the HTK mel scale, each with its peak at 1: float32 `(frequencies, bands)`."""
        nyquist, bins = self.config.sampling_rate / 2, self.config.n_fft // 2
        frequencies = torch.linspace(0, nyquist, bins + 1, dtype=torch.float64, device="cpu")[:, None]
        top = 2595 * math.log10(1 + nyquist / 700)
        mels = torch.linspace(0, top, self.num_mel_bins + 2, dtype=torch.float64, device="cpu")
        corners = 700 * (10 ** (mels / 2595) - 1)
        rising = (frequencies - corners[:-2]) / (corners[1:-1] - corners[:-2])
        falling = (corners[2:] - frequencies) / (corners[2:] - corners[1:-1])
        return torch.minimum(rising, falling).clamp(min=0).float()


def power_spectrum(
    input_values: torch.Tensor, attention_mask: torch.Tensor | None, config: MusicFMConfig
) -> torch.Tensor:
    """
    Compute the power spectrum of waveforms: `(batch, samples)` → float32 `(batch, samples // hop_length,
    n_fft // 2 + 1)`. Frame i is centered at sample i · `hop_length`.
    """
    waveform = _reflect(input_values.float(), attention_mask, config.n_fft // 2)
    window = torch.hann_window(config.n_fft, dtype=torch.float32, device=waveform.device)
    if is_exporting():
        return _power_by_products(waveform, window, input_values.shape[-1] // config.hop_length, config.hop_length)
    spectrum = torch.stft(waveform, config.n_fft, config.hop_length, window=window, center=False, return_complex=True)
    power = spectrum.real.square() + spectrum.imag.square()
    return power[..., : input_values.shape[-1] // config.hop_length].transpose(1, 2)


def is_exporting() -> bool:
    """Return whether `torch.export` traces the model (with torch 2.6, which cannot tell, also `torch.compile`)."""
    return getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)()


def _power_by_products(waveform: torch.Tensor, window: torch.Tensor, count: int, hop: int) -> torch.Tensor:
    """
    Compute `count` frames of the power spectrum of `(batch, padded samples)` as products with cosines and sines. Few
    runtimes of exported models have Fourier transforms.
    """
    size = len(window)
    start = torch.arange(count, device=waveform.device)[:, None] * hop
    frames = waveform[:, start + torch.arange(size, device=waveform.device)] * window
    cosines, sines = fourier_matrices(size, size // 2 + 1, waveform.device)
    return (frames @ cosines).square() + (frames @ sines).square()


def fourier_matrices(size: int, frequencies: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Return the cosines and sines of a Fourier transform of `size` values, float32 `(size, frequencies)`: its real part
    is the product with the cosines, and its imaginary part is minus the product with the sines.
    """
    place = torch.arange(size, device=device)
    angle = place.double() * (2 * math.pi / size)
    turned = place[:, None] * place[:frequencies] % size
    return angle.cos().float()[turned], angle.sin().float()[turned]


def _reflect(waveform: torch.Tensor, attention_mask: torch.Tensor | None, pad: int) -> torch.Tensor:
    """Pad both sides with `pad` reflected samples. On the right, the padding starts at each item's own end."""
    if attention_mask is None:
        return nn.functional.pad(waveform[:, None], (pad, pad), mode="reflect")[:, 0]
    first = attention_mask.int().argmax(-1, keepdim=True)  # padding may be on the left
    last = attention_mask.bool().sum(-1, keepdim=True) - 1
    position = torch.arange(-pad, waveform.shape[-1] + pad, device=waveform.device).abs()[None]
    position = torch.where(position > last, 2 * last - position, position).clamp(min=0)
    return waveform.gather(1, first + position)


@functools.lru_cache(maxsize=8)
def chroma_filters(n_fft: int, num_chroma: int, sampling_rate: int) -> torch.Tensor:
    """Return the chroma filter bank, float32 `(frequencies, pitch classes)`."""
    from transformers.audio_utils import chroma_filter_bank  # imported here because it loads audio libraries

    filters = chroma_filter_bank(n_fft, num_chroma, sampling_rate)
    filters[filters < 1e-20] = 0.0  # changes no sum; CPUs multiply denormal numbers many times more slowly
    return torch.as_tensor(filters, dtype=torch.float32).T.contiguous()


def chroma(power: torch.Tensor, config: MusicFMConfig) -> torch.Tensor:
    """
    Compute the energy of pitch classes in dB relative to the strongest one in each frame, clipped at -40 dB:
    power spectrum `(batch, mel frames, frequencies)` → `(batch, mel frames, config.kmeans_chroma_bins)`. The filters
    are those of Ellis (*Chroma feature analysis*, 2007).
    """
    with maybe_autocast(power.device.type, enabled=False):
        filters = chroma_filters(config.n_fft, config.kmeans_chroma_bins, config.sampling_rate)
        energy = (power @ filters.to(power.device)).clamp(min=1e-10)
        return (10.0 * torch.log10(energy / energy.amax(-1, keepdim=True))).clamp(min=-40.0)


def window_statistics(
    frames: torch.Tensor, attention_mask: torch.Tensor | None, config: MusicFMConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Compute the mean and the standard deviation of features in a window of `config.kmeans_window_seconds` around each
    token, leaving out what lies beyond the audio. (Tzanetakis and Cook, *Musical genre classification of audio
    signals*, 2002, describe music by such statistics of texture windows.)

    Args:
        frames (`torch.Tensor` of shape `(batch, mel frames, dim)`): Features; the frames of an item come first.
        attention_mask (`torch.Tensor` of shape `(batch, samples)`, *optional*): 1 for audio, 0 for padding.

    Returns:
        Means and deviations, float32 `(batch, tokens, dim)`. They are 0 if a window has no audio.
    """
    step = config.samples_per_frame // config.hop_length
    count = frames.shape[1] // step * step
    frames = frames[:, :count].float()
    audio = frames.new_ones(frames.shape[:2])
    if attention_mask is not None:
        audio = valid_frames(0, count, attention_mask.bool().sum(-1) // config.hop_length).to(frames.dtype)
    audio = audio[..., None]
    center = (frames * audio).sum(1, keepdim=True) / audio.sum(1, keepdim=True).clamp(min=1)
    frames = (frames - center) * audio  # small numbers keep their precision when squared
    moments = torch.cat([audio, frames, frames.square()], dim=-1).unflatten(1, (-1, step)).sum(2)
    radius = config.kmeans_window_frames // 2
    moments = nn.functional.avg_pool1d(moments.mT, 2 * radius + 1, stride=1, padding=radius).mT
    share, mean, square = moments.split([1, frames.shape[2], frames.shape[2]], dim=-1)
    mean, square = mean / share.clamp(min=1e-6), square / share.clamp(min=1e-6)
    deviation = (square - mean.square()).clamp(min=0).sqrt()
    return (mean + center) * (share > 0), deviation


def constant_q(input_values: torch.Tensor, attention_mask: torch.Tensor | None, config: MusicFMConfig) -> torch.Tensor:
    """
    Compute a constant-Q spectrogram at the frame rate: `(batch, samples)` → `(batch, samples // samples_per_frame,
    cqt_bins)`. Values are in units of 20 dB around -40 dB of full scale, and clipped at -80 dB.

    Each bin is a Gaussian band-pass filter whose width at half power is the distance to the next bin. It is applied
    to the whole waveform by Fourier transform and sampled at every frame; aliasing does not change the magnitude of
    the sampled band.
    """
    hop = config.samples_per_frame
    with maybe_autocast(input_values.device.type, enabled=False):
        waveform = input_values.float()
        if attention_mask is not None:
            waveform = align_left(waveform, attention_mask)
        frequencies = config.cqt_fmin * 2 ** (
            torch.arange(config.cqt_bins, dtype=torch.float64) / config.cqt_bins_per_octave
        )
        sigma = frequencies * (2 ** (1 / config.cqt_bins_per_octave) - 1) / math.sqrt(4 * math.log(2))
        # Silence at the end, longer than the longest filter rings, prevents the end from wrapping around to the start.
        ringing = math.ceil(6 / (2 * math.pi * sigma[0].item()) * config.sampling_rate)
        frames = -(-(waveform.shape[-1] + ringing) // hop)
        spectrum = torch.fft.fft(waveform, frames * hop)  # bins of `resolution` Hz
        resolution = config.sampling_rate / (frames * hop)
        output = waveform.new_empty(waveform.shape[0], config.cqt_bins, frames)
        for index, (center, width) in enumerate(zip(frequencies.tolist(), sigma.tolist(), strict=True)):
            first = max(0, round((center - 6 * width) / resolution))
            last = min(frames * hop // 2, round((center + 6 * width) / resolution) + 1)
            bins = torch.arange(first, last, device=waveform.device)
            gain = torch.exp(-0.5 * ((bins * resolution - center) / width).square())
            band = spectrum[:, first:last] * gain
            band = nn.functional.pad(band, (first % frames, -(first % frames + last - first) % frames))
            folded = band.unflatten(-1, (-1, frames)).sum(1)  # the spectrum after sampling at every hop
            output[:, index] = torch.fft.ifft(folded).abs() * (2 / hop)
        magnitude = output[..., : input_values.shape[-1] // hop].transpose(1, 2)
        return (20.0 * torch.log10(magnitude.clamp(min=1e-4)) + 40.0) / 20.0


__all__ = [
    "MusicFMLogMel",
    "chroma",
    "chroma_filters",
    "constant_q",
    "fourier_matrices",
    "is_exporting",
    "power_spectrum",
    "window_statistics",
]
