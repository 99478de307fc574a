"""Zarr arrays and OME-Zarr images: what their metadata claim, where their chunks lie, what these inflate to."""

from __future__ import annotations

import gzip
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np

from tests.hostile.case import CANARY, Case, deflated_zeros, made

BYTES = {"name": "bytes", "configuration": {"endian": "little"}}
GZIP = {"name": "gzip", "configuration": {"level": 1}}
ZSTD = {"name": "zstd", "configuration": {"level": 1, "checksum": False}}
BLOSC = {
    "name": "blosc",
    "configuration": {"cname": "zstd", "clevel": 1, "shuffle": "noshuffle", "typesize": 1, "blocksize": 0},
}
CRC = {"name": "crc32c"}
BLOSC_2 = {"id": "blosc", "cname": "zstd", "clevel": 1, "shuffle": 0, "blocksize": 0}
BOMB_MIB = 1800


def v3(here: Path, chunk: bytes | None = bytes(64), name: str = "a.zarr", **changes: Any) -> Path:
    """An array of 4 x 4 x 4 bytes, Zarr version 3, with what is to be wrong."""
    folder = here / name
    metadata = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [4, 4, 4],
        "data_type": "uint8",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [4, 4, 4]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0,
        "codecs": [BYTES],
        **changes,
    }
    folder.mkdir(parents=True)
    (folder / "zarr.json").write_text(json.dumps(metadata))
    if chunk is not None:
        file = folder.joinpath("c", *["0"] * len(changes.get("shape", "zyx")))
        file.parent.mkdir(parents=True)
        file.write_bytes(chunk)
    return folder


def v2(here: Path, chunk: bytes | None = bytes(64), name: str = "a.zarr", **changes: Any) -> Path:
    """The same, Zarr version 2."""
    folder = here / name
    metadata = {
        "zarr_format": 2,
        "shape": [4, 4, 4],
        "chunks": [4, 4, 4],
        "dtype": "|u1",
        "compressor": None,
        "fill_value": 0,
        "order": "C",
        "filters": None,
        **changes,
    }
    folder.mkdir(parents=True)
    (folder / ".zarray").write_text(json.dumps(metadata))
    if chunk is not None:
        (folder / "0.0.0").write_bytes(chunk)
    return folder


def group(here: Path, attributes: Any, **arrays: Any) -> Path:
    """A group with attributes and arrays in it, version 3."""
    folder = here / "a.zarr"
    folder.mkdir(parents=True)
    (folder / "zarr.json").write_text(json.dumps({"zarr_format": 3, "node_type": "group", "attributes": attributes}))
    for name, changes in arrays.items():
        v3(folder, name=name.strip("_"), **changes)
    return folder


def image(*paths: str, name: str = "a", scale: Any = (1, 1, 1), axes: Any = "zyx") -> dict[str, Any]:
    """OME metadata of an image with these levels."""
    return {
        "ome": {
            "version": "0.5",
            "multiscales": [
                {
                    "name": name,
                    "axes": [{"name": a, "type": "space", "unit": "micrometer"} for a in axes],
                    "datasets": [
                        {"path": p, "coordinateTransformations": [{"type": "scale", "scale": list(scale)}]}
                        for p in paths
                    ],
                }
            ],
        }
    }


def blosc_zeros(mebibytes: int) -> bytes:
    """A blosc frame whose blocks all point to one compressed MiB of zeros."""
    frame = bytes(numcodecs.Blosc("zstd", 1, shuffle=0, blocksize=2**20).encode(np.zeros(2**20, np.uint8)))
    (first,) = struct.unpack_from("<i", frame, 16)
    block, start = frame[first:], 16 + 4 * mebibytes
    head = frame[:4] + struct.pack("<III", mebibytes * 2**20, 2**20, start + len(block))
    return head + struct.pack("<i", start) * mebibytes + block


def shard(entry: tuple[int, int], body: bytes = bytes(64)) -> bytes:
    """A shard whose only inner chunk is said to lie at an offset and to have so many bytes."""
    return body + struct.pack("<QQ", *entry)


def sharding(inner: Any = (4, 4, 4), codecs: Any = (BYTES,), index: Any = (BYTES,)) -> list[dict[str, Any]]:
    """Codecs of a sharded array."""
    settings = {
        "chunk_shape": list(inner),
        "codecs": list(codecs),
        "index_codecs": list(index),
        "index_location": "end",
    }
    return [{"name": "sharding_indexed", "configuration": settings}]


def grid(*chunk: Any) -> dict[str, Any]:
    """A regular grid of chunks."""
    return {"name": "regular", "configuration": {"chunk_shape": list(chunk)}}


def linked(make: Callable[[Path], Path], inside: str, target: str) -> Callable[[Path], None]:
    """Replace a file or folder of an array by a link out of it."""

    def write(here: Path) -> None:
        place = make(here) / inside
        if place.is_dir():
            for file in sorted(place.rglob("*"), reverse=True):
                file.rmdir() if file.is_dir() else file.unlink()
            place.rmdir()
        else:
            place.unlink(missing_ok=True)
        place.symlink_to(here.parent / "outside" / target)

    return write


def case(
    name: str, make: Callable[[Path], object], *words: str, code: int = 3, line: str = "info {here}/a.zarr"
) -> Case:
    return Case(f"zarr: {name}", make, line, code, words)


def _bomb_in_a_shard(here: Path) -> None:
    bomb = blosc_zeros(BOMB_MIB)
    v3(here, shard((0, len(bomb)), bomb), codecs=sharding(codecs=[BYTES, BLOSC]))


def _raw_json(text: str) -> Callable[[Path], object]:
    def write(here: Path) -> None:
        (here / "a.zarr").mkdir()
        (here / "a.zarr" / "zarr.json").write_text(text)

    return write


def _fifo_chunk(here: Path) -> None:
    file = v3(here) / "c" / "0" / "0" / "0"
    file.unlink()
    os.mkfifo(file)


def _labels(*names: str) -> Callable[[Path], None]:
    """An image that says it has these labels, finished by us."""

    def write(here: Path) -> None:
        root = group(here, image("0"), _0={})
        (root / "labels").mkdir()
        listed = {
            "zarr_format": 3,
            "node_type": "group",
            "attributes": {"ome": {"version": "0.5", "labels": list(names)}},
        }
        (root / "labels" / "zarr.json").write_text(json.dumps(listed))

    return write


READ = "convert {here}/a.zarr {here}/out.zarr --voxel-size 5um --block 4,4,4 --quiet"
_METADATA = (
    ("rank 0", made(v3, shape=[], chunk=None, chunk_grid=grid()), "shape ()", "three axes"),
    ("rank 64", made(v3, None, shape=[1] * 61 + [4] * 3, chunk_grid=grid(*[1] * 61, 4, 4, 4)), "three axes"),
    ("rank 2", made(v3, None, shape=[4, 4], chunk_grid=grid(4, 4)), "shape (4, 4)", "three axes"),
    ("a zero axis", made(v3, shape=[0, 4, 4]), "holds no voxel"),
    ("a negative axis", made(v3, shape=[-4, 4, 4]), "whole numbers"),
    ("a shape that is not a number", made(v3, shape=[float("nan"), 4, 4]), "whole numbers"),
    ("a shape of fractions", made(v3, shape=[4.5, 4, 4]), "whole numbers"),
    ("a shape of text", made(v3, shape="../../etc"), "whole numbers"),
    ("a huge shape", made(v3, shape=[2**62] * 3), "more voxels than any disk holds"),
    ("a shape beyond any integer", made(v3, shape=[10**400] * 3), "more voxels than any disk holds"),
    ("a huge chunk", made(v3, shape=[2**12] * 3, chunk_grid=grid(2**12, 2**12, 2**12)), "GiB", "rechunk"),
    ("a chunk beyond any number", made(v3, chunk_grid=grid(10**400, 4, 4)), "a size is beyond"),
    ("a zero chunk", made(v3, chunk_grid=grid(0, 4, 4)), "chunks of (0, 4, 4)"),
    ("a chunk of another rank", made(v3, chunk_grid=grid(4, 4)), "chunks of (4, 4)"),
    ("an irregular grid", made(v3, chunk_grid={"name": "rectangular"}), "not regular"),
    ("an unknown type", made(v3, data_type="complex128"), "complex128", "are not read"),
    ("a type of bytes", made(v3, data_type="r1000000000"), "are not read"),
    ("a type that is a list", made(v3, data_type=[["x", "uint8"]]), "are not read"),
    ("a codec of a plug-in", made(v3, codecs=[{"name": "numcodecs.pickle"}]), "numcodecs.pickle", "not read"),
    ("a codec named by a module", made(v3, codecs=[{"name": "os.system"}]), "os.system", "not read"),
    ("a codec that is a list", made(v3, codecs=[{"name": ["bytes"]}]), "not read"),
    ("codecs that are a number", made(v3, codecs=7), "not read"),
    ("a thousand codecs", made(v3, codecs=[BYTES] + [GZIP] * 1000), "one compression"),
    ("two compressions, one in the other", made(v3, codecs=[BYTES, GZIP, ZSTD]), "one compression"),
    ("shards in shards", made(v3, codecs=sharding(codecs=sharding(inner=(2, 2, 2)))), "shards within shards"),
    ("shards behind a codec", made(v3, codecs=[BYTES, *sharding()]), "shards within shards"),
    ("a compressed shard index", made(v3, codecs=sharding(index=[BYTES, GZIP])), "index"),
    ("a shard index of terabytes", made(v3, shape=[2**16] * 3, chunk_grid=grid(2**16, 2**16, 2**16), codecs=sharding((1, 1, 1))), "index"),
    ("inner chunks that do not divide", made(v3, codecs=sharding((3, 3, 3))), "not made of chunks"),
    ("a storage transformer", made(v3, storage_transformers=[{"name": "remote"}]), "storage transformers"),
    ("a key encoding that leads out", made(v3, chunk_key_encoding={"name": "default", "configuration": {"separator": "../"}}), "leads out of"),
    ("an unknown version", made(v3, zarr_format=99), "version 99"),
    ("an unknown kind of node", made(v3, node_type="executable"), "executable"),
    ("JSON nested 100 000 deep", _raw_json("[" * 100_000), "cannot be read"),
    ("attributes nested 900 deep", _raw_json('{"zarr_format": 3, "node_type": "group", "attributes": ' + '{"a":' * 900 + "1" + "}" * 901), "no arrays"),
    ("JSON of 40 MB", _raw_json('{"a": [' + "[]," * 13_000_000 + "0]}"), "bytes"),
    ("JSON cut off", _raw_json('{"zarr_format": 3,'), "cannot be read"),
    ("JSON that is a list", _raw_json("[1, 2]"), "not a JSON object"),
    ("a number of 5000 digits", _raw_json('{"zarr_format": 3, "node_type": "array", "shape": [' + "9" * 5000 + "]}"), "cannot be read"),
    ("text that is not UTF-8", lambda here: (here / "a.zarr").mkdir() or (here / "a.zarr" / "zarr.json").write_bytes(b"\xff\xfe{}"), "cannot be read"),
    ("objects that unpickle", made(v2, dtype="|O", filters=[{"id": "pickle"}]), "filters"),
    ("objects", made(v2, dtype="|O"), "'|O'", "are not read"),
    ("a filter before a filter", made(v2, filters=[{"id": "delta", "dtype": "|u1"}, {"id": "pickle"}]), "filters"),
    ("a type of a billion numbers", made(v2, dtype="(1000000000,)u1"), "are not read"),
    ("a type beyond any integer", made(v2, dtype="(99999999999999999999,)u1"), "are not read"),
    ("a type of fields", made(v2, dtype=[["a", "|u1"]]), "are not read"),
    ("an outdated type", made(v2, dtype="a5"), "are not read"),
    ("a compressor of a plug-in", made(v2, compressor={"id": "imagecodecs_jpeg"}), "imagecodecs_jpeg", "not read"),
    ("a compressor that is a list", made(v2, compressor={"id": ["zlib"]}), "not read"),
    ("a separator that leads out", made(v2, dimension_separator="/../../outside/"), "leads out of"),
)  # fmt: skip
_OPENED = (
    ("an extension that must be understood", made(v3, magic={"must_understand": True}), "cannot be opened"),
    ("a fill value of another type", made(v3, fill_value="rm -rf /"), "cannot be opened"),
)  # fmt: skip
_CHUNKS = (
    ("a blosc bomb, version 3", made(v3, blosc_zeros(BOMB_MIB), codecs=[BYTES, BLOSC]), "damaged", "1887436800 bytes"),
    ("a blosc bomb, version 2", made(v2, blosc_zeros(BOMB_MIB), compressor=BLOSC_2), "damaged", "1887436800 bytes"),
    ("a blosc bomb in a shard", _bomb_in_a_shard, "damaged", "1887436800 bytes"),
    ("a gzip bomb", made(v3, deflated_zeros("gzip", BOMB_MIB), codecs=[BYTES, GZIP]), "damaged"),
    ("a zlib bomb, version 2", made(v2, deflated_zeros("zlib", BOMB_MIB), compressor={"id": "zlib", "level": 1}), "damaged"),
    ("a zstd bomb", made(v3, bytes(numcodecs.Zstd(1).encode(np.zeros(2**26, np.uint8))) * 28, codecs=[BYTES, ZSTD]), "damaged"),
    ("gzip in gzip", made(v3, gzip.compress(deflated_zeros("gzip", 64)), codecs=[BYTES, GZIP]), "damaged"),
    ("a shard index that points past the end", made(v3, shard((2**40, 64)), codecs=sharding()), "damaged"),
    ("a shard index with a huge length", made(v3, shard((0, 2**62)), codecs=sharding()), "damaged"),
    ("a shard index that overflows", made(v3, shard((2**64 - 8, 64)), codecs=sharding()), "damaged"),
    ("a shard index over itself", made(v3, shard((40, 64)), codecs=sharding(codecs=[BYTES, CRC])), "damaged"),
    ("a shard shorter than its index", made(v3, b"\0" * 8, codecs=sharding()), "damaged"),
    ("a chunk too short", made(v3, bytes(63)), "damaged"),
    ("a chunk too long", made(v3, bytes(65)), "damaged"),
    ("an empty chunk", made(v3, b"", codecs=[BYTES, BLOSC]), "damaged"),
    ("a blosc chunk cut in its head", made(v3, b"\x02\x01\x03", codecs=[BYTES, BLOSC]), "damaged"),
)  # fmt: skip
_LINKS = (
    ("a chunk that is a link out", linked(v3, "c/0/0/0", "secret.raw"), "leads out of the volume"),
    ("a chunk folder that is a link out", linked(v3, "c", "chunks"), "leads out of the volume"),
    ("a chunk that is a link out, version 2", linked(v2, "0.0.0", "secret.raw"), "leads out of the volume"),
    ("a shard that is a link out", linked(made(v3, shard((0, 64)), codecs=sharding()), "c/0/0/0", "secret.raw"), "leads out of the volume"),
    ("a chunk that is a pipe", _fifo_chunk, "not a file"),
)  # fmt: skip
_GROUPS = (
    ("metadata that are a link out", linked(v3, "zarr.json", "secret.zarr/zarr.json"), "leads out of"),
    ("an array that is a link out", linked(made(group, attributes={}, _b={}), "b", "secret.zarr"), "leads out of"),
    ("a level that is a link out", linked(made(group, attributes=image("0"), _0={}), "0", "secret.zarr"), "leads out of"),
    ("a level outside, by dots", made(group, attributes=image("../outside/secret.zarr")), "leads out of"),
    ("a level that is an absolute path", made(group, attributes=image("/etc")), "leads out of"),
    ("a level that is an address", made(group, attributes=image("http://127.0.0.1:9/x")), "not clear which array"),
    ("a level with a zero byte", made(group, attributes=image("0\0")), "leads out of"),
    ("a level name of 100 000 letters", made(group, attributes=image("a" * 100_000)), "leads out of"),
    ("10 000 levels", made(group, attributes=image(*map(str, range(10_000))), _0={}), "10000 resolution levels"),
    ("a scale of NaN", made(group, attributes=image("0", scale=[float("nan"), 1, 1]), _0={}), "positive lengths"),
    ("a negative scale", made(group, attributes=image("0", scale=[-1, 1, 1]), _0={}), "positive lengths"),
    ("a scale of words", made(group, attributes=image("0", scale=["a", "b", "c"]), _0={}), "not three numbers"),
    ("axes in another order", made(group, attributes=image("0", axes=["x", "y", "z"]), _0={}), "axes"),
    ("an axis that moves the cursor", made(group, attributes=image("0", axes=["\x1b[2J", "y", "x"]), _0={}), "axes"),
    ("attributes of other types", made(group, attributes={"ome": {"multiscales": {"0": []}, "labels": 3}}), "no arrays"),
    ("a newer state", made(group, attributes={**image("0"), "tomoscale": {"version": 10**9}}, _0={}), "newer tomoscale"),
    ("a state of other types", made(group, attributes={**image("0"), "tomoscale": {"version": [], "finished": True}}, _0={}), "newer tomoscale"),
)  # fmt: skip


def _consolidated(here: Path) -> None:
    """Consolidated metadata that name nodes outside, which are never believed."""
    entry = {"../outside/secret.zarr": {"node_type": "array"}, "/etc": {}}
    folder = group(here, {}, _0={})
    text = json.loads((folder / "zarr.json").read_text())
    (folder / "zarr.json").write_text(json.dumps({**text, "consolidated_metadata": {"metadata": entry}}))


_MARKUP = "<script>alert(1)</script>"


def _marked_up(here: Path) -> None:
    attributes = image("0", name=_MARKUP)
    attributes["ome"]["image-label"] = {
        "colors": [{"label-value": 1, "rgba": [1, 2, 3, 255]}, {"label-value": "x", "rgba": ["a"]}],
        "properties": [{"label-value": 1, "name": _MARKUP + "\x1b[2J"}],
    }
    group(here, attributes, _0={})


CASES = (
    *(case(name, make, *words) for name, make, *words in _METADATA),
    *(case(name, make, *words, line=READ) for name, make, *words in _OPENED),
    *(case(name, make, *words, code=7, line=READ) for name, make, *words in _CHUNKS),
    *(case(name, make, *words, line=READ) for name, make, *words in _LINKS),
    *(case(name, make, *words) for name, make, *words in _GROUPS),
    case("labels that lead out are not followed", _labels("../../../outside/secret.zarr", "/etc"), "4 x 4 x 4", code=0),
    case("consolidated metadata are not believed", _consolidated, "4 x 4 x 4", code=0),
    Case("zarr: names that move the cursor", _marked_up, "info {here}/a.zarr", 0, ("alert(1)",), (CANARY, "\x1b")),
    Case(
        "zarr: markup in a notebook",
        _marked_up,
        "html {here}/a.zarr",
        0,
        ("&lt;script&gt;",),
        (CANARY, "<script", "\x1b"),
    ),
)
