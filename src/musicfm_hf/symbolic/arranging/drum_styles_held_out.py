"""Styles of drums and fills for validation and test songs, which training songs do not have."""

from .drum_styles import Style, parse_rows, parse_style

STYLES: dict[str, Style] = {
    "motown": parse_style(
        4,
        {
            2: ("kick X... ..x., snare X... X..., hat x.x. x.x.",),
            3: ("kick X... ..x. ...., snare X... X... X..., tambourine ..x. ..x. ..x.",),
            4: (
                "kick X..x .... X..x ...., snare X... X... X... X..., tambourine .... x... .... x..., "
                "hat x.x. x.x. x.x. x.x.",
            ),
        },
    ),
    "funk": parse_style(
        4,
        {
            2: ("kick X..x .x.., snare .-.- X..-, hat xxxx xxxx",),
            3: ("kick X..x ..x. ...., snare .... X..- .-X., hat xxxx xxxx xxxx",),
            4: (
                "kick X..x .... ..x. .x.., snare .-.- X..- .-.. X..-, hat xxxx xxxx xxxx xx.x, "
                "open .... .... .... ..x.",
            ),
            6: (
                "kick X... ..x. .... .... ..x. ...., snare .... .-.. .... X... .-.. ...., "
                "hat x.xx x.x. x.xx x.x. x.xx x.x.",
            ),
        },
    ),
    "train": parse_style(
        4,
        {
            2: ("kick X... x..., snare --X- --X-",),
            4: ("kick X... x... X... x..., snare --X- --X- --X- --X-, pedal ..x. ..x. ..x. ..x.",),
        },
    ),
    "house": parse_style(
        4,
        {
            4: (
                "kick X... X... X... X..., clap .... X... .... X..., open ..X. ..X. ..X. ..X., "
                "shaker xxxx xxxx xxxx xxxx",
            ),
        },
    ),
    "jazz waltz": parse_style(
        3,
        {
            3: ("kick x.. ... ..-, snare ... ..x ..., ride x.. x.x x.., pedal ... x.. x..",),
            4: ("kick x.. ..- ... ..-, snare ... ..x ..- ..., ride x.x x.x x.x x.x, pedal ... x.. ... x..",),
            6: ("kick x.. ... ... x.. ... ..., snare ... ..x ... ... ..x ..., ride x.. x.x x.. x.. x.x x..",),
        },
    ),
    "samba": parse_style(
        4,
        {
            2: ("kick x..- X..-, shaker X-xX X-xX, agogo x.x. .x.x",),
            4: ("kick x..- X..- x..- X..-, shaker X-xX X-xX X-xX X-xX, block x.x. .x.x ..x. x.x.",),
        },
    ),
    "polka": parse_style(
        4,
        {
            2: ("kick X... X..., snare ..x. ..x.",),
            3: ("kick X... .... ...., snare ..-. x... x.--, hat x... .... ....",),
            4: ("kick X... X... X... X..., snare ..x. ..x. ..x. ..xx",),
            6: (
                "kick X... .... .... .... .... ...., snare .... .... x... .... .... x..., "
                "hat x... .... .... x... .... ....",
            ),
        },
    ),
}

FILLS = (
    parse_rows("floor X.X."),
    parse_rows("snare x.xX ...., high .... X.X."),
    parse_rows("kick X... X..., snare ..X. ..XX"),
    parse_rows("snare -x-x xXXX, low X... ...."),
    parse_rows("mid x.x. x.x. ...., snare .... .... XXXX"),
)
