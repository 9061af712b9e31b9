"""Division of a catalog among the jobs of a cluster, and among the processes of a job."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from .identity import digest


class Share(NamedTuple):
    """
    The part of a catalog that one process works on. By default, all of it.

    A digest of the name of a song, which is its path relative to the folder, selects its job. Songs that are added or
    removed therefore move no other song to another job, and jobs that list a growing folder at different times neither
    omit a song nor do one twice. In return, jobs have somewhat different numbers of songs. The processes of a job, as
    `accelerate launch` starts them, take its songs in turn.

    Attributes:
        job (`int`): Number of the job, from 1 to `jobs`.
        jobs (`int`): Number of jobs.
        process (`int`): Number of the process in its job, from 0.
        processes (`int`): Number of processes of the job.
    """

    job: int = 1
    jobs: int = 1
    process: int = 0
    processes: int = 1

    @classmethod
    def parse(cls, text: str) -> "Share":
        """
        Parse the share of a job, such as `3/64`.

        Raises:
            ValueError: the text has another form, or the number of the job is not from 1 to the number of jobs.
        """
        match = re.fullmatch(r"(\d+)/(\d+)", text.strip())
        job, jobs = (int(match[1]), int(match[2])) if match else (0, 0)
        if not 1 <= job <= jobs:
            raise ValueError(
                f"{text!r} is not a share: write the number of this job, from 1, and the number of jobs, such as 3/64 "
                "for the third of 64 jobs."
            )
        return cls(job, jobs)

    @property
    def is_whole(self) -> bool:
        """True if there is one job, which has the whole catalog."""
        return self.jobs == 1

    def select(self, sources: Sequence[tuple[str, Any]]) -> list[int]:
        """Return the positions of the songs of this share in a catalog of `(name, source)`."""
        positions = [position for position, (name, _) in enumerate(sources) if self._has(name)]
        return positions[self.process :: self.processes]

    def _has(self, name: str) -> bool:
        """Return whether a song belongs to the job."""
        key = name.encode("utf-8", "surrogateescape")
        return self.is_whole or int(digest(key), 16) % self.jobs == self.job - 1


WHOLE = Share()
