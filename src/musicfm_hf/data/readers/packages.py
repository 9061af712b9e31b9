"""
Recordings in Debian packages under free licenses: music of games, speech and sound effects, downloaded with apt.

The licenses are those of the copyright file of each package, which is kept beside the audio.
"""

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import soundfile
from tqdm.auto import tqdm

from ..catalog import list_audio
from ..dataset_reader import ListedTrack, ListReader, Option
from ..debian_packages import (
    DOWNLOADS,
    AptArchive,
    ExtractedPackage,
    UnknownPackageError,
    extract_package,
    find_license,
    load_package,
    parse_copyright,
)
from ..labeled import Source, UnusableSongError, audio_seconds
from ..splits import hash_name

SOURCE = Source(
    description="Recordings in Debian packages.",
    citation="",
    homepage="https://www.debian.org",
    license="Each file has a free license, which its package states; see licences.tsv and tracks.tsv.",
)

# Words of titles that name versions and parts of a piece, or any piece.
_VERSION_WORDS = frozenset("intro loop part full short long remix mix fast slow epic calm track song ingame".split())

COLUMNS = ("title", "artist", "copyright", "package", "version", "source_package", "homepage", "seconds")


class Kind(NamedTuple):
    """
    A kind of recordings.

    Attributes:
        packages (`tuple[str, ...]`): Packages that are downloaded by default, without those that the archive lacks:
            the name of a package may depend on the release of Debian.
        folders (`frozenset[str]`): Names of folders of packages that hold recordings of the kind, in lower case.
        other_folders (`frozenset[str]`): Names of folders that hold other recordings. The innermost name decides.
        min_seconds (`float`): Duration below which a file is left out by default.
        test_files, valid_files (`int`): Numbers of files to hold out by default.
    """

    packages: tuple[str, ...]
    folders: frozenset[str]
    other_folders: frozenset[str]
    min_seconds: float
    test_files: int
    valid_files: int


KINDS = {
    "music": Kind(
        (
            "colobot-common-sounds",
            "hyperrogue-music",
            "nexuiz-music",
            "planetblupi-music-ogg",
            "pushover-data",
            "singularity-music",
            "supertuxkart-data",
            "ufoai-music",
            "warzone2100-music",
            "wesnoth-1.16-music",
            "wesnoth-1.18-music",
            "widelands-data",
        ),
        folders=frozenset(["music", "cdtracks"]),
        other_folders=frozenset(["sound", "sounds", "sfx", "speech", "voice", "voices"]),
        min_seconds=60.0,
        test_files=60,
        valid_files=20,
    ),
    "speech": Kind(
        (
            "asterisk-core-sounds-en-wav",
            "asterisk-core-sounds-es-wav",
            "asterisk-core-sounds-fr-wav",
            "asterisk-core-sounds-it-wav",
            "asterisk-core-sounds-ru-wav",
            "fillets-ng-data-cs",
            "fillets-ng-data-nl",
        ),
        folders=frozenset(["sound", "sounds", "speech", "voice", "voices"]),
        other_folders=frozenset(["music", "silence"]),
        min_seconds=2.0,
        test_files=200,
        valid_files=100,
    ),
    "sounds": Kind(
        (
            "colobot-common-sounds",
            "hedgewars-data",
            "sound-theme-freedesktop",
            "starfighter-data",
            "supertuxkart-data",
            "widelands-data",
        ),
        folders=frozenset(["sound", "sounds", "sfx"]),
        other_folders=frozenset(["music", "speech", "voice", "voices"]),
        min_seconds=0.5,
        test_files=60,
        valid_files=30,
    ),
}


def list_tracks(
    source: str | os.PathLike,
    kind: str = "music",
    packages: Sequence[str] | None = None,
    min_seconds: float | None = None,
    test_songs: int | None = None,
    valid_songs: int | None = None,
    seed: int = 0,
    mirror: str | None = None,
    suite: str = "stable",
) -> list[ListedTrack]:
    """
    Download packages, extract their audio to `audio/PACKAGE`, and list the files. Packages that an earlier call
    extracted are not downloaded again.

    Files of a package whose titles differ only in numbers and in words such as *intro* or *loop* are kept in one
    split. Songs to hold out are the first in an order by hashes of names: a song that was used for training is not
    held out when packages are added.

    Args:
        source: Folder of the data set.
        kind (`str`): One of `KINDS`: music, speech or sounds.
        packages (`Sequence[str]`, *optional*): Names of packages, instead of those of the kind.
        min_seconds (`float`, *optional*): Duration below which files are left out.
        test_songs, valid_songs (`int`, *optional*): Numbers of files to hold out for test and validation. A group of
            similar files may exceed the number.
        seed (`int`): Seed of the split.
        mirror (`str`, *optional*): URL of a Debian archive, instead of those that apt is configured to use.
        suite (`str`): Release of Debian that is downloaded from the mirror.

    Raises:
        ValueError: the kind is unknown, a number is negative, one of `packages` does not exist, or the packages do not
            have enough files to hold out.
        OSError: apt is not installed, or a download fails. Completed packages are kept.
    """
    if kind not in KINDS:
        raise ValueError(f"`kind` must be one of {', '.join(KINDS)}, got {kind!r}.")
    defaults, folder = KINDS[kind], Path(source)
    min_seconds = defaults.min_seconds if min_seconds is None else min_seconds
    held_out = {
        "test": defaults.test_files if test_songs is None else test_songs,
        "validation": defaults.valid_files if valid_songs is None else valid_songs,
    }
    if min(min_seconds, *held_out.values()) < 0:
        raise ValueError("`min_seconds`, `test_songs` and `valid_songs` must be 0 or more.")
    names = list(dict.fromkeys(packages or defaults.packages))
    tracks: list[ListedTrack] = []
    for package in _collect(folder, names, mirror, suite, is_strict=packages is not None):
        if isinstance(package, ListedTrack):
            tracks.append(package)
        else:
            tracks += _read_package(folder, package, defaults, min_seconds)
    return _split(_drop_copies(folder, tracks), held_out, seed)


def _collect(
    folder: Path, names: Sequence[str], mirror: str | None, suite: str, is_strict: bool
) -> Iterator[ExtractedPackage | ListedTrack]:
    """Yield packages, downloaded if needed, and tracks with a problem for those that do not exist."""
    archive = None
    for name in tqdm(names, unit="package"):
        if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]+", name):
            raise ValueError(f"{name!r} cannot be the name of a Debian package.")
        target = folder / "audio" / name
        if (package := load_package(target)) is None:
            archive = archive or AptArchive(folder / DOWNLOADS, mirror, suite)
            try:
                deb = archive.download(name)
            except UnknownPackageError as error:
                if is_strict:
                    raise
                yield ListedTrack(Path("audio", name), "", "", str(error))
                continue
            package = extract_package(deb, target)
            deb.unlink()
        yield package


def _read_package(folder: Path, package: ExtractedPackage, kind: Kind, min_seconds: float) -> list[ListedTrack]:
    """Return the tracks of a package, with paths relative to `folder`."""
    licenses = parse_copyright(package.copyright_text)
    tracks = []
    for path in list_audio(package.folder):
        terms = find_license(licenses, path.relative_to(package.folder).as_posix())
        seconds, title, artist, problem = 0.0, "", "", ""
        try:
            seconds = audio_seconds(path)
            title, artist = _read_tags(path)
        except UnusableSongError as error:
            problem = str(error)
        names = [name.lower() for name in path.relative_to(package.folder).parts[:-1]]
        known = [name for name in names if name in kind.folders | kind.other_folders]
        if not problem and known and known[-1] in kind.other_folders:
            problem = f"is in the folder {known[-1]}, which has recordings of another kind"
        elif not problem and seconds < min_seconds:
            problem = f"has {seconds:.1f} s, fewer than {min_seconds:g}"
        origin = (package.name, package.version, package.source, package.homepage, f"{seconds:.2f}")
        details = (title or path.stem.replace("_", " "), artist, terms.holders if terms else "", *origin)
        name = (terms.name if terms else "") or f"see audio/{package.name}/copyright.txt"
        tracks.append(ListedTrack(path.relative_to(folder), "", name, problem, details=details))
    return tracks


def _read_tags(path: Path) -> tuple[str, str]:
    """Return the title and the artist in the tags of a file, without line breaks and tabs; empty if unknown."""
    try:
        with soundfile.SoundFile(path) as file:
            tags = file.copy_metadata()
    except soundfile.LibsndfileError:  # FFmpeg decodes the file
        return "", ""
    title, artist = (" ".join(tags.get(name, "").split()) for name in ("title", "artist"))
    return title, artist


def _drop_copies(folder: Path, tracks: Sequence[ListedTrack]) -> list[ListedTrack]:
    """Mark usable tracks whose file equals that of an earlier track."""
    originals: dict[bytes, Path] = {}
    checked = []
    for track in tracks:
        if not track.problem:
            with (folder / track.path).open("rb") as file:
                digest = hashlib.file_digest(file, "blake2b").digest()
            original = originals.setdefault(digest, track.path)
            if original != track.path:
                track = replace(track, problem=f"is a copy of {original}")
        checked.append(track)
    return checked


def _group(track: ListedTrack) -> str:
    """Return a name that similar files of a package share: the title without numbers and words for versions."""
    title = track.details[COLUMNS.index("title")]
    words = re.findall(r"[^\W\d_]+", title.lower())
    stem = " ".join(word for word in words if word not in _VERSION_WORDS) or title
    return f"{track.details[COLUMNS.index('package')]}/{stem}"


def _split(tracks: Sequence[ListedTrack], held_out: dict[str, int], seed: int) -> list[ListedTrack]:
    """Assign splits to usable tracks: groups in the order of their hashes fill the splits that are held out."""
    groups: dict[str, int] = defaultdict(int)
    for track in tracks:
        if not track.problem:
            groups[_group(track)] += 1
    order = iter(sorted(groups, key=lambda group: (hash_name(group, seed), group)))
    splits = {}
    for split, count in held_out.items():
        while count > 0:
            group = next(order, None)
            if group is None:
                raise ValueError(
                    f"The packages have {sum(groups.values())} files to use, too few to hold out "
                    f"{held_out['test']} for test and {held_out['validation']} for validation: add packages, or "
                    "choose smaller numbers for `test_songs` and `valid_songs`."
                )
            splits[group] = split
            count -= groups[group]
    return [track if track.problem else replace(track, split=splits.get(_group(track), "train")) for track in tracks]


def _info(source: str | os.PathLike, **options: Any) -> dict[str, Any]:
    """Return entries of `info.json`."""
    kind = options["kind"]
    return {"kind": kind, "seed": options["seed"], "packages": options["packages"] or list(KINDS[kind].packages)}


READER = ListReader(
    "packages",
    "music, speech or sounds under free licenses from Debian packages, without labels",
    SOURCE,
    list_tracks,
    (
        Option("kind", "kind of recordings; music by default", default="music", choices=tuple(KINDS)),
        Option("packages", "packages to use instead of those of the kind", nargs="+", metavar="NAME"),
        Option("min_seconds", "leave out shorter files; 60 for music, 2 for speech, 0.5 for sounds", type=float),
        Option("test_songs", "files to hold out for test; 60 for music, 200 for speech, 60 for sounds", type=int),
        Option("valid_songs", "files to hold out for validation; 20, 100 and 30", type=int),
        Option("seed", "seed of the split; 0 by default", type=int, default=0),
        Option("mirror", "URL of a Debian archive, instead of those that apt is configured to use", metavar="URL"),
        Option("suite", "release of Debian to download from the mirror; stable by default", default="stable"),
    ),
    details=(
        "apt-get downloads the packages, about 1.8 GB for music; nothing is installed. The audio of each package is "
        "written to audio/PACKAGE with its copyright file, and tracks.tsv lists title, artist, license and source of "
        "every file. Repeat the command to resume."
    ),
    info=_info,
    columns=COLUMNS,
    needs_source=False,
)
