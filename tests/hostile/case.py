"""One hostile or broken input: how it is made, the command that opens it, and what that command must say."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CANARY = "canary-5f0c"
"""Text that only files outside the folder of a case hold: nothing may show it."""


@dataclass(frozen=True)
class Case:
    """An input and what becomes of it.

    Attributes
    ----------
    name : str
    make : callable
        Writes the input into a folder that is given; beside that folder lies ``outside``, which must stay as it is.
    line : str
        Command line; ``{here}`` is the folder, ``{shared}`` one with good inputs.
    code : int
        Exit code.
    words : tuple of str
        What the message, or the result, must hold.
    absent : tuple of str
        What neither the output nor a file that was written may hold.
    """

    name: str
    make: Callable[[Path], object]
    line: str
    code: int
    words: tuple[str, ...]
    absent: tuple[str, ...] = field(default=(CANARY,))


def deflated_zeros(wrapper: str, mebibytes: int) -> bytes:
    """A stream of zeros in gzip or zlib that never ends properly; 1 KiB of it holds a MiB."""
    start = {"zlib": b"\x78\x01", "gzip": b"\x1f\x8b\x08\0\0\0\0\0\0\xff"}[wrapper]
    coder = zlib.compressobj(9, zlib.DEFLATED, -15)
    return start + (coder.compress(bytes(2**20)) + coder.flush(zlib.Z_FULL_FLUSH)) * mebibytes


def made(write: Callable[..., Any], *arguments: Any, **changes: Any) -> Callable[[Path], Any]:
    """A function of the folder alone, which calls another with it and with these."""
    return lambda here: write(here, *arguments, **changes)
