"""Colors of sections, chords and keys, shared by the picture of a song and the web page."""

import colorsys
from collections.abc import Iterable

from ..tasks.annotations import PITCH_NAMES

SECTION_COLORS = {
    "intro": "#b9d7e8",
    "verse": "#8fbc8f",
    "chorus": "#f2a65a",
    "bridge": "#c3a6d8",
    "inst": "#e8d27c",
    "outro": "#a9b8c9",
    "silence": "#eeeeee",
    "music": "#b9d7e8",
    "no music": "#eeeeee",
}

OTHER_COLORS = ("#e3a6ad", "#9fd0c8", "#d8c3a5", "#b5c98e", "#a7a9d6", "#e6b8d5")  # of labels not listed above

NO_PITCH_COLOR = "#eeeeee"


def section_colors(labels: Iterable[str]) -> dict[str, str]:
    """
    Assign a color to each section label of a song. Labels that are not in `SECTION_COLORS` get the colors of
    `OTHER_COLORS` in turn, in order of first appearance.

    Args:
        labels: Labels in the order of the song, with repetitions.

    Returns:
        `#rrggbb` by label.
    """
    names = list(dict.fromkeys(labels))
    others = [name for name in names if name not in SECTION_COLORS]
    colors = {name: OTHER_COLORS[index % len(OTHER_COLORS)] for index, name in enumerate(others)} | SECTION_COLORS
    return {name: colors[name] for name in names}


def pitch_color(label: str) -> str:
    """
    Return the color of a chord or key label such as `F#:min`, as `#rrggbb`. Neighbors on the circle of fifths have
    neighboring hues, and minor is darker than major. Labels without a root, such as `N`, are light gray.
    """
    root, _, mode = label.partition(":")
    if root not in PITCH_NAMES:
        return NO_PITCH_COLOR
    hue = PITCH_NAMES.index(root) * 7 % 12 / 12
    lightness, saturation = (0.74, 0.45) if mode.startswith("min") else (0.85, 0.75)
    red, green, blue = (round(255 * value) for value in colorsys.hls_to_rgb(hue, lightness, saturation))
    return f"#{red:02x}{green:02x}{blue:02x}"
