"""Peak memory of what takes several passes and a step between them, against what is projected, and over growing volumes.

Each operation runs in a process of its own over a volume and then over one eight times as large, in equal blocks (or, for
distances, which read whole lines, with equal memory to plan with). Projected is the most that one of its plans says, or
what joining takes: the process and `NODE_BYTES` for every piece at a shared side. The input is a formula: balls that do not
touch, or, as the worst case, every second voxel along each axis, each a component of its own.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from memory import MEBI, peak_bytes
from record import publish, rounded

from tomoscale.cluster import local, resources_of
from tomoscale.geometry import Region, Shape
from tomoscale.objects.components import components, count_components
from tomoscale.objects.distance import distance
from tomoscale.objects.filters import fill_holes, keep_largest, remove_small, replace_islands
from tomoscale.objects.joining import NODE_BYTES
from tomoscale.objects.thickness import thickness
from tomoscale.plan import Plan
from tomoscale.resources import Resources
from tomoscale.volume import Volume
from tomoscale.work import Work

Run = Callable[[Volume, Path, Work], object]
OPERATIONS: dict[str, tuple[str, str, Run]] = {
    "components": ("balls", "threads", lambda v, t, w: components(v, t, work=w)),
    "components on workers": ("balls", "processes", lambda v, t, w: components(v, t, work=w)),
    "components of noise": ("noise", "threads", lambda v, t, w: components(v, t, work=w)),
    "remove_small": ("noise", "threads", lambda v, t, w: remove_small(v, t, min_voxels=5, work=w)),
    "keep_largest": ("balls", "threads", lambda v, t, w: keep_largest(v, t, work=w)),
    "fill_holes": ("balls", "threads", lambda v, t, w: fill_holes(v, t, work=w)),
    "replace_islands": ("balls", "threads", lambda v, t, w: replace_islands(v, t, min_voxels=1000, work=w)),
    "distance": ("balls", "threads", lambda v, t, w: distance(v, t, work=w)),
    "thickness": ("balls", "threads", lambda v, t, w: thickness(v, t, work=w)),
}
"""What it is run on, where, and how."""
SCHEDULER_BYTES = 30 * MEBI
"""The scheduler, and the connections to it, in a process that starts workers."""
BY_MEMORY = {"distance", "thickness"}


@dataclass(frozen=True)
class Objects:
    """Labels computed from the place of a voxel: a volume of any size that takes no room."""

    shape: Shape
    chunk_shape: Shape
    dense: bool
    name: str = "formula"
    kind: str = "labels"
    dtype: np.dtype[Any] = np.dtype(np.uint8)

    def read(self, region: Region) -> np.ndarray:
        """Balls some 20 voxels apart, or every second voxel."""
        z, y, x = (np.arange(r.start, r.stop) for r in region)
        if self.dense:
            return ((z % 2)[:, None, None] & (y % 2)[:, None] & (x % 2)).astype(np.uint8)
        waves = ((40 * np.sin(along / period)).astype(np.int8) for along, period in ((z, 3), (y, 4), (x, 5)))
        down, back, across = waves
        return (down[:, None, None] + back[:, None] + across > 48).view(np.uint8)

    def identity(self) -> dict[str, Any]:
        """Nothing changes."""
        return {"formula": [*self.shape, self.dense]}


@dataclass(frozen=True)
class Recording(Work):
    """Work that keeps what its plans project and what its passes count."""

    projected: list[int] = field(default_factory=list)
    joining: list[int] = field(default_factory=list)
    nodes: list[int] = field(default_factory=list)

    def run(self, plan: Plan) -> Any:
        """Run a plan."""
        counts = super().run(plan)
        self.projected.append(plan.memory_bytes)
        if isinstance(counts, dict) and "shared" in counts:
            self.nodes.append(int(counts["shared"][0]))
            self.joining.append(plan.process_bytes + NODE_BYTES * self.nodes[-1])
        return counts


def measure_one(name: str, edge: int, block: int, memory_bytes: int) -> dict[str, Any]:
    """Run an operation over two volumes here; this process must have done nothing before."""
    source, where, operation = OPERATIONS[name]
    folder, rows = Path(tempfile.mkdtemp()), []
    try:
        if where == "threads":
            resources = Resources(slots=2, io_slots=1, memory_bytes=memory_bytes)
            rows = [_row(name, source, n, block, folder, None, resources, operation) for n in (edge, 2 * edge)]
        else:
            with local(2, memory_bytes=memory_bytes) as client:
                resources = resources_of(client)
                rows = [_row(name, source, n, block, folder, client, resources, operation) for n in (edge, 2 * edge)]
    finally:
        shutil.rmtree(folder)
    small, large = (row["peaks_mib"] for row in rows)
    return {
        "operation": name,
        "volumes": rows,
        "largest_growth": rounded(max(b / a for a, b in zip(small, large, strict=True)), 4),
    }


def _row(  # noqa: PLR0913 -- what, on what, and where
    name: str, source: str, edge: int, block: int, folder: Path, client: Any, resources: Resources, operation: Run
) -> dict[str, Any]:
    by_memory = name in BY_MEMORY
    volume = Volume(Objects((edge,) * 3, (block,) * 3, source == "noise"), (1.0, 1.0, 1.0))
    work = Recording(client, resources, None if by_memory else (block,) * 3, progress=False)
    target = folder / f"{edge}.zarr"
    operation(volume, target, work)
    workers = [] if client is None else list(client.run(peak_bytes).values())
    most = max(work.projected)
    here = max(work.joining) + SCHEDULER_BYTES if client else max(most, *work.joining, 0)
    projected = [here, *(most for _ in workers)]
    peaks = [peak_bytes(), *workers]
    row = {
        "voxels": edge**3,
        "at_sides": max(work.nodes, default=0),
        "peaks_mib": [round(p / MEBI, 1) for p in peaks],
        "projected_mib": [round(p / MEBI, 1) for p in projected],
    }
    if name.startswith("components"):
        row["components"] = count_components(target)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--edge", type=int, default=256, help="edge of the smaller volume; the larger has twice that")
    parser.add_argument("--block", type=int, default=64)
    parser.add_argument("--memory-mib", type=int, default=512, help="to plan with")
    parser.add_argument("--only", nargs="*", choices=list(OPERATIONS), default=list(OPERATIONS))
    parser.add_argument("--one", choices=list(OPERATIONS), help=argparse.SUPPRESS)
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure_one(options.one, options.edge, options.block, options.memory_mib * MEBI)))
        return
    command = [sys.executable, __file__, "--edge", str(options.edge), "--block", str(options.block)]
    command += ["--memory-mib", str(options.memory_mib)]
    runs = []
    for name in options.only:
        found = subprocess.run([*command, "--one", name], capture_output=True, text=True, check=False)
        if found.returncode:
            raise RuntimeError(f"{name} failed:\n{found.stderr[-3000:]}")
        runs.append(json.loads(found.stdout.splitlines()[-1]))
    exceeding = [
        run["operation"]
        for run in runs
        for row in run["volumes"]
        if any(p > q for p, q in zip(row["peaks_mib"], row["projected_mib"], strict=True))
    ]
    figures = {"runs": runs, "exceeding": exceeding, "largest_growth": max(run["largest_growth"] for run in runs)}
    publish("memory_objects", {"block": [options.block] * 3, "node_bytes": NODE_BYTES, **figures}, options.keep)


if __name__ == "__main__":
    main()
