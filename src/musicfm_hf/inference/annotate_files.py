"""Annotations of a catalog of files."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from tqdm.auto import tqdm

from ..data.catalog import AUDIO_EXTENSIONS
from ..data.decoding import DecodedSong, SongLoader
from ..data.identity import audio_place, free_name, numbered_names
from ..data.shares import WHOLE, Share
from ..data.written_files import CLICK_ENDING
from ..tasks import task_of
from . import audio_tags, midi_file
from .annotation import annotate
from .annotation_records import ABSENT, CHANGED, COMPLETE, FOREIGN, OUTDATED, SongFiles, describe_models
from .embedding import HeadModel, WindowSettings
from .song_annotation import DEFAULT_FORMATS, SONG_ENDINGS, SongAnnotation, label_endings
from .zero_shot import ZeroShotTagger

CLICKS = ("mix", "alone")  # click tracks: over the song, or alone


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
    formats: Iterable[str] = DEFAULT_FORMATS,
    existing: str = "refuse",
    picture: bool = True,
    progress: bool = True,
    tagger: ZeroShotTagger | None = None,
    num_workers: int = 1,
    share: Share = WHOLE,
    click: str | None = None,
    write_tags: bool = False,
) -> AnnotatedFiles:
    """
    Annotate a catalog: for every `(name, source)` the files of [`SongAnnotation.save`] and a picture, named after
    the song without its extension. Two songs whose names would be the same keep their extensions, or get a number.
    Songs are decoded in workers while the models run.

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
        num_workers (`int`): Number of decoding processes; 0 decodes in this process.
        share ([`Share`]): Part of `sources` to annotate, if several processes annotate them, by default all. All of
            them pass the whole catalog, so that they agree on the names of the files.
        click (`str`, *optional*): Also write `name.click.wav`: `"mix"` for the song with a click at each beat, at the
            rate of the models, or `"alone"` for the clicks. It is not listed as a song of a catalog.
        write_tags (`bool`): Also write tempo and key into the tags of the audio files, from the JSON files, and leave
            everything else in them as it is. Problems are those of [`SongAnnotation.write_tags`], and audio that is
            not a file.

    Returns:
        [`AnnotatedFiles`] of the share. Truncated files are annotated up to the truncation, and listed as problems.

    Raises:
        ValueError: before any work, if a setting is out of range, files exist and `existing` is `"refuse"`, `click`
            has no model for beats, or `write_tags` has no JSON files.
        ImportError: before any work, if a package is missing for a format or for tags.
    """
    for model in models.values():
        settings.frames(model.config)
    formats = list(formats)
    _check_output(models, formats, click, write_tags)
    endings = _endings(models, formats, picture, click)
    jobs = _share_of_songs(share, sources, Path(output_dir), endings, existing)
    annotated = [job.song.name for job in jobs if job.song.existing()]
    if annotated and existing == "refuse":
        raise _exists(output_dir, annotated, len(jobs))
    made_from = describe_models(models, settings, tagger)
    statuses = [job.song.status(made_from, job.source) if existing == "skip" else ABSENT for job in jobs]
    pairs = list(zip(jobs, statuses, strict=True))
    problems = [(job.song.name, reason) for job, status in pairs for reason in _problems(job.song, status)]
    if write_tags:
        problems += _tag_complete_songs([job for job, status in pairs if status == COMPLETE])
    remaining = {job.song.name: job for job, status in pairs if status in (ABSENT, OUTDATED)}
    rate = _sampling_rate(models, tagger)
    contents = [(name, job.source) for name, job in remaining.items()]
    loader = SongLoader(contents, rate, 0, num_workers, in_order=False)
    skipped = len(jobs) - len(remaining)
    with tqdm(total=len(jobs), initial=skipped, unit="song", disable=not progress) as bar:
        for number, decoded in enumerate(loader, 1):
            try:
                annotation = annotate(models, decoded.content, rate, *settings[1:], tagger)  # all but the layer
                _write(annotation, remaining[decoded.name], decoded, rate, made_from, formats, picture, click)
                if write_tags:
                    remaining[decoded.name].song.tag_audio(remaining[decoded.name].source)
            except (ValueError, TypeError, OSError) as error:
                problems.append((decoded.name, str(error)))
            bar.update(skipped + number + len(loader.unusable) - bar.n)
        bar.update(len(jobs) - bar.n)
    number = skipped if existing == "skip" else len(annotated)
    return AnnotatedFiles(number, problems + loader.problems, statuses.count(FOREIGN))


def _exists(output_dir: str | Path, annotated: Sequence[str], count: int) -> ValueError:
    """Return the error for songs that have files; `count` is the number of all songs."""
    return ValueError(
        f"{output_dir} has files of {len(annotated)} of {count} songs, such as {min(annotated)}: choose another "
        "`--output_dir`, or pass `--existing skip` or `--existing overwrite`."
    )


def _sampling_rate(models: Mapping[str, HeadModel], tagger: ZeroShotTagger | None) -> int:
    """Return the rate at which songs are decoded, that of the first model; others resample."""
    rates = [model.config.sampling_rate for model in models.values()]
    return (rates if tagger is None else [*rates, tagger.sampling_rate])[0]


class _Job(NamedTuple):
    """The files of a song, its audio, and the place of the audio."""

    song: SongFiles
    source: Any
    place: str


def _share_of_songs(
    share: Share, sources: Sequence[tuple[str, Any]], output_dir: Path, endings: Sequence[str], existing: str
) -> list[_Job]:
    """Return the songs of a share, with names that no other song of the whole catalog has."""
    names = song_names([name for name, _ in sources])
    taken = frozenset(names)
    jobs = []
    for position in share.select(sources):
        (source_name, source), name = sources[position], names[position]
        place = audio_place(source, source_name)
        if existing == "skip":  # names of other annotated songs are not used
            is_free = partial(_is_free, output_dir, name, place, taken)
            name = _earlier_name(output_dir, source_name, place) or free_name(name, is_free)
        jobs.append(_Job(SongFiles(output_dir, name, endings), source, place))
    return jobs


def _earlier_name(output_dir: Path, source_name: str, place: str) -> str | None:
    """Return the name under which the same audio was annotated before, perhaps among songs with other names."""
    for name in (_without_extension(source_name), source_name):
        for candidate in numbered_names(name):
            earlier = SongFiles(output_dir, candidate, ()).record().get("place")
            if earlier == place:
                return candidate
            if earlier is None:
                break
    return None


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
    stems = [_without_extension(path) for path in paths]
    count = Counter(stems)
    names: dict[str, None] = {}
    for stem, path in zip(stems, paths, strict=True):
        names[free_name(stem if count[stem] == 1 else path, lambda name: name not in names)] = None
    return list(names)


def _without_extension(name: str) -> str:
    """Return a name without the extension of an audio file."""
    path = PurePosixPath(name)
    return (path.with_suffix("") if path.suffix.lower() in AUDIO_EXTENSIONS else path).as_posix()


def _endings(models: Mapping[str, HeadModel], formats: Sequence[str], picture: bool, click: str | None) -> list[str]:
    """Return the endings of the files that are written for a song."""
    specs = [task_of(model.config) for model in models.values()]
    endings = list(SONG_ENDINGS.items())
    endings += [pair for spec in specs for pair in label_endings(spec.column, spec.file_format)]
    extras = ["png"] * picture + [CLICK_ENDING] * (click is not None)
    return [ending for kind, ending in endings if kind in formats] + extras


def _check_output(
    models: Mapping[str, HeadModel], formats: Sequence[str], click: str | None, write_tags: bool
) -> None:
    """Raise an error if files cannot be written that were asked for."""
    if click not in (None, *CLICKS):
        raise ValueError(f"`click` must be one of {', '.join(CLICKS)}, got {click!r}.")
    if click is not None and not any(task_of(model.config).column == "beats" for model in models.values()):
        raise ValueError("`--click` needs beats: add a model for the task beat to `--models`.")
    if write_tags and "json" not in formats:
        raise ValueError("`--write_tags` reads tempo and key from the JSON files: add json to `--format`.")
    if "midi" in formats:
        midi_file.check_installed()
    if write_tags:
        audio_tags.check_installed()


def _tag_complete_songs(jobs: Sequence[_Job]) -> list[tuple[str, str]]:
    """Write tempo and key of songs that are skipped, because they were annotated before, and return the problems."""
    problems = []
    for job in jobs:
        try:
            job.song.tag_audio(job.source)
        except (ValueError, OSError) as error:
            problems.append((job.song.name, str(error)))
    return problems


def _write(
    annotation: SongAnnotation,
    job: _Job,
    decoded: DecodedSong,
    rate: int,
    made_from: Mapping[str, Any],
    formats: Sequence[str],
    picture: bool,
    click: str | None,
) -> None:
    """Write the files of a song; `rate` is that of the decoded audio."""
    title = PurePosixPath(job.song.name).name
    draw = partial(annotation.draw, waveform=decoded.content, sampling_rate=rate, title=title)
    song = decoded.content if click == "mix" else None
    write_clicks = partial(annotation.write_clicks, waveform=song, sampling_rate=rate)
    damage = [] if decoded.problem is None else [decoded.problem]
    record = {**made_from, "place": job.place, "state": decoded.state, "damage": damage}
    job.song.write(annotation, record, draw if picture else None, formats, None if click is None else write_clicks)
