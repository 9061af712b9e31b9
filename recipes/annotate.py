"""
Annotate songs: beats, chords, sections, keys and tags, by models with a head, and a picture of each song.

    python recipes/annotate.py song.mp3 --models runs/beat runs/chord --output annotations
    python recipes/annotate.py music/ more.txt --models runs/* --output annotations --no-picture --format json lab

Models are folders or repositories, one for each task, or adapters with the configuration of the whole model beside
them. Heads on one encoder cost one pass. What cannot be read is listed at the end, and the exit code is then 1.
"""

import argparse
from collections import Counter
from pathlib import Path, PurePosixPath

import torch
from accelerate import PartialState
from tqdm.auto import tqdm

from musicfm_hf import load_audio
from musicfm_hf.annotation import FORMATS, annotate, load_models
from musicfm_hf.data.catalogue import DatasetAudio, list_sources


def main() -> None:
    arguments = parse_arguments()
    try:
        sources = [source for song in arguments.songs for source in list_sources(song)]
        models = load_models(arguments.models, dtype=getattr(torch, arguments.dtype))
    except (ValueError, OSError) as error:
        raise SystemExit(f"Not annotated: {error}") from error
    device = arguments.device or PartialState().device
    for model in models.values():
        model.to(device)
    problems = []
    for name, (_, source) in tqdm(list(zip(file_names(sources), sources, strict=True)), unit="song"):
        try:
            annotate_song(models, source, name, arguments)
        except (ValueError, TypeError, OSError) as error:
            problems.append(f"{name}: {error}")
    print(f"{len(sources)} songs, {len(problems)} with problems" + (":" if problems else f", in {arguments.output}"))
    for problem in problems:
        print(f"  {problem}".encode("ascii", "backslashreplace").decode())
    raise SystemExit(1 if problems else 0)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("songs", nargs="+", help="files, folders of audio, .txt with a path a line, or data sets")
    parser.add_argument("--models", required=True, nargs="+", help="folders or repositories, one for each task")
    parser.add_argument("--output", required=True, type=Path, help="where the annotations go")
    parser.add_argument("--format", nargs="+", choices=FORMATS, default=FORMATS, help="what to write; all by default")
    parser.add_argument("--no-picture", action="store_true", help="draw nothing")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    parser.add_argument("--device", help="such as cpu or cuda:1; by default what accelerate finds")
    parser.add_argument("--batch-size", type=int, default=1, help="windows encoded at once")
    parser.add_argument("--window-seconds", type=float, default=30.0)
    parser.add_argument("--overlap-seconds", type=float, help="a sixth of the window by default")
    return parser.parse_args()


def file_names(sources: list[tuple[str, object]]) -> list[str]:
    """Names without extension, but where two songs would have the same; with a number, if they still have."""
    stems = [PurePosixPath(name).with_suffix("").as_posix() for name, _ in sources]
    count = Counter(stems)
    names = [stem if count[stem] == 1 else name for stem, (name, _) in zip(stems, sources, strict=True)]
    seen: Counter = Counter()
    for index, name in enumerate(names):
        seen[name] += 1
        names[index] = name if seen[name] == 1 else f"{name}-{seen[name]}"
    return names


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
