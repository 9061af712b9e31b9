"""Songs that are decoded in processes which are killed."""

import os
import signal
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile

from musicfm_hf.data.decoding import SongLoader

RATE = 8000
COUNT = 12


@pytest.fixture
def sources(tmp_path):
    """Songs of 1000, 1001, … samples."""
    paths = [tmp_path / f"{number}.wav" for number in range(COUNT)]
    for number, path in enumerate(paths):
        soundfile.write(path, np.zeros(1000 + number), RATE)
    return [(path.stem, str(path)) for path in paths]


def crash(waveform, numbers, once=None):
    """Return the number of a song, or kill the process, for each song of some numbers or `once`."""
    number = len(waveform) - 1000
    if number in numbers and not (once and once.exists()):
        if once:
            once.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.parametrize("in_order", [True, False])
def test_a_song_that_ends_its_process_is_unusable(sources, in_order):
    bad = {0, 5, 6, COUNT - 1}
    loader = SongLoader(sources, RATE, num_workers=2, transform=partial(crash, numbers=bad), in_order=in_order)
    songs = [song.content for song in loader]
    good = [number for number in range(COUNT) if number not in bad]
    assert (songs if in_order else sorted(songs)) == good
    assert {int(name) for name, _ in loader.unusable} == bad
    path = dict(sources)["5"]
    problem = f"{path} ended the process that decoded it: the file may be damaged, or memory may be short."
    assert ("5", problem) in loader.problems


def test_a_process_that_is_killed_once_costs_no_song(sources, tmp_path):
    transform = partial(crash, numbers={3}, once=tmp_path / "once")
    loader = SongLoader(sources, RATE, num_workers=2, transform=transform)
    assert [song.content for song in loader] == list(range(COUNT))
    assert loader.problems == []
    assert (tmp_path / "once").is_file()


def note_process(waveform, folder):
    (folder / str(os.getpid())).touch()
    return waveform


def end_while_decoding(sources, folder):
    for _ in SongLoader(sources, RATE, num_workers=2, transform=partial(note_process, folder=folder)):
        os.kill(os.getpid(), signal.SIGKILL)


def is_running(process: str) -> bool:
    status = Path("/proc", process, "stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_processes_end_with_their_parent(sources, tmp_path, server):
    folder = tmp_path / "processes"
    folder.mkdir()
    code, log = server.run(end_while_decoding, sources, folder, log=tmp_path / "log")
    assert code == -signal.SIGKILL, log
    processes = os.listdir(folder)
    assert processes
    until = time.monotonic() + 30
    while any(map(is_running, processes)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(is_running, processes))
