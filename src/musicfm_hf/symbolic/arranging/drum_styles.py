"""
Drum patterns by style and meter.

A pattern is text: a line for each drum, with one character for each step of the bar: `.` rest, `-` soft, `x` normal,
`X` loud. A step is a quarter of a beat, or a third in the styles with triplets, or half in the patterns of compound
meters. Styles for validation and test are in `drum_styles_held_out.py`.
"""

from typing import NamedTuple


class Style(NamedTuple):
    """
    A style.

    Attributes:
        steps (`int`): Steps per beat.
        patterns (`dict[int, tuple[dict[str, str], …]]`): Meter → patterns, each a dictionary from drums to steps.
    """

    steps: int
    patterns: dict[int, tuple[dict[str, str], ...]]


# Name of a drum → its number in General MIDI.
DRUMS = {
    "kick": 36,
    "rim": 37,
    "snare": 38,
    "clap": 39,
    "hat": 42,
    "pedal": 44,
    "open": 46,
    "floor": 41,
    "low": 45,
    "mid": 47,
    "high": 50,
    "crash": 49,
    "ride": 51,
    "bell": 53,
    "tambourine": 54,
    "splash": 55,
    "cowbell": 56,
    "crash2": 57,
    "bongo_high": 60,
    "bongo_low": 61,
    "conga_mute": 62,
    "conga_high": 63,
    "conga_low": 64,
    "timbale_high": 65,
    "timbale_low": 66,
    "agogo": 67,
    "cabasa": 69,
    "shaker": 70,
    "guiro": 73,
    "claves": 75,
    "block": 76,
    "triangle": 81,
}


def parse_rows(text: str) -> dict[str, str]:
    """Parse a pattern, such as `kick X... ...., snare .... X...`; spaces between beats are only for the reader."""
    words = (row.split() for row in text.split(","))
    return {drum: "".join(beats) for drum, *beats in words}


def parse_style(steps: int, patterns: dict[int, tuple[str, ...]]) -> Style:
    """Parse the patterns of a style."""
    return Style(steps, {meter: tuple(parse_rows(text) for text in texts) for meter, texts in patterns.items()})


TRAINING: dict[str, Style] = {
    "rock": parse_style(
        4,
        {
            2: (
                "kick X... ..x., snare .... X..., hat x.x. x.x.",
                "kick X.x. ...., snare .... X..., hat x.x. x.x.",
            ),
            3: (
                "kick X... .... ..x., snare .... X... X..., hat x.x. x.x. x.x.",
                "kick X... ..x. ...., snare .... .... X..., hat x.x. x.x. x.x.",
                "kick X... .... x..., snare .... X... ...., ride x... x... x.x.",
            ),
            4: (
                "kick X... .... x.x. ...., snare .... X... .... X..., hat x.x. x.x. x.x. x.x.",
                "kick X... ..x. x... ...., snare .... X... .... X..., hat X.x. X.x. X.x. X.x.",
                "kick X.x. .... ..x. ...., snare .... X... .... X..., hat x... x... x... x...",
                "kick X..x ..x. x..x ..x., snare .... X..- .-.. X..., hat x.x. x.x. x.x. x.x.",
                "kick X... .... ..X. ..x., snare .... X... .... X..., ride x.x. x.x. x.x. x.x.",
            ),
            6: (
                "kick X... .... .... ..x. x... ...., snare .... .... .... X... .... ...., "
                "hat x.x. x.x. x.x. x.x. x.x. x.x.",
                "kick X... .... .... .... .... x..., snare .... .... .... X... .... ...., "
                "ride X... x... x... X... x... x...",
            ),
        },
    ),
    "pop": parse_style(
        4,
        {
            2: (
                "kick X... .... , snare .... x..., shaker x-x- x-x-",
                "kick X... ..x. , clap .... x..., hat x-x- x-x-",
            ),
            3: ("kick X... .... ...., rim .... x... x..., shaker x-x- x-x- x-x-",),
            4: (
                "kick X... ..x. ..x. ...., snare .... X... .... X..., hat x-x- x-x- x-x- x-x-",
                "kick X... .... X... ..x., clap .... X... .... X..., hat x.x. x.x. x.x. x.x.",
                "kick X..x ..x. .... ...., snare .... X... .... X..., shaker x-x- x-x- x-x- x-x-",
                "kick X... X... X... X..., snare .... X... .... X..., hat ..x. ..x. ..x. ..x.",
                "kick X..x ..x. ..x. ...., snare .... .... X... ...., hat x.x. x.x. x.x. x.x., "
                "clap .... X... .... X...",
            ),
            6: (
                "kick X... .... .... x... .... ...., rim .... .... .... x... .... ...., "
                "hat x... x... x... x... x... x...",
            ),
        },
    ),
    "ballad": parse_style(
        4,
        {
            2: ("kick x... ...., rim .... x..., hat x... x...",),
            3: (
                "kick x... .... ...., rim .... .... x..., hat x... x... x...",
                "kick x... .... ...., triangle .... x... x...",
            ),
            4: (
                "kick x... .... x... ...., rim .... x... .... x..., hat x.-. x.-. x.-. x.-.",
                "kick x... .... ..x. ...., snare .... x... .... x..., hat x... x... x... x...",
                "kick x... .... .... ...., rim .... .... x... ...., shaker x.-. x.-. x.-. x.-.",
            ),
            6: (
                "kick x... .... .... .... .... ...., rim .... .... .... x... .... ...., "
                "hat x... -... -... x... -... -...",
            ),
        },
    ),
    "disco": parse_style(
        4,
        {
            2: ("kick X... X..., clap .... X..., open ..x. ..x.",),
            4: (
                "kick X... X... X... X..., snare .... X... .... X..., open ..x. ..x. ..x. ..x., "
                "hat x-.- x-.- x-.- x-.-",
                "kick X... X... X... X..., clap .... X... .... X..., hat x-x- x-x- x-x- x-x-, "
                "cowbell x... x... x... x...",
            ),
        },
    ),
    "half-time": parse_style(
        4,
        {
            4: (
                "kick X... ..x. .... ...., snare .... .... X... ...., hat x.x. x.x. x.x. x.x.",
                "kick X... .... ..x. x..., snare .... .... X... ...., hat x... x... x... x...",
                "kick X..x .... ..x. ...., snare .... .... X... ...., hat xxx. x.xx x.x. xxxx",
            ),
            6: (
                "kick X... .... .... .... .... ..x., snare .... .... .... X... .... ...., "
                "hat x.x. x.x. x.x. x.x. x.x. x.x.",
            ),
        },
    ),
    "shuffle": parse_style(
        3,
        {
            2: ("kick X.. ..., snare ... X.., hat x.x x.x", "kick X.. ..x, snare ... X.., ride x.x x.x"),
            3: (
                "kick X.. ... ..., snare ... X.. X.., hat x.x x.x x.x",
                "kick X.. ... ..x, snare ... ... X.., hat xxx xxx xxx",
            ),
            4: (
                "kick X.. ..x X.. ..., snare ... X.. ... X.., hat x.x x.x x.x x.x",
                "kick X.. ... X.. ..., snare ..- X.. ..- X.., ride X.x x.x X.x x.x",
                "kick X.. ... ..x ..x, snare ... ... X.. ..., hat x.x x.x x.x x.x",
                "kick X.. ..x ..x ..., snare ... X.. ... X.., hat xxx xxx xxx xxx",
            ),
        },
    ),
    "swing": parse_style(
        3,
        {
            2: ("kick -.. -.., ride x.. X.x, pedal ... x..",),
            3: (
                "kick x.. ... ..., ride X.. x.x x.., pedal ... x.. ...",
                "kick x.. ... ..., ride x.. X.x x.x, snare ... ..- ..-",
            ),
            4: (
                "kick x.. -.. -.. -.., ride x.. X.x x.. X.x, pedal ... x.. ... x..",
                "kick x.. ... ..- ..., snare ..- ... .-. ..-, ride X.. x.x X.. x.x, pedal ... x.. ... x..",
            ),
        },
    ),
    "latin": parse_style(
        4,
        {
            2: ("kick x..x x..x, rim x..x ..x., hat x.x. x.x.",),
            3: ("kick x... ..x. ...., conga_high .... x... ..x., conga_low ..x. ..x. x..., shaker x-x- x-x- x-x-",),
            4: (
                "kick x..x x..x x..x x..x, rim x..x ..x. ..x. .x.., hat x.x. x.x. x.x. x.x.",
                "kick X... ...x x... ...., conga_high .... ..x. .... ..xx, conga_low ..x. .... ..x. x..., "
                "cowbell x... x... x... x...",
                "kick X..x ..x. X..x ..x., snare ...x ..x. ...x ..x., hat x.x. x.x. x.x. x.x.",
            ),
        },
    ),
    "march": parse_style(
        4,
        {
            2: (
                "kick X... x..., snare x.xx x.x.",
                "kick X... ...., snare .... x.xx",
            ),
            3: ("kick X... .... ...., snare .... x.x. x.x.",),
            4: (
                "kick X... .... X... ...., snare x.xx x.x. x.xx x.xx",
                "kick X... x... X... x..., snare ..x. ..x. ..x. ..xx",
            ),
            6: ("kick X... .... .... X... .... ...., snare .... x... x... .... x... x.xx",),
        },
    ),
    "waltz": parse_style(
        4,
        {
            3: (
                "kick X... .... ...., hat .... x... x...",
                "kick X... .... ...., snare .... x... x..., pedal x... x... x...",
                "kick x... .... ..-., tambourine .... x... x...",
            ),
            6: ("kick X... .... .... x... .... ...., hat .... x... x... .... x... x...",),
        },
    ),
}

# The last beats of a bar before a boundary, on quarters of a beat.
FILLS = (
    parse_rows("snare X.X., floor ..X."),
    parse_rows("snare XXXX"),
    parse_rows("high X.x. ...., low .... X.x."),
    parse_rows("snare X.xx ...., mid .... X.x., floor .... ..xx"),
    parse_rows("snare xxxx ...., high .... xx.., floor .... ..XX"),
    parse_rows("high X.X. .... ...., mid .... X.X. ...., floor .... .... X.X."),
    parse_rows("snare ..X. ..X. X.X."),
    parse_rows(
        "snare xxxx .... .... ...., high .... xxxx .... ...., mid .... .... xxxx ...., floor .... .... .... XXXX"
    ),
)


def pattern(style: Style, meter: int, choice: int) -> dict[str, str] | None:
    """
    Return a pattern of a style for a bar: one of its own, or for other meters a pattern of three beats and one of two
    or four, one after the other: 5 is 3 + 2 and 7 is 4 + 3.

    Args:
        meter (`int`): Beats of the bar.
        choice (`int`): Number of the pattern, which is taken modulo the number of patterns.

    Returns:
        The pattern; `None` if the style has none for the meter.
    """
    if meter in style.patterns:
        options = style.patterns[meter]
        return options[choice % len(options)]
    parts = {5: (3, 2), 7: (4, 3)}.get(meter, ())
    if not parts or not all(part in style.patterns for part in parts):
        return None
    first, second = (pattern(style, part, choice) or {} for part in parts)
    rests = [style.steps * part * "." for part in parts]
    return {drum: first.get(drum, rests[0]) + second.get(drum, rests[1]) for drum in first | second}
