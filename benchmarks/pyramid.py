"""All coarser levels of a label volume and of a grey one, beside reading the same volumes, and dask's means.

Reading is the limit: every voxel of the first level is decoded once. dask makes one level, of the grey volume alone,
since it has means but no modes; it writes the same chunks, and its voxels are compared with ours.
"""

from __future__ import annotations

import argparse
import math
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import zarr
from record import Peak, blobs, publish, rounded

from tomoscale.blocking import CHUNK_VOXELS
from tomoscale.geometry import Grid
from tomoscale.pyramid import pyramid
from tomoscale.volume import Volume, create_volume, open_zarr
from tomoscale.work import Work


def write(path: Path, values: np.ndarray, kind: Any) -> Volume:
    """A finished volume, whose blocks are not larger than a process can hold several of."""
    shard = tuple(min(256, -(-n // CHUNK_VOXELS) * CHUNK_VOXELS) for n in values.shape)
    chunk = tuple(min(CHUNK_VOXELS, s) for s in shard)
    volume = create_volume(
        path, shape=values.shape, dtype=values.dtype, kind=kind, voxel_size_um=5.0, shard_shape=shard, chunk_shape=chunk
    )
    volume.create()
    for region in Grid(values.shape, shard):
        volume.write(region, values[region])
    volume.finish({})
    return open_zarr(path)


def read(volume: Volume) -> float:
    """Seconds of reading all blocks after each other, with all cores decoding."""
    start = time.perf_counter()
    for region in Grid(volume.shape, volume.storage.shard_shape):
        volume.read(region)
    return time.perf_counter() - start


def coarsen(source: Path, target: Path) -> float:
    """Seconds dask takes for the first level of means; chunks of a shard at once, else it takes minutes."""
    start = time.perf_counter()
    stored = zarr.open_array(source / "0", mode="r")
    means = dask.array.coarsen(np.mean, dask.array.from_zarr(stored, chunks=stored.shards), dict.fromkeys(range(3), 2))
    chunks = tuple(n // 2 for n in stored.shards)
    out = zarr.create_array(
        target, shape=means.shape, dtype=stored.dtype, chunks=(CHUNK_VOXELS // 2,) * 3, shards=chunks
    )
    dask.array.store(dask.array.rint(means).astype(stored.dtype), out, lock=False)
    return time.perf_counter() - start


def measure(volume: Volume, repeat: int) -> dict[str, Any]:
    """Figures of one volume, which gets its levels."""
    seconds, reading, peaks = [], [], []
    for k in range(repeat):
        reading.append(read(volume))
        work = Work(progress=False, overwrite=k > 0)
        with Peak() as peak:
            start = time.perf_counter()
            pyramid(volume, work=work)
            seconds.append(time.perf_counter() - start)
        peaks.append(peak.own)
    took, limit = float(np.median(seconds)), float(np.median(reading))
    return {
        "dtype": volume.dtype.name,
        "levels": len(work.runs),
        "seconds": rounded(took),
        "gb_per_s": rounded(volume.nbytes / took / 1e9),
        "read_s": rounded(limit),
        "ratio_to_read": rounded(took / limit),
        "peak_mib": round(max(peaks) / 2**20),
    }


def fill(folder: Path, shape: tuple[int, int, int]) -> tuple[Volume, Volume]:
    """Labels, and noisy grey values of them; compiled code is loaded here, before the clock runs."""
    labels = blobs(shape, seed=1)
    random = np.random.default_rng(0)
    grey = (labels.astype(np.uint16) + 1) * 9000 + random.integers(0, 500, shape, np.uint16)
    for kind, values in (("labels", labels), ("grey", grey)):
        pyramid(write(folder / "warm.zarr", np.tile(values[:8, :8, :8], (1, 1, 33)), kind), work=Work(progress=False))
        shutil.rmtree(folder / "warm.zarr")
    return write(folder / "labels.zarr", labels, "labels"), write(folder / "grey.zarr", grey, "grey")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=512, help="voxels along an edge; even, and more than 256")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    shape = (options.size,) * 3
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        labels, volume = fill(folder, shape)
        label_figures, grey_figures = measure(labels, options.repeat), measure(volume, options.repeat)
        with Peak() as peak:
            dask_s = coarsen(folder / "grey.zarr", folder / "dask.zarr")
        same = None
        if grey_figures["levels"]:
            ours = open_zarr(volume.name, array="1").read()
            same = bool(np.array_equal(ours, zarr.open_array(folder / "dask.zarr", mode="r")[...]))
    publish(
        "pyramid",
        {
            "shape": list(shape),
            "voxels": math.prod(shape),
            "labels": label_figures,
            "grey": grey_figures,
            "dask_first_level_s": rounded(dask_s),
            "dask_peak_mib": round(peak.own / 2**20),
            "dask_equals_ours": same,
        },
        options.keep,
    )


if __name__ == "__main__":
    main()
