"""The exact distance of a whole volume on disk, by blocks, beside edt with the whole in memory.

Both read the same Zarr array and write one of the same shards, chunks and codec, each in a process of its own, on as many
threads. For cubic voxels and for others; the distances must be equal bit for bit to the roots of edt's squares, which
are whole numbers that float32 holds.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import edt
import numpy as np
from record import Peak, blobs, publish, rounded

from tomoscale.geometry import Spacing, whole
from tomoscale.kernels.ball import Ball, covering_ball
from tomoscale.objects.distance import distance
from tomoscale.resources import Resources
from tomoscale.volume import Volume, create_volume, open_zarr
from tomoscale.work import Work

VOXEL_SIZES: dict[str, Spacing] = {"cubic": (5.0, 5.0, 5.0), "anisotropic": (7.5, 5.0, 5.0)}
THREADS = 2


def make(path: Path, size: int, voxel_size_um: Spacing) -> Volume:
    """Labels like a segmented scan on disk, made once."""
    if not path.exists():
        volume = create_volume(path, shape=(size,) * 3, dtype=np.uint8, voxel_size_um=voxel_size_um, kind="labels")
        volume.create()
        volume.write(whole(volume.shape), blobs(volume.shape, 3))
        volume.finish({"made": size})
    return open_zarr(path)


def ours(source: Volume, target: Path, memory_bytes: int) -> Volume:
    """Three passes by blocks."""
    work = Work(None, Resources(slots=THREADS, io_slots=1, memory_bytes=memory_bytes), progress=False)
    return distance(source, target, classes=(3,), work=work)


def by_edt(source: Volume, target: Path, memory_bytes: int) -> Volume:
    """Read whole, measure, write whole; the target is stored as ours is."""
    like = open_zarr(target.with_name(f"ours-{target.name.removeprefix('edt-')}"))
    found = edt.edt(source.read() != 3, anisotropy=source.voxel_size_um, parallel=THREADS)
    volume = create_volume(
        target,
        like=like,
        kind="grey",
        shard_shape=like.storage.shard_shape,
        chunk_shape=like.storage.chunk_shape,
    )
    volume.create()
    volume.write(whole(volume.shape), found)
    volume.finish({})
    return volume


PARTS = {"ours": ours, "edt": by_edt}


def run_part(name: str, spacing: str, folder: Path, options: argparse.Namespace) -> None:
    """What a process of its own does: some runs, of which the median counts, and the peak of all."""
    source, seconds, cpu = open_zarr(folder / f"labels-{spacing}-{options.size}.zarr"), [], []
    target = folder / f"{name}-{spacing}.zarr"
    if name == "ours":
        # What is compiled once on a machine is compiled.
        ours(make(folder / f"small-{spacing}.zarr", 16, VOXEL_SIZES[spacing]), folder / "warm.zarr", 2**30)
        shutil.rmtree(folder / "warm.zarr")
    with Peak() as peak:
        for _ in range(options.repeat):
            shutil.rmtree(target, ignore_errors=True)
            start, of_cpu = time.perf_counter(), time.process_time()
            PARTS[name](source, target, options.memory_mib * 2**20)
            seconds.append(time.perf_counter() - start)
            cpu.append(time.process_time() - of_cpu)
    print(json.dumps({"seconds": float(np.median(seconds)), "cpu": float(np.median(cpu)), "peak": peak.own}))


def measure(name: str, spacing: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run one part in a process of its own."""
    command = [sys.executable, __file__, "--part", name, spacing, "--folder", str(folder), "--size", str(options.size)]
    command += ["--repeat", str(options.repeat), "--memory-mib", str(options.memory_mib)]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(found.stdout.splitlines()[-1])
    return result


def check(source: Volume, found: Volume, ball: Ball) -> None:
    """Raise unless the distances are the roots of edt's squares, taken in float64 and rounded once."""
    units = tuple(float(np.sqrt(w)) for w in ball.weights)
    squares = edt.edtsq(source.read() != 3, anisotropy=units, parallel=THREADS)
    assert squares.max() < 2**24
    for z, plane in enumerate(found.read()):
        expected = (np.sqrt(np.rint(squares[z]).astype(np.float64)) * ball.unit_um).astype(np.float32)
        assert np.array_equal(plane, expected), z


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--memory-mib", type=int, default=1024, help="what the plan may take")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the volumes are kept between runs")
    parser.add_argument("--part", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    if options.part:
        run_part(*options.part, options.folder, options)
        return
    folder = options.folder or Path(tempfile.mkdtemp())
    figures: dict[str, Any] = {"shape": [options.size] * 3, "threads": THREADS}
    try:
        for spacing, voxel_size in VOXEL_SIZES.items():
            source = make(folder / f"labels-{spacing}-{options.size}.zarr", options.size, voxel_size)
            found, peer = (measure(name, spacing, folder, options) for name in PARTS)
            check(source, open_zarr(folder / f"ours-{spacing}.zarr"), covering_ball(source.shape, voxel_size))
            figures[spacing] = {
                "voxel_size_um": voxel_size,
                "ours_s": rounded(found["seconds"]),
                "ours_peak_mib": round(found["peak"] / 2**20),
                "ours_cpu_s": rounded(found["cpu"]),
                "edt_s": rounded(peer["seconds"]),
                "edt_cpu_s": rounded(peer["cpu"]),
                "edt_peak_mib": round(peer["peak"] / 2**20),
                "ratio": rounded(found["seconds"] / peer["seconds"]),
                "gigabytes_per_s": rounded(options.size**3 / found["seconds"] / 1e9),
            }
    finally:
        if options.folder is None:
            shutil.rmtree(folder)
    publish("distance", figures, options.keep)


if __name__ == "__main__":
    main()
