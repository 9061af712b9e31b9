"""
Annotate songs: beats, chords, sections, keys and tags, by models with a head, and a picture of each song.

    python recipes/annotate.py song.mp3 --models runs/beat runs/chord --output annotations
    python recipes/annotate.py music/ more.txt --models runs/* --output annotations --no-picture --format json lab

Models are folders or repositories, one for each task, or adapters with the configuration of the whole model beside
them. Heads on one encoder cost one pass. What cannot be read is listed at the end, and the exit code is then 1.
Files that are there already, such as annotations by hand in a folder of audio, are not written over: give another
folder, or `--existing skip` to go on where it stopped (songs of which some files are there, not all, are listed), or
`--existing overwrite`.
"""

import argparse
import itertools
from collections import Counter
from pathlib import Path, PurePosixPath

import torch
from accelerate import PartialState
from tqdm.auto import tqdm

from musicfm_hf import load_audio
from musicfm_hf.data.catalogue import AUDIO_EXTENSIONS, DatasetAudio, list_sources
from musicfm_hf.inference.annotation import annotate
from musicfm_hf.inference.annotators import load_annotators
from musicfm_hf.inference.embedding import WindowSettings
from musicfm_hf.inference.song import FORMATS
from musicfm_hf.tasks import get_task


def main() -> None:
    arguments = parse_arguments()
    try:
        sources = [source for song in arguments.songs for source in list_sources(song)]
        names = file_names(sources)
        models = load_annotators(arguments.models, dtype=getattr(torch, arguments.dtype))
        settings = WindowSettings(None, arguments.window_seconds, arguments.overlap_seconds, arguments.batch_size)
        for model in models.values():
            settings.frames(model.config)
        found = {name: [path.exists() for path in files_of(name, models, arguments)] for name in names}
        there = {name for name in names if any(found[name])}
        if there and arguments.existing == "refuse":
            raise ValueError(
                f"{arguments.output} has files of {len(there)} of {len(names)} songs, such as {min(there)}: give "
                "another `--output`, or `--existing skip` or `--existing overwrite`."
            )
    except (ValueError, OSError) as error:
        raise SystemExit(f"Not annotated: {error}") from error
    device = arguments.device or PartialState().device
    for model in models.values():
        model.to(device)
    problems = []
    for name, (_, source) in tqdm(list(zip(names, sources, strict=True)), unit="song"):
        if name in there and arguments.existing == "skip":
            if not all(found[name]):
                problems.append(
                    f"{name}: some of its files are there, not all; remove them, or `--existing overwrite`."
                )
            continue
        try:
            annotate_song(models, source, name, arguments)
        except (ValueError, TypeError, OSError) as error:
            problems.append(f"{name}: {error}")
    skipped = f", {len(there)} were there" if there and arguments.existing == "skip" else ""
    end = ":" if problems else f", in {arguments.output}"
    print(f"{len(sources)} songs{skipped}, {len(problems)} with problems{end}")
    for problem in problems:
        print(f"  {problem}".encode("ascii", "backslashreplace").decode())
    raise SystemExit(1 if problems else 0)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("songs", nargs="+", help="files, folders of audio, .txt with a path a line, or data sets")
    parser.add_argument("--models", required=True, nargs="+", help="folders or repositories, one for each task")
    parser.add_argument("--output", required=True, type=Path, help="where the annotations go")
    parser.add_argument("--format", nargs="+", choices=FORMATS, default=FORMATS, help="what to write; all by default")
    parser.add_argument(
        "--existing", choices=["refuse", "skip", "overwrite"], default="refuse", help="songs of which files are there"
    )
    parser.add_argument("--no-picture", action="store_true", help="draw nothing")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    parser.add_argument("--device", help="such as cpu or cuda:1; by default what accelerate finds")
    parser.add_argument("--batch-size", type=int, default=1, help="windows encoded at once")
    parser.add_argument("--window-seconds", type=float, default=30.0)
    parser.add_argument("--overlap-seconds", type=float, help="a sixth of the window by default")
    return parser.parse_args()


def file_names(sources: list[tuple[str, object]]) -> list[str]:
    """Names without extension, but where two songs would have the same; with a number, if they still have."""
    paths = [PurePosixPath(name) for name, _ in sources]
    stems = [(path.with_suffix("") if path.suffix.lower() in AUDIO_EXTENSIONS else path).as_posix() for path in paths]
    count = Counter(stems)
    names = [stem if count[stem] == 1 else name for stem, (name, _) in zip(stems, sources, strict=True)]
    taken: set[str] = set()
    for index, name in enumerate(names):
        numbered = (f"{name}-{number}" for number in itertools.count(2))
        names[index] = next(one for one in itertools.chain([name], numbered) if one not in taken)
        taken.add(names[index])
    return names


def files_of(name: str, models: dict, arguments: argparse.Namespace) -> list[Path]:
    """What would be written of a song."""
    specs = [get_task(model.config.task) for model in models.values()]
    endings = [("json", "json"), *((spec.file_format, spec.file_ending) for spec in specs)]
    chosen = [ending for kind, ending in endings if kind in arguments.format]
    return [arguments.output / f"{name}.{ending}" for ending in (*chosen, *([] if arguments.no_picture else ["png"]))]


def annotate_song(models: dict, source: object, name: str, arguments: argparse.Namespace) -> None:
    """Read, annotate, write. A file that breaks off is annotated as far as it goes, with a warning."""
    if isinstance(source, DatasetAudio):
        source = source.dataset[source.index][source.column]
    rate = next(iter(models.values())).config.sampling_rate
    audio = load_audio(source, rate)
    annotation = annotate(
        models, audio, rate, arguments.window_seconds, arguments.overlap_seconds, arguments.batch_size
    )
    annotation.save(arguments.output, name, arguments.format)
    if not arguments.no_picture:
        picture = arguments.output / f"{name}.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        annotation.draw(picture, audio, rate)


if __name__ == "__main__":
    main()
