"""The local thickness of a whole volume on disk, by blocks, beside porespy with the whole in memory.

We read a Zarr array and write one; the peer is given its mask in memory and writes nothing. It needs an environment of
its own, because it wants other versions than we do: ``--peer-python`` names the interpreter. Where porespy is not
installed, localthickness is tried, whose map is an approximation.

The map is held against the definition at voxels drawn at random: the largest ball of edt's squares that covers each.
porespy rounds radii down to whole voxels, so its map is only close: the means of both are printed.
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

from tomoscale.geometry import whole
from tomoscale.objects.thickness import thickness
from tomoscale.resources import Resources
from tomoscale.volume import Volume, create_volume, open_zarr
from tomoscale.work import Work

CLASSES = (2, 3)

PEER = """
import json, resource, sys, time
import numpy as np
mask, found = np.load(sys.argv[1]), None
small = np.ones((9, 9, 9), bool)
small[0] = False
for name in ("porespy", "localthickness"):
    try:
        module = __import__(name)
    except ImportError:
        continue
    measure = module.filters.local_thickness if name == "porespy" else module.local_thickness
    measure(small)  # compiles
    start, of_cpu = time.perf_counter(), time.process_time()
    radii = measure(mask)
    seconds, cpu = time.perf_counter() - start, time.process_time() - of_cpu
    version = getattr(module, "__version__", "")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    found = {"peer": f"{name} {version}".strip(), "seconds": seconds, "cpu": cpu, "peak": peak, "mean": 2 * float(radii[mask].mean())}
    break
print(json.dumps(found))
"""


def make(path: Path, size: int) -> Volume:
    """Labels like a segmented scan on disk, made once; voxels of 1 µm, so that lengths are counted in voxels."""
    if not path.exists():
        volume = create_volume(path, shape=(size,) * 3, dtype=np.uint8, voxel_size_um=1.0, kind="labels")
        volume.create()
        volume.write(whole(volume.shape), blobs(volume.shape, 3))
        volume.finish({"made": size})
    return open_zarr(path)


def ours(folder: Path, size: int, memory_bytes: int) -> dict[str, Any]:
    """Distances, the largest of them, and the map, by blocks."""
    seconds, target = [], folder / "ours.zarr"
    for source in (make(folder / "labels-16.zarr", 16), open_zarr(folder / f"labels-{size}.zarr")):
        shutil.rmtree(target, ignore_errors=True)
        with Peak() as peak:
            start, of_cpu = time.perf_counter(), time.process_time()
            work = Work(None, Resources(slots=2, io_slots=1, memory_bytes=memory_bytes), progress=False)
            thickness(source, target, classes=CLASSES, work=work)
            seconds.append(time.perf_counter() - start)
            cpu = time.process_time() - of_cpu
    return {"seconds": seconds[-1], "cpu": cpu, "peak": peak.own, "blocks": work.runs[-1]["blocks"]}


def check(source: Volume, found: Volume, samples: int) -> float:
    """Raise unless voxels drawn at random have the diameter of the largest ball that covers them; the mean of all."""
    mask, diameters = np.isin(source.read(), CLASSES), found.read()
    squares = np.rint(edt.edtsq(mask)).astype(np.int64)
    reach = int(np.sqrt(squares.max())) + 1
    assert np.array_equal(diameters > 0, mask)
    random = np.random.default_rng(0)
    for place in random.permutation(np.flatnonzero(mask))[:samples]:
        at = np.unravel_index(place, mask.shape)
        box = tuple(slice(max(0, a - reach), a + reach + 1) for a in at)
        offsets = [(np.arange(s.start, min(s.stop, n)) - a) ** 2 for s, n, a in zip(box, mask.shape, at, strict=True)]
        apart = offsets[0][:, None, None] + offsets[1][:, None] + offsets[2]
        largest = squares[box][apart <= squares[box]].max()
        assert diameters[at] == np.float32(2 * np.sqrt(float(largest))), at
    return float(diameters[mask].mean(dtype=np.float64))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--memory-mib", type=int, default=1024, help="what the plan may take")
    parser.add_argument("--samples", type=int, default=100, help="voxels that are held against the definition")
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter that has porespy")
    parser.add_argument("--folder", type=Path, help="where the volumes are kept between runs")
    parser.add_argument("--part", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp())
    if options.part:
        print(json.dumps(ours(folder, options.size, options.memory_mib * 2**20)))
        return
    try:
        source = make(folder / f"labels-{options.size}.zarr", options.size)
        command = [sys.executable, __file__, "--part", "--folder", folder, "--size", options.size]
        found = _printed([*command, "--memory-mib", options.memory_mib])
        mean = check(source, open_zarr(folder / "ours.zarr"), options.samples)
        np.save(folder / "mask.npy", np.isin(source.read(), CLASSES))
        peer = _printed([options.peer_python, "-c", PEER, folder / "mask.npy"])
    finally:
        if options.folder is None:
            shutil.rmtree(folder)
    figures: dict[str, Any] = {
        "shape": [options.size] * 3,
        "blocks": found["blocks"],
        "ours_s": rounded(found["seconds"]),
        "ours_cpu_s": rounded(found["cpu"]),
        "ours_peak_mib": round(found["peak"] / 2**20),
        "mean_thickness_voxels": rounded(mean, 5),
        "gigabytes_per_s": rounded(options.size**3 / found["seconds"] / 1e9),
        "peer": None,
    }
    if peer:
        figures |= {
            "peer": peer["peer"],
            "peer_s": rounded(peer["seconds"]),
            "peer_cpu_s": rounded(peer["cpu"]),
            "peer_peak_mib": round(peer["peak"] / 2**20),
            "peer_mean_thickness_voxels": rounded(peer["mean"], 5),
            "ratio": rounded(found["seconds"] / peer["seconds"]),
        }
    publish("thickness", figures, options.keep)


def _printed(command: list[Any]) -> Any:
    found = subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True)
    return json.loads(found.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
