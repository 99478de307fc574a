"""A map, a measure with counts that are combined on the workers, components and a distance: what is run while things fail."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import scipy.ndimage

from tests.faults.slow_worker import install
from tomoscale.geometry import Block, Halo
from tomoscale.objects.components import components
from tomoscale.objects.distance import distance
from tomoscale.step import Counts, Kernel, Measure
from tomoscale.volume import Volume, create_volume, open_zarr
from tomoscale.work import Work, working

SHAPE = (40, 40, 36)
BLOCK = (16, 16, 16)


def smooth(values: np.ndarray) -> np.ndarray:
    """Mean of 3 x 3 x 3 voxels."""
    return scipy.ndimage.uniform_filter(values, 3, mode="nearest")


def count_planes(values: np.ndarray, block: Block) -> Counts:
    """Sums per plane, in a table that is large enough to be combined on the workers."""
    planes = np.zeros(20_000, np.int64)
    planes[block.write[0].start : block.write[0].stop] = values[block.core].sum(axis=(1, 2), dtype=np.int64)
    return {"planes": planes}


SMOOTH = Kernel("smooth", smooth, Halo.uniform(1), np.dtype(np.uint8), 6)
PLANES = Measure("planes", partial(count_planes), ("labels",), Halo(), 9, 160_000)


def make_source(path: Path, shape: tuple[int, int, int] = SHAPE, seed: int = 7) -> Volume:
    """Labels like those of a scan."""
    rough = scipy.ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 1.5)
    labels = np.digitize(rough, np.quantile(rough, [0.6, 0.85])).astype(np.uint8)
    volume = create_volume(path, shape=shape, dtype=np.uint8, voxel_size_um=2.0, kind="labels")
    volume.create()
    volume.write(tuple(slice(0, n) for n in shape), labels)
    volume.finish({})
    return open_zarr(path)


def run_all(source: Volume, folder: Path, work: Work) -> None:
    """Make everything in `folder` that is not there yet."""
    work.map(SMOOTH, source, folder / "smooth.zarr")
    counts = work.measure((PLANES,), {"labels": source}, folder / "planes")
    components(source, folder / "components.zarr", multilabel=True, work=work)
    distance(source, folder / "distance.zarr", classes=(1,), work=work)
    counts["planes"].tofile(folder / "planes.counts")


def made(folder: Path) -> dict[str, bytes]:
    """Bytes of all voxels and counts in a folder, by file."""
    files = [p for p in folder.glob("*.zarr/0/c/**/*") if p.is_file()] + list(folder.glob("*.counts"))
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(files)}


def differing_bytes(found: dict[str, bytes], expected: dict[str, bytes]) -> int:
    """Bytes that differ, files that are there once counted whole."""
    total = 0
    for name in found.keys() | expected.keys():
        one, two = (np.frombuffer(files.get(name, b""), np.uint8) for files in (found, expected))
        n = min(one.size, two.size)
        total += abs(one.size - two.size) + int((one[:n] != two[:n]).sum())
    return total


def begun_blocks(log: Path) -> list[str]:
    """Blocks in the order in which they were begun, as `slow_worker` noted them."""
    return [line.rpartition(" ")[0] for line in log.read_text().splitlines()] if log.exists() else []


def busy_processes(log: Path) -> set[int]:
    """Processes that have begun a block."""
    return {int(line.rpartition(" ")[2]) for line in log.read_text().splitlines()} if log.exists() else set()


def main() -> None:
    """Run everything in a process of its own, which can be killed: SOURCE FOLDER WORKERS."""
    source, folder, workers = sys.argv[1:]
    how: dict[str, Any] = {"block_shape": BLOCK, "progress": False}
    if workers == "threads":
        install()
    with working(workers, processes=2 if workers == "processes" else None, **how) as work:
        run_all(open_zarr(source), Path(folder), work)
