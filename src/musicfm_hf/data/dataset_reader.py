"""Descriptions of data set readers: their functions, their options, and facts about the data sets."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .labeled import SongReaders, Source
from .splits import FRACTIONS


@dataclass(frozen=True)
class Option:
    """
    An option of a reader: a flag of `musicfm prepare`, and an argument of the same name of the reader's
    function.

    Attributes:
        name (`str`): `lab_task` is the argument `lab_task` and the flag `--lab_task`.
        help (`str`): Help text of the flag.
        type (`Callable`): Converts the text of the flag. `bool` makes a switch without a value; if its default is
            true, the flag `--no_NAME` turns it off.
        default: Value without the flag.
        choices: Allowed values.
        nargs: Number of values, as in `argparse`.
        metavar (`str` or `tuple[str, …]`): Name of a value in the help text, or of each of several.
        is_required (`bool`): Whether the flag is required.
    """

    name: str
    help: str
    type: Callable[[str], Any] = str
    default: Any = None
    choices: Sequence[Any] | None = None
    nargs: str | int | None = None
    metavar: str | tuple[str, ...] | None = None
    is_required: bool = False

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        """Add the flag to a parser."""
        flag = f"--{self.name}"
        if self.type is not bool:
            parser.add_argument(
                flag,
                help=self.help,
                type=self.type,
                default=self.default,
                choices=self.choices,
                nargs=self.nargs,
                metavar=self.metavar,
                required=self.is_required,
            )
        elif self.default:
            parser.add_argument(flag, action="store_true", default=True, help=f"{self.help} (the default)")
            parser.add_argument(f"--no_{self.name}", action="store_false", dest=self.name, help="turn this off")
        else:
            parser.add_argument(flag, action="store_true", help=self.help)
            # The default of a switch may change from one release to the next: scripts that turn it off keep working.
            parser.add_argument(
                f"--no_{self.name}", action="store_false", dest=self.name, default=False, help=argparse.SUPPRESS
            )


@dataclass(frozen=True)
class DatasetReader:
    """
    The reader of a labeled data set. `musicfm prepare` finds one in every file of `musicfm_hf/data/readers`, as
    `READER`.

    Attributes:
        name (`str`): Name of the data set in `musicfm prepare NAME` and in `info.json`.
        summary (`str`): One-line description for `musicfm prepare --help`.
        source ([`Source`]): Description, citation, homepage and license.
        song_readers (`Callable`): `(source, audio=None, **options)` → song id → function that reads the song. `source`
            is the path that the user passes. The functions return a [`LabeledSong`]; they raise `FileNotFoundError` or
            [`UnusableSongError`] for a song that cannot be used, and `ValueError` for wrong annotations. A song that
            is wrong in the source itself, such as in a table, gets the function [`raising`].
        options (`tuple[Option, ...]`): Further arguments of `song_readers`.
        details (`str`): Further sentences for `musicfm prepare NAME --help`.
        audio_help (`str`): Help text of `--audio`, the folder with the audio if it is not the source.
        needs_source (`bool`): False for synthetic songs; `source` is then an empty string.
        makes_audio (`bool`): Whether the reader writes the audio itself; `audio` is then the folder `audio` of the
            output.
        has_splits (`bool`): Whether the data set defines the split of every song.
        fractions: Shares of train, validation and test, if the data set does not define splits.
        is_own_data (`bool`): Whether this is a user's own data, which is named after the output folder and whose
            license the user states.
        info (`Callable`, *optional*): `(source, audio, **options)` → further entries of `info.json`. It gets
            every option, with its default if it was not given.
    """

    name: str
    summary: str
    source: Source
    song_readers: Callable[..., SongReaders]
    options: tuple[Option, ...] = ()
    details: str = ""
    audio_help: str = "the folder with the audio; the source by default"
    needs_source: bool = True
    makes_audio: bool = False
    has_splits: bool = False
    fractions: Sequence[float] = FRACTIONS
    is_own_data: bool = False
    info: Callable[..., dict[str, Any]] | None = None


@dataclass(frozen=True)
class ListedTrack:
    """
    An audio file of a collection without labels.

    Attributes:
        path (`Path`): The file.
        split (`str`): train, validation or test.
        license (`str`): License of the track, or an empty string if it is not known.
        problem (`str`): Reason not to use the track, or an empty string.
        details (`tuple[str, ...]`): Further facts about the track, in the order of the `columns` of the reader.
    """

    path: Path
    split: str
    license: str
    problem: str
    details: tuple[str, ...] = field(default=(), kw_only=True)


@dataclass(frozen=True)
class ListReader:
    """
    The reader of a collection of audio without labels, for pretraining. `musicfm prepare` lists its files by split.

    Attributes:
        name, summary, source, options, details, info: As in [`DatasetReader`], without `audio`.
        list_tracks (`Callable`): `(source, **options)` → [`ListedTrack`]s.
        columns (`tuple[str, ...]`): Names of the `details` of tracks. With them, a table `tracks.tsv` is written.
        needs_source (`bool`): False for a reader that downloads its files; `source` is then the folder of the output,
            and paths of tracks are relative to it.
    """

    name: str
    summary: str
    source: Source
    list_tracks: Callable[..., Sequence[ListedTrack]]
    options: tuple[Option, ...] = ()
    details: str = ""
    info: Callable[..., dict[str, Any]] | None = None
    columns: tuple[str, ...] = ()
    needs_source: bool = True
