"""Confusion, contact faces and region counts of two label volumes in one pass, beside reading alone and dask.array.

The limit is the time that reading and decoding both volumes takes with the same reader, blocks and threads and nothing
else. The peer is idiomatic dask.array code for the same counts, which must be equal to the bit.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import zarr
from record import Peak, blobs, publish, rounded, timed

from tomoscale.engine import run
from tomoscale.measures.pairs import label_counts
from tomoscale.plan import plan_measure
from tomoscale.resources import Resources
from tomoscale.step import Counts, Measure
from tomoscale.volume import Volume, create_volume, open_zarr


def make(path: Path, size: int, seed: int, shift: int) -> Volume:
    """A label volume on disk, made once: 256-voxel slabs of blobs."""
    if path.exists():
        return open_zarr(path)
    edge = min(256, size)
    volume = create_volume(
        path, shape=(size,) * 3, dtype=np.uint8, voxel_size_um=5.0, kind="labels", shard_shape=(edge, size, size)
    )
    volume.create()
    for z in range(0, size, edge):
        volume.write(
            (slice(z, z + edge), slice(0, size), slice(0, size)),
            blobs((min(edge, size - z), size, size), seed + z, shift),
        )
    volume.finish({"made": [seed, shift]})
    return open_zarr(path)


def look(truth: Any, labels: Any, *, block: Any) -> Counts:
    """Count nothing: what is left is reading and decoding."""
    return {"voxels": np.array([labels[block.core].size])}


def by_dask(truth: Volume, labels: Volume) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same counts as a user of dask.array writes them."""
    t, p = (da.from_zarr(zarr.open(v.name, mode="r")["0"], chunks=(256, 256, 256)) for v in (truth, labels))
    codes = (t.astype(np.int64) * 4 + p).ravel()
    faces = [
        da.bincount((a.astype(np.int64) * 4 + b).ravel(), minlength=16)
        for a, b in ((p[:-1], p[1:]), (p[:, :-1], p[:, 1:]), (p[:, :, :-1], p[:, :, 1:]))
    ]
    regions = da.bincount(((t > 0).astype(np.int64) * 4 + p).ravel(), minlength=8)
    results = dask.compute(da.bincount(codes, minlength=16), *faces, regions, scheduler="threads")
    return results[0].reshape(4, 4), np.stack(results[1:4]).reshape(3, 4, 4), results[4].reshape(2, 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--block", type=int, default=256)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the volumes are kept between runs")
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp())
    truth, labels = (
        make(folder / f"{name}-{options.size}.zarr", options.size, 3, shift)
        for name, shift in (("truth", 0), ("labels", 2))
    )
    volumes = {"truth": truth, "labels": labels, "roi": truth}
    block = (min(options.block, options.size),) * 3
    resources = Resources(slots=2, io_slots=1)

    # The region is where the truth is not background, so that no third volume is read, as for the peer.
    fused = label_counts(4)
    only_reading = Measure("reading", look, ("truth", "labels"), fused.halo)
    halves: list[tuple[float, float]] = []
    results: Any = None
    with Peak() as peak:
        # In turn, so that a machine whose speed drifts is fair to both.
        for _ in range(options.repeat + 1):
            start = time.perf_counter()
            run(plan_measure(only_reading, volumes, block_shape=block, resources=resources), progress=False)
            middle = time.perf_counter()
            results = run(plan_measure(fused, volumes, block_shape=block, resources=resources), progress=False)
            halves.append((middle - start, time.perf_counter() - middle))
    reading, counting = (float(np.median([h[i] for h in halves[1:]])) for i in (0, 1))
    regions = np.stack([results["confusion"][0], results["confusion"][1:].sum(axis=0)])
    with Peak() as peer_peak:
        peer_seconds, (confusion, faces, peer_regions) = timed(lambda: by_dask(truth, labels), 1)
    assert np.array_equal(results["confusion"], confusion)
    assert np.array_equal(results["faces"], faces)
    assert np.array_equal(regions, peer_regions)
    voxels = 2 * options.size**3
    publish(
        "fused_measures",
        {
            "shape": [options.size] * 3,
            "block": list(block),
            "seconds": rounded(counting),
            "gb_per_s": rounded(voxels / counting / 1e9),
            "peak_mib": round(peak.own / 2**20),
            "reading_only_s": rounded(reading),
            "ratio_to_reading": rounded(counting / reading),
            "pairs_reading_fused_s": [[rounded(a), rounded(b)] for a, b in halves[1:]],
            "dask_array_s": rounded(peer_seconds),
            "dask_array_peak_mib": round(peer_peak.own / 2**20),
            "times_faster_than_dask_array": rounded(peer_seconds / counting),
            "equal_to_the_bit": True,
            "limits": {"ratio_to_reading": 1.25, "times_faster_than_dask_array": 10},
        },
        options.keep,
    )
    if options.folder is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
