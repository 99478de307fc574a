"""A million blocks: time to plan, time to the first block, and memory of client and scheduler.

The grid is real (10^6 blocks over a described volume); with --run some of the blocks are computed through a Dask
cluster by a kernel that does nearly nothing, so that all that is measured is the engine. The rest is projected.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil
from record import Peak, publish, rounded

from tomoscale.cluster import local, resources_of
from tomoscale.engine import run
from tomoscale.plan import plan_measure
from tomoscale.step import Counts, Measure
from tomoscale.volume import Volume


@dataclass(frozen=True)
class Zeros:
    """A volume of zeros that needs no disk."""

    shape: tuple[int, int, int]
    dtype: Any = np.dtype(np.uint8)
    chunk_shape: tuple[int, int, int] = (16, 16, 16)
    name: str = "zeros"

    def read(self, region: Any) -> np.ndarray:
        return np.zeros([r.stop - r.start for r in region], np.uint8)

    def identity(self) -> dict[str, Any]:
        return {"zeros": list(self.shape)}


class Stop(Exception):
    """Enough blocks were seen."""


def count(values: np.ndarray, block: Any) -> Counts:
    return {"voxels": np.array([values[block.core].size])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--edge", type=int, default=100, help="blocks along each axis")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    block = 16
    volume = Volume(Zeros((options.edge * block,) * 3), (1.0, 1.0, 1.0))
    measure = Measure("voxels", count, ("labels",))
    started = time.perf_counter()
    with local(options.processes, memory_bytes=2**30) as client, tempfile.TemporaryDirectory() as folder:
        resources = resources_of(client)
        ready = time.perf_counter()
        plan = plan_measure(measure, volume, record=f"{folder}/record", block_shape=(block,) * 3, resources=resources)
        str(plan)
        planned = time.perf_counter()
        first: list[float] = []
        # The scheduler runs in this process, so this process's memory is that of client and scheduler together.
        before = psutil.Process().memory_info().rss
        from tomoscale import ledger as ledgers

        append = ledgers.Ledger.append

        def watched(self: Any, records: Any, counts: Any) -> None:
            first.append(time.perf_counter())
            append(self, records, counts)

        ledgers.Ledger.append = watched
        with Peak() as peak:
            counts = run(plan, client, progress=False)
        ledgers.Ledger.append = append
        ended = time.perf_counter()
        again = time.perf_counter()
        run(
            plan_measure(measure, volume, record=f"{folder}/record", block_shape=(block,) * 3, resources=resources),
            client,
        )
        resumed = time.perf_counter() - again
    assert counts["voxels"][0] == np.prod(volume.shape, dtype=np.int64)
    publish(
        "many_blocks",
        {
            "blocks": len(plan.grid),
            "shape": list(volume.shape),
            "cluster_start_s": rounded(ready - started),
            "plan_s": rounded(planned - ready),
            "first_block_s": rounded(first[0] - planned),
            "seconds": rounded(ended - planned),
            "blocks_per_s": rounded(len(plan.grid) / (ended - planned)),
            "resume_of_finished_s": rounded(resumed),
            "client_and_scheduler_peak_mib": round(peak.own / 2**20),
            "client_and_scheduler_before_mib": round(before / 2**20),
            "largest_worker_peak_mib": round(peak.largest_child / 2**20),
            "limits": {"plan_s": 10, "first_block_s": 15, "client_and_scheduler_mib": 1024},
        },
        options.keep,
    )


if __name__ == "__main__":
    main()
