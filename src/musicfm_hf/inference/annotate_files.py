"""Annotations of a catalog of files."""

import itertools
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from tqdm.auto import tqdm

from ..audio.reading import load_audio
from ..data.catalog import AUDIO_EXTENSIONS, fetch_audio
from ..tasks import get_task
from .annotation import annotate
from .embedding import HeadModel, WindowSettings
from .song import FORMATS


class AnnotatedFiles(NamedTuple):
    """
    Outcome of [`annotate_files`].

    Attributes:
        existing (`int`): Number of songs that already had files.
        problems (`list[tuple[str, str]]`): Name and reason for each song that was not annotated, and each damaged file
            that was annotated as far as it can be read.
    """

    existing: int
    problems: list[tuple[str, str]]


def annotate_files(
    models: Mapping[str, HeadModel],
    sources: Sequence[tuple[str, Any]],
    output_dir: str | Path,
    settings: WindowSettings,
    formats: Iterable[str] = FORMATS,
    existing: str = "refuse",
    picture: bool = True,
    progress: bool = True,
) -> AnnotatedFiles:
    """
    Annotate a catalog: for every `(name, source)` the files of [`SongAnnotation.save`] and a picture, named after
    the song without its extension. Two songs whose names would be the same keep their extensions, or get a number.

    Args:
        models: As for [`annotate`].
        sources: Pairs of a name, which may contain `/`, and a source for [`load_audio`] or a [`DatasetAudio`].
        output_dir: Folder to write to.
        settings ([`WindowSettings`]): Windows and batch size.
        formats: Some of `FORMATS`.
        existing (`str`): Action if files of a song exist: `"refuse"` all work, `"skip"` the song, or `"overwrite"` the
            files. A skipped song that lacks some of its files is reported as a problem.
        picture (`bool`): Also draw `name.png`.
        progress (`bool`): Show a progress bar.

    Returns:
        [`AnnotatedFiles`]. Truncated files are annotated up to the truncation, and listed as problems.

    Raises:
        ValueError: before any work, if a setting is out of range, or files exist and `existing` is `"refuse"`.
    """
    for model in models.values():
        settings.frames(model.config)
    output_dir, formats = Path(output_dir), list(formats)
    names = song_names([name for name, _ in sources])
    endings = _endings(models, formats, picture)
    exists = {name: [(output_dir / f"{name}.{ending}").exists() for ending in endings] for name in names}
    annotated = {name for name in names if any(exists[name])}
    if annotated and existing == "refuse":
        raise ValueError(
            f"{output_dir} has files of {len(annotated)} of {len(names)} songs, such as {min(annotated)}: choose "
            "another `--output_dir`, or pass `--existing skip` or `--existing overwrite`."
        )
    problems = []
    for name, (_, source) in tqdm(list(zip(names, sources, strict=True)), unit="song", disable=not progress):
        if name in annotated and existing == "skip":
            if not all(exists[name]):
                problems.append((name, "only some of its files exist: remove them, or pass `--existing overwrite`."))
            continue
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            try:
                _annotate_file(models, source, output_dir, name, settings, formats, picture)
            except (ValueError, TypeError, OSError) as error:
                problems.append((name, str(error)))
                continue
        problems += [(name, str(warning.message)) for warning in caught if warning.category is UserWarning]
    return AnnotatedFiles(len(annotated), problems)


def song_names(paths: Sequence[str]) -> list[str]:
    """
    Return file names without their audio extension. Names that would then be equal keep it, and get a number if they
    are still equal.
    """
    stems = [
        (path.with_suffix("") if path.suffix.lower() in AUDIO_EXTENSIONS else path).as_posix()
        for path in map(PurePosixPath, paths)
    ]
    count = Counter(stems)
    names: list[str] = []
    for stem, path in zip(stems, paths, strict=True):
        name = stem if count[stem] == 1 else path
        numbered = (f"{name}-{number}" for number in itertools.count(2))
        names.append(next(candidate for candidate in itertools.chain([name], numbered) if candidate not in names))
    return names


def _endings(models: Mapping[str, HeadModel], formats: Sequence[str], picture: bool) -> list[str]:
    """Return the endings of the files that are written for a song."""
    specs = [get_task(model.config.task) for model in models.values()]
    endings = [("json", "json"), *((spec.file_format, spec.file_ending) for spec in specs)]
    return [ending for kind, ending in endings if kind in formats] + ["png"] * picture


def _annotate_file(
    models: Mapping[str, HeadModel],
    source: Any,
    output_dir: Path,
    name: str,
    settings: WindowSettings,
    formats: Sequence[str],
    picture: bool,
) -> None:
    rate = next(iter(models.values())).config.sampling_rate
    audio = load_audio(fetch_audio(source), rate)
    annotation = annotate(models, audio, rate, settings.window_seconds, settings.overlap_seconds, settings.batch_size)
    annotation.save(output_dir, name, formats)
    if picture:
        path = output_dir / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        annotation.draw(path, audio, rate)
