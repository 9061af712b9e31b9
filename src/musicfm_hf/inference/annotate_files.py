"""Annotations of a catalog of files."""

import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from tqdm.auto import tqdm

from ..audio.reading import load_audio
from ..data.catalog import AUDIO_EXTENSIONS, fetch_audio
from ..data.identity import audio_place, audio_state, free_name
from ..tasks import get_task
from .annotation import annotate
from .annotation_records import ABSENT, CHANGED, COMPLETE, FOREIGN, OUTDATED, SongFiles, describe_models
from .embedding import HeadModel, WindowSettings
from .song_annotation import FORMATS
from .zero_shot import ZeroShotTagger


class AnnotatedFiles(NamedTuple):
    """
    Outcome of [`annotate_files`].

    Attributes:
        existing (`int`): Number of songs that already had files, which were skipped or overwritten.
        problems (`list[tuple[str, str]]`): Name and reason for each song that was not annotated, and each damaged file
            that was annotated as far as it can be read.
        unrecorded (`int`): Number of skipped songs with files of unknown origin: made by hand, or by version 0.1.
    """

    existing: int
    problems: list[tuple[str, str]]
    unrecorded: int = 0


def annotate_files(
    models: Mapping[str, HeadModel],
    sources: Sequence[tuple[str, Any]],
    output_dir: str | Path,
    settings: WindowSettings,
    formats: Iterable[str] = FORMATS,
    existing: str = "refuse",
    picture: bool = True,
    progress: bool = True,
    tagger: ZeroShotTagger | None = None,
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
        existing (`str`): Action if files of a song exist. `"refuse"`: do no work. `"overwrite"`: replace them.
            `"skip"`: keep them if they are complete and were made with the same models and windows from the same
            audio (path, size and modification time), or if they were not made by this function. Outdated files are
            replaced, unless they were edited since, which is a problem, as are songs with only some files that were
            not made by this function. Audio that has the name of another annotated song becomes `name-2`.
        picture (`bool`): Also draw `name.png`.
        progress (`bool`): Show a progress bar.
        tagger ([`ZeroShotTagger`], *optional*): As for [`annotate`]. Similarities are in the JSON file alone.

    Returns:
        [`AnnotatedFiles`]. Truncated files are annotated up to the truncation, and listed as problems.

    Raises:
        ValueError: before any work, if a setting is out of range, or files exist and `existing` is `"refuse"`.
    """
    for model in models.values():
        settings.frames(model.config)
    output_dir, formats = Path(output_dir), list(formats)
    places = [audio_place(source, name) for name, source in sources]
    songs = _song_files(
        output_dir, [name for name, _ in sources], places, _endings(models, formats, picture), existing
    )
    annotated = [song.name for song in songs if song.existing()]
    if annotated and existing == "refuse":
        raise ValueError(
            f"{output_dir} has files of {len(annotated)} of {len(songs)} songs, such as {min(annotated)}: choose "
            "another `--output_dir`, or pass `--existing skip` or `--existing overwrite`."
        )
    made_from = describe_models(models, settings, tagger)
    problems, statuses = [], []
    jobs = list(zip(songs, places, [source for _, source in sources], strict=True))
    for song, place, source in tqdm(jobs, unit="song", disable=not progress):
        if existing == "skip":
            statuses.append(song.status(made_from, source))
            reasons = _problems(song, statuses[-1])
            problems += [(song.name, reason) for reason in reasons]
            if statuses[-1] not in (ABSENT, OUTDATED):
                continue
        try:
            damage = _annotate_file(
                models, source, song, made_from | {"place": place}, settings, formats, picture, tagger
            )
            problems += [(song.name, reason) for reason in damage]
        except (ValueError, TypeError, OSError) as error:
            problems.append((song.name, str(error)))
    skipped = sum(status not in (ABSENT, OUTDATED) for status in statuses)
    return AnnotatedFiles(skipped if existing == "skip" else len(annotated), problems, statuses.count(FOREIGN))


def _song_files(
    output_dir: Path, sources: Sequence[str], places: Sequence[str], endings: Sequence[str], existing: str
) -> list[SongFiles]:
    """Return the files of each song. With `existing="skip"`, names of other annotated songs are not used."""
    names = song_names(sources)
    if existing != "skip":
        return [SongFiles(output_dir, name, endings) for name in names]
    taken = frozenset(names)
    return [
        SongFiles(output_dir, free_name(name, partial(_is_free, output_dir, name, place, taken)), endings)
        for name, place in zip(names, places, strict=True)
    ]


def _is_free(output_dir: Path, name: str, place: str, taken: Collection[str], candidate: str) -> bool:
    """Return whether a song may be annotated under a name, because no other song is or will be."""
    is_mine = candidate == name or candidate not in taken
    return is_mine and SongFiles(output_dir, candidate, ()).record().get("place", place) == place


def _problems(song: SongFiles, status: str) -> list[str]:
    """Return the problems of a song that is skipped: damage of its audio, or the reason why its files are kept."""
    if status == FOREIGN and len(song.existing()) < len(song.endings):
        return ["only some of its files exist: remove them, or pass `--existing overwrite`."]
    if status == CHANGED:
        return [
            "its files were edited, and the audio, the models or the settings have changed since: move them, or pass "
            "`--existing overwrite`."
        ]
    return song.record()["damage"] if status == COMPLETE else []


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
    names: dict[str, None] = {}
    for stem, path in zip(stems, paths, strict=True):
        names[free_name(stem if count[stem] == 1 else path, lambda name: name not in names)] = None
    return list(names)


def _endings(models: Mapping[str, HeadModel], formats: Sequence[str], picture: bool) -> list[str]:
    """Return the endings of the files that are written for a song."""
    specs = [get_task(model.config.task) for model in models.values()]
    endings = [("json", "json"), *((spec.file_format, spec.file_ending) for spec in specs)]
    return [ending for kind, ending in endings if kind in formats] + ["png"] * picture


def _annotate_file(
    models: Mapping[str, HeadModel],
    source: Any,
    song: SongFiles,
    made_from: Mapping[str, Any],
    settings: WindowSettings,
    formats: Sequence[str],
    picture: bool,
    tagger: ZeroShotTagger | None,
) -> list[str]:
    """Annotate a song, and return the damage of its audio."""
    rates = [model.config.sampling_rate for model in models.values()]
    rate = (rates if tagger is None else [*rates, tagger.sampling_rate])[0]
    content = fetch_audio(source)
    state = audio_state(content)  # before the audio is read, in case that it is replaced meanwhile
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        audio = load_audio(content, rate)
    damage = [str(warning.message) for warning in caught if warning.category is UserWarning]
    annotation = annotate(
        models, audio, rate, settings.window_seconds, settings.overlap_seconds, settings.batch_size, tagger
    )
    draw = partial(annotation.draw, waveform=audio, sampling_rate=rate, title=PurePosixPath(song.name).name)
    song.write(annotation, {**made_from, "state": state, "damage": damage}, draw if picture else None, formats)
    return damage
