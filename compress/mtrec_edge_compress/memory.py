"""Keep freed memory in the process: a training step on a CPU frees and asks again for the same large blocks.

glibc hands blocks of more than a few megabytes back to the kernel at once, and the next step pays a page fault for
every 4 KiB of them: a quarter to a third of a step's time, see docs/decisions.md.
"""

import ctypes
import platform

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3  # mallopt(3)
NEVER = 2**31 - 1
LARGEST_BLOCK = 2**30  # bytes; what is larger comes from the kernel each time
PAD = 2**26  # bytes asked of the kernel at once


def keep_freed_memory() -> bool:
    """Tell the C library; return whether there was one that listens (glibc). Any other is left alone."""
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = ((MMAP_THRESHOLD, LARGEST_BLOCK), (TRIM_THRESHOLD, NEVER), (TOP_PAD, PAD))
    heard = [mallopt(name, value) == 1 for name, value in settings]
    return all(heard)
