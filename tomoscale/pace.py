"""How fast a run goes, and how long the rest of it takes."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

KEPT = 512
"""States of a run that are remembered; when there are more, every other one is dropped."""
COMPARED = 64
"""States whose pairs give the speed: 2016 pairs, a fraction of a millisecond."""
FEW_WAVES = 4
RECENT = 3
"""The speed is that of the last third of what is done, and of a tenth of the run at least."""


@dataclass
class Pace:
    """How fast work goes, told by when work was finished.

    Three things make the plain mean of a run wrong, most of all in its first tenth:

    - the first blocks wait for compilation and imports: all of it lies before the first of them ends, so only what comes
      after counts;
    - blocks at the edge are smaller, so work is counted in voxels, if the caller does;
    - blocks that run side by side end side by side: between two such waves the mean falls and falls. The slope of a line
      through the ends does not.

    The slope is the median of the slopes of all pairs of states, each as heavy as the work between the two (Theil 1950,
    Sen 1968): a pause, or a block that was tried again, does not move it. While there are fewer than four waves, it is
    that of least squares, which is off less where most pairs lie within a wave.

    Attributes
    ----------
    total : float
        Work of the run, in any unit.
    done : float
        Of it, what is finished.
    workers : int
        Blocks in progress at once.
    """

    total: float
    done: float = 0.0
    workers: int = 1
    _times: list[float] = field(default_factory=list)
    _works: list[float] = field(default_factory=list)
    _blocks: int = 0
    _start: tuple[float, float] | None = None

    def begin(self, now: float) -> None:
        """Start the clock, which reads `now` seconds."""
        self._start = (now, self.done)

    def add(self, now: float, done: float, blocks: int) -> None:
        """Take in that `done` work and, in this run, `blocks` blocks are finished after `now` seconds of the clock."""
        if self._start is None:
            self.begin(now)
        if done <= self.done:
            return
        self.done = done
        self._blocks = blocks
        self._times.append(now)
        self._works.append(done)
        if len(self._times) > KEPT:
            # The last one stays, and so does the even spacing of the others.
            self._times[:-1], self._works[:-1] = self._times[:-1:2], self._works[:-1:2]

    def seconds_per_work(self) -> float | None:
        """Seconds for one unit of work, None before anything is finished."""
        if not self._times or self._start is None:
            return None
        started, before = self._start
        mean = (self._times[-1] - started) / (self.done - before)
        if self._blocks <= self.workers or len(self._times) == 1:
            return mean
        times, works = self._recent()
        if self._blocks < 2 * self.workers:
            # A wave that has only begun looks slow from its start, and a run that began with compiling from its own.
            return min(mean, float((times[-1] - times[0]) / (works[-1] - works[0])))
        few = self._blocks < FEW_WAVES * self.workers
        return _least_squares(times, works) if few else _median_slope(times, works)

    def remaining_seconds(self, now: float) -> float | None:
        """Time left when the clock reads `now`; None before anything is finished."""
        pace = self.seconds_per_work()
        if pace is None or self._start is None:
            return None
        # What is in progress has got further since the last block ended, but never by more than a block a worker.
        wave = pace * self.workers * (self.done - self._start[1]) / max(self._blocks, 1)
        left = pace * (self.total - self.done)
        return max(left - min(now - self._times[-1], wave), 0.0)

    def _recent(self) -> tuple[np.ndarray, np.ndarray]:
        times, works = np.array(self._times), np.array(self._works)
        assert self._start is not None
        span = max(self.total / 10, (self.done - self._start[1]) / RECENT)
        first = min(int(np.searchsorted(works, self.done - span)), len(works) - 2)
        chosen = np.unique(np.linspace(first, len(works) - 1, COMPARED).round().astype(np.intp))
        return times[chosen], works[chosen]


def _least_squares(times: np.ndarray, works: np.ndarray) -> float:
    """Seconds per work of the line closest to two or more states, whose work grows from each to the next."""
    centred = works - works.mean()
    return float((centred * times).sum() / (centred**2).sum())


def _median_slope(times: np.ndarray, works: np.ndarray) -> float:
    """Median over all pairs of states of their seconds per work, weighted by that work."""
    early, late = np.triu_indices(len(times), 1)
    work = works[late] - works[early]
    slopes = (times[late] - times[early]) / work
    order = np.argsort(slopes)
    heavy = np.cumsum(work[order])
    return float(slopes[order][np.searchsorted(heavy, heavy[-1] / 2)])
