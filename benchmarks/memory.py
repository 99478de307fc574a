"""Peak memory of a process against what its plan says, and against the size of the volume.

Projection: each combination of step, dtype and block shape runs in a process of its own, whose peak, as the kernel
recorded it, must not exceed ``plan.memory_bytes``. Flatness: a map and a measure run over ever larger volumes, on
threads and on worker processes; the peak of every process must stay what it was. The input then is a formula, so that
sizes need no disk; what is written are labels.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from record import blobs, publish, rounded

from tomoscale.cluster import local, resources_of
from tomoscale.engine import run
from tomoscale.geometry import Region, Shape, three
from tomoscale.kernels.classes import map_labels, threshold
from tomoscale.kernels.coarsen import mean_cells, mode_cells
from tomoscale.kernels.distance import clipped_distance, within_distance
from tomoscale.kernels.filters import cast, clip_and_scale, gaussian, median
from tomoscale.kernels.line_distance import distance_by_axis
from tomoscale.kernels.majority import majority
from tomoscale.kernels.morphology import closing, opening
from tomoscale.kernels.resample import bin_mean, resample
from tomoscale.kernels.shells import shells
from tomoscale.measures.class_histogram import class_histogram
from tomoscale.measures.fixed_point import FixedPoint
from tomoscale.measures.intensity import histogram, label_moments
from tomoscale.measures.pairs import label_counts
from tomoscale.measures.population import Population
from tomoscale.measures.surface_map import Roles, surface_map
from tomoscale.measures.topology import configurations
from tomoscale.plan import Plan, plan_map, plan_measure
from tomoscale.resources import Resources
from tomoscale.step import Kernel, Measure
from tomoscale.volume import Volume, create_volume, open_zarr

MEBI = 2**20
VOXEL_UM = (5.0, 5.0, 5.0)

STEPS: dict[str, tuple[Callable[[str], Kernel | Measure], tuple[str, ...]]] = {
    "cast": (lambda d: cast(np.result_type(d, np.float32)), ("uint8", "float32", "float64")),
    "clip_and_scale": (lambda d: clip_and_scale(20, 200), ("uint8", "uint16", "float32", "float64")),
    "gaussian": (lambda d: gaussian(5.0, VOXEL_UM), ("uint8", "uint16", "float32", "float64")),
    "median": (lambda d: median(1, d), ("uint8", "uint16", "float32")),
    "bin_mean": (lambda d: bin_mean((2, 2, 2), d), ("uint8", "uint16", "float32")),
    "resample nearest": (lambda d: resample((1.5, 1.5, 1.5), 0, d), ("labels", "uint16")),
    "resample linear": (lambda d: resample((1.5, 1.5, 1.5), 1), ("uint16", "float32")),
    "resample spline": (lambda d: resample((0.8, 1.25, 1.25), 3), ("uint16", "float32")),
    "threshold": (lambda d: threshold(100), ("uint8", "uint16", "float32", "float64")),
    "gaussian then threshold": (lambda d: gaussian(5.0, VOXEL_UM).then(threshold(100)), ("uint16", "float32")),
    "opening": (lambda d: opening(10.0, VOXEL_UM), ("labels",)),
    "closing": (lambda d: closing(15.0, VOXEL_UM), ("labels",)),
    "within_distance": (lambda d: within_distance(40.0, VOXEL_UM, (1,)), ("labels",)),
    "clipped_distance": (lambda d: clipped_distance(40.0, VOXEL_UM, (2,)), ("labels",)),
    "shells": (lambda d: shells((20.0, 40.0), VOXEL_UM, (1,)), ("labels",)),
    "distance along z": (lambda d: distance_by_axis((448, 448, 448), VOXEL_UM, (1,))[0], ("labels",)),
    "mean_cells": (lambda d: mean_cells((2, 2, 2), d), ("uint16", "float32")),
    "mode_cells": (lambda d: mode_cells((2, 2, 2), d), ("labels",)),
    "majority": (lambda d: majority(1, 4), ("labels",)),
    "map_labels": (lambda d: map_labels({0: 0, 1: 2, 2: 1, 3: 3}, np.uint8), ("labels",)),
    "label_counts": (lambda d: label_counts(4), ("labels",)),
    "label_counts with regions": (lambda d: label_counts(4, 4), ("labels",)),
    "configurations": (lambda d: configurations((1, 2)), ("labels",)),
    "surface_map": (lambda d: surface_map(Roles((1, 2), 3), gaps_voxels=(0, 1, 2)), ("labels",)),
    "class_histogram": (lambda d: class_histogram(d, 4), ("uint16",)),
    "histogram": (lambda d: histogram(Population(d)), ("uint8", "uint16", "float32")),
    "histogram by class": (lambda d: histogram(Population(d, n_classes=4)), ("uint8", "uint16", "float32")),
    "histogram of interiors": (lambda d: histogram(Population(d, 4, interior_voxels=3)), ("uint16",)),
    "moments": (lambda d: label_moments(Population(d, 4), _fixed_point(d)), ("uint8", "uint16", "float32")),
}
"""Steps, and the types of source each is tried on; "labels" are uint8 classes with smooth borders."""


@dataclass(frozen=True)
class Combination:
    """One step on one type of source, in blocks of one shape, so many at once."""

    step: str
    source: str
    block: Shape
    slots: int


@dataclass(frozen=True)
class Formula:
    """Grey values computed from the place of a voxel: a volume of any size that takes no room."""

    shape: Shape
    chunk_shape: Shape
    name: str = "formula"

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a voxel."""
        return np.dtype(np.uint8)

    def read(self, region: Region) -> np.ndarray:
        """Waves of 41 to 97 voxels along each axis."""
        z, y, x = (
            (60 * np.sin(np.arange(r.start, r.stop) / period)).astype(np.int8)
            for r, period in zip(region, (41, 97, 61), strict=True)
        )
        return ((z[:, None, None] + y[:, None]) // 2 + x // 2 + 110).view(np.uint8)

    def identity(self) -> dict[str, Any]:
        """Nothing changes."""
        return {"formula": list(self.shape)}


def combinations(size: int) -> list[Combination]:
    """All combinations, for a volume of `size` voxels along each axis."""
    blocks = [three((size // 2,) * 3), (size // 4, size, size)]
    found = [
        (step, source, block) for step, (_, sources) in STEPS.items() for source, block in product(sources, blocks)
    ]
    return [Combination(*each, slots=1 + number // 2 % 2) for number, each in enumerate(found)]


def make_sources(folder: Path, size: int, wanted: set[str]) -> None:
    """Volumes on disk, made once: grey values with noise, which hardly compress, and labels."""
    shape = (size, size, size)
    for name in wanted | {"labels"}:
        path = folder / f"{name}-{size}.zarr"
        if path.exists():
            continue
        dtype, kind = ("uint8", "labels") if name == "labels" else (name, "grey")
        slab = (min(64, size), size, size)
        volume = create_volume(
            path, shape=shape, dtype=dtype, voxel_size_um=VOXEL_UM, kind=kind, shard_shape=_shard(slab), durable=False
        )
        volume.create()
        random = np.random.default_rng(7)
        for z in range(0, size, slab[0]):
            region = (slice(z, min(z + slab[0], size)), slice(0, size), slice(0, size))
            part = three(r.stop - r.start for r in region)
            values = blobs(part, 3 + z) if name == "labels" else (random.random(part, np.float32) * 200).astype(dtype)
            volume.write(region, values)
        volume.finish({"made": name})


def make_plan(combination: Combination, folder: Path, size: int, target: Path) -> Plan:
    """Plan of a combination over the volumes of `make_sources`."""
    step = STEPS[combination.step][0]("uint8" if combination.source == "labels" else combination.source)
    source, labels = (open_zarr(folder / f"{name}-{size}.zarr") for name in (combination.source, "labels"))
    resources = Resources(slots=combination.slots, io_slots=1, memory_bytes=2**40)
    if isinstance(step, Measure):
        volumes = {name: source if name == "grey" else labels for name in step.inputs}
        return plan_measure(step, volumes, block_shape=combination.block, resources=resources)
    kind = (
        "mask"
        if step.dtype == bool
        else "labels"
        if step.dtype == np.uint8 and combination.source == "labels"
        else "grey"
    )
    return plan_map(step, source, target, kind=kind, block_shape=combination.block, resources=resources)


def measure_one(combination: Combination, folder: Path, size: int) -> dict[str, Any]:
    """Run a combination here; this process must have done nothing before."""
    target = Path(tempfile.mkdtemp(dir=folder))
    idle = peak_bytes()
    try:
        plan = make_plan(combination, folder, size, target / "out.zarr")
        run(plan, progress=False)
    finally:
        shutil.rmtree(target)
    return {
        "step": combination.step,
        "source": combination.source,
        "block": list(combination.block),
        "slots": combination.slots,
        "projected_mib": round(plan.memory_bytes / MEBI),
        "measured_mib": round(peak_bytes() / MEBI),
        "ratio": rounded(plan.memory_bytes / peak_bytes()),
        # Without what a process takes before it holds a voxel, with which small blocks look better than they are.
        "ratio_of_blocks": rounded((plan.memory_bytes - plan.process_bytes) / (peak_bytes() - idle)),
    }


def projection(folder: Path, size: int, wanted: int, cold: bool) -> dict[str, Any]:
    """Every combination, or `wanted` of them spread over the list, each in its own process."""
    every = combinations(size)
    wanted = min(wanted, len(every))
    numbers = [i * (len(every) - 1) // max(wanted - 1, 1) for i in range(wanted)]
    make_sources(folder, size, {every[n].source for n in numbers})
    results = [_child("--one", str(n), "--size", str(size), "--folder", str(folder)) for n in numbers]
    # Compiling takes memory too, once on a machine: the measure that takes most, as on a machine that never ran it.
    if cold:
        first = next(n for n, c in enumerate(every) if c.step == "label_counts")
        with tempfile.TemporaryDirectory() as cache:
            compiled = _child("--one", str(first), "--size", str(size), "--folder", str(folder), NUMBA_CACHE_DIR=cache)
        results.append({**compiled, "step": "label_counts, compiled"})
    ratios = np.array([r["ratio"] for r in results])
    of_blocks = np.array([r["ratio_of_blocks"] for r in results])
    ranked = sorted(results, key=lambda r: r["ratio"])
    return {
        "size": size,
        "combinations": len(results),
        "exceeding": [r for r in results if r["measured_mib"] > r["projected_mib"]],
        "ratio_quantiles_0_25_50_75_100": [rounded(q) for q in np.quantile(ratios, [0, 0.25, 0.5, 0.75, 1])],
        "share_within_1.5": rounded((ratios <= 1.5).mean()),
        "ratio_of_blocks_quantiles": [rounded(q) for q in np.quantile(of_blocks, [0, 0.25, 0.5, 0.75, 1])],
        "tightest": ranked[:6],
        "loosest": ranked[-4:],
        "all": [
            [r["step"], r["source"], r["slots"], r["projected_mib"], r["measured_mib"], r["ratio_of_blocks"]]
            for r in results
        ],
    }


def flat_one(step: str, where: str, largest_bytes: int, growth: int) -> dict[str, Any]:
    """Run a map or a measure over volumes of growing size here; peaks of all processes after each size."""
    folder = Path(tempfile.mkdtemp())
    base = max(32, round((largest_bytes / growth) ** (1 / 3) / 32) * 32)
    scales = [2**k for k in range(1 + round(math.log2(growth) / 3))]
    # 64 blocks of the smallest volume: with fewer, its peak is that of too few blocks at once.
    block = (base // 4,) * 3
    peaks = []
    try:
        for scale, client in _growing(where, scales):
            edge = base * scale
            volume = Volume(Formula((edge,) * 3, block), VOXEL_UM)
            resources = Resources(slots=2, io_slots=1) if client is None else resources_of(client)
            if step == "map":
                kernel = gaussian(2.0, VOXEL_UM, truncate=2.0).then(threshold(110))
                run(
                    plan_map(
                        kernel, volume, folder / f"{edge}.zarr", kind="mask", block_shape=block, resources=resources
                    ),
                    client,
                )
            else:
                run(
                    plan_measure(
                        histogram(Population("uint8")),
                        volume,
                        record=folder / f"{edge}",
                        block_shape=block,
                        resources=resources,
                    ),
                    client,
                )
            workers = [] if client is None else list(client.run(peak_bytes).values())
            peaks.append([round(p / MEBI, 1) for p in (peak_bytes(), *workers)])
    finally:
        shutil.rmtree(folder)
    growth_of_peaks = [max(per_process) / per_process[0] for per_process in zip(*peaks, strict=True)]
    return {
        "step": step,
        "where": where,
        "block": list(block),
        "voxels": [(base * scale) ** 3 for scale in scales],
        "peaks_mib": peaks,
        "largest_growth": rounded(max(growth_of_peaks), 4),
    }


def flatness(largest_gib: float, growth: int) -> dict[str, Any]:
    """Map and measure, on threads and on two worker processes."""
    cases = product(("map", "measure"), ("threads", "processes"))
    runs = [
        _child("--flat", step, where, "--largest-gib", str(largest_gib), "--growth", str(growth))
        for step, where in cases
    ]
    return {"runs": runs, "largest_growth": max(r["largest_growth"] for r in runs), "limit": 1.1}


def peak_bytes() -> int:
    """Most memory this process ever held; unlike ``ru_maxrss`` without that of the parent it was forked from."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--combinations", type=int, default=6, help="how many are measured; 1000 measures all")
    parser.add_argument("--size", type=int, default=128, help="edge of the volume of the combinations, in voxels")
    parser.add_argument("--cold", action="store_true", help="also compile a measure anew, which takes half a minute")
    parser.add_argument("--largest-gib", type=float, default=1 / 32, help="largest volume of the flatness")
    parser.add_argument("--growth", type=int, default=64, help="how much larger it is than the smallest, a power of 8")
    parser.add_argument("--only", choices=["projection", "flatness"])
    parser.add_argument("--folder", type=Path, help="where the volumes are kept between runs")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--flat", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        print(json.dumps(measure_one(combinations(options.size)[options.one], options.folder, options.size)))
        return
    if options.flat is not None:
        print(json.dumps(flat_one(*options.flat, round(options.largest_gib * 2**30), options.growth)))
        return
    folder = options.folder or Path(tempfile.mkdtemp())
    folder.mkdir(exist_ok=True)
    figures: dict[str, Any] = {}
    if options.only != "flatness":
        figures["projection"] = projection(folder, options.size, options.combinations, options.cold)
    if options.only != "projection":
        figures["flatness"] = flatness(options.largest_gib, options.growth)
    publish("memory", figures, options.keep)
    if options.folder is None:
        shutil.rmtree(folder)


def _growing(where: str, scales: list[int]) -> Iterator[tuple[int, Any]]:
    """Scales in order, with the client that serves them all."""
    if where == "threads":
        yield from ((scale, None) for scale in scales)
        return
    with local(2, memory_bytes=5 * 2**30) as client:
        yield from ((scale, client) for scale in scales)


def _child(*arguments: str, **variables: str) -> dict[str, Any]:
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, **variables}
    found = subprocess.run(
        [sys.executable, __file__, *arguments], capture_output=True, text=True, check=False, env=environment
    )
    if found.returncode:
        raise RuntimeError(f"{' '.join(arguments)} failed:\n{found.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(found.stdout.splitlines()[-1])
    return result


def _fixed_point(dtype: str) -> FixedPoint | None:
    return FixedPoint(0.0, 256.0) if dtype == "float32" else None


def _shard(slab: Shape) -> Shape:
    return three(-(-n // 64) * 64 for n in slab)


if __name__ == "__main__":
    main()
