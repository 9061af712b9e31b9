"""
Records of the annotation files of songs, so that songs are skipped only if their files are complete and current.

The record of the song `a/song` is the hidden file `a/.song.made_from.json`. It has the place, the state and the damage
of the audio, digests of the models, the windows, and a digest of each file, or null while the files are replaced; and,
if tempo and key were written into the tags of the audio, a digest of the JSON file from which they were read.
"""

import os
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from ..data.identity import audio_state, digest
from ..data.written_files import CLICK_ENDING, read_record, record_path
from ..training.files import complete_files, write_json
from .annotators import by_task
from .embedding import HeadModel, WindowSettings
from .encoder_digest import head_digest, weights_digest
from .song_annotation import SongAnnotation
from .zero_shot import ZeroShotTagger

FORMAT = 2  # incremented when the annotations of a model change

COMPLETE, ABSENT, OUTDATED, FOREIGN, CHANGED = "complete", "absent", "outdated", "foreign", "changed"

_REQUIRED = ("place", "files", "damage")
_NOT_COMPARED = (*_REQUIRED, "tagged")


def describe_models(
    models: Mapping[str, HeadModel], settings: WindowSettings, tagger: ZeroShotTagger | None = None
) -> dict[str, Any]:
    """Return everything but the audio that annotations depend on, as values for JSON."""
    heads = by_task(models) if models else {}
    encoders = {id(model.musicfm): model.musicfm for model in heads.values()}
    digests = {key: weights_digest(encoder) for key, encoder in encoders.items()}
    return {
        "format": FORMAT,
        "models": {task: head_digest(model, digests[id(model.musicfm)]) for task, model in heads.items()},
        "dtypes": {task: str(model.dtype) for task, model in heads.items()},
        "windows": {task: list(settings.frames(model.config)) for task, model in heads.items()},
    } | ({} if tagger is None else {"tagger": tagger.digest()})


@dataclass(frozen=True)
class SongFiles:
    """
    The annotation files of a song.

    Args:
        folder: Folder of the annotations.
        name (`str`): Name of the song; may contain `/`.
        endings: Endings of the files to write, such as `chords.lab`.
    """

    folder: Path
    name: str
    endings: Collection[str]

    @property
    def record_path(self) -> Path:
        """Path of the record."""
        return record_path(self.folder / self.name)

    def path(self, ending: str) -> Path:
        """Return the path of a file."""
        base = self.folder / self.name
        return base.with_name(f"{base.name}.{ending}")

    def existing(self) -> list[str]:
        """Return the endings of the files to write that exist. A name that is too long is not an error here."""
        return [ending for ending in self.endings if os.path.exists(self.path(ending))]

    def record(self) -> dict[str, Any]:
        """Return the record; empty if it does not exist or is not a record."""
        record = read_record(self.folder / self.name)
        return record if {*_REQUIRED} <= record.keys() else {}

    def status(self, made_from: Mapping[str, Any], source: Any) -> str:
        """
        Compare the files with the audio and the models from which they would be made.

        Returns:
            `COMPLETE`; `ABSENT`; `OUTDATED`, files that were made from something else or not all written; `FOREIGN`,
            files without a record, which were made by hand or by version 0.1; or `CHANGED`, outdated files that
            would be replaced, although they are not as they were written.
        """
        record, existing = self.record(), self.existing()
        if not record:
            return FOREIGN if existing else ABSENT
        if record["files"] is None:
            return OUTDATED
        is_current = _comparable(record) == _comparable({**made_from, "state": audio_state(source)})
        if is_current and len(existing) == len(self.endings) and set(self.endings) <= record["files"].keys():
            return COMPLETE
        is_changed = any(self._digest(ending) != record["files"].get(ending) for ending in existing)
        return CHANGED if is_changed else OUTDATED

    def write(
        self,
        annotation: SongAnnotation,
        made_from: Mapping[str, Any],
        draw: Callable[[Path], None] | None,
        formats: Iterable[str],
        click: Callable[[Path], None] | None = None,
    ) -> None:
        """
        Write the files and their record, and remove files of an earlier record that were made from something else.

        Args:
            annotation ([`SongAnnotation`]): Annotation to save.
            made_from: Output of [`describe_models`], with the `place`, the `state` and the `damage` of the audio.
            draw (`Callable`, *optional*): Function that draws the song to a path.
            formats: Formats for [`SongAnnotation.save`].
            click (`Callable`, *optional*): Function that writes a click track to a path.
        """
        base = self.record_path.with_name(Path(self.name).name)
        earlier = self.record()
        with complete_files(base.parent, last=self.record_path.name) as temporary:
            annotation.save(temporary, base.name, formats)
            if draw is not None:
                draw(temporary / f"{base.name}.png")
            if click is not None:
                click(temporary / f"{base.name}.{CLICK_ENDING}")
            written = {
                path.name.removeprefix(f"{base.name}."): digest(path.read_bytes()) for path in temporary.iterdir()
            }
            others = {name: value for name, value in (earlier.get("files") or {}).items() if name not in written}
            others = {name: value for name, value in others.items() if self._digest(name) == value}
            is_current = _comparable(earlier) == _comparable(made_from)
            files = written | (others if is_current else {})
            write_json(temporary / self.record_path.name, {**made_from, "files": files})
            write_json(self.record_path, {**made_from, "files": None})  # until all files have been moved
            for name in [] if is_current else others:
                self.path(name).unlink()

    def tag_audio(self, source: Any) -> None:
        """
        Write tempo and key from the JSON file into the tags of the audio, unless that was done before and the JSON
        file is still the same. The record then has the new state of the audio, so that the song is not outdated.

        Raises:
            ValueError: if the audio is not a file, has changed since it was annotated, or cannot be tagged.
        """
        record, content = self.record(), self._digest("json")
        if record.get("tagged") == content:
            return
        if not isinstance(source, str | PathLike):
            raise ValueError("tags can be written into audio files only, and this audio is in a data set.")
        if audio_state(source) != record.get("state"):
            raise ValueError("its audio has changed since it was annotated, so no tags were written.")
        SongAnnotation.load(self.path("json")).write_tags(source)
        write_json(self.record_path, {**record, "state": audio_state(source), "tagged": content})

    def _digest(self, ending: str) -> str | None:
        """Return the digest of a file, or `None` if it does not exist."""
        path = self.path(ending)
        return digest(path.read_bytes()) if path.is_file() else None


def _comparable(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a record that is compared: all settings, and the state of the audio."""
    return {name: value for name, value in record.items() if name not in _NOT_COMPARED}
