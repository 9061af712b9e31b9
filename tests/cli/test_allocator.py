"""Memory of processes that train on a CPU: kept between steps, unless the user chose an allocator."""

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs the GNU C library")

PROGRAM = """
import resource
import numpy
from musicfm_hf.cli.allocator import keep_freed_memory

print(keep_freed_memory())
for count in range(11):
    if count == 1:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = numpy.ones(16_000_000)  # 128 MB
    del block
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run(**variables):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "LD_"))}
    output = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment | variables, capture_output=True, text=True, check=True
    ).stdout.split()
    return output[0] == "True", int(output[1])


@pytest.mark.slow
def test_freed_memory_is_used_again():
    """Ten blocks of 128 MB touch no new page after the first one; by default, each is cleared by the system again."""
    changed, faults = run()
    assert changed
    assert faults < 1000
    changed, faults = run(MALLOC_TRIM_THRESHOLD_="131072")
    assert not changed
    assert faults > 10 * 16  # pages of at most 8 MB


@pytest.mark.parametrize("variable", [{"GLIBC_TUNABLES": "glibc.malloc.check=0"}, {"MALLOC_MMAP_MAX_": "100"}])
def test_the_choice_of_the_user_is_left_alone(variable):
    assert not run(**variable)[0]
