"""
Embed a catalogue: a folder of audio, a .txt that lists paths, or a data set (saved to disk, or its id on the Hub).

    python recipes/embed.py music/ --model musicfm-msd --output embeddings --layer 7 --pool mean
    accelerate launch recipes/embed.py songs.txt --model musicfm-msd --output embeddings --dtype bfloat16

Each song becomes one safetensors file with `embeddings`, `times` and what made them as metadata. A second run does
what is left. What cannot be read is listed at the end and in `problems.tsv`.
"""

import argparse
import hashlib
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from huggingface_hub import snapshot_download
from transformers import AutoModel

import musicfm_hf
from musicfm_hf.data.catalogue import list_sources
from musicfm_hf.inference.catalogue import embed_files
from musicfm_hf.inference.embedding import WindowSettings


def main() -> None:
    arguments = parse_arguments()
    state = PartialState(timeout=timedelta(days=30))  # one process may finish long before the others
    try:
        folder, revision = find_model(arguments.model, arguments.revision)
        sources = list_sources(arguments.source, arguments.audio_column)
        model = AutoModel.from_pretrained(folder, dtype=getattr(torch, arguments.dtype))
        problems = embed_files(
            model.to(arguments.device or state.device),
            sources[state.process_index :: state.num_processes],
            arguments.output,
            WindowSettings(arguments.layer, arguments.window_seconds, arguments.overlap_seconds, arguments.batch_size),
            pool=arguments.pool,
            metadata={"model": arguments.model, "revision": revision, "musicfm_hf": musicfm_hf.__version__},
            num_workers=arguments.num_workers,
            progress=state.is_local_main_process,
        )
    except (ValueError, OSError) as error:
        raise SystemExit(f"Not embedded: {error}") from error
    problems = gather_object(problems)
    if state.is_main_process:
        report(problems, len(sources), Path(arguments.output))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="a folder of audio, a .txt with a path a line, or a data set")
    parser.add_argument("--model", required=True, help="a converted folder or a Hub repository")
    parser.add_argument("--revision", help="branch, tag or commit of a Hub repository")
    parser.add_argument("--output", required=True, help="where the embeddings go")
    parser.add_argument("--layer", type=int, help="hidden state to keep; the last by default")
    parser.add_argument("--pool", type=pooling, default="none", help="none, mean, or frames per second")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    parser.add_argument("--device", help="such as cpu or cuda:1; by default what accelerate finds")
    parser.add_argument("--batch-size", type=positive, default=4, help="windows encoded at once")
    parser.add_argument("--window-seconds", type=float, default=30.0)
    parser.add_argument("--overlap-seconds", type=float, help="a sixth of the window by default")
    parser.add_argument("--num-workers", type=int, default=1, help="decoding processes")
    parser.add_argument("--audio-column", default="audio", help="column of a data set that has the audio")
    return parser.parse_args()


def pooling(text: str) -> str | float:
    if text in ("none", "mean"):
        return text
    if (rate := float(text)) <= 0:
        raise argparse.ArgumentTypeError("a rate must be positive")
    return rate


def positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def find_model(name: str, revision: str | None) -> tuple[str, str]:
    """A local folder and what identifies its weights: a commit of the Hub, or a hash of local files."""
    if Path(name).is_dir():
        files = sorted(Path(name).glob("*.safetensors"))
        digests = [hashlib.file_digest(file.open("rb"), "sha256").hexdigest() for file in files]
        return name, hashlib.sha256("".join(digests).encode()).hexdigest()
    folder = snapshot_download(name, revision=revision, ignore_patterns=["*.pt", "*.bin"])
    return folder, Path(folder).name


def report(problems: list[tuple[str, str]], total: int, output: Path) -> None:
    lines = [f"{name}\t{problem}" for name, problem in sorted(problems)]
    output.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{line}\n" for line in lines)
    (output / "problems.tsv").write_text(text, encoding="utf-8", errors="backslashreplace")
    print(f"{total} songs, {len(problems)} with problems" + (":" if problems else ""))
    for line in lines[:20]:
        print(f"  {line}".encode("ascii", "backslashreplace").decode())
    if len(lines) > 20:
        print(f"  … and {len(lines) - 20} more in {output / 'problems.tsv'}")


if __name__ == "__main__":
    main()
