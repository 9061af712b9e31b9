"""The memory allocator of a process that trains on a CPU."""

import ctypes
import os
import platform

# Parameters of mallopt, from malloc.h of the GNU C library.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4

# Variables with which a user chooses an allocator, or its settings.
_CHOICES = ("LD_PRELOAD", "GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_")


def keep_freed_memory() -> bool:
    """
    Let the GNU C library keep all memory that is freed, for the rest of the process. By default, it returns large
    blocks to the system, so each step of a training on a CPU waits for the system to clear the same pages again.

    Returns:
        Whether anything was changed: not with other C libraries, nor if the environment already selects an allocator
        or its settings.
    """
    if platform.libc_ver()[0] != "glibc" or any(os.environ.get(name) for name in _CHOICES):
        return False
    library = ctypes.CDLL(None)
    # Blocks of any size come from the heap, which never shrinks.
    return bool(library.mallopt(_M_MMAP_MAX, 0)) and bool(library.mallopt(_M_TRIM_THRESHOLD, -1))
