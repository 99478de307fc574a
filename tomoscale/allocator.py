"""How this process gives memory back to the system, so that its peak is what its blocks hold and not what they held."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress
from functools import cache

MMAP_THRESHOLD, ARENA_MAX = -3, -8
"""Parameters of glibc's ``mallopt``."""


@cache
def return_freed_blocks() -> None:
    """Let arrays of 4 MiB and more be returned to the system when they are freed; where there is no glibc, do nothing.

    By default glibc raises that limit to 32 MiB as it goes, and blocks below it leave holes in up to eight heaps per
    core. Measured on 320^3 voxels in 160^3 blocks: peaks of 416, 296, 440 and 373 MiB became 357, 250, 345 and 283, in
    the same time (a limit of 256 KiB took 30 % longer, since chunks too were then mapped anew).
    """
    if not sys.platform.startswith("linux"):
        return
    with suppress(AttributeError, OSError):
        libc = ctypes.CDLL(None)
        libc.mallopt(MMAP_THRESHOLD, 4 * 2**20)
        libc.mallopt(ARENA_MAX, 4)
