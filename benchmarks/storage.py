"""Read and write the same shards with three libraries, beside a plain copy of the files; prints one JSON line.

    python benchmarks/storage.py --size 512 --dtype uint16 --shard 256 --folder /scratch

Figures are MiB of decoded voxels a second, the median of `--repeats`. ``copy`` is what the disk (or its cache) does with
the compressed bytes, in decoded MiB a second too. ``tomoscale`` is `Volume.read` and `Volume.write`, durable or not.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorstore
import zarr
from record import Peak, blobs, publish, rounded

from tomoscale.geometry import Grid
from tomoscale.volume import Volume, create_volume

PIPELINES = {"zarr": "zarr.core.codec_pipeline.BatchedCodecPipeline", "zarrs": "zarrs.ZarrsCodecPipeline"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256, help="voxels along each axis")
    parser.add_argument(
        "--dtype", choices=["uint8", "uint16", "float32"], default="uint8", help="uint8: labels; others: noisy grey"
    )
    parser.add_argument("--shard", type=int, default=256)
    parser.add_argument("--chunk", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="on the disk to be measured; default: the temporary folder")
    parser.add_argument("--keep", action="store_true", help="write the line to benchmarks/results too")
    options = parser.parse_args()
    values = phantom(options.size, options.dtype)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        publish("storage", measure(Path(folder), values, options), options.keep)


def phantom(size: int, dtype: str) -> np.ndarray:
    """Four classes with some noise, or a noisy grey volume of them."""
    labels = blobs((size,) * 3, seed=0)
    if dtype == "uint8":
        return labels
    noise = np.random.default_rng(0).normal(4000, 400, labels.shape)
    return (labels * 8000.0 + noise).astype(dtype)


def measure(folder: Path, values: np.ndarray, options: argparse.Namespace) -> dict[str, object]:
    mebibytes, shard = values.nbytes / 2**20, (options.shard,) * 3
    kind = "labels" if values.dtype == np.uint8 else "grey"
    described = {
        "shape": values.shape,
        "dtype": values.dtype,
        "kind": kind,
        "shard_shape": shard,
        "chunk_shape": (options.chunk,) * 3,
    }

    def fresh(durable: bool = False) -> Volume:
        shutil.rmtree(folder / "v.zarr", ignore_errors=True)
        volume = create_volume(folder / "v.zarr", durable=durable, **described)
        volume.create()
        return volume

    def rate(prepare: Callable[[], Callable[[], object]]) -> float:
        seconds = []
        for _ in range(options.repeats):
            job = prepare()
            start = time.perf_counter()
            job()
            seconds.append(time.perf_counter() - start)
        return rounded(mebibytes / float(np.median(seconds)))

    def by_shards(write: Callable[[tuple[slice, ...], np.ndarray], object]) -> Callable[[], None]:
        def job() -> None:
            for region in Grid(values.shape, shard):
                write(region, np.ascontiguousarray(values[region]))

        return job

    def zarr_array(pipeline: str) -> zarr.Array:
        zarr.config.set({"codec_pipeline.path": PIPELINES[pipeline], "array.write_empty_chunks": True})
        return zarr.open_group(folder / "v.zarr", mode="r+")["0"]

    def plain() -> tensorstore.TensorStore:
        spec = {
            "driver": "zarr3",
            "kvstore": {"driver": "file", "path": f"{folder}/v.zarr/0/"},
            "store_data_equal_to_fill_value": True,
        }
        return tensorstore.open(spec, context=tensorstore.Context({"file_io_sync": False})).result()

    def prepared(name: str) -> Callable[[], None]:
        fresh()
        array = plain() if name == "tensorstore" else zarr_array(name)
        return by_shards((lambda r, v: array[r].write(v).result()) if name == "tensorstore" else array.__setitem__)

    write = {name: rate(lambda name=name: prepared(name)) for name in ("zarr", "zarrs", "tensorstore")}
    write["tomoscale"] = rate(lambda: by_shards(fresh(False).write))
    write["tomoscale durable"] = rate(lambda: by_shards(fresh(True).write))
    volume = create_volume(folder / "v.zarr", **described)
    read = {name: rate(lambda name=name: lambda: zarr_array(name)[...]) for name in PIPELINES}
    read["tensorstore"] = rate(lambda: lambda: plain().read().result())
    read["tomoscale"] = rate(lambda: volume.read)
    np.testing.assert_array_equal(volume.read(), values)

    def copy() -> Callable[[], object]:
        shutil.rmtree(folder / "copy", ignore_errors=True)
        return lambda: shutil.copytree(folder / "v.zarr", folder / "copy")

    stored = sum(f.stat().st_size for f in (folder / "v.zarr").rglob("*") if f.is_file())
    return {
        "shape": values.shape,
        "dtype": values.dtype.name,
        "shard": options.shard,
        "chunk": options.chunk,
        "compression": rounded(values.nbytes / stored),
        "write_mib_s": write,
        "read_mib_s": read,
        "copy_mib_s": rate(copy),
        "peak_mib": rounded(peak_mib(lambda: fresh(True), by_shards, volume)),
    }


def peak_mib(fresh: Callable[[], Volume], by_shards: Callable[..., Callable[[], None]], volume: Volume) -> float:
    """Peak memory of writing and reading all, values and the process included."""
    with Peak() as peak:
        by_shards(fresh().write)()
        volume.read()
    return peak.own / 2**20


if __name__ == "__main__":
    main()
