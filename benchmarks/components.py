"""Connected components of a volume on disk, by blocks, beside cc3d with the whole in memory and dask-image.

All three start from the same Zarr array; each runs in a process of its own, so that its peak memory is its own. cc3d and
we give the numbers in a Zarr array; dask-image, where it is installed, only has them computed and looks at them block by
block, because it does not know how many there are before. The numbers must be equal: ours to those of cc3d, ordered by
the first voxel.
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

from tomoscale.objects.components import components, count_components
from tomoscale.resources import Resources
from tomoscale.volume import Volume, create_volume, open_zarr
from tomoscale.work import Work

CONNECTIVITY = 26


def make(path: Path, size: int) -> Volume:
    """A mask like bone on disk, made once in slabs."""
    if path.exists():
        return open_zarr(path)
    edge, side = 128, -(-size // 64) * 64
    volume = create_volume(
        path,
        shape=(size,) * 3,
        dtype=np.uint8,
        voxel_size_um=5.0,
        kind="labels",
        shard_shape=(edge, side, side),
        chunk_shape=(64, 64, 64),
    )
    volume.create()
    for z in range(0, size, edge):
        part = blobs((min(edge, size - z), size, size), 3 + z)
        volume.write((slice(z, z + part.shape[0]), slice(0, size), slice(0, size)), np.where(part == 3, part, 0))
    volume.finish({"made": size})
    return open_zarr(path)


def ours(source: Volume, target: Path, block: int) -> int:
    """Both passes by blocks."""
    edge = min(block, source.shape[0])
    work = Work(None, Resources(slots=2, io_slots=1), (edge, edge, edge), progress=False)
    components(source, target, connectivity=CONNECTIVITY, work=work)
    return count_components(target)


def by_cc3d(source: Volume, target: Path, block: int) -> int:
    """Read whole, label, write whole."""
    import cc3d

    labels, n = cc3d.connected_components(source.read(), connectivity=CONNECTIVITY, binary_image=True, return_N=True)
    volume = create_volume(
        target, shape=source.shape, dtype=np.uint32, voxel_size_um=source.voxel_size_um, kind="labels"
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


def measure(name: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run one part in a process of its own; the second of two runs counts, when all is compiled and in the page cache."""
    command = [sys.executable, __file__, "--part", name, "--folder", str(folder), "--size", str(options.size)]
    command += ["--block", str(options.block), "--repeat", str(options.repeat)]
    found = subprocess.run(command, check=True, capture_output=True, text=True, timeout=options.timeout)
    result: dict[str, Any] = json.loads(found.stdout.splitlines()[-1])
    return result


def run_part(name: str, folder: Path, options: argparse.Namespace) -> None:
    """What a process of its own does: some runs, of which the median counts, and the peak of all."""
    source, seconds, n = open_zarr(folder / f"mask-{options.size}.zarr"), [], 0
    target = folder / f"{name}-{options.size}.zarr"
    with Peak() as peak:
        for _ in range(options.repeat + (name == "ours")):
            shutil.rmtree(target, ignore_errors=True)
            shutil.rmtree(target.with_suffix(".pieces"), ignore_errors=True)
            start = time.perf_counter()
            n = PARTS[name](source, target, options.block)
            seconds.append(time.perf_counter() - start)
    # Our first run may compile.
    counted = seconds[1:] if name == "ours" else seconds
    print(json.dumps({"seconds": float(np.median(counted)), "peak": peak.own, "components": n}))


def check(folder: Path, size: int) -> None:
    """Raise unless our numbers are those of cc3d in the order of first voxels."""
    found, peer = (open_zarr(folder / f"{name}-{size}.zarr").read() for name in ("ours", "cc3d"))
    ids, first = np.unique(peer, return_index=True)
    table = np.zeros(int(ids[-1]) + 1, np.uint32)
    table[ids[ids > 0][np.argsort(first[ids > 0])]] = np.arange(1, (ids > 0).sum() + 1)
    for z in range(size):
        assert np.array_equal(found[z], table[peer[z]]), z


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=400)
    parser.add_argument("--block", type=int, default=192)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=900, help="seconds for one of the parts")
    parser.add_argument("--folder", type=Path, help="where the volumes are kept between runs")
    parser.add_argument("--without", nargs="*", default=[], choices=["dask_image"])
    parser.add_argument("--part", choices=list(PARTS), help=argparse.SUPPRESS)
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    if options.part:
        run_part(options.part, options.folder, options)
        return
    folder = options.folder or Path(tempfile.mkdtemp())
    make(folder / f"mask-{options.size}.zarr", options.size)
    wanted = [name for name in PARTS if name not in options.without]
    if importlib.util.find_spec("dask_image") is None:
        wanted = [name for name in wanted if name != "dask_image"]
    figures: dict[str, Any] = {"shape": [options.size] * 3, "block": [options.block] * 3, "connectivity": CONNECTIVITY}
    results = {name: measure(name, folder, options) for name in wanted}
    check(folder, options.size)
    for name, result in results.items():
        assert result["components"] == results["ours"]["components"]
        figures[f"{name}_s"] = rounded(result["seconds"])
        figures[f"{name}_peak_mib"] = round(result["peak"] / 2**20)
    figures["million_voxels_per_s"] = rounded(options.size**3 / results["ours"]["seconds"] / 1e6)
    figures["components"] = results["ours"]["components"]
    publish("components", figures, options.keep)
    if options.folder is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
