"""Looking at what embeddings hold."""

from pathlib import Path

import numpy as np
import torch

from .frames import average_frames


def self_similarity(
    frames: torch.Tensor, frame_rate: float, target_rate: float = 2.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Cosine similarity of every moment of a song with every other, each dimension standardised over the song first.

    Args:
        frames (`torch.Tensor` of shape `(frames, hidden_size)`): Embeddings at `frame_rate` Hz.
        frame_rate, target_rate (`float`): In Hz; the song is averaged to the second one.

    Returns:
        Similarities `(n, n)`, the standardised frames `(n, hidden_size)`, and their times in seconds `(n,)`.
    """
    features, times = average_frames(frames, frame_rate, target_rate)
    features = (features - features.mean(0)) / features.std(0, correction=0).clamp(min=1e-8)
    directions = torch.nn.functional.normalize(features, dim=1)
    return (directions @ directions.T).numpy(), features.numpy(), times


def find_boundaries(features: np.ndarray, times: np.ndarray, num_segments: int) -> np.ndarray:
    """
    Times in seconds where `num_segments` stretches of like frames begin, after the first: temporally constrained
    agglomerative clustering (`librosa.segment.agglomerative`) of frames smoothed over 4.5 s, longer than a bar.

    Args:
        features (`np.ndarray` of shape `(n, hidden_size)`), times (`np.ndarray` of shape `(n,)`, in seconds): As from
            [`self_similarity`].
        num_segments (`int`): How many stretches; at most `n`.
    """
    import librosa
    from scipy.ndimage import uniform_filter1d

    if len(features) < 2:
        return np.zeros(0)
    step = times[1] - times[0]
    smooth = uniform_filter1d(features, max(1, round(4.5 / step)), axis=0, mode="nearest")
    starts = librosa.segment.agglomerative(smooth.T, min(num_segments, len(features)))
    return times[starts[1:]] - step / 2


def plot_self_similarity(
    similarity: np.ndarray,
    times: np.ndarray,
    boundaries: np.ndarray,
    output: str | Path,
    title: str = "",
    sections: list[tuple[float, float, str]] | None = None,
) -> None:
    """
    Draw a self-similarity matrix as PNG: found `boundaries` (seconds) as lines, known `sections` (start, end, name) as
    a coloured band above.
    """
    from matplotlib.figure import Figure
    from mpl_toolkits.axes_grid1 import make_axes_locatable

    figure = Figure(figsize=(7.2, 6.6), dpi=120)
    axes = figure.subplots()
    divider = make_axes_locatable(axes)
    end = float(times[-1] + times[0])
    image = axes.imshow(similarity, origin="lower", extent=(0, end, 0, end), cmap="magma", vmin=-0.5, vmax=1)
    for number, boundary in enumerate(boundaries):
        axes.axvline(boundary, color="white", linewidth=1, linestyle="--", label=None if number else "found boundary")
        axes.axhline(boundary, color="white", linewidth=1, linestyle="--")
    axes.set(xlabel="time (s)", ylabel="time (s)", xlim=(0, end), ylim=(0, end))
    top = axes
    if sections:
        top = divider.append_axes("top", size="5%", pad=0.06)
        names = sorted({name for _, _, name in sections})
        for start, stop, name in sections:
            top.axvspan(start, stop, color=f"C{names.index(name)}", linewidth=0)
            top.axvline(stop, color="black", linewidth=1)
            top.text((start + stop) / 2, 0.5, name, ha="center", va="center", fontsize=8, color="white")
        top.set(xlim=(0, end), ylim=(0, 1))
        top.axis("off")
    top.set_title(title)
    if len(boundaries):
        axes.legend(loc="lower right", fontsize=8, facecolor="black", labelcolor="white")
    figure.colorbar(image, cax=divider.append_axes("right", size="4%", pad=0.12), label="cosine similarity")
    figure.savefig(output, bbox_inches="tight")
