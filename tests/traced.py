"""How much memory a test's own code takes: the peak of what Python and NumPy hold, not that of the process."""

from __future__ import annotations

import tracemalloc


class Traced:
    """Measures the memory that is taken in a ``with`` block, beyond what was held before."""

    peak_bytes = 0

    def __enter__(self) -> Traced:
        tracemalloc.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
