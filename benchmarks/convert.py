"""Converting a folder of TIFF slices, beside TensorStore writing the same chunks from memory and a plain file copy.

The copy is the disk's limit, TensorStore's write is the encoder's limit: convert also decodes TIFF slices, checks every
value, checksums every block and keeps a ledger.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import tifffile
from record import Peak, publish, rounded

from tomoscale.commands import convert
from tomoscale.volume import create_volume
from tomoscale.work import working


def write_slices(folder: Path, size: int) -> int:
    """A noisy 16-bit scan as single-slice TIFF files; return its bytes."""
    folder.mkdir()
    random = np.random.default_rng(3)
    base = random.integers(8000, 40000, (size, size)).astype(np.uint16)
    for z in range(size):
        tifffile.imwrite(folder / f"scan_{z:05d}.tif", np.roll(base, z, axis=z % 2))
    return size**3 * 2


def copy(source: Path, target: Path) -> None:
    """Copy a folder file by file and sync it, as convert does."""
    shutil.copytree(source, target)
    for path in target.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {"convert": [], "tensorstore": [], "copy": []}
    everything = tuple(slice(0, options.size) for _ in range(3))
    peak_mib, shard = 0, (0, 0, 0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        n_bytes = write_slices(folder / "slices", options.size)
        for k in range(options.repeat):
            with Peak() as peak, working("threads", progress=False) as work:
                start = time.perf_counter()
                volume = convert(folder / "slices", folder / f"{k}.zarr", voxel_size_um=5.0, work=work)
                seconds["convert"].append(time.perf_counter() - start)
            peak_mib, shard = round(peak.own / 2**20), volume.storage.shard_shape
            values = volume.read()
            plain = create_volume(
                folder / f"{k}-plain.zarr", like=volume, shard_shape=shard, chunk_shape=volume.storage.chunk_shape
            )
            plain.create()
            start = time.perf_counter()
            plain.write(everything, values)
            seconds["tensorstore"].append(time.perf_counter() - start)
            start = time.perf_counter()
            copy(folder / "slices", folder / f"{k}-copy")
            seconds["copy"].append(time.perf_counter() - start)
            for path in (folder / f"{k}.zarr", folder / f"{k}-plain.zarr", folder / f"{k}-copy"):
                shutil.rmtree(path)
    median = {name: float(np.median(values)) for name, values in seconds.items()}
    publish(
        "convert",
        {
            "shape": [options.size] * 3,
            "dtype": "uint16",
            "shard": list(shard),
            "seconds": rounded(median["convert"]),
            "gb_per_s": rounded(n_bytes / median["convert"] / 1e9),
            "peak_mib": peak_mib,
            "tensorstore_write_s": rounded(median["tensorstore"]),
            "file_copy_s": rounded(median["copy"]),
            "ratio_to_tensorstore": rounded(median["convert"] / median["tensorstore"]),
            "ratio_to_copy": rounded(median["convert"] / median["copy"]),
        },
        options.keep,
    )


if __name__ == "__main__":
    main()
