"""Write long sound files in any format."""

from pathlib import Path

import numpy as np
import soundfile


def write(path: Path, song: np.ndarray, seconds: float, rate: int, file_format: str, subtype: str) -> None:
    """Write a song `(samples, channels)` repeatedly, up to a length of `seconds`."""
    missing = round(seconds * rate)
    with soundfile.SoundFile(path, "w", rate, song.shape[1], format=file_format, subtype=subtype) as file:
        while missing > 0:
            for start in range(0, min(len(song), missing), rate):
                file.write(song[start : min(start + rate, missing)])
            missing -= len(song)
