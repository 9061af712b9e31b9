"""Flags and error handling that the commands share."""

import argparse
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..training.deprecation import REMOVED_IN

if TYPE_CHECKING:
    import torch
    from accelerate import PartialState

    from ..data.shares import Share
    from ..hub.commits import HubTarget
    from ..model.int8_musicfm import MusicFMInt8Config

MOST_LISTED = 20  # songs with problems


def command_parser(command: str, description: str | None) -> argparse.ArgumentParser:
    """Create the parser of a command, with a description that is printed without reformatting."""
    return argparse.ArgumentParser(
        prog=f"musicfm {command}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def rename_flags(argv: Sequence[str], renamed: Mapping[str, str] | None = None) -> list[str]:
    """
    Replace flags of earlier releases with their current spelling, with a `FutureWarning`. Hyphens become underscores,
    and `renamed` maps old names to new ones, both with underscores and leading `--`.
    """
    words: list[str] = []
    for index, word in enumerate(argv):
        if word == "--":
            return [*words, *argv[index:]]
        flag, equals, value = word.partition("=")
        if flag.startswith("--"):
            present = "--" + flag[2:].replace("-", "_")
            present = (renamed or {}).get(present, present)
            if present != flag:
                warnings.warn(
                    f"{flag} is now {present}; the old spelling will be removed in {REMOVED_IN}.",
                    FutureWarning,
                    stacklevel=2,
                )
            word = present + equals + value
        words.append(word)
    return words


@contextmanager
def user_errors(failure: str) -> Iterator[None]:
    """Exit with a message instead of a traceback for errors that the user can fix."""
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        raise SystemExit(f"{failure}: {error}") from error


def positive(text: str) -> int:
    """Parse the value of a flag that takes an integer of at least 1."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def songs_in_words(count: int) -> str:
    """Return a number of songs, such as "1 song"."""
    return f"{count} song{'' if count == 1 else 's'}"


def report_problems(
    problems: Sequence[tuple[str, str]], total: int, output_dir: Path, share: "Share | None" = None
) -> None:
    """
    Write the songs with problems to `problems.tsv`, or to a file of the job if it has a share of a catalog, and print
    the first of them. If all songs have problems, exit with status 1.
    """
    from ..training.files import write_table

    problems = sorted(problems)
    job = "" if share is None or share.is_whole else f"-{share.job}-of-{share.jobs}"
    path = output_dir / f"problems{job}.tsv"
    write_table(path, problems)
    print(f"{songs_in_words(total)}, {len(problems)} with problems" + (":" if problems else ""))
    for name, problem in problems[:MOST_LISTED]:
        print(f"  {name}\t{problem}")
    if len(problems) > MOST_LISTED:
        print(f"  … and {len(problems) - MOST_LISTED} more in {path}")
    if problems and len({name for name, _ in problems}) == total:
        raise SystemExit(1)


def add_window_flags(parser: argparse.ArgumentParser, batch_size: int) -> None:
    """Add the flags for encoding long audio in windows."""
    parser.add_argument("--batch_size", type=positive, default=batch_size, help="windows encoded at once")
    parser.add_argument("--window_seconds", type=float, help="length of a window; by default, the model's own")
    parser.add_argument("--overlap_seconds", type=float, help="overlap of windows; a sixth of the window by default")


def add_catalog_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags for reading a catalog, and for dividing it among jobs."""
    from ..data.shares import WHOLE

    parser.add_argument("--num_workers", type=int, default=1, help="processes that decode audio while the model runs")
    parser.add_argument(
        "--shard",
        type=share_of_job,
        default=WHOLE,
        metavar="JOB/JOBS",
        help="part of the catalog, such as 3/64 for the third of 64 jobs that write to one folder; all by default",
    )


def share_of_job(text: str) -> "Share":
    """Parse the value of `--shard`."""
    from ..data.shares import Share

    try:
        return Share.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def share_of_process(job: "Share", state: "PartialState") -> "Share":
    """Return the share of this process in that of its job."""
    return job._replace(process=state.process_index, processes=state.num_processes)


def add_hub_flags(parser: argparse.ArgumentParser) -> None:
    """Add the Hub flags of Transformers' `TrainingArguments` to a command without a Trainer."""
    from transformers.utils import strtobool

    parser.add_argument("--push_to_hub", action="store_true", help="push the result to the Hub")
    parser.add_argument("--hub_model_id", help="ID of the repository; the name of the output folder by default")
    parser.add_argument("--hub_private_repo", type=strtobool, help="true (the default) or false, for a new repository")
    parser.add_argument("--hub_revision", help="branch, created if it does not exist; main by default")
    parser.add_argument("--hub_token", help="access token; that of `hf auth login` by default")


def share_result(folder: str | Path, target: "HubTarget | None") -> None:
    """
    Write the card of a result and, with a target, push it and print the URL of the commit. If the push fails, the
    message explains how to push the folder later.
    """
    from ..hub.push import push_result

    try:
        address = push_result(folder, target)
    except (ValueError, OSError) as error:
        raise SystemExit(str(error)) from error
    if address is not None:
        print(address)


def add_device_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags for the dtype and the device of a model."""
    parser.add_argument(
        "--dtype",
        choices=["float32", "bfloat16", "float16", "auto"],
        default="float32",
        help="float32 by default; auto chooses what is fastest on the device, also int8, after a short measurement",
    )
    parser.add_argument(
        "--quantize",
        choices=["int8"],
        help="compute the encoder in int8, which is faster on a CPU but rounds; off by default",
    )
    add_device_flag(parser)


def add_device_flag(parser: argparse.ArgumentParser) -> None:
    """Add the flag for the device of a model."""
    parser.add_argument("--device", type=_device, help="for example cpu or cuda:1; the first accelerator by default")


def _device(text: str) -> str:
    """Parse the name of a device of PyTorch that this machine has."""
    import torch

    try:
        torch.zeros(1, device=text)
    except (RuntimeError, AssertionError) as error:  # for unknown names, and for CUDA in a build without it
        kind = torch.accelerator.current_accelerator()
        others = [f"{kind.type}:{number}" for number in range(torch.accelerator.device_count())] if kind else []
        message = f"{text!r} is not a device of this machine, which has {', '.join(['cpu', *others])}"
        raise argparse.ArgumentTypeError(message) from error
    return text


def model_precision(
    arguments: argparse.Namespace,
    find_models: Callable[[], Sequence[str]],
    device: "str | torch.device",
    state: "PartialState",
) -> dict[str, Any]:
    """
    Return the dtype and the `quantization_config` for `--dtype` and `--quantize`. For `auto`, the main process chooses
    what is fastest for the widest of the models, so that all processes have the same; `find_models` is called only
    then. Beside exported models, which have a precision of their own, it is float32.

    Raises:
        ValueError: `auto` with `--shard`, because jobs on different machines could choose differently.
        OSError: if a model does not exist.
    """
    import torch

    from ..inference.precision import quantization_config

    quantization = quantization_config(arguments.quantize, device)
    is_auto = arguments.dtype == "auto"
    precision = {
        "dtype": torch.float32 if is_auto else getattr(torch, arguments.dtype),
        "quantization_config": quantization,
    }
    if not is_auto or quantization is not None:
        return precision
    if not arguments.shard.is_whole:
        raise ValueError(
            "`--dtype auto` may choose differently on the machines of several jobs. With `--shard`, pass `--dtype "
            "float32`, `--dtype bfloat16` or `--quantize int8`, the same for all jobs."
        )
    return precision | _fastest_precision(find_models(), device, state)


def _fastest_precision(
    models: Sequence[str], device: "str | torch.device", state: "PartialState"
) -> "dict[str, torch.dtype | MusicFMInt8Config]":
    """Return what the main process finds fastest for the widest of the models that are not int8 models already."""
    from accelerate.utils import broadcast_object_list

    from ..inference.annotators import load_config
    from ..inference.exported import is_exported
    from ..inference.precision import fastest_precision
    from ..model.int8_musicfm import is_int8

    if any(map(is_exported, models)):
        return {}
    configs = [config for config in map(load_config, models) if not is_int8(config)]
    if not configs:
        return {}
    widest = max(configs, key=_width)
    return broadcast_object_list([fastest_precision(widest, device) if state.is_main_process else None])[0]


def _width(config: Any) -> int:
    """Return the size of the frames of an encoder or an audio tower."""
    encoder: Any = getattr(config, "audio_config", config)
    return encoder.hidden_size


def add_task_file_flag(parser: argparse.ArgumentParser) -> None:
    """Add the flag for tasks that are defined outside the package."""
    parser.add_argument(
        "--task_file", action="append", default=[], metavar="FILE", help="Python file that defines an additional TASK"
    )
