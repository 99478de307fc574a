"""Masks of Scanco AIM files stored as run lengths, in two ways, decoded from the piece of the file that is asked for."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from tomoscale.errors import InputError
from tomoscale.geometry import Region, Shape, region_shape, three

PIECE_BYTES = 64 * 2**10
"""Run lengths are decoded in pieces of this: 16 MiB of voxels at most, since a byte stands for 254."""
_LONGEST = 254
_GOES_ON = 255


@dataclass(frozen=True)
class Runs:
    """Signed bytes stored as lengths of equal values, inside a margin of zeros that is not stored.

    Attributes
    ----------
    path : str
        Absolute.
    shape : (Z, Y, X)
    margin : (z, y, x)
        Voxels on both sides of each axis.
    start_bytes, stop_bytes : int
        Where in the file the lengths are.
    values : (int, int) or None
        The two values that take turns, where a byte is a length and 255 means 254 and no turn; None where each run is a
        value and its length.
    """

    path: str
    shape: Shape
    margin: Shape
    start_bytes: int
    stop_bytes: int
    values: tuple[int, int] | None

    @property
    def dtype(self) -> np.dtype[Any]:
        """Signed bytes."""
        return np.dtype(np.int8)

    @property
    def chunk_shape(self) -> Shape:
        """One plane: all of it is decoded on the way to the next."""
        return 1, self.shape[1], self.shape[2]

    @property
    def name(self) -> str:
        """Path, for messages."""
        return self.path

    @property
    def inner_shape(self) -> Shape:
        """Voxels inside the margin."""
        return three(n - 2 * m for n, m in zip(self.shape, self.margin, strict=True))

    def read(self, region: Region) -> np.ndarray:
        """Values of a region; the file is decoded from the piece that holds its first plane.

        Raises
        ------
        InputError
            If the file is gone or has changed.
        """
        result = np.zeros(region_shape(region), np.int8)
        inner = [
            slice(max(r.start - m, 0), min(r.stop - m, n))
            for r, m, n in zip(region, self.margin, self.inner_shape, strict=True)
        ]
        if any(r.start >= r.stop for r in inner):
            return result
        z, y, x = inner
        target = result[
            tuple(
                slice(i.start + m - r.start, i.stop + m - r.start)
                for i, m, r in zip(inner, self.margin, region, strict=True)
            )
        ]
        _, rows, width = self.inner_shape
        decoder = _Decoder(self)
        for number, plane in enumerate(range(z.start, z.stop)):
            first = (plane * rows + y.start) * width
            values = decoder.values(first, first + (y.stop - y.start) * width)
            target[number] = values.reshape(-1, width)[:, x]
        return result

    def identity(self) -> dict[str, Any]:
        """Name, size and time of the file, and how it is read."""
        stat = os.stat(self.path)
        return {
            "runs": Path(self.path).name,
            "start_bytes": self.start_bytes,
            "margin": list(self.margin),
            "bytes": stat.st_size,
            "mtime_ns": stat.st_mtime_ns,
        }


def run_lengths(path: Path, shape: Shape, margin: Shape, span: tuple[int, int, int], *, two_values: bool) -> Runs:
    """Volume stored as run lengths, after a pass that adds them up.

    Parameters
    ----------
    path : Path
    shape, margin : (z, y, x)
    span : (start, size, word)
        Where the block of the voxels begins, its bytes, and the bytes of its first number, which is its size again.
    two_values : bool
        See `Runs`.

    Raises
    ------
    InputError
        If the runs are not exactly as many voxels as the shape says.
    """
    start, size, word = span
    with path.open("rb") as file:
        file.seek(start)
        head = file.read(word + 2)
    used = int.from_bytes(head[:word], "little", signed=True)
    before = word + 2 * two_values
    # Half a run would be left over.
    if not before <= used <= size or (not two_values and (used - before) % 2):
        raise InputError(f"{path} says its run lengths take {used} bytes of a block of {size}: it is damaged")
    first, second = np.frombuffer(head[word:].ljust(2, b"\0"), np.int8, 2).tolist()
    runs = Runs(str(path), shape, margin, start + before, start + used, (first, second) if two_values else None)
    wanted = math.prod(runs.inner_shape)
    found = int(_Decoder(runs).places[-1])
    if found != wanted:
        raise InputError(
            f"{path} is truncated or damaged: its run lengths are {found} voxels, but {runs.inner_shape} (z, y, x) are {wanted}"
        )
    return runs


class _Decoder:
    """One pass forward through run lengths; keeps the piece it is at."""

    def __init__(self, runs: Runs) -> None:
        try:
            modified = os.stat(runs.path).st_mtime_ns
            self.places, self.turns = _pieces(
                runs.path, runs.start_bytes, runs.stop_bytes, runs.values is None, modified
            )
        except OSError as error:
            raise InputError(f"{runs.path} cannot be read any more: {error.strerror}") from None
        self.runs = runs
        self.number = -1
        self.piece = np.empty(0, np.int8)

    def values(self, first: int, last: int) -> np.ndarray:
        """Voxels `first` to `last` of the flat volume inside the margin: int8."""
        result = np.empty(last - first, np.int8)
        number = int(np.searchsorted(self.places, first, "right")) - 1
        done = 0
        while done < len(result):
            if number >= len(self.places) - 1:
                raise InputError(f"{self.runs.path} is shorter than when it was opened: open it again")
            begin = first + done - int(self.places[number])
            part = self._decode(number)[begin : begin + len(result) - done]
            result[done : done + len(part)] = part
            done += len(part)
            number += 1
        return result

    def _decode(self, number: int) -> np.ndarray:
        if number != self.number:
            start = self.runs.start_bytes + number * PIECE_BYTES
            codes = _codes(self.runs.path, start, min(PIECE_BYTES, self.runs.stop_bytes - start))
            if self.runs.values is None:
                self.piece = np.repeat(codes[0::2].view(np.int8), codes[1::2])
            else:
                turns = np.cumsum(codes != _GOES_ON, dtype=np.int64)
                second = (np.concatenate([[0], turns[:-1]]) + self.turns[number]) % 2
                self.piece = np.repeat(np.array(self.runs.values, np.int8)[second], np.minimum(codes, _LONGEST))
            self.number = number
        return self.piece


@lru_cache(maxsize=8)
def _pieces(path: str, start: int, stop: int, pairs: bool, modified: int) -> tuple[np.ndarray, np.ndarray]:
    """First voxel of each piece and, last, their number; and how often the value has turned before each piece, mod 2."""
    places, turns = [0], [0]
    for begin in range(start, stop, PIECE_BYTES):
        codes = _codes(path, begin, min(PIECE_BYTES, stop - begin))
        lengths = codes[1::2] if pairs else np.minimum(codes, _LONGEST)
        places.append(places[-1] + int(lengths.sum(dtype=np.int64)))
        turns.append((turns[-1] + int(np.count_nonzero(codes != _GOES_ON))) % 2)
    return np.array(places), np.array(turns)


def _codes(path: str, start: int, count: int) -> np.ndarray:
    codes = np.fromfile(path, np.uint8, count, offset=start)
    if len(codes) < count:
        raise InputError(f"{path} is shorter than when it was opened: open it again")
    return codes
