"""Processes that tests start and kill. A fork server that has imported the libraries forks them."""

import contextlib
import gc
import multiprocessing
import os
import runpy
import signal
import socket
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from .paths import ROOT

PRELOADED = "torch datasets peft pytest matplotlib.figure matplotlib.backends.backend_agg sklearn.cluster"
PRELOADED += " torch.utils.tensorboard musicfm_hf.training.trainer musicfm_hf.training.curves musicfm_hf.hub.push"
PRELOADED += " musicfm_hf.pretraining.data musicfm_hf.pretraining.trainer musicfm_hf.pretraining.quantizers"
PRELOADED += " musicfm_hf.finetuning.run"


class Server:
    """Starts functions, and scripts of the repository, in processes of their own."""

    def __init__(self):
        self.context = multiprocessing.get_context("forkserver")
        modules = PRELOADED.split()
        missing = [name for name in modules if find_spec(name) is None]
        if missing:  # which the server would ignore
            raise ModuleNotFoundError(f"PRELOADED names modules that do not exist: {', '.join(missing)}")
        self.context.set_forkserver_preload(modules)

    def start(self, function: Callable, *arguments, log: Path, environment: dict[str, str] | None = None):
        """Start a process with a process group of its own, whose output goes to a file."""
        log.parent.mkdir(parents=True, exist_ok=True)
        log.unlink(missing_ok=True)
        process = self.context.Process(target=_prepare, args=(log, environment or {}, function, arguments))
        process.start()
        return process

    def start_script(self, script: str, *arguments, **options):
        """Start a script of `recipes/` in the same way."""
        arguments = [str(argument) for argument in (ROOT / "recipes" / script, *arguments)]
        return self.start(run_script, arguments, **options)

    def end(self, process, log: Path, seconds: float = 300) -> tuple[int, str]:
        """Wait for a process; return its exit status and what it printed."""
        process.join(seconds)
        if process.is_alive():
            os.killpg(process.pid, signal.SIGKILL)
            process.join()
        return process.exitcode, log.read_text() if log.is_file() else ""

    def run(self, function: Callable, *arguments, log: Path, **options) -> tuple[int, str]:
        return self.end(self.start(function, *arguments, log=log, **options), log)

    def run_script(self, script: str, *arguments, log: Path, **options) -> tuple[int, str]:
        return self.end(self.start_script(script, *arguments, log=log, **options), log)


def start_server() -> Server:
    """Start the fork server, in the root of the repository and without network."""
    with pytest.MonkeyPatch.context() as patch:  # it starts with its first process
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.chdir(ROOT)
        server = Server()
        server.context.Process(target=int).start()
    return server


def _prepare(log: Path, environment: dict[str, str], function: Callable, arguments: tuple) -> None:
    gc.freeze()  # what the server has imported need not be searched for garbage
    os.setsid()
    os.chdir(ROOT)
    multiprocessing.set_start_method("fork", force=True)  # as in a process that nobody forked
    os.environ.update(environment)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    torch.set_num_threads(1)
    function(*arguments)


def run_script(arguments: list[str]) -> None:
    """Run a script in this process; its path is the first argument."""
    sys.argv = arguments
    runpy.run_path(arguments[0], run_name="__main__")


def on_ranks(
    server: Server, function: Callable, *arguments, log: Path, count: int = 2, environments=None
) -> list[tuple[int, str]]:
    """Run a function in processes that find each other; return the exit status and the output of each."""
    with contextlib.closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(count):
        environment = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        environment |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        environment |= (environments or {}).get(rank, {})
        path = log.with_name(f"{log.name}.{rank}")
        processes.append((server.start(function, *arguments, log=path, environment=environment), path))
    return [server.end(process, path, 240) for process, path in processes]
