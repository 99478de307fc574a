"""What every block of a run is doing, told by the files of its record, so that whoever watches asks nobody.

.. code-block:: text

    done                           the log of blocks, which only grows: a look reads what was added since the last
    running, to be tried again     the last line of progress.jsonl, while a living process holds the lease
    set aside                      the same line; when the run has ended, failures.json
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from tomoscale.block_log import LOG, Follower
from tomoscale.bucket_path import BucketPath
from tomoscale.errors import IntegrityError
from tomoscale.geometry import Grid, three
from tomoscale.lease import lease_owner
from tomoscale.places import Place
from tomoscale.plan_record import read_plan

WAITING, DONE, RUNNING, AGAIN, ASIDE = range(5)
STATES = ("waiting", "done", "running", "to be tried again", "set aside")
FILE = "progress.jsonl"
TAIL_BYTES = 8192
"""Read from the end of ``progress.jsonl``: more than its last two lines."""
MOST_SPANS = 32
"""Of each kind in a line of ``progress.jsonl``; more are left out, and their blocks are shown as waiting."""

Spans = list[list[int]]
"""Blocks as (first number, how many)."""


class RunBlocks:
    """Follows the blocks of a run through its files.

    Parameters
    ----------
    folder : Path or BucketPath
        Of the ledger.

    Raises
    ------
    IntegrityError
        If the folder holds no plan with a grid.
    """

    def __init__(self, folder: Place) -> None:
        self.folder = folder
        self.counts = grid_counts(folder)
        self._done = np.full(int(np.prod(self.counts)), WAITING, np.uint8)
        self._log = Follower(folder)

    def look(self) -> np.ndarray:
        """State of every block now: (z, y, x) uint8 array of `WAITING` ... `ASIDE`.

        Raises
        ------
        IntegrityError
            If the log names a block that does not exist.
        """
        self._read_log()
        states = self._done.copy()
        # Nobody holds the lease of a run that was killed: what it last said of itself is no longer so.
        last = last_line(self.folder) if lease_owner(self.folder) is not None else {}
        for name, state in (("running", RUNNING), ("again", AGAIN), ("set_aside", ASIDE)):
            self._mark(states, numbers_of(last.get(name), states.size), state)
        if not last:
            self._mark(states, np.array([n for n in failures_of(self.folder) if n < states.size], np.intp), ASIDE)
        return states.reshape(self.counts)

    def _read_log(self) -> None:
        if self._log.begun_anew():
            self._log.begin()
            self._done[:] = WAITING
        numbers = self._log.records()["number"].astype(np.intp)
        if numbers.size and numbers.max() >= self._done.size:
            raise IntegrityError(
                f"{self.folder / LOG} names block {numbers.max()} of {self._done.size}: it was changed by hand"
            )
        self._done[numbers] = DONE

    @staticmethod
    def _mark(states: np.ndarray, numbers: np.ndarray, state: int) -> None:
        # The line is up to a second old: what has been recorded since is done.
        states[numbers[states[numbers] != DONE]] = state


def grid_counts(folder: Place) -> tuple[int, int, int]:
    """Blocks along each axis of the run of a ledger.

    Raises
    ------
    IntegrityError
        If its plan holds no grid.
    """
    plan = read_plan(folder)
    try:
        counts = Grid(three(plan["grid"]["shape"]), three(plan["grid"]["block_shape"])).counts
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError(f"the plan in {folder} holds no grid of blocks ({error})") from error
    if int(np.prod(counts)) != plan["n_blocks"]:
        raise IntegrityError(f"the plan in {folder} holds a grid of {counts} for {plan['n_blocks']} blocks")
    return counts


def failures_of(folder: Place) -> dict[int, str]:
    """First error by number of the blocks that the last run set aside; {} if there is no readable list."""
    try:
        found = json.loads((folder / "failures.json").read_text())
        return {int(number): str(error) for number, error in found.items() if int(number) >= 0}
    except (OSError, ValueError, AttributeError):
        return {}


def last_line(folder: Place) -> dict[str, Any]:
    """Last state that the run of a ledger wrote; {} if there is none that can be read."""
    try:
        # A line that is being written has no end yet; the one before it has.
        last = json.loads(_end_of(folder / FILE).rpartition(b"\n")[0].splitlines()[-1])
    except (OSError, IndexError, ValueError):
        return {}
    return last if isinstance(last, dict) else {}


def _end_of(path: Place) -> bytes:
    if isinstance(path, BucketPath):
        return path.read_end(TAIL_BYTES)[1]
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        return file.read()


def spans_of(tasks: Iterable[Sequence[int]]) -> Spans:
    """Blocks of tasks as spans, in order and joined where they touch; each task holds rising numbers.

    Examples
    --------
    >>> spans_of([(4, 5), (9,), (6, 7)])
    [[4, 4], [9, 1]]
    """
    pieces: Spans = []
    for numbers in tasks:
        # The blocks of a task nearly always follow each other, and there may be hundreds.
        whole = bool(numbers) and numbers[-1] - numbers[0] + 1 == len(numbers)
        pieces += [[numbers[0], len(numbers)]] if whole else [[number, 1] for number in numbers]
    joined: Spans = []
    for first, count in sorted(pieces):
        if joined and first <= sum(joined[-1]):
            joined[-1][1] = max(joined[-1][1], first + count - joined[-1][0])
        else:
            joined.append([first, count])
    return joined[:MOST_SPANS]


def numbers_of(spans: Any, n_blocks: int) -> np.ndarray:
    """Block numbers in spans that a file holds: (n,) intp array; what makes no sense is passed over."""
    found = [np.zeros(0, np.intp)]
    for span in spans[:MOST_SPANS] if isinstance(spans, list) else ():
        if isinstance(span, list) and len(span) == 2 and all(type(n) is int and n >= 0 for n in span):
            found.append(np.arange(min(span[0], n_blocks), min(sum(span), n_blocks), dtype=np.intp))
    return np.concatenate(found)
