"""
Pretrain variants of an encoder, probe them, and report what each choice changes.

  musicfm study recipes/study.yaml --train data/pop909/train.txt --validation data/pop909/valid.txt \\
      --data data/pop909 --output_dir runs/study

STUDY is a YAML file, or the name of one of the package's: study (two cores) or study_full (the paper's size, on GPUs).
Its factors, such as the encoder or the tokens, have levels. A cell is one variant with one seed: a pretraining, and
probes of every layer for every task. By default, one factor at a time differs from the base; `--grid` combines all
levels. To resume an interrupted study, repeat the command: finished cells are not run again.

To share the cells between GPUs or machines, use accelerate, `--shard`, or both:

  accelerate launch --num_processes 8 -m musicfm_hf study study_full … --shard 1/2

The output folder holds `study.md`, `study.json` and `study.png`, the scores by layer (`layers.md`, `layers.png`), and
for each cell its results, its model and its probes.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .flags import command_parser, rename_flags, share_of_job, user_errors

if TYPE_CHECKING:
    from ..study.cells import Places
    from ..study.plan import Cell, Study

# Variables by which `accelerate launch` makes a process part of a group.
_OF_PROCESS_GROUP = (
    "RANK LOCAL_RANK GROUP_RANK ROLE_RANK WORLD_SIZE LOCAL_WORLD_SIZE GROUP_WORLD_SIZE ROLE_WORLD_SIZE MASTER_ADDR "
    "MASTER_PORT ACCELERATE_USE_FSDP ACCELERATE_USE_DEEPSPEED"
).split()


def main(argv: list[str]) -> None:
    """Run `musicfm study`."""
    from ..data.shares import WHOLE

    parser = command_parser("study", __doc__)
    parser.add_argument("study", metavar="STUDY", help="name of a study, or path to its YAML file")
    parser.add_argument("--train", nargs="+", default=[], help="music to pretrain on, as for `musicfm pretrain`")
    parser.add_argument("--validation", nargs="+", default=[], help="music to validate on; by default a share of it")
    parser.add_argument(
        "--data",
        nargs="+",
        default=[],
        metavar="DATA",
        help="labeled data set to probe on, a folder from `musicfm prepare`; TASK=FOLDER is for one task",
    )
    parser.add_argument("--output_dir", required=True, type=Path, help="folder for the study")
    parser.add_argument("--grid", action="store_true", help="combine all levels of all factors")
    parser.add_argument(
        "--only",
        nargs="+",
        action="append",
        default=[],
        metavar=("FACTOR", "LEVEL"),
        help="run only the cells with these levels of a factor; may be repeated",
    )
    parser.add_argument(
        "--shard",
        type=share_of_job,
        default=WHOLE,
        metavar="JOB/JOBS",
        help="part of the cells, such as 3/64 for the third of 64 jobs that write to one folder; all by default",
    )
    parser.add_argument("--plan", action="store_true", help="print the cells with estimated minutes, and run nothing")
    parser.add_argument("--report", action="store_true", help="only write the report on the cells that are finished")
    own = parser.parse_args(rename_flags(argv))
    process, processes = leave_process_group()
    with user_errors("Not finished"):
        _run(own, process, processes)


def leave_process_group() -> tuple[int, int]:
    """
    Return the index of this process and the number of processes, as `accelerate launch` passes them, and turn the
    process into one that trains on its own: each process runs whole cells, so none of them may wait for another. On
    a machine with accelerators, it sees only its own.
    """
    process, processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    local = os.environ.get("LOCAL_RANK")
    for name in _OF_PROCESS_GROUP:
        os.environ.pop(name, None)
    if processes > 1 and local is not None:
        devices = (os.environ.get("CUDA_VISIBLE_DEVICES") or local).split(",")
        os.environ["CUDA_VISIBLE_DEVICES"] = devices[int(local) % len(devices)]
    return process, processes


def _run(own: argparse.Namespace, process: int, processes: int) -> None:
    """Plan the cells, run those of this process, and write the report."""
    from ..data.task_data import one_data_set
    from ..study.cells import Places, parse_pretraining, run_study
    from ..study.plan import divide_cells, plan_cells, read_study
    from ..study.report import write_report
    from .training import prepare_process

    study = read_study(own.study)
    planned = plan_cells(study, own.grid)
    cells = plan_cells(study, own.grid, {words[0]: words[1:] for words in own.only})
    data, data_of_tasks = one_data_set(own.data, study.tasks)
    places = Places(own.train, own.validation, data, own.output_dir, data_of_tasks)
    of_process = divide_cells(cells, own.shard.job, own.shard.jobs, process, processes)
    if own.plan:
        _print_plan(study, of_process, places)
        return
    if not own.report and of_process:
        places.require()
        prepare_process(parse_pretraining(of_process[0], places)[2])
        run_study(study, of_process, places, _print_scores)
    if own.report or any(places.results(cell).is_file() for cell in planned):
        summary = write_report(study, planned, places)
        print("{finished} of {planned} cells are finished".format(**summary["cells"]), end=": ")
        print(places.output_dir / "study.md")


def _print_plan(study: "Study", cells: "Sequence[Cell]", places: "Places") -> None:
    """Print the cells with the estimated minutes of their pretraining."""
    from ..study.cost import estimate_minutes

    minutes = estimate_minutes(study, cells, places)
    width = max((len(cell.name) for cell in cells), default=0)
    for cell, estimate in zip(cells, minutes, strict=True):
        state = "finished" if places.results(cell).is_file() else "to run"
        time = "unknown" if estimate is None else f"{estimate:.0f} min"
        quantizer = "" if cell.quantizer is None else f"  quantizer {cell.quantizer}"
        print(f"{cell.name:{width}}  {time:>9} of pretraining  {state}{quantizer}")
    known = [estimate for estimate in minutes if estimate is not None]
    total = f"{sum(known) / 60:.1f} hours of pretraining" if len(known) == len(minutes) else "unknown duration"
    print(f"{len(cells)} cells, {total}; probes of {', '.join(study.tasks)} for each")


def _print_scores(cell: "Cell", results: "dict[str, Any]") -> None:
    """Print the test scores of a cell that was run."""
    scores = ", ".join(
        f"{task} {entry['layers']['test_of_best']['mean']:.3f}"
        for task, entry in results["tasks"].items()
        if entry["layers"]["best"] is not None
    )
    print(f"{cell.name}: {scores}", flush=True)
