"""What one run adds to the log of blocks."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field

import numpy as np

from tomoscale.block_log import BlockLog
from tomoscale.frames import RECORD, pack_frame
from tomoscale.retries import retried
from tomoscale.step import Counts, add_counts


@dataclass
class Part:
    """What a run adds to the log of blocks: frames under a number that it draws, behind all that is there.

    Attributes
    ----------
    log : BlockLog
    run : int
    records, counts
        Finished and not yet written.
    """

    log: BlockLog
    run: int = field(default_factory=lambda: random.SystemRandom().getrandbits(64))
    records: list[np.ndarray] = field(default_factory=list)
    counts: Counts = field(default_factory=dict)
    begun: float = field(default_factory=time.monotonic)
    written: float = 0.0

    @property
    def due(self) -> bool:
        """Whether there is something to be written now."""
        now = time.monotonic()
        return bool(self.records) and self.log.due(now - self.begun, now - self.written)

    def begin(self) -> None:
        """Open the part."""
        retried(lambda: self.log.begin(pack_frame(np.zeros(0, RECORD), {}, self.run)))

    def add(self, records: np.ndarray, counts: Counts) -> None:
        """Keep finished blocks until they are written."""
        self.records.append(records)
        self.counts = add_counts(self.counts, counts)

    def write(self) -> None:
        """Write what was kept as one frame."""
        if self.records:
            self.log.append(pack_frame(np.concatenate(self.records), self.counts, self.run))
            self.records, self.counts, self.written = [], {}, time.monotonic()
