"""The `musicfm` command. The first word selects a subcommand; the other words are its arguments."""

import difflib
import io
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

# Sections of the help page. Each command is the function `main` of the file with its name in this folder.
SECTIONS = {
    "Use a model": {
        "embed": "write embeddings of songs: one vector per frame, or one per song",
        "annotate": "write beats, chords, sections, keys and tags of songs, and draw a picture",
        "index": "index a catalog, so that it can be searched",
        "search": "find songs by sound, words and musical form, and duplicates",
        "convert": "convert a published MusicFM, MuQ, MERT, MERT-v2 or MuQ-MuLan checkpoint",
        "export": "export a model to ONNX, OpenVINO or AOTInductor",
    },
    "Train": {
        "prepare": "prepare labeled data, lists of files, or statistics of a catalog",
        "pretrain": "pretrain an encoder on music without labels",
        "train-quantizer": "train the quantizer that some pretraining recipes need",
        "finetune": "train a head on an encoder: as a probe, with full fine-tuning, or with LoRA",
        "train-text-audio": "train a model of music and text on songs with captions",
    },
    "Measure": {
        "evaluate": "score saved models on whole songs",
        "baselines": "score classical and trivial methods on the same songs",
        "layers": "probe every layer of encoders and plot the scores",
        "study": "pretrain variants of an encoder, probe them, and report what each choice changes",
    },
    "Share": {
        "push": "push a model, an adapter or a quantizer to the Hub, with its card",
        "space": "annotate songs on a web page, locally or as a Space on the Hub",
    },
}
EXAMPLES = """\
Examples:
  musicfm annotate song.mp3
  musicfm convert minzwon/MusicFM --variant msd --output_dir musicfm-msd
  musicfm embed music/ --model musicfm-msd --output_dir embeddings --layer 7 --pool mean
  musicfm finetune chord/lora --model musicfm-msd --data data/pop909 --output_dir runs/chord
  musicfm annotate song.mp3 --models runs/chord --output_dir annotations
"""
COMMANDS = {name: summary for commands in SECTIONS.values() for name, summary in commands.items()}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command that the arguments name. By default, the arguments are those of the process."""
    escape_unprintable()
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(help_page())
        return
    name, *arguments = words
    if name in ("-V", "--version"):
        from .. import __version__

        print(f"musicfm_hf {__version__}")
        return
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"Did you mean `musicfm {near[0]}`?" if near else "`musicfm --help` lists the commands."
        print(f"musicfm: no command {name!r}. {hint}", file=sys.stderr)
        raise SystemExit(2)
    from .. import register_auto_classes

    register_auto_classes()
    try:
        import_module(f".{name.replace('-', '_')}", __package__).main(find_small_model(name, arguments))
    except KeyboardInterrupt:
        print("musicfm: interrupted", file=sys.stderr)
        raise SystemExit(130) from None


def escape_unprintable() -> None:
    """Let output escape characters that the terminal lacks, and bytes of file names that are not text."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def find_small_model(command: str, words: Sequence[str]) -> list[str]:
    """
    Replace `musicfm-small`, the name of the small model, with its folder, also in `musicfm-small/same_song`: after
    `--model`, `--models` and `--audio_model`, and among the models of `musicfm evaluate` and `musicfm export`. A
    folder of this name comes first.
    """
    from .. import SMALL_MODEL

    name = Path(SMALL_MODEL).name
    if Path(name).exists():
        return list(words)
    replaced: list[str] = []
    flag = "--models" if command in ("evaluate", "export") else ""
    for word in words:
        flag, equals, value = word.partition("=") if word.startswith("--") else (flag, "", word)
        first, *parts = value.split("/")
        is_model = first == name and flag in ("--model", "--models", "--audio_model")
        place = "/".join([SMALL_MODEL, *parts])
        replaced.append((f"{flag}=" if equals else "") + place if is_model else word)
    return replaced


def help_page() -> str:
    """Return the text of `musicfm --help`."""
    width = max(map(len, COMMANDS)) + 2
    lines = ["Usage: musicfm COMMAND [arguments]", "", "MusicFM in the Hugging Face ecosystem.", ""]
    for title, commands in SECTIONS.items():
        lines += [f"{title}:", *(f"  {name:{width}}{summary}" for name, summary in commands.items()), ""]
    lines += [EXAMPLES.rstrip(), "", "`musicfm COMMAND --help` describes a command and its flags."]
    return "\n".join(lines)
