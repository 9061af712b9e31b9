"""
Prepare data: labelled data sets, audio files with a list per split, or the statistics of a catalogue.

    python recipes/prepare.py pop909 --source POP909 --output data/pop909 --arranged
    python recipes/prepare.py harmonix --source harmonixset --audio music/harmonix --output data/harmonix
    python recipes/prepare.py folder --source my_annotations --audio my_music --output data/mine
    python recipes/prepare.py synthetic --output data/synthetic
    python recipes/prepare.py fma --source fma_large --metadata fma_metadata --output data/fma --subset large
    python recipes/prepare.py stats music/ --output stats.json --max-hours 20

`train.txt`, `valid.txt` and `test.txt` list the files, a path a line; `info.json` says where they come from.
Labelled data sets are saved beside them, for `datasets.load_from_disk`; audio is not copied, and songs without it are
listed in `missing.tsv`.
"""

import argparse
import json
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tqdm import tqdm

import musicfm_hf
from musicfm_hf.data import labelled, labelled_dataset, synthetic
from musicfm_hf.data import pop909_rendering as pop909
from musicfm_hf.data.catalogue import list_sources
from musicfm_hf.data.readers import (
    annotated_folder,
    fma,
    harmonix,
    hooktheory,
    magnatagatune,
    mirdata_sets,
    pop909_labels,
)
from musicfm_hf.data.statistics import mel_statistics


def main() -> None:
    arguments = parse_arguments()
    try:
        arguments.prepare(arguments)
    except (ValueError, OSError, ImportError) as error:
        raise SystemExit(f"Not prepared: {error}") from error


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = add_labelled(commands, "pop909", prepare_pop909, "render POP909 to audio, with all its labels")
    command.description += (
        ". SOURCE has midi/ID.mid with the tracks MELODY, BRIDGE and PIANO; beats/ID.beats, and chords/, keys/, "
        "segments/ and segments2/ with ID.lab, in seconds of the MIDI file; songs.tsv, arrangements.tsv and splits/. "
        "The repository of POP909 itself has other files: bring them to this form."
    )
    command.add_argument("--soundfont", help="a .sf2 file; TimGM6mb of pretty_midi by default")
    command.add_argument("--arranged", action="store_true", help="each part with its own instrument, as the tags need")
    command.add_argument("--num-workers", type=positive, default=2, help="rendering processes")
    command.add_argument("--limit", type=positive, help="songs of each split")
    command.add_argument("--split-size", choices=["full", "mini"], default="full")
    versions = "semitones: training songs once more for each, transposed, in the labelled data set alone"
    command.add_argument("--transpositions", nargs="+", type=int, default=[], metavar="N", help=versions)

    command = add_labelled(commands, "folder", prepare_folder, "your own audio and annotations", apart=True)
    command.add_argument("--lab-task", choices=labelled.SEGMENT_COLUMNS, help="what files NAME.lab have")
    command.add_argument("--group-by-folder", action="store_true", help="songs of a folder come to one split")
    command.add_argument("--licence", help="to be written down")

    for name in mirdata_sets.NAMES:
        command = add_labelled(commands, name, prepare_mirdata, f"read {name} with mirdata", apart=True)
        command.add_argument("--download", action="store_true", help="let mirdata download its index and what it can")
        # The field tests on these two, and so does the paper.
        command.set_defaults(name=name, **({} if name == "beatles" else {"fractions": (0.0, 0.0, 1.0)}))

    command = add_labelled(
        commands, "harmonix", prepare_harmonix, "beats and sections of the Harmonix Set", apart=True
    )
    command = add_labelled(commands, "hooktheory", prepare_hooktheory, "chords and keys of HookTheory")
    command.add_argument("--audio", help="the folder with the audio, called by id of HookTheory or YouTube")
    command = add_labelled(commands, "magnatagatune", prepare_magnatagatune, "tags of MagnaTagATune")
    command.add_argument("--audio", help="the folder with the folders 0 to f, if not the source")
    merge = "count tags such as drum and drums as one (the default)"
    command.add_argument("--merge-synonyms", action=argparse.BooleanOptionalAction, default=True, help=merge)

    command = add_command(commands, "synthetic", prepare_synthetic, "compose songs from seeds, with all labels")
    command.add_argument("--output", required=True, help="where the songs and the data set go")
    command.add_argument("--songs", type=positive, default=48)
    command.add_argument("--seconds", type=float, help="of each song, from its start; whole by default")
    command.add_argument("--num-workers", type=positive, default=2)
    command.set_defaults(source="", skip_faulty=False, seed=0, fractions=labelled.FRACTIONS)

    command = add_data_set(commands, "fma", prepare_fma, "list the files of an FMA archive by split")
    command.add_argument("--metadata", required=True, help="the folder of fma_metadata.zip")
    command.add_argument("--subset", choices=fma.SUBSETS, help="by default what the name of the source ends with")

    command = add_command(commands, "stats", prepare_stats, "mean and standard deviation of the mel of a catalogue")
    command.add_argument("sources", nargs="+", metavar="SOURCE", help="an audio file, a folder, a .txt or a data set")
    command.add_argument("--output", required=True, help="a JSON file")
    command.add_argument("--max-hours", type=float, default=10.0, help="audio to measure, spread over the files")
    command.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def add_command(commands: Any, name: str, prepare: Any, summary: str) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=summary, description=summary)
    command.set_defaults(prepare=prepare, data_set=name)
    return command


def add_labelled(commands: Any, name: str, prepare: Any, summary: str, apart: bool = False) -> argparse.ArgumentParser:
    """`apart`: the audio may be elsewhere, and there are no splits."""
    command = add_data_set(commands, name, prepare, summary)
    command.add_argument("--skip-faulty", action="store_true", help="leave songs with wrong annotations out")
    command.set_defaults(seed=0, fractions=labelled.FRACTIONS)
    if apart:
        command.add_argument("--audio", help="the folder with the audio, if not the source")
        command.add_argument("--seed", type=int, help="of the splits")
        fractions = "of songs: train, validation, test"
        command.add_argument("--fractions", nargs=3, type=float, metavar=("A", "B", "C"), help=fractions)
    return command


def add_data_set(commands: Any, name: str, prepare: Any, summary: str) -> argparse.ArgumentParser:
    command = add_command(commands, name, prepare, summary)
    command.add_argument("--source", required=True, help="the folder of the data set")
    command.add_argument("--output", required=True, help="where the lists go, and audio that is made")
    return command


def positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def prepare_pop909(arguments: argparse.Namespace) -> None:
    output = Path(arguments.output)
    songs = [song for song in pop909.read_songs(arguments.source) if song.is_mini or arguments.split_size == "full"]
    splits = {name: [song for song in songs if song.split == name][: arguments.limit] for name in pop909.SPLITS}
    songs = [song for split in splits.values() for song in split]
    transpositions = sorted(set(arguments.transpositions) - {0})
    rendering = output / "audio", arguments.soundfont, arguments.arranged, arguments.num_workers
    for part, semitones in ((songs, [0]), (splits["train"], transpositions)):
        total = len(part) * len(semitones)
        list(tqdm(pop909.render_songs(part, *rendering, semitones), total=total, unit="song", disable=not total))
    settings = songs, output / "audio", transpositions, arguments.arranged
    info = {
        "ids": {name: [song.id for song in split] for name, split in splits.items()},
        "rendering": pop909.rendering_settings(arguments.soundfont, arguments.arranged),
        "versions": {name: version(name) for name in ("mido", "tinysoundfont")},
    }
    write_labelled(arguments, pop909_labels.song_readers(arguments.source, *settings), pop909_labels.SOURCE, info)


def prepare_fma(arguments: argparse.Namespace) -> None:
    output, source = Path(arguments.output), Path(arguments.source).absolute()
    subset = arguments.subset or source.name.rpartition("_")[2]
    tracks = fma.read_tracks(source, arguments.metadata, subset)
    good = [track for track in tracks if not track.problem]
    splits = {name: [str(track.path) for track in good if track.split == name] for name in fma.SPLITS}
    write_splits(output, splits)
    write_table(output / "problems.tsv", [(track.path, track.problem) for track in tracks if track.problem])
    write_table(output / "licences.tsv", [(track.path, track.licence) for track in good])
    info = {
        "name": "fma",
        "source": source.name,
        "metadata": Path(arguments.metadata).absolute().name,
        "subset": subset,
        "licence": fma.LICENCE,
        "licences": dict(Counter(track.licence for track in good).most_common()),
        "counts": {name: len(paths) for name, paths in splits.items()} | {"problems": len(tracks) - len(good)},
    }
    write_info(output, info)


def prepare_stats(arguments: argparse.Namespace) -> None:
    sources = [entry for source in arguments.sources for entry in list_sources(source)]
    found = mel_statistics(sources, arguments.max_hours, arguments.seed)
    output = Path(arguments.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_json(output, found.to_dict() | {"source": arguments.sources})
    for name, problem in found.problems:
        print(f"  {name}\t{problem}".encode("ascii", "backslashreplace").decode())
    summary = f"mean {found.mean:.3f} dB, standard deviation {found.std:.3f} dB"
    print(f"{output}: {summary}, {found.hours:.2f} h of {found.files} files, {found.skipped} skipped")


def prepare_folder(arguments: argparse.Namespace) -> None:
    settings = arguments.source, arguments.audio, arguments.lab_task, arguments.group_by_folder
    write_labelled(arguments, annotated_folder.song_readers(*settings), annotated_folder.source(arguments.licence))


def prepare_mirdata(arguments: argparse.Namespace) -> None:
    settings = arguments.name, arguments.source, arguments.audio, arguments.download
    write_labelled(arguments, mirdata_sets.song_readers(*settings), mirdata_sets.SOURCES[arguments.name])


def prepare_harmonix(arguments: argparse.Namespace) -> None:
    write_labelled(arguments, harmonix.song_readers(arguments.source, arguments.audio), harmonix.SOURCE)


def prepare_hooktheory(arguments: argparse.Namespace) -> None:
    write_labelled(arguments, hooktheory.song_readers(arguments.source, arguments.audio), hooktheory.SOURCE)


def prepare_magnatagatune(arguments: argparse.Namespace) -> None:
    settings = arguments.source, arguments.audio, 50, arguments.merge_synonyms
    write_labelled(arguments, magnatagatune.song_readers(*settings), magnatagatune.SOURCE)


def prepare_synthetic(arguments: argparse.Namespace) -> None:
    folder = Path(arguments.output).absolute() / "audio"
    write = partial(synthetic.write_song, folder=folder, seconds=arguments.seconds)
    with ProcessPoolExecutor(arguments.num_workers) as pool:
        songs = list(tqdm(pool.map(write, range(arguments.songs)), total=arguments.songs, unit="song"))
    readers = {song.id: partial(replace, song) for song in songs}
    write_labelled(arguments, readers, synthetic.SOURCE, {"source": f"seeds 0 to {arguments.songs - 1}"})


def write_labelled(
    arguments: argparse.Namespace, readers: dict[str, Any], source: labelled.Source, info: dict[str, Any] | None = None
) -> None:
    """The data set with labels, lists of its files, and what is left out."""
    output = Path(arguments.output).absolute()
    songs, problems = labelled.read_all(tqdm(readers.items(), unit="song"), arguments.skip_faulty)
    write_table(output / "missing.tsv", problems)
    for name, reason in problems[:10]:
        print(f"  {name}\t{reason}".encode("ascii", "backslashreplace").decode())
    splits = labelled.assign_splits(songs, arguments.seed, arguments.fractions)
    labelled_dataset.save(labelled_dataset.build(splits, source), output)
    names = dict(zip(("train", "valid", "test"), labelled.SPLITS, strict=True))
    originals = {name: [song for song in splits[split] if not song.transposition] for name, split in names.items()}
    write_splits(output, {name: [listed(song.audio, output) for song in part] for name, part in originals.items()})
    found = {
        "name": output.name if arguments.data_set == "folder" else arguments.data_set,
        "source": Path(arguments.source).absolute().name,
        "licence": source.licence,
        "homepage": source.homepage,
        "citation": source.citation,
        "hours": round(sum(song.duration for part in originals.values() for song in part) / 3600, 3),
        "counts": {name: len(part) for name, part in originals.items()} | {"left out": len(problems)},
        "rows": {split: len(part) for split, part in splits.items()},
    }
    write_info(output, found | (info or {}))


def listed(path: Path, folder: Path) -> str:
    """A path as a list in `folder` has it."""
    path = Path(path).absolute()
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)


def write_splits(output: Path, splits: dict[str, list[str]]) -> None:
    output.mkdir(parents=True, exist_ok=True)
    for name, paths in splits.items():
        (output / f"{name}.txt").write_text("".join(f"{path}\n" for path in paths), encoding="utf-8")


def write_table(path: Path, rows: list[tuple[Any, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{name}\t{value}\n" for name, value in rows)
    path.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_info(output: Path, info: dict[str, Any]) -> None:
    info["versions"] = {"musicfm_hf": musicfm_hf.__version__} | info.get("versions", {})
    write_json(output / "info.json", info)
    print(f"{output}: " + ", ".join(f"{count} {name}" for name, count in info["counts"].items()))


def write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
