"""HDF5, NeXus and MATLAB 7.3 files: links and storage that lead elsewhere, filters, types, circles."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401 -- registers filters
import numpy as np

from tests.hostile.case import Case, deflated_zeros

VOXELS = np.zeros((4, 4, 4), np.uint8)


def made(write: Callable[..., object], *arguments: object) -> Callable[[Path], None]:
    """Write ``a.h5`` by a function of the open file and the folder outside."""

    def make(here: Path) -> None:
        with h5py.File(here / "a.h5", "w") as file:
            write(file, here.parent / "outside", *arguments)

    return make


def _set(inside: str, link: Callable[[Path], object]) -> Callable[[Path], None]:
    return made(lambda file, outside: file.__setitem__(inside, link(outside)))


def _virtual(source: Callable[[Path], str], n: int = 4) -> Callable[[Path], None]:
    def write(file: h5py.File, outside: Path) -> None:
        layout = h5py.VirtualLayout((n, 4, 4), np.uint8)
        layout[:] = h5py.VirtualSource(source(outside), "data", (n, 4, 4), np.uint8)
        file.create_virtual_dataset("data", layout)

    return made(write)


def _pattern(file: h5py.File, outside: Path) -> None:
    kind, endless = h5py.h5p.create(h5py.h5p.DATASET_CREATE), h5py.h5s.UNLIMITED
    space = h5py.h5s.create_simple((4, 4, 4), (endless, 4, 4))
    space.select_hyperslab((0, 0, 0), (endless, 1, 1), (1, 1, 1), (1, 4, 4))
    kind.set_virtual(space, b"../outside/%b.h5", b"data", h5py.h5s.create_simple((1, 4, 4)))
    h5py.h5d.create(file.id, b"data", h5py.h5t.NATIVE_UINT8, h5py.h5s.create_simple((4, 4, 4), (endless, 4, 4)), kind)


def _external(name: Callable[[Path], str], size: int = 64) -> Callable[[Path], None]:
    return made(
        lambda file, outside: file.create_dataset("data", (4, 4, 4), np.uint8, external=[(name(outside), 0, size)])
    )


def _soft_circle(file: h5py.File, outside: Path) -> None:
    file["a"], file["b"] = h5py.SoftLink("/b"), h5py.SoftLink("/a")


def _hard_circle(file: h5py.File, outside: Path) -> None:
    group = file.create_group("a/b/c")
    group["up"] = file["a"]


def _deep(file: h5py.File, outside: Path) -> None:
    file.create_group("/".join(["a"] * 3000))


def _many(file: h5py.File, outside: Path) -> None:
    for number in range(1500):
        file[f"n{number}"] = h5py.SoftLink("/nowhere")


def _chunked(file: h5py.File, shape: tuple[int, ...], chunk: tuple[int, ...], dtype: object = np.uint8) -> None:
    kind = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    kind.set_chunk(chunk)
    h5py.h5d.create(file.id, b"data", h5py.h5t.py_create(np.dtype(dtype)), h5py.h5s.create_simple(shape), kind)


def _bomb(file: h5py.File, outside: Path) -> None:
    data = file.create_dataset("data", (4, 4, 4), np.uint8, chunks=(4, 4, 4), compression="gzip")
    data.id.write_direct_chunk((0, 0, 0), deflated_zeros("zlib", 1800))


def _large_bomb(file: h5py.File, outside: Path) -> None:
    data = file.create_dataset("data", (4, 512, 512), np.uint8, chunks=(4, 512, 512), compression="gzip")
    data.id.write_direct_chunk((0, 0, 0), deflated_zeros("zlib", 1000))


HEADS = {
    32001: b"\x02\x01\x03\x01" + (3 * 10**9).to_bytes(4, "little") + bytes(20),
    32004: (3 * 10**9).to_bytes(8, "big") + bytes(20),
    32008: (3 * 10**9).to_bytes(8, "big") + bytes(20),
    32026: b"\x9e\xa8b2frame\0" + bytes(20) + (3 * 10**9).to_bytes(8, "big") + bytes(20),
    32015: b"\x28\xb5\x2f\xfd\xe0" + (3 * 10**9).to_bytes(8, "little") + bytes(20),
}
"""Chunks packed by plug-ins (blosc, LZ4, bitshuffle, blosc 2, zstd) that say they hold 3 GB."""


def _head(file: h5py.File, outside: Path, code: int, head: bytes) -> None:
    data = file.create_dataset("data", (4, 4, 4), np.uint8, chunks=(4, 4, 4), compression=code, compression_opts=None)
    data.id.write_direct_chunk((0, 0, 0), head)


def _raw_chunk(file: h5py.File, outside: Path) -> None:
    data = file.create_dataset("data", (4, 4, 4), np.uint8, chunks=(4, 4, 4), compression="gzip")
    data.id.write_direct_chunk((0, 0, 0), b"not deflated")


def _filter(number: int) -> Callable[[h5py.File, Path], None]:
    """A dataset that says it is packed by a filter; none with this number exists here."""

    def write(file: h5py.File, outside: Path) -> None:
        kind = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        kind.set_chunk((4, 4, 4))
        kind.set_filter(h5py.h5z.FILTER_DEFLATE, h5py.h5z.FLAG_OPTIONAL, (4,))
        space = h5py.h5s.create_simple((4, 4, 4))
        h5py.h5d.create(file.id, b"data", h5py.h5t.NATIVE_UINT8, space, kind)

    def renumber(here: Path) -> None:
        made(write)(here)
        content = (here / "a.h5").read_bytes()
        head = (1).to_bytes(2, "little") + (8).to_bytes(2, "little")
        assert content.count(head + b"\x01\0\x01\0deflate\0") == 1
        changed = number.to_bytes(2, "little") + (8).to_bytes(2, "little")
        (here / "a.h5").write_bytes(content.replace(head + b"\x01\0\x01\0deflate\0", changed + b"\0\0\x01\0deflate\0"))

    return renumber  # type: ignore[return-value]


def _objects(file: h5py.File, outside: Path) -> None:
    file.create_dataset("data", (2, 2, 2), h5py.special_dtype(ref=h5py.Reference))


def _opaque(file: h5py.File, outside: Path) -> None:
    file.create_dataset("data", (2, 2, 2), np.dtype("V8"))


def _compound(file: h5py.File, outside: Path) -> None:
    file.create_dataset("data", (2, 2, 2), np.dtype([("__reduce__", "u1"), ("x", "f8")]))


def _wide_float(file: h5py.File, outside: Path) -> None:
    kind = h5py.h5t.IEEE_F64LE.copy()
    kind.set_size(16)
    h5py.h5d.create(file.id, b"data", kind, h5py.h5s.create_simple((2, 2, 2)))


def _spaced(value: object) -> Callable[[h5py.File, Path], None]:
    def write(file: h5py.File, outside: Path) -> None:
        file["data"] = VOXELS
        file["data"].attrs["element_size_um"] = value

    return write


def _default(target: str) -> Callable[[h5py.File, Path], None]:
    def write(file: h5py.File, outside: Path) -> None:
        file.attrs["default"] = target

    return write


def _bytes(content: bytes) -> Callable[[Path], object]:
    return lambda here: (here / "a.h5").write_bytes(content)


def _flipped(here: Path) -> None:
    made(lambda file, _: file.create_dataset("data", data=VOXELS, chunks=(4, 4, 4), compression="gzip"))(here)
    content = bytearray((here / "a.h5").read_bytes())
    for place in range(96, len(content), 7):
        content[place] ^= 0x5A
    (here / "a.h5").write_bytes(bytes(content))


def case(name: str, make: Callable[[Path], object], *words: str, code: int = 3, line: str = "info {here}/a.h5") -> Case:
    return Case(f"hdf5: {name}", make, line, code, words)


READ = "convert {here}/a.h5 {here}/out.zarr --voxel-size 5um --quiet"
DATA = "info {here}/a.h5 --dataset data"
INSIDE = "info {here}/a.h5 --dataset a/data"
CASES = (
    case("a link to a file outside", _set("data", lambda out: h5py.ExternalLink(str(out / "secret.h5"), "/data")), "outside the folder", line=DATA),
    case("a link outside, by dots", _set("data", lambda _: h5py.ExternalLink("../outside/secret.h5", "/data")), "outside the folder"),
    case("a link to a file that is no HDF5", _set("data", lambda _: h5py.ExternalLink("/etc/passwd", "/")), "outside the folder", line=DATA),
    case("a group that is a link outside", _set("a", lambda _: h5py.ExternalLink("../outside/secret.h5", "/")), "outside the folder", line=INSIDE),
    case("voxels in a raw file outside", _external(lambda out: str(out / "secret.raw")), "outside the folder"),
    case("voxels in a raw file outside, by dots", _external(lambda _: "../outside/secret.raw"), "outside the folder"),
    case("voxels in a raw file of no name", _external(lambda _: "gone.raw"), "not there"),
    case("voxels in itself without end", _external(lambda _: "a.h5", h5py.h5f.UNLIMITED), "4 x 4 x 4", code=0),
    case("a virtual dataset of a file outside", _virtual(lambda out: str(out / "secret.h5")), "outside the folder"),
    case("a virtual dataset outside, by dots", _virtual(lambda _: "../outside/secret.h5"), "outside the folder"),
    case("a virtual dataset of itself", _virtual(lambda _: "."), "in a circle"),
    case("a virtual dataset of a pattern", made(_pattern), "at least one voxel"),
    case("soft links in a circle", made(_soft_circle), "circle", line="info {here}/a.h5 --dataset a"),
    case("groups in a circle", made(_hard_circle), "no three-dimensional"),
    case("3000 groups in each other", made(_deep), "64 deep"),
    case("1500 links", made(_many), "more than 1000 links"),
    case("a chunk of 3.8 GB", made(lambda f, _: _chunked(f, (2**12,) * 3, (1000, 1000, 3800))), "2 GiB"),
    case("a shape of 2^60", made(lambda f, _: _chunked(f, (2**20,) * 3, (16, 16, 16))), "more voxels than any disk holds"),
    case("a bomb in a chunk", made(_bomb), "64 bytes of voxels, but holds", line=READ),
    case("a bomb of 600 MB in a chunk of a MB", made(_large_bomb), "bytes of voxels, but holds", line=READ),
    *(case(f"a head of 3 GB in a chunk of filter {code}", made(_head, code, head), "64 bytes of voxels, but holds", line=READ) for code, head in HEADS.items()),
    case("a chunk that is not packed", made(_raw_chunk), "cannot be read", line=READ),
    case("a filter of no library", _filter(32999), "filter 32999"),
    case("references to objects", made(_objects), "no three-dimensional"),
    case("opaque values", made(_opaque), "values of type", line=DATA),
    case("values of fields", made(_compound), "values of type", line=DATA),
    case("numbers wider than any", made(_wide_float), "a.h5"),
    case("a voxel size of NaN", made(_spaced(np.nan)), "positive lengths"),
    case("a negative voxel size", made(_spaced([-1.0, 1.0, 1.0])), "positive lengths"),
    case("a voxel size of a million numbers", made(_spaced(np.ones(7000))), "positive lengths"),
    case("a default that is an address", made(_default("http://127.0.0.1:9/")), "no three-dimensional"),
    case("a default that climbs", made(_default("../../../etc")), "no three-dimensional"),
    case("nothing but the mark", _bytes(b"\x89HDF\r\n\x1a\n"), "not an HDF5 file"),
    case("random bytes behind the mark", _bytes(b"\x89HDF\r\n\x1a\n" + np.random.default_rng(1).bytes(4096)), "not an HDF5 file"),
    case("bits flipped all over", _flipped, "a.h5"),
)  # fmt: skip
