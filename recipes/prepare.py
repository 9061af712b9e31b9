"""
Prepare data: audio files with a list per split, or the statistics of a catalogue.

    python recipes/prepare.py pop909 --source POP909 --output data/pop909 --arranged
    python recipes/prepare.py fma --source fma_large --metadata fma_metadata --output data/fma --subset large
    python recipes/prepare.py stats music/ --output stats.json --max-hours 20

`train.txt`, `valid.txt` and `test.txt` list the files, a path a line; `info.json` says where they come from.
"""

import argparse
import json
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import soundfile
from tqdm import tqdm

import musicfm_hf
from musicfm_hf.data import fma, pop909
from musicfm_hf.data.catalogue import list_sources
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

    command = add_data_set(commands, "pop909", prepare_pop909, "render POP909 to audio")
    command.add_argument("--soundfont", help="a .sf2 file; TimGM6mb of pretty_midi by default")
    command.add_argument("--arranged", action="store_true", help="each part with its own instrument, as the tags need")
    command.add_argument("--num-workers", type=positive, default=2, help="rendering processes")
    command.add_argument("--limit", type=positive, help="songs of each split")
    command.add_argument("--split-size", choices=["full", "mini"], default="full")

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
    command.set_defaults(prepare=prepare)
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
    rendering = output / "audio", arguments.soundfont, arguments.arranged, arguments.num_workers
    paths = list(tqdm(pop909.render_songs(songs, *rendering), total=len(songs), unit="song"))
    write_splits(output, {name: [f"audio/{song.id}.flac" for song in split] for name, split in splits.items()})
    info = {
        "source": str(Path(arguments.source).absolute()),
        "licence": pop909.LICENCE,
        "hours": round(sum(soundfile.info(path).duration for path in paths) / 3600, 3),
        "counts": {name: len(split) for name, split in splits.items()},
        "ids": {name: [song.id for song in split] for name, split in splits.items()},
        "rendering": pop909.rendering_settings(arguments.soundfont, arguments.arranged),
        "versions": {name: version(name) for name in ("mido", "tinysoundfont")},
    }
    write_info(output, info)


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
        "source": str(source),
        "metadata": str(Path(arguments.metadata).absolute()),
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


def write_splits(output: Path, splits: dict[str, list[str]]) -> None:
    output.mkdir(parents=True, exist_ok=True)
    for name, paths in splits.items():
        (output / f"{name}.txt").write_text("".join(f"{path}\n" for path in paths), encoding="utf-8")


def write_table(path: Path, rows: list[tuple[Any, str]]) -> None:
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
