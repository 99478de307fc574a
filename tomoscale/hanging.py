"""Tasks that never end: they hold a worker for ever, and only their time tells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tomoscale.workers import Pool

HANGING_SECONDS = 1800.0
HANGING_TIMES = 50
"""A task that takes longer than both, the second as a multiple of what its blocks usually take, hangs: its worker is
ended, which counts as its death."""
LOOKS = 10
"""In the first of these, it is looked so often which tasks have begun."""


class Hanging:
    """Finds tasks that hang, by how long they have been on a worker: a task that waits for one to start does not hang."""

    def __init__(self, seconds: float = HANGING_SECONDS) -> None:
        self.seconds = seconds
        self.asked = float("-inf")
        self.began: dict[Any, float] = {}

    def found(
        self, now: float, pool: Pool, running: Mapping[Any, tuple[int, ...]], block_seconds: float | None
    ) -> Iterator[tuple[Any, float]]:
        """Tasks that hang now, the oldest first, each told once, and the seconds they were given.

        Parameters
        ----------
        now : float
            Of a clock that never goes back.
        pool : Pool
        running : mapping of task to blocks
            In the order in which they were submitted.
        block_seconds : float or None
            What a block usually takes.
        """
        if now - self.asked > self.seconds / LOOKS:
            self.asked = now
            begun = pool.begun()
            self.began = {future: self.began.get(future, now) for future in running if future in begun}
        for future in [future for future in self.began if future in running]:
            limit = max(self.seconds, HANGING_TIMES * max(1, len(running[future])) * (block_seconds or 0.0))
            if now - self.began[future] > limit:
                del self.began[future]
                yield future, limit
