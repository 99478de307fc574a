"""Many small blocks on worker processes while the memory of client, scheduler and workers is watched."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from tomoscale.cluster import local, resources_of
from tomoscale.engine import run
from tomoscale.plan import plan_measure
from tomoscale.step import Counts, Measure
from tomoscale.volume import Volume

SAMPLE_SECONDS = 0.02


@dataclass(frozen=True)
class Zeros:
    """A volume of zeros that needs no disk."""

    shape: tuple[int, int, int]
    dtype: Any = field(default_factory=lambda: np.dtype(np.uint8))
    chunk_shape: tuple[int, int, int] = (16, 16, 16)
    name: str = "zeros"
    kind: str = "labels"

    def read(self, region: Any) -> np.ndarray:
        return np.zeros([r.stop - r.start for r in region], np.uint8)

    def identity(self) -> dict[str, Any]:
        return {"zeros": list(self.shape)}


def count(values: np.ndarray, block: Any) -> Counts:
    return {"voxels": np.array([values[block.core].size])}


class Sizes(threading.Thread):
    """Resident memory of this process, which holds client and scheduler, and of its largest child, over time."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.over, self.own, self.worker = threading.Event(), [], []

    def run(self) -> None:
        process = psutil.Process()
        while not self.over.wait(SAMPLE_SECONDS):
            self.own.append(process.memory_info().rss)
            sizes = [0]
            for child in process.children(recursive=True):
                try:
                    sizes.append(child.memory_info().rss)
                except psutil.Error:
                    continue
            self.worker.append(max(sizes))


def growth(sizes: list[int]) -> dict[str, float]:
    """Median of the second and of the last quarter of a run, in MiB."""
    quarter = max(1, len(sizes) // 4)
    second, last = (float(np.median(part)) / 2**20 for part in (sizes[quarter : 2 * quarter], sizes[-quarter:]))
    return {
        "second_quarter_mib": round(second, 1),
        "last_quarter_mib": round(last, 1),
        "growth_mib": round(last - second, 1),
    }


def soak(folder: Path, number: int) -> dict[str, Any]:
    """Count so many small blocks on two worker processes and watch the memory of all."""
    edge = 16
    volume = Volume(Zeros((edge, edge * 10, edge * -(-number // 10))), (1.0, 1.0, 1.0))
    measure = Measure("voxels", count, ("labels",))
    sizes, started = Sizes(), time.perf_counter()
    with local(2, memory_bytes=2**30) as client:
        plan = plan_measure(
            measure, volume, record=folder / "record", block_shape=(edge,) * 3, resources=resources_of(client)
        )
        sizes.start()
        counts = run(plan, client, progress=False)
        sizes.over.set()
        sizes.join()
    assert counts["voxels"][0] == np.prod(volume.shape, dtype=np.int64)
    return {
        "blocks": len(plan.grid),
        "seconds": round(time.perf_counter() - started, 1),
        "client_and_scheduler": growth(sizes.own),
        "largest_worker": growth(sizes.worker),
    }
