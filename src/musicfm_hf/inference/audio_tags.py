"""
Tempo and key in the tags of audio files, for the programs of DJs. Only these two tags are changed: ID3's `TBPM` and
`TKEY` (mp3, wav, aiff), `BPM` and `INITIALKEY` of Vorbis comments (flac, ogg, opus), and `tmpo` and `initialkey` of
mp4 (m4a).

A file is copied, and the copy is changed by mutagen. It takes the place of the file if it still holds the same audio,
so that neither an interruption nor an unusual file costs audio.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import soundfile

from ..audio.reading import audio_length
from ..tasks.key_names import short_key
from ..training.files import complete_file

INSTALL = "pip install 'musicfm_hf[files]'"

_ID3V1_BYTES = 128  # at the end of a file
_NEW_VERSION = 3  # ID3v2.3 of new tags, which all programs read
_AS_STORED = {"translate": False, "load_v1": False}  # frames are not converted to another version of ID3
_MP4_KEY = "----:com.apple.iTunes:initialkey"


def check_installed() -> None:
    """Raise an `ImportError` if mutagen is not installed."""
    try:
        import mutagen  # noqa: F401
    except ImportError as error:
        raise ImportError(f"Writing tags into audio files needs mutagen: `{INSTALL}`.") from error


def write_audio_tags(path: str | os.PathLike, tempo: float | None, key: str | None) -> list[str]:
    """
    Write the tempo and the key of a song into the tags of its file. Everything else in the file stays as it is.

    Args:
        path: An mp3, flac, ogg, opus, m4a, mp4, wav or aiff file. A link is followed.
        tempo (`float`, *optional*): Beats per minute, rounded to a whole number, as ID3 requires; if `None`, the tag
            stays as it is.
        key (`str`, *optional*): A key such as `F#:min`, written as `F#m`. If it is `None` or N, the tag stays as it
            is.

    Returns:
        The values that were written.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if files of this kind cannot be tagged, the file holds another format than its name says, tags
            would change its audio, as in some damaged files, or its tags are in ID3v2.2, which cannot be changed
            without being converted.
        ImportError: if mutagen is not installed.
    """
    path = Path(path).resolve()
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist.")
    tag = _TAGGERS.get(path.suffix.lower())
    if tag is None:
        raise ValueError(
            f"{path}: tags can be written into {', '.join(ending[1:] for ending in _TAGGERS)} files, not into "
            f"{path.suffix[1:] or 'a file without extension'}."
        )
    check_installed()
    values = {} if tempo is None else {"tempo": str(round(tempo))}
    if key is not None and (name := short_key(key)) is not None:
        values["initial_key"] = name
    if not values:
        return []
    with complete_file(path) as temporary:
        shutil.copy2(path, temporary)
        try:
            length = audio_length(path)
            tag(temporary, values)
            if audio_length(temporary) != length:
                raise ValueError("they would change its audio, because the file is damaged or wrongly named")
        except OSError:
            raise
        except Exception as error:  # mutagen raises errors of many kinds for unusual files
            reason = str(error).replace(str(temporary), path.name)
            raise ValueError(f"{path}: its tags cannot be written ({reason}).") from error
    return list(values.values())


def _tag_mp3(path: Path, values: dict[str, str]) -> None:
    """Write ID3 at the beginning of an mp3 file. ID3v1 at its end has neither tempo nor key, and stays."""
    from mutagen.id3 import ID3, ID3NoHeaderError

    try:
        is_mp3 = soundfile.info(path).format == "MP3"
    except soundfile.LibsndfileError:
        is_mp3 = False
    if not is_mp3:
        raise ValueError("its name is that of an mp3 file, but it holds another format, or is damaged")
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _ID3V1_BYTES))
        ending = file.read()
    try:
        tags = ID3(path, **_AS_STORED)
        version = _version(tags)
    except ID3NoHeaderError:
        tags, version = ID3(), _NEW_VERSION
    _set_frames(tags, values)
    tags.save(path, v2_version=version, v23_sep=None)
    if ending.startswith(b"TAG"):  # which mutagen updates
        with path.open("rb+") as file:
            file.seek(-_ID3V1_BYTES, os.SEEK_END)
            file.write(ending)


def _tag_chunks(kind: str) -> Callable[[Path, dict[str, str]], None]:
    """Return a function that writes ID3 into a chunk of a wav or aiff file."""

    def tag(path: Path, values: dict[str, str]) -> None:
        from mutagen.aiff import AIFF
        from mutagen.wave import WAVE

        file: Any = (WAVE if kind == "wav" else AIFF)(path, **_AS_STORED)
        if file.tags is None:
            file.add_tags()
            version = _NEW_VERSION
        else:
            version = _version(file.tags)
        _set_frames(file.tags, values)
        file.tags.save(path, v2_version=version, v23_sep=None)

    return tag


def _tag_comments(path: Path, values: dict[str, str]) -> None:
    """Write Vorbis comments of a flac or Ogg file."""
    from mutagen import File
    from mutagen.flac import FLAC
    from mutagen.oggflac import OggFLAC
    from mutagen.oggopus import OggOpus
    from mutagen.oggspeex import OggSpeex
    from mutagen.oggvorbis import OggVorbis

    file = File(path, options=[FLAC, OggFLAC, OggOpus, OggSpeex, OggVorbis])
    if file is None:
        raise ValueError("it is neither flac nor Ogg")
    if file.tags is None:
        file.add_tags()
    names = {"tempo": "BPM", "initial_key": "INITIALKEY"}
    for name, value in values.items():
        file.tags[names[name]] = [value]
    file.save()


def _tag_mp4(path: Path, values: dict[str, str]) -> None:
    """Write the atoms of an mp4 file."""
    from mutagen.mp4 import MP4, MP4FreeForm

    file: Any = MP4(path)
    if file.tags is None:
        file.add_tags()
    if "tempo" in values:
        file.tags["tmpo"] = [int(values["tempo"])]
    if "initial_key" in values:
        file.tags[_MP4_KEY] = [MP4FreeForm(values["initial_key"].encode())]
    file.save()


def _set_frames(tags: Any, values: dict[str, str]) -> None:
    """Set the frames of ID3, in Latin-1, which all programs read."""
    from mutagen.id3 import TBPM, TKEY, Encoding

    frames = {"tempo": TBPM, "initial_key": TKEY}
    for name, value in values.items():
        tags.setall(frames[name].__name__, [frames[name](encoding=Encoding.LATIN1, text=[value])])


def _version(tags: Any) -> int:
    """Return the version of the ID3 tags of a file."""
    version = int(tags.version[1])
    if version < 3:
        raise ValueError("they are in ID3v2.2, which would be converted: convert them with a tag editor first")
    return version


_TAGGERS: dict[str, Callable[[Path, dict[str, str]], None]] = {
    ".mp3": _tag_mp3,
    ".flac": _tag_comments,
    ".ogg": _tag_comments,
    ".oga": _tag_comments,
    ".opus": _tag_comments,
    ".m4a": _tag_mp4,
    ".m4b": _tag_mp4,
    ".mp4": _tag_mp4,
    ".wav": _tag_chunks("wav"),
    ".aif": _tag_chunks("aiff"),
    ".aiff": _tag_chunks("aiff"),
}
