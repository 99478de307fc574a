"""Where the frames of a ledger are kept: in one file that grows, or as numbered objects.

.. code-block:: text

    blocks.log                      of a folder: one frame behind the other
    blocks/000000001.frame ...      in a bucket: one frame an object, each put only where there is none of that number

A run that takes the lease opens its part of the log with an empty frame that names it, by a number it drew. What a
former run, which slept meanwhile, writes behind that counts for nothing: its frames name another run and are passed
over. Nearly always it writes none, since it finds that frame, or in a bucket its next number taken. So no block is
recorded by two runs, whenever one wakes.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from tomoscale.bucket_path import BucketPath
from tomoscale.errors import IntegrityError, Interrupted
from tomoscale.frames import RECORD, Frame, frames_in
from tomoscale.lease import output_of
from tomoscale.places import Place

LOG = "blocks.log"
FRAMES = "blocks"
AHEAD = 8
AHEAD_BYTES = 2**26
"""Frames of a bucket that are read at once, and bytes after which no further one is."""
MAX_FRAME_BYTES = 2**30
_NAME = re.compile(r"(\d{9})\.frame")
LONGEST_SECONDS = 60.0
SHARE = 0.01
"""In a bucket a frame is written once a second, then less often, so that a hundredth of the time a run took can be lost
by a crash, but no more than the time above: 10^6 blocks in a day are some 1,800 objects."""


class BlockLog(Protocol):
    """Frames of a ledger, in the order they were written."""

    def frames(self, start: int = 0) -> Iterator[Frame]:
        """Frames from a position on, those of former runs that slept included."""

    def begin(self, frame: bytes) -> None:
        """Open the part of a run behind all that is there, with its empty frame."""

    def append(self, frame: bytes) -> None:
        """Add a frame to the part of this run; `OSError` leaves nothing of it."""

    def due(self, since_begin: float, since_frame: float) -> bool:
        """Whether what is finished should be written now, after so many seconds."""

    def sync(self) -> None:
        """Put what was written on disk."""

    def first_run(self) -> int | None:
        """Which run began the log; None where there is none."""


def log_of(folder: Place) -> BlockLog:
    """Log of a ledger."""
    return ObjectLog(folder) if isinstance(folder, BucketPath) else FileLog(folder / LOG)


def counting(frames: Iterator[Frame], run: int | None = None) -> Iterator[Frame]:
    """Frames that count, behind those of `run`: none of a run that slept until another had taken over."""
    for frame in frames:
        run = frame.run if not len(frame.records) else run
        if frame.run == run:
            yield frame


def has_begun(folder: Place) -> bool:
    """Whether any block was done in a run: until then its results cannot mix with those of another plan."""
    return any(len(frame.records) for frame in counting(log_of(folder).frames()))


class Follower:
    """Reads what is added to the log of a run: counts are not unpacked, and nothing is read again.

    Parameters
    ----------
    folder : Place
        Of the ledger.
    """

    def __init__(self, folder: Place) -> None:
        self.log = log_of(folder)
        self.begin()

    def begin(self) -> None:
        """Read from the beginning."""
        self.first, self.end = self.log.first_run(), 0
        self.run: int | None = None

    def begun_anew(self) -> bool:
        """Whether this is another log than the one read so far: the output was removed, and a new one begun."""
        first = self.log.first_run()
        return first is not None and first != self.first

    def records(self) -> np.ndarray:
        """Records that were added since the last time: (n,) array of `RECORD`."""
        found = [np.zeros(0, RECORD)]
        for frame in counting(self.log.frames(self.end), self.run):
            found.append(frame.records.copy())
            self.end, self.run = frame.end, frame.run
        return np.concatenate(found)


@dataclass
class FileLog:
    """Frames behind each other in a file.

    What a crash cut off, or a write that failed, is removed before the next frame is written; nothing else ever is, since
    a run that slept does not know what another has added.
    """

    path: Path
    end: int = 0
    torn: bool = False

    def frames(self, start: int = 0) -> Iterator[Frame]:
        """Frames from a byte on, up to the first that is not whole."""
        if not self.path.exists() or self.path.stat().st_size <= start:
            return iter(())
        # Mapped, not read: a log of histograms may be larger than memory.
        return frames_in(memoryview(np.memmap(self.path, np.uint8, "r")), start)  # type: ignore[arg-type]

    def begin(self, frame: bytes) -> None:
        """Write the empty frame of a run behind the last whole one."""
        self.end, self.torn = max((f.end for f in self.frames()), default=0), True
        self.append(frame)

    def append(self, frame: bytes) -> None:
        """Append a frame.

        Raises
        ------
        Interrupted
            If another run has opened its part: it has taken over.
        """
        with self.path.open("ab") as file:
            if file.tell() > self.end:
                # What another run wrote behind a frame of ours that failed must not be taken for a part of that.
                if any(not len(added.records) for added in self.frames(self.end)):
                    raise _taken_over(self.path.parent)
                if self.torn:
                    os.truncate(self.path, self.end)
                    file.seek(0, os.SEEK_END)
            self.end, self.torn = file.tell(), True
            file.write(frame)
            file.flush()
            self.end = file.tell()
        self.torn = False

    def due(self, since_begin: float, since_frame: float) -> bool:
        """Tell that every frame is written at once."""
        return True

    def sync(self) -> None:
        """Put the file on disk."""
        if self.path.exists():
            with self.path.open("rb") as file:
                os.fsync(file.fileno())

    def first_run(self) -> int | None:
        """Which run wrote the first frame."""
        first = next(self.frames(), None)
        return None if first is None else first.run


@dataclass
class ObjectLog:
    """Frames as numbered objects of a bucket."""

    folder: BucketPath
    end: int = 0

    def frames(self, start: int = 0) -> Iterator[Frame]:
        """Frames behind a number, some read ahead.

        Raises
        ------
        IntegrityError
            If one is not what was written: a server gives an object whole or not at all.
        """
        waiting: deque[tuple[int, int, Future[bytes]]] = deque()
        with ThreadPoolExecutor(AHEAD) as pool:
            for number, size in self._numbers(start):
                while waiting and (len(waiting) == AHEAD or sum(w[1] for w in waiting) + size > AHEAD_BYTES):
                    yield self._frame(*waiting.popleft())
                waiting.append((number, size, pool.submit(self._place(number).read_bytes)))
            while waiting:
                yield self._frame(*waiting.popleft())

    def begin(self, frame: bytes) -> None:
        """Put the empty frame of a run behind all there are; what a former run adds meanwhile lies before it."""
        while True:
            self.end = max((number for number, _ in self._numbers(self.end)), default=self.end) + 1
            if self._place(self.end).create(frame) is not None:
                return

    def append(self, frame: bytes) -> None:
        """Put a frame of the next number.

        Raises
        ------
        Interrupted
            If another run has taken over.
        """
        while self._place(self.end + 1).create(frame) is None:
            taken = self._place(self.end + 1).read_bytes()
            if not any(len(f.records) for f in frames_in(memoryview(taken), 0)):
                raise _taken_over(self.folder)
            # Of a run that slept while the output was removed and begun anew: it counts for nothing.
            self.end += 1
        self.end += 1

    def due(self, since_begin: float, since_frame: float) -> bool:
        """Tell whether enough has come together, or enough time has passed, for one more object."""
        return since_frame >= min(max(1.0, SHARE * since_begin), LONGEST_SECONDS)

    def sync(self) -> None:
        """Do nothing: an object is there once it was put."""

    def first_run(self) -> int | None:
        """Which run put the first frame."""
        try:
            first = next(frames_in(memoryview(self._place(1).read_bytes()), 0), None)
        except FileNotFoundError:
            return None
        return None if first is None else first.run

    def _place(self, number: int) -> BucketPath:
        return self.folder / FRAMES / _name(number)

    def _numbers(self, start: int) -> Iterator[tuple[int, int]]:
        """Numbers of the frames behind one, and their sizes in bytes."""
        for name, stored in (self.folder / FRAMES).below(_name(start) if start else ""):
            match = _NAME.fullmatch(name)
            if match is None or stored.size > MAX_FRAME_BYTES:
                raise _damaged(self.folder / FRAMES / name)
            yield int(match[1]), stored.size

    def _frame(self, number: int, size: int, content: Future[bytes]) -> Frame:
        data = content.result()
        frames = list(frames_in(memoryview(data), 0))
        if len(frames) != 1 or frames[0].end != len(data):
            raise _damaged(self._place(number))
        return frames[0]._replace(end=number)


def _taken_over(folder: Place) -> Interrupted:
    return Interrupted(
        f"{output_of(folder)} is not this run's any more: it was silent for too long and another run took over; `tomoscale status` "
        "shows who writes it"
    )


def _name(number: int) -> str:
    return f"{number:09d}.frame"


def _damaged(place: BucketPath) -> IntegrityError:
    return IntegrityError(
        f"{place} is damaged or no record of finished blocks: remove the output and run its command again"
    )
