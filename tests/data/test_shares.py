"""Shares of a catalog, and the order in which songs are decoded."""

import hashlib
import os
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.audio import encode

from musicfm_hf.data.decoding import SongLoader
from musicfm_hf.data.shares import WHOLE, Share

SONGS = [(f"album {number % 7}/song {number}.mp3", None) for number in range(500)]


def names_of(share: Share, songs=SONGS) -> list[str]:
    return [songs[position][0] for position in share.select(songs)]


def test_every_song_has_one_job():
    parts = [names_of(Share(job, 8)) for job in range(1, 9)]
    assert sorted(name for part in parts for name in part) == sorted(name for name, _ in SONGS)
    # 62.5 on average, with a standard deviation of 7.4
    assert all(40 < len(part) < 85 for part in parts)
    assert names_of(WHOLE) == [name for name, _ in SONGS]


def test_the_job_of_a_song_is_the_remainder_of_a_digest_of_its_name():
    """Jobs of different versions have to agree, so the rule does not change."""
    for name, _ in [*SONGS[:20], ("Für Elise \udcff.wav", None)]:
        digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
        (job,) = [job for job in range(1, 65) if Share(job, 64).select([(name, None)]) == [0]]
        assert job == int(digest, 16) % 64 + 1


def test_songs_that_come_and_go_move_no_other_song():
    changed = [("new.wav", None), *SONGS[100:], ("newer.wav", None)]
    for job in (1, 2, 3):
        stay = [name for name in names_of(Share(job, 3)) if (name, None) in SONGS[100:]]
        assert [name for name in names_of(Share(job, 3), changed) if "new" not in name] == stay


def test_processes_take_the_songs_of_a_job_in_turn():
    job = Share.parse("2/3")
    first, second = (names_of(job._replace(process=process, processes=2)) for process in (0, 1))
    assert first == names_of(job)[::2]
    assert second == names_of(job)[1::2]


@pytest.mark.parametrize("text", ["0/64", "65/64", "3", "3/", "a/b", "-1/3", "1/0", "1.5/3", ""])
def test_what_is_not_a_share_is_explained(text):
    with pytest.raises(ValueError, match="number of this job, from 1, and the number of jobs, such as 3/64"):
        Share.parse(text)


def waveforms(lengths) -> list[tuple[str, bytes]]:
    return [(str(number), encode(np.full(length, 0.5), 24000, "WAV")) for number, length in enumerate(lengths)]


class Wait:
    """Waits in a worker until a file exists, with audio of one length; a song that waits in vain is unusable."""

    def __init__(self, path: Path, length: int):
        self.path, self.length = path, length

    def __call__(self, audio: np.ndarray) -> np.ndarray:
        end = time.monotonic() + 60
        while len(audio) == self.length and not self.path.exists():
            if time.monotonic() > end:
                raise ValueError("nobody wrote the file")
            time.sleep(0.01)
        return audio


def test_no_song_waits_for_a_slow_one(tmp_path):
    """The first song cannot be decoded before the last one was received."""
    sources = waveforms([100, 1, 2, 3, 4, 5])
    loader = SongLoader(sources, 24000, 1, 2, Wait(tmp_path / "done", 100), in_order=False)
    received = []
    for song in loader:
        received.append(song.name)
        if song.name == "5":
            (tmp_path / "done").touch()
    assert sorted(received) == ["0", "1", "2", "3", "4", "5"]
    assert received.index("5") < received.index("0")
    assert loader.problems == []


def test_songs_are_decoded_while_the_caller_works(tmp_path):
    class Note:
        def __call__(self, audio):
            (tmp_path / f"{len(audio)} {os.getpid()}").touch()
            return audio

    songs = iter(SongLoader(waveforms([1, 2, 3]), 24000, 1, 1, Note()))
    assert next(songs).name == "0"
    end = time.monotonic() + 60
    while not list(tmp_path.glob("3 *")):  # nobody has asked for the third song
        assert time.monotonic() < end
        time.sleep(0.01)
    assert [song.name for song in songs] == ["1", "2"]
    assert not list(tmp_path.glob(f"* {os.getpid()}"))


def test_one_song_is_decoded_without_a_worker():
    """Starting one would take longer than most songs do."""
    pids = []
    (song,) = SongLoader(waveforms([7]), 24000, 1, 3, lambda audio: pids.append(os.getpid()) or audio)
    assert (song.name, pids) == ("0", [os.getpid()])
