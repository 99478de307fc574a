"""TIFF files: what their tags claim, where these lead, and what their strips inflate to."""

from __future__ import annotations

import itertools
import lzma
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile

from tests.hostile.case import Case, deflated_zeros

WIDTH, LENGTH, BITS, COMPRESSION, PHOTOMETRIC, DESCRIPTION, OFFSETS, SAMPLES, ROWS, COUNTS, FORMAT = (
    256, 257, 258, 259, 262, 270, 273, 277, 278, 279, 339,
)  # fmt: skip
TILE_WIDTH, TILE_LENGTH, TILE_OFFSETS, TILE_COUNTS = 322, 323, 324, 325
GREY = {WIDTH: 8, LENGTH: 8, BITS: 8, COMPRESSION: 1, PHOTOMETRIC: 1, SAMPLES: 1, ROWS: 8}
CODES = {"deflate": 8, "lzw": 5, "zstd": 50000, "lzma": 34925, "packbits": 32773}


def page(at: int, tags: Mapping[int, int | bytes], following: int = 0) -> bytes:
    """One directory at a place of the file; text is stored behind it."""
    after = at + 2 + 12 * len(tags) + 4
    entries, rest = b"", b""
    for tag, value in sorted(tags.items()):
        if isinstance(value, bytes):
            entries += struct.pack("<HHII", tag, 2, len(value), after + len(rest))
            rest += value
        else:
            entries += struct.pack("<HHII", tag, 4, 1, value)
    return struct.pack("<H", len(tags)) + entries + struct.pack("<I", following) + rest


def tiff(here: Path, strip: bytes = bytes(64), following: int = 0, **changes: int | bytes) -> Path:
    """A page of 8 x 8 bytes with what is to be wrong; keywords are names of tags."""
    tags = {**GREY, OFFSETS: 8, COUNTS: len(strip), **{globals()[k]: v for k, v in changes.items()}}
    start = 8 + len(strip) + len(strip) % 2
    file = here / "a.tif"
    file.write_bytes(
        struct.pack("<2sHI", b"II", 42, start) + strip.ljust(start - 8, b"\0") + page(start, tags, following)
    )
    return file


def bomb(method: str) -> Callable[[Path], Path]:
    """A page of 8 x 8 bytes whose strip holds a GiB or more."""

    def write(here: Path) -> Path:
        zeros = np.zeros(2**24, np.uint8)
        strip = {
            "deflate": lambda: deflated_zeros("zlib", 1800),
            "lzw": lambda: imagecodecs.lzw_encode(zeros.tobytes()),
            "zstd": lambda: imagecodecs.zstd_encode(zeros, 1) * 120,
            "lzma": lambda: lzma.compress(zeros, preset=0) * 120,
            "packbits": lambda: imagecodecs.packbits_encode(zeros[: 2**17].tobytes()) * 2000,
        }[method]()
        return tiff(here, strip, COMPRESSION=CODES[method])

    return write


def _chain(pages: int) -> Callable[[Path], None]:
    """So many pages, all of them without voxels."""

    def write(here: Path) -> None:
        tags = {**GREY, OFFSETS: 8, COUNTS: 64}
        size = len(page(0, tags))
        places = [72 + n * size for n in range(pages)] + [0]
        body = b"".join(page(p, tags, f) for p, f in itertools.pairwise(places))
        (here / "a.tif").write_bytes(struct.pack("<2sHI", b"II", 42, 72) + bytes(64) + body)

    return write


def _ome(text: str) -> Callable[[Path], None]:
    def write(here: Path) -> None:
        head = '<?xml version="1.0"?>' + text
        tifffile.imwrite(here / "a.ome.tif", np.zeros((2, 8, 8), np.uint8), description=head, metadata=None)

    return write


def _pixels(inside: str, size_z: int = 2) -> str:
    return (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0"><Pixels ID="Pixels:0" '
        f'DimensionOrder="XYZCT" Type="uint8" SizeX="8" SizeY="8" SizeZ="{size_z}" SizeC="1" SizeT="1">{inside}</Pixels></Image></OME>'
    )


def _planes(name: str) -> str:
    return "".join(
        f'<TiffData IFD="{z}" FirstZ="{z}" PlaneCount="1"><UUID FileName="{name}">urn:uuid:0</UUID></TiffData>'
        for z in (0, 1)
    )


def _bytes(content: bytes) -> Callable[[Path], object]:
    return lambda here: (here / "a.tif").write_bytes(content)


def case(name: str, make: Callable[[Path], object], *words: str, code: int = 3, file: str = "a.tif") -> Case:
    return Case(f"tiff: {name}", make, f"info {{here}}/{file}", code, words)


def converted(name: str, make: Callable[[Path], object], *words: str, code: int = 3) -> Case:
    line = "convert {here}/a.tif {here}/out.zarr --voxel-size 5um --quiet"
    return Case(f"tiff: {name}", make, line, code, words)


COMPANION = '<OME><BinaryOnly MetadataFile="../outside/secret.ome.xml" UUID="urn:uuid:0"/></OME>'
BOMBS = "\n".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 12))
CASES = (
    case("16 GB claimed in 3 KB", lambda h: tiff(h, bytes(3000), WIDTH=2**17, LENGTH=2**17, ROWS=2**17), "too few for"),
    case("1 GB claimed in 3 KB", lambda h: tiff(h, bytes(3000), WIDTH=2**15, LENGTH=2**15, ROWS=2**15), "too few for"),
    case("1 GB claimed in 3 KB of Deflate", lambda h: tiff(h, bytes(3000), WIDTH=2**15, LENGTH=2**15, ROWS=2**15, COMPRESSION=8), "cannot be in"),
    case("2^32 - 1 pixels each way", lambda h: tiff(h, WIDTH=2**32 - 1, LENGTH=2**32 - 1), "too few for"),
    case("a page of no width", lambda h: tiff(h, WIDTH=0), "a.tif"),
    case("voxels beyond the end", lambda h: tiff(h, OFFSETS=2**31), "truncated"),
    case("voxels that overflow the end", lambda h: tiff(h, OFFSETS=2**32 - 8), "truncated"),
    case("voxels of no bytes", lambda h: tiff(h, COUNTS=0, COMPRESSION=8), "truncated"),
    case("a circle of one page", lambda h: tiff(h, following=72), "in a circle"),
    case("a chain beyond the end", lambda h: tiff(h, following=2**31), "to byte 2147483648"),
    case("a chain to the start", lambda h: tiff(h, following=2), "a.tif"),
    case("50 000 pages", _chain(50_000), "50000 x 8 x 8", code=0),
    case("no bits a sample", lambda h: tiff(h, BITS=0), "a.tif"),
    case("65 535 bits a sample", lambda h: tiff(h, BITS=65535), "a.tif"),
    case("37 bits a sample", lambda h: tiff(h, BITS=37), "a.tif"),
    case("a billion samples a pixel", lambda h: tiff(h, SAMPLES=10**9), "a.tif"),
    case("a sample format of nothing", lambda h: tiff(h, FORMAT=99), "a.tif"),
    case("an unknown compression", lambda h: tiff(h, COMPRESSION=31337), "method 31337"),
    case("tiles of 4 GB for a small page", lambda h: tiff(h, TILE_WIDTH=65536, TILE_LENGTH=65536, TILE_OFFSETS=8, TILE_COUNTS=64, COMPRESSION=8), "tiles of"),
    case("tiles of no width", lambda h: tiff(h, TILE_WIDTH=0, TILE_LENGTH=0, TILE_OFFSETS=8, TILE_COUNTS=64), "a.tif"),
    case("nothing but the mark", _bytes(b"II*\0"), "not a TIFF that can be read"),
    case("a first page beyond the end", _bytes(b"II*\0\xff\xff\xff\xff"), "to byte 4294967295"),
    case("65 535 tags in 10 bytes", _bytes(b"II*\0\x08\0\0\0\xff\xff"), "a.tif"),
    case("a large TIFF with an offset of 2^63", _bytes(b"II+\0\x08\0\0\0" + struct.pack("<Q", 2**63)), "a.tif"),
    case("a large TIFF with 2^64 - 1 tags", _bytes(b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, 2**64 - 1) + bytes(64)), "a.tif"),
    case("OME entities that multiply", _ome(f'<!DOCTYPE o [<!ENTITY e0 "ha">{BOMBS}]>' + _pixels("&e11;")), "<!DOCTYPE", file="a.ome.tif"),
    case("OME of 10^9 planes", _ome(_pixels("<TiffData/>", 10**9)), "1000000000 planes", file="a.ome.tif"),
    case("OME of planes numbered 10^5000", _ome(_pixels(f'<TiffData IFD="{"9" * 5000}"/>')), "not a TIFF that can be read", file="a.ome.tif"),
    case("OME planes in a file outside, by dots", _ome(_pixels(_planes("../outside/secret.tif"))), "a.ome.tif", code=0, file="a.ome.tif"),
    case("OME planes in an absolute file", _ome(_pixels(_planes("/etc/passwd"))), "a.ome.tif", code=0, file="a.ome.tif"),
    case("OME in a companion file", _ome(COMPANION), "a.ome.tif", code=0, file="a.ome.tif"),
    *(converted(f"a bomb of {method}", bomb(method), "1 x 8 x 8", code=0) for method in ("deflate", "lzw", "lzma")),
    *(converted(f"a bomb of {method}", bomb(method), "a.tif") for method in ("zstd", "packbits")),
    case("a description that moves the cursor", lambda h: tiff(h, DESCRIPTION=b"ImageJ=1\nunit=\x1b[2Jum\n\0"), "1 x 8 x 8", code=0),
)  # fmt: skip
