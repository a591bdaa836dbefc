"""malloc of this rank, settled by the run itself: it keeps what is freed, for the next step takes as much again.

glibc moves its two thresholds by what has been freed before, so of two equal processes one may give memory back and fault it in
again at every step while the other does not: from 0 to 13,000 page faults a step of the smallest preset, 8 % of its time, were
seen between ranks that differed in nothing but their launch. mallopt(3): a threshold that is set no longer moves.
"""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
MOST_MAPPED = 32 * 2**20  # the most that mallopt takes: larger blocks are mapped one by one, and go back when freed
NEVER = 2**31 - 1


def keep_freed() -> bool:
    """Whether malloc took it; another C library than glibc keeps its own counsel. Call before a window, not in it."""
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, MOST_MAPPED)) and bool(mallopt(M_TRIM_THRESHOLD, NEVER))
