"""A map from a bucket into a bucket, beside plain puts and gets of the same objects on the same server; prints one JSON line.

    python benchmarks/s3.py --size 384 --block 128                          # on a moto server that it starts itself
    AWS_ENDPOINT_URL=http://gateway:7480 python benchmarks/s3.py --bucket scans --server "Ceph RADOS Gateway 16.2.15"

``plain`` is what obstore does with the stored bytes alone: every object of the source got, every object of the target put,
by as many threads as the map has in flight. ``ratio`` is its time over that of the map, which packs, unpacks, checks and
records besides. ``packed`` moves the same objects and unpacks and packs each with the bare library too: what a machine whose
cores the server shares can do at most. Requests are counted in a further map through a server in between, not timed.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import numpy as np
import tensorstore
from record import Peak, blobs, publish, rounded, timed

from tomoscale.bucket_path import BucketPath
from tomoscale.geometry import Grid, Halo
from tomoscale.places import path_inside, place, remove_tree
from tomoscale.resources import Resources
from tomoscale.step import Kernel
from tomoscale.volume import create_volume, open_zarr
from tomoscale.work import Work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=384, help="voxels along each axis")
    parser.add_argument("--block", type=int, default=128, help="edge of a block, which is a shard, which is an object")
    parser.add_argument(
        "--dtype", choices=["uint8", "uint16"], default="uint16", help="uint8: labels; uint16: noisy grey"
    )
    parser.add_argument(
        "--margin", type=int, default=0, help="voxels read around each block: parts of objects beside its own"
    )
    parser.add_argument("--threads", type=int, default=2, help="blocks computed at once; as many are read or written")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--endpoint", default=os.environ.get("AWS_ENDPOINT_URL"), help="default: moto, started for this"
    )
    parser.add_argument("--bucket", default="scans", help="it must be there")
    parser.add_argument("--server", help="what answers at the endpoint, for the record")
    parser.add_argument("--keep", action="store_true", help="write the line to benchmarks/results too")
    options = parser.parse_args()
    with server_of(options) as server:
        folder = f"s3://{options.bucket}/benchmark-{time.time_ns()}"
        try:
            figures = measure(folder, options)
        finally:
            remove_tree(place(folder))
    publish("s3", {"server": server, **figures}, options.keep)


def invert(values: np.ndarray) -> np.ndarray:
    """Complement of integers: as little work as there can be."""
    return ~values


def measure(folder: str, options: argparse.Namespace) -> dict[str, object]:
    make_source(f"{folder}/source.zarr", options)
    map_seconds(folder, options)  # connects, tries what the server knows, and makes what plain puts put
    plain = Plain(folder, options.block, 2 * options.threads)
    # In turns: what else the machine does then falls on both.
    moves = (plain.move, plain.move_packed)
    seconds = np.array(
        [(map_seconds(folder, options), *map(plain.seconds, moves)) for _ in range(options.repeats)],
    )
    plain.contents.clear()
    with Peak() as peak:
        map_seconds(folder, options)
    check(folder)
    of_map, of_plain, of_packed = np.median(seconds, axis=0)
    mebibytes = plain.bytes / 2**20
    blocks = (-(-options.size // options.block)) ** 3
    ratios, packed = (seconds[:, one] / seconds[:, 0] for one in (1, 2))
    return {
        "shape": [options.size] * 3,
        "dtype": options.dtype,
        "block": options.block,
        "margin": options.margin,
        "blocks": blocks,
        "in_flight": 2 * options.threads,
        "stored_mib": rounded(mebibytes),
        "map_seconds": rounded(of_map),
        "plain_seconds": rounded(of_plain),
        "packed_seconds": rounded(of_packed),
        "map_mib_s": rounded(mebibytes / of_map),
        "plain_mib_s": rounded(mebibytes / of_plain),
        "map_voxel_mib_s": rounded(2 * np.dtype(options.dtype).itemsize * options.size**3 / 2**20 / of_map),
        "ratio": rounded(float(np.median(ratios))),
        "ratios": [rounded(ratio) for ratio in ratios],
        "ratio_to_packed": rounded(float(np.median(packed))),
        "limits": {"ratio": 0.8},
        "requests_per_block": requests_per_block(folder, options, blocks),
        "peak_mib": rounded(peak.own / 2**20),
    }


def make_source(path: str, options: argparse.Namespace) -> None:
    """Put labels, or noisy grey values of them, in shards of one block."""
    values = blobs((options.size,) * 3, seed=0)
    if options.dtype == "uint16":
        values = (values * 8000.0 + np.random.default_rng(0).normal(4000, 400, values.shape)).astype(np.uint16)
    volume = create_volume(
        path,
        shape=values.shape,
        dtype=values.dtype,
        voxel_size_um=2.0,
        kind="labels" if options.dtype == "uint8" else "grey",
        shard_shape=(options.block,) * 3,
        chunk_shape=(min(64, options.block),) * 3,
    )
    volume.create()
    for region in Grid(values.shape, (options.block,) * 3):
        volume.write(region, np.ascontiguousarray(values[region]))
    volume.finish({})


def map_seconds(folder: str, options: argparse.Namespace) -> float:
    """Seconds of a whole map, from opening the source to what says that the target is finished."""
    target = place(f"{folder}/target.zarr")
    if target.exists():
        remove_tree(target)
    resources = Resources(slots=options.threads, io_slots=options.threads)
    work = Work(resources=resources, block_shape=(options.block,) * 3, progress=False)

    def whole() -> None:
        source = open_zarr(f"{folder}/source.zarr")
        work.map(
            Kernel("invert", invert, Halo.uniform(options.margin), source.dtype, 2 * source.dtype.itemsize),
            source,
            target,
            kind=source.kind,
        )

    return timed(whole, repeat=1)[0]


class Plain:
    """Gets of all objects of the source and puts of all of the target's, by some threads."""

    def __init__(self, folder: str, block: int, threads: int) -> None:
        self.threads = threads
        self.arrays = [place(f"{folder}/{name}.zarr/0") for name in ("source", "target")]
        self.metadata = [(array / "zarr.json").read_bytes() for array in self.arrays]
        self.sources, targets = (objects_of(f"{folder}/{name}.zarr") for name in ("source", "target"))
        shape = open_zarr(f"{folder}/source.zarr").shape
        # By the position that the name of an object ends with.
        positions = [tuple(map(int, path_inside(s, self.arrays[0]).split("/")[1:])) for s in self.sources]
        self.regions = [
            tuple(slice(p * block, min((p + 1) * block, n)) for p, n in zip(position, shape, strict=True))
            for position in positions
        ]
        self.contents = [target.read_bytes() for target in targets]
        self.copies = [place(f"{folder}/plain/{number}") for number in range(len(targets))]
        self.bytes = sum(len(source.read_bytes()) for source in self.sources) + sum(map(len, self.contents))

    def seconds(self, move: Callable[[int], object]) -> float:
        """Seconds in which all objects are moved."""
        with ThreadPoolExecutor(self.threads) as pool:
            return timed(lambda: list(pool.map(move, range(len(self.sources)))), repeat=1)[0]

    def move(self, number: int) -> None:
        """Get an object of the source, and put one of the target."""
        self.sources[number].read_bytes()
        self.copies[number].write(self.contents[number])

    def move_packed(self, number: int) -> None:
        """Get an object of the source, unpack and invert it, pack it and put it: by the libraries alone."""
        source = self.sources[number]
        shard, key = self.regions[number], path_inside(source, self.arrays[0])
        content = source.read_bytes()
        values = in_memory(self.metadata[0], {key: content})[0][shard].read().result()
        array, objects = in_memory(self.metadata[1], {})
        array[shard].write(~values).result()
        self.copies[number].write(objects.read(key).result().value)


def in_memory(metadata: bytes, objects: dict[str, bytes]) -> tuple[tensorstore.TensorStore, tensorstore.KvStore]:
    """Array whose objects are in memory, and the store that keeps them."""
    context = tensorstore.Context({"cache_pool": {"total_bytes_limit": 0}})
    store = tensorstore.KvStore.open({"driver": "memory"}, context=context).result()
    for name, content in {"zarr.json": metadata, **objects}.items():
        store.write(name, content).result()
    spec = {"driver": "zarr3", "kvstore": {"driver": "memory"}, "store_data_equal_to_fill_value": True}
    return tensorstore.open(spec, context=context).result(), store


def objects_of(volume: str) -> list[BucketPath]:
    """Objects that hold voxels."""
    chunks = place(f"{volume}/0/c")
    return [chunks / name for name, _ in chunks.below()]


def check(folder: str) -> None:
    """Make sure that it was the map that was timed."""
    source, target = (open_zarr(f"{folder}/{name}.zarr") for name in ("source", "target"))
    corner = tuple(slice(n - min(64, n), n) for n in source.shape)
    np.testing.assert_array_equal(target.read(corner), ~source.read(corner))


def requests_per_block(folder: str, options: argparse.Namespace, blocks: int) -> dict[str, float]:
    """Requests of a further map by their method, over the number of blocks."""
    endpoint = os.environ["AWS_ENDPOINT_URL"]
    counting = Counting(("127.0.0.1", 0), urlsplit(endpoint).netloc)
    threading.Thread(target=counting.serve_forever, daemon=True).start()
    os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{counting.server_port}"
    try:
        map_seconds(folder, options)
        counting.asked.clear()
        map_seconds(folder, options)
    finally:
        os.environ["AWS_ENDPOINT_URL"] = endpoint
        counting.shutdown()
        counting.server_close()
    voxels = Counter(f"{method} voxels" if "/0/c/" in path else f"{method} records" for method, path in counting.asked)
    return {name: rounded(number / blocks) for name, number in sorted(voxels.items())}


class Counting(ThreadingHTTPServer):
    """A server that hands requests on, and keeps what they asked for."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], server: str) -> None:
        super().__init__(address, Between)
        self.server, self.asked = server, list[tuple[str, str]]()


class Between(BaseHTTPRequestHandler):
    """Hands the requests of one connection on: what was signed stays as it is."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and content are sent apart, and a client waits 40 ms between them else
    server: Counting

    def do(self) -> None:
        """Hand a request on, and the answer back."""
        self.server.asked.append((self.command, self.path))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with closing(HTTPConnection(self.server.server)) as connection:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            content = answer.read()
        self.send_response_only(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
        self.send_header("Content-Length", length or "0")
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_HEAD = do_PUT = do_DELETE = do_POST = do

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def server_of(options: argparse.Namespace) -> Iterator[str]:
    """Give what answers at the endpoint; without one start moto, which keeps objects in memory."""
    if options.endpoint:
        os.environ["AWS_ENDPOINT_URL"] = options.endpoint
        yield options.server or options.endpoint
        return
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    names = {"ACCESS_KEY_ID": "name", "SECRET_ACCESS_KEY": "word", "REGION": "us-east-1", "ENDPOINT_URL": address}
    os.environ.update({f"AWS_{name}": value for name, value in names.items()})
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    command = [sys.executable, "-c", "import sys; from moto.server import main; main(sys.argv[1:])"]
    moto = subprocess.Popen([*command, "-H", "127.0.0.1", "-p", str(port)], **quiet)
    try:
        for _ in range(600):
            try:
                urlopen(Request(f"{address}/{options.bucket}", method="PUT"), timeout=5).close()
                break
            except OSError:
                time.sleep(0.1)
        yield f"moto {version('moto')}"
    finally:
        moto.kill()
        moto.wait()


if __name__ == "__main__":
    main()
