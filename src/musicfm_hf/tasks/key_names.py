"""Names of keys in MIDI files and in the tags of audio files."""

from .key import parse_key


def short_key(label: str) -> str | None:
    """
    Return a key as `Eb` or `F#m`, or `None` for no key and for keys that are neither major nor minor.

    Raises:
        ValueError: if the label is not a key.
    """
    name = parse_key(label)
    return None if name in (None, "N") else name.replace(":maj", "").replace(":min", "m")
