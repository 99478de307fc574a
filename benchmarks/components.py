"""Connected components of a volume on disk, by blocks, beside cc3d with the whole in memory and dask-image.

All three start from the same Zarr array; each runs in a process of its own, so that its peak memory is its own. cc3d and
we give the numbers in a Zarr array of the same shards, chunks and codec; the numbers must be equal: ours to those of
cc3d, ordered by the first voxel. dask-image, where it is installed, runs on a smaller volume; it only has the numbers
computed and looks at them block by block, because it does not know how many there are before.

How time and memory grow is seen on volumes made of equal tiles that do not touch, so that it is known how many
components they have.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from record import Peak, blobs, publish, rounded

from tomoscale.blocking import shard_of
from tomoscale.objects.components import components, count_components
from tomoscale.resources import Resources
from tomoscale.volume import MemoryArray, Volume, create_volume, open_zarr
from tomoscale.work import Work

CONNECTIVITY = 26


def make(path: Path, size: int, tile: int | None = None) -> Volume:
    """A mask like bone on disk, made once in slabs, or of equal tiles with a gap of one voxel after each."""
    if path.exists():
        return open_zarr(path)
    edge, side = 128, -(-size // 64) * 64
    volume = create_volume(
        path,
        shape=(size,) * 3,
        dtype=np.uint8,
        voxel_size_um=5.0,
        kind="labels",
        shard_shape=(edge, min(side, 1024), min(side, 1024)),
        chunk_shape=(64, 64, 64),
    )
    volume.create()
    base = None if tile is None else mask_of((tile - 1,) * 3, 3)
    for z in range(0, size, edge):
        depth = min(edge, size - z)
        if base is None:
            part = mask_of((depth, size, size), 3 + z)
        else:
            across = [np.arange(n) % tile for n in (size, size)]
            padded = np.pad(base, (0, 1))
            part = padded[np.ix_(np.arange(z, z + depth) % tile, *across)]
        volume.write((slice(z, z + depth), slice(0, size), slice(0, size)), part)
    volume.finish({"made": size})
    return open_zarr(path)


def mask_of(shape: tuple[int, int, int], seed: int) -> np.ndarray:
    """A third of the voxels, in rods and plates."""
    labels = blobs(shape, seed)
    return np.where(labels == 3, labels, 0)


def ours(source: Volume, target: Path, block: int) -> int:
    """Both passes by blocks."""
    work = Work(None, Resources(slots=2, io_slots=1), (block,) * 3, progress=False)
    components(source, target, connectivity=CONNECTIVITY, work=work)
    return count_components(target)


def by_cc3d(source: Volume, target: Path, block: int) -> int:
    """Read whole, label, write whole."""
    import cc3d

    labels, n = cc3d.connected_components(source.read(), connectivity=CONNECTIVITY, binary_image=True, return_N=True)
    shard, chunk = shard_of((block,) * 3, source.shape, 4)
    volume = create_volume(
        target,
        shape=source.shape,
        dtype=np.uint32,
        voxel_size_um=source.voxel_size_um,
        kind="labels",
        shard_shape=shard,
        chunk_shape=chunk,
    )
    volume.create()
    volume.write(tuple(slice(0, n) for n in source.shape), labels.astype(np.uint32, copy=False))
    volume.finish({})
    return int(n)


def by_dask_image(source: Volume, target: Path, block: int) -> int:
    """As its manual says, with the numbers looked at and not stored."""
    import dask.array as da
    import zarr
    from dask_image.ndmeasure import label

    array = da.from_zarr(zarr.open(source.name, mode="r")["0"], chunks=(block,) * 3)
    labels, n = label(array != 0, structure=np.ones((3, 3, 3)))
    _, n = da.compute(labels.max(), n, scheduler="threads", num_workers=2)
    return int(n)


PARTS = {"ours": ours, "cc3d": by_cc3d, "dask_image": by_dask_image}


def measure(name: str, folder: Path, source: str, options: argparse.Namespace, repeat: int) -> dict[str, Any]:
    """Run one part in a process of its own on the volume `source`."""
    command = [sys.executable, __file__, "--part", name, source, "--folder", str(folder)]
    command += ["--block", str(options.block), "--repeat", str(repeat)]
    found = subprocess.run(command, check=True, capture_output=True, text=True, timeout=options.timeout)
    result: dict[str, Any] = json.loads(found.stdout.splitlines()[-1])
    return result


def run_part(name: str, source: str, folder: Path, options: argparse.Namespace) -> None:
    """What a process of its own does: some runs, of which the median counts, and the peak of all."""
    volume, seconds, cpu, n = open_zarr(folder / f"{source}.zarr"), [], [], 0
    target = folder / f"{name}-of-{source}.zarr"
    if name == "ours":
        small = Volume(MemoryArray(np.eye(8, dtype=np.uint8)[None], kind="labels"), None)
        ours(small, folder / "small.zarr", 4)  # what is compiled once on a machine is compiled
    with Peak() as peak:
        for _ in range(options.repeat):
            for old in (target, target.with_suffix(".pieces")):
                shutil.rmtree(old, ignore_errors=True)
            start, of_cpu = time.perf_counter(), time.process_time()
            n = PARTS[name](volume, target, options.block)
            seconds.append(time.perf_counter() - start)
            cpu.append(time.process_time() - of_cpu)
    medians = {"seconds": float(np.median(seconds)), "cpu": float(np.median(cpu))}
    print(json.dumps({**medians, "peak": peak.own, "components": n}))


def check(ours: Volume, peer: Volume) -> None:
    """Raise unless our numbers are those of the peer, ordered by the first voxel."""
    slab, (depth, height, width) = 32, ours.shape
    table, last = np.zeros(0, np.int64), 0
    for z in range(0, depth, slab):
        region = (slice(z, min(z + slab, depth)), slice(0, height), slice(0, width))
        found, expected = ours.read(region).ravel(), peer.read(region).ravel()
        greatest = int(expected.max())
        table = np.pad(table, (0, max(0, greatest + 1 - table.size)), constant_values=-1)
        # One of ours for each of theirs, and the other way round: each of ours is new where theirs is.
        new = table[expected] < 0
        table[expected[new]] = found[new]
        assert np.array_equal(table[expected], found), z
        # In the order of first voxels: none is more than one beyond the greatest before it.
        before = np.maximum.accumulate(np.concatenate([[last], found.astype(np.int64)]))
        assert (np.diff(before) <= 1).all(), z
        last = int(before[-1])
    assert table.size == 0 or (np.sort(table[table >= 0]) == np.arange((table >= 0).sum())).all()


def growth(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Time and memory over volumes of more and more tiles."""
    rows, tile = [], min(options.scales)
    for size in options.scales:
        make(folder / f"tiles-{size}.zarr", size, tile)
        result = measure("ours", folder, f"tiles-{size}", options, 1)
        rows.append((size, result["seconds"], result["cpu"], result["peak"], result["components"]))
        assert rows[-1][-1] == rows[0][-1] * (size // tile) ** 3, "a tile has as many components as another"
    per_voxel = [seconds / size**3 for size, seconds, *_ in rows]
    return {
        "sizes": [size for size, *_ in rows],
        "seconds": [rounded(seconds) for _, seconds, *_ in rows],
        "cpu_seconds": [rounded(cpu) for _, _, cpu, *_ in rows],
        "peaks_mib": [round(peak / 2**20) for *_, peak, _ in rows],
        "components": [n for *_, n in rows],
        "nanoseconds_per_voxel": [rounded(1e9 * each) for each in per_voxel],
        "projected_4096_s": rounded(per_voxel[-1] * 4096**3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--block", type=int, default=192)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=1200, help="seconds for one of the parts")
    parser.add_argument("--dask-size", type=int, default=320, help="of the volume for dask-image")
    parser.add_argument("--scales", type=int, nargs="*", default=[512, 1024, 2048], help="multiples of the first")
    parser.add_argument("--folder", type=Path, help="where the volumes are kept between runs")
    parser.add_argument("--without", nargs="*", default=[], choices=["dask_image", "cc3d"])
    parser.add_argument("--part", nargs=2, metavar=("NAME", "SOURCE"), help=argparse.SUPPRESS)
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    if options.part:
        run_part(*options.part, options.folder, options)
        return
    folder = options.folder or Path(tempfile.mkdtemp())
    figures: dict[str, Any] = {"block": [options.block] * 3, "connectivity": CONNECTIVITY}
    try:
        if "cc3d" not in options.without:
            figures |= beside("cc3d", options.size, folder, options)
            ours, peer = (open_zarr(folder / f"{n}-of-mask-{options.size}.zarr") for n in ("ours", "cc3d"))
            check(ours, peer)
        if "dask_image" not in options.without and importlib.util.find_spec("dask_image"):
            figures["dask_image"] = beside("dask_image", options.dask_size, folder, options)
        if options.scales:
            figures["growth"] = growth(folder, options)
    finally:
        if options.folder is None:
            shutil.rmtree(folder)
    publish("components", figures, options.keep)


def beside(peer: str, size: int, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Figures of a peer and of us on one volume."""
    source = f"mask-{size}"
    make(folder / f"{source}.zarr", size)
    ours, theirs = (measure(name, folder, source, options, options.repeat) for name in ("ours", peer))
    assert ours["components"] == theirs["components"]
    return {
        "shape": [size] * 3,
        "components": ours["components"],
        "ours_s": rounded(ours["seconds"]),
        "ours_peak_mib": round(ours["peak"] / 2**20),
        "ours_cpu_s": rounded(ours["cpu"]),
        f"{peer}_s": rounded(theirs["seconds"]),
        f"{peer}_cpu_s": rounded(theirs["cpu"]),
        f"{peer}_peak_mib": round(theirs["peak"] / 2**20),
        "ratio": rounded(ours["seconds"] / theirs["seconds"]),
        "memory_ratio": rounded(theirs["peak"] / ours["peak"]),
        "gigabytes_per_s": rounded(size**3 / ours["seconds"] / 1e9),
    }


if __name__ == "__main__":
    main()
