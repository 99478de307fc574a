"""NIfTI, NRRD, MetaImage, DICOM, Scanco and MATLAB 5: headers that lie, data files that lie elsewhere."""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.hostile.case import Case, deflated_zeros

Make = Callable[[Path], object]


def holding(name: str, content: bytes | str, **others: bytes) -> Make:
    """A file, and others beside it."""

    def make(here: Path) -> None:
        (here / name).write_bytes(content.encode() if isinstance(content, str) else content)
        for other, data in others.items():
            (here / other.replace("_", ".")).write_bytes(data)

    return make


def linked(name: str, content: bytes | str, data: str) -> Make:
    """A header, and in the place of its data file a link out."""

    def make(here: Path) -> None:
        holding(name, content)(here)
        (here / data).symlink_to(here.parent / "outside" / "secret.raw")

    return make


def case(
    kind: str, name: str, file: str, content: bytes | str | Make, *words: str, code: int = 3, line: str = ""
) -> Case:
    make = content if callable(content) else holding(file, content)
    return Case(f"{kind}: {name}", make, line or f"info {{here}}/{file}", code, words)


def read(file: str) -> str:
    return f"convert {{here}}/{file} {{here}}/out.zarr --voxel-size 5um --quiet"


def nifti(dims: Any = (3, 4, 4, 4, 1, 1, 1, 1), pixdim: Any = (1, 1, 1, 1, 0, 0, 0, 0), **fields: Any) -> bytes:
    """A NIfTI-1 file of 4 x 4 x 4 bytes."""
    header = bytearray(352)
    said = {
        "size": 348,
        "datatype": 2,
        "bits": 8,
        "offset": 352.0,
        "slope": 1.0,
        "inter": 0.0,
        "magic": b"n+1\0",
        **fields,
    }
    for code, at, *values in (
        ("i", 0, said["size"]), ("8h", 40, *dims), ("2h", 70, said["datatype"], said["bits"]), ("8f", 76, *pixdim),
        ("3f", 108, said["offset"], said["slope"], said["inter"]), ("B", 123, 2), ("4s", 344, said["magic"]),
    ):  # fmt: skip
        struct.pack_into(f"<{code}", header, at, *values)
    return bytes(header) + bytes(64)


HUGE = (3, 30000, 30000, 30000, 1, 1, 1, 1)
NAN = float("nan")
NIFTI = (
    case("nifti", "27 TB claimed in 416 bytes", "a.nii", nifti(HUGE), "bytes"),
    case("nifti", "27 TB claimed in a few bytes of gzip", "a.nii.gz", gzip.compress(nifti(HUGE)), "compressed bytes"),
    case("nifti", "a gzip bomb behind a small header", "a.nii.gz", gzip.compress(nifti()) + deflated_zeros("gzip", 1800), "a.nii.gz", code=0),
    case("nifti", "a gzip bomb in the head", "a.nii.gz", deflated_zeros("gzip", 1800), "not a NIfTI"),
    case("nifti", "negative sizes", "a.nii", nifti((3, -4, 4, 4, 1, 1, 1, 1)), "dim"),
    case("nifti", "seven axes", "a.nii", nifti((7, 4, 4, 4, 4, 4, 4, 4)), "dim"),
    case("nifti", "32 767 axes", "a.nii", nifti((32767, 4, 4, 4, 1, 1, 1, 1)), "damaged"),
    case("nifti", "a spacing of NaN", "a.nii", nifti(pixdim=(1, NAN, 1, 1, 0, 0, 0, 0)), "positive lengths"),
    case("nifti", "a negative spacing", "a.nii", nifti(pixdim=(1, -1, 1, 1, 0, 0, 0, 0)), "positive lengths"),
    case("nifti", "voxels from byte NaN on", "a.nii", nifti(offset=NAN), "damaged"),
    case("nifti", "voxels from byte 10^38 on", "a.nii", nifti(offset=1e38), "a.nii"),
    case("nifti", "colours", "a.nii", nifti(datatype=128, bits=24), "data type 128"),
    case("nifti", "a pair without its image", "a.hdr", nifti(magic=b"ni1\0"), "not there"),
    case("nifti", "a pair whose image is a link out", "a.hdr", linked("a.hdr", nifti(magic=b"ni1\0", offset=0.0), "a.img"), "outside its folder"),
)  # fmt: skip


def nrrd(*lines: str, sizes: str = "4 4 4", encoding: str = "raw") -> str:
    head = ["NRRD0004", "type: uint8", "dimension: 3", f"sizes: {sizes}", f"encoding: {encoding}", *lines]
    return "\n".join(head) + "\n\n" + "\0" * 64


NRRD = (
    case("nrrd", "data in an absolute file", "a.nhdr", nrrd("data file: /etc/passwd"), "outside its folder"),
    case("nrrd", "data outside, by dots", "a.nhdr", nrrd("data file: ../outside/secret.raw"), "outside its folder"),
    case("nrrd", "data in a list of files", "a.nhdr", nrrd("data file: LIST\n/etc/passwd\n/etc/group"), "several files"),
    case("nrrd", "data in files of a pattern", "a.nhdr", nrrd("data file: ../outside/%03d.raw 1 9 1"), "several files"),
    case("nrrd", "data through a link", "a.nhdr", linked("a.nhdr", nrrd("data file: b.raw"), "b.raw"), "outside its folder"),
    case("nrrd", "10^27 voxels", "a.nrrd", nrrd(sizes="1000000000 1000000000 1000000000"), "a.nrrd"),
    case("nrrd", "a size of 5000 digits", "a.nrrd", nrrd(sizes="4 4 " + "9" * 5000), "whole numbers"),
    case("nrrd", "a negative skip", "a.nrrd", nrrd("byte skip: -5000"), "not read"),
    case("nrrd", "a spacing of NaN", "a.nrrd", nrrd('space units: "mm" "mm" "mm"', "space directions: (nan,0,0) (0,1,0) (0,0,1)"), "positive lengths"),
    case("nrrd", "a header without end", "a.nrrd", "NRRD0004\n" + "# x\n" * 300_000, "truncated"),
    case("nrrd", "a bomb of gzip", "a.nrrd", nrrd(encoding="gzip").rstrip("\0").encode() + deflated_zeros("gzip", 1800), "a.nrrd", code=0),
    case("nrrd", "an encoding that is a program", "a.nrrd", nrrd(encoding="$(touch x)"), "is not read"),
)  # fmt: skip


def meta(*lines: str, size: str = "4 4 4", file: str = "LOCAL") -> str:
    head = ["ObjectType = Image", "NDims = 3", f"DimSize = {size}", "ElementType = MET_UCHAR", *lines]
    return "\n".join([*head, f"ElementDataFile = {file}"]) + "\n" + "\0" * 64


METAIMAGE = (
    case("metaimage", "data in an absolute file", "a.mhd", meta(file="/etc/passwd"), "outside its folder"),
    case("metaimage", "data outside, by dots", "a.mhd", meta(file="../outside/secret.raw"), "outside its folder"),
    case("metaimage", "data in a list of files", "a.mhd", meta(file="LIST\n/etc/passwd"), "a file of its own"),
    case("metaimage", "data in files of a pattern", "a.mhd", meta(file="../%d.raw 1 9 1"), "a file of its own"),
    case("metaimage", "a data file of a zero byte", "a.mhd", meta(file="a\0b"), "no file name"),
    case("metaimage", "10^27 voxels", "a.mha", meta(size="1000000000 1000000000 1000000000"), "a.mha"),
    case("metaimage", "negative sizes", "a.mha", meta(size="-4 4 4"), "DimSize"),
    case("metaimage", "a negative spacing", "a.mha", meta("ElementSpacing = -1 1 1"), "positive lengths"),
    case("metaimage", "an infinite spacing", "a.mha", meta("ElementSpacing = inf 1 1"), "positive lengths"),
    case("metaimage", "a bomb of zlib", "a.mha", meta("CompressedData = True").rstrip("\0").encode() + deflated_zeros("zlib", 1800), "a.mha", code=0),
    case("metaimage", "a header skip beyond the end", "a.mha", meta("HeaderSize = 999999999999"), "a.mha"),
)  # fmt: skip


def element(group: int, number: int, vr: bytes, value: bytes, count: int | None = None) -> bytes:
    """One element of DICOM, explicit little endian."""
    size = len(value) if count is None else count
    if vr in (b"OB", b"OW", b"SQ", b"UN"):
        return struct.pack("<HH2sHI", group, number, vr, 0, size) + value
    return struct.pack("<HH2sH", group, number, vr, size) + value


def dicom(
    *inside: bytes, rows: int = 4, pixels: bytes | None = None, syntax: bytes = b"1.2.840.10008.1.2.1\0"
) -> bytes:
    """One slice of 4 x 4 bytes."""
    us = struct.Struct("<H").pack
    head = element(2, 0x10, b"UI", syntax)
    body = b"".join(
        (
            element(8, 0x16, b"UI", b"1.2.840.10008.5.1.4.1.1.2\0"),
            *inside,
            element(0x28, 2, b"US", us(1)), element(0x28, 4, b"CS", b"MONOCHROME2 "),
            element(0x28, 0x10, b"US", us(rows)), element(0x28, 0x11, b"US", us(rows)),
            element(0x28, 0x100, b"US", us(8)), element(0x28, 0x101, b"US", us(8)), element(0x28, 0x102, b"US", us(7)),
            element(0x28, 0x103, b"US", us(0)),
            element(0x7FE0, 0x10, b"OB", bytes(16)) if pixels is None else pixels,
        )
    )  # fmt: skip
    return bytes(128) + b"DICM" + element(2, 0, b"UL", struct.pack("<I", len(head))) + head + body


def nested(depth: int) -> bytes:
    """Sequences of undefined length in each other, with no end."""
    start = struct.pack("<HH2sHI", 0x5200, 0x9230, b"SQ", 0, 2**32 - 1) + struct.pack("<HHI", 0xFFFE, 0xE000, 2**32 - 1)
    return start * depth


DICOM = (
    case("dicom", "a value of 4 GB", "a.dcm", dicom(element(8, 0x1090, b"UN", b"", 2**32 - 2)), "a.dcm"),
    case("dicom", "sequences without end", "a.dcm", dicom(nested(1)), "a.dcm"),
    case("dicom", "5000 sequences in each other", "a.dcm", dicom(nested(5000)), "a.dcm"),
    case("dicom", "65 535 rows in 16 bytes", "a.dcm", dicom(rows=65535), "truncated"),
    case("dicom", "65 535 rows in packed 16 bytes", "a.dcm", dicom(rows=65535, syntax=b"1.2.840.10008.1.2.5\0"), "too few"),
    case("dicom", "10^9 frames", "a.dcm", dicom(element(0x28, 8, b"IS", b"1000000000")), "a.dcm"),
    case("dicom", "a negative number of frames", "a.dcm", dicom(element(0x28, 8, b"IS", b"-4")), "a.dcm"),
    case("dicom", "voxels of undefined length", "a.dcm", dicom(pixels=element(0x7FE0, 0x10, b"OB", bytes(4), 2**32 - 1)), "a.dcm"),
    case("dicom", "a deflated bomb", "a.dcm", dicom(syntax=b"1.2.840.10008.1.2.1.99")[:200] + deflated_zeros("zlib", 1800), "deflated"),
    case("dicom", "an encoding of JPEG", "a.dcm", dicom(syntax=b"1.2.840.10008.1.2.4.90"), "JPEG 2000"),
    case("dicom", "an encoding of nothing we know", "a.dcm", dicom(syntax=b"../../etc\x1b[2J\0"), "is not read"),
    case("dicom", "a slope of NaN", "a.dcm", dicom(element(0x28, 0x1053, b"DS", b"nan ")), "a.dcm"),
    case("dicom", "nothing but the mark", "a.dcm", bytes(128) + b"DICM", "does not say how it is encoded"),
)  # fmt: skip


def isq(**fields: int) -> bytes:
    """A Scanco ISQ of 4 x 4 x 4."""
    said = {"kind": 3, "x": 4, "y": 4, "z": 4, "x_um": 40, "y_um": 40, "z_um": 40, "step": 10, "blocks": 0, **fields}
    header = bytearray(512)
    header[:16] = b"CTDATA-HEADER_V1"
    struct.pack_into("<i", header, 16, said["kind"])
    struct.pack_into("<8i", header, 44, *(said[k] for k in ("x", "y", "z", "x_um", "y_um", "z_um")), 0, said["step"])
    struct.pack_into("<i", header, 508, said["blocks"])
    return bytes(header) + bytes(128)


def aim(kind: int = 0x10001, shape: tuple[int, ...] = (4, 4, 4), size: int = 64, log: int = 0) -> bytes:
    """A Scanco AIM of version 2."""
    header = bytearray(160)
    struct.pack_into("<5i", header, 0, 20, 140, log, size, 0)
    struct.pack_into("<i", header, 40, kind)
    struct.pack_into("<21i", header, 44, 0, 0, 0, *shape, *[0] * 15)
    return bytes(header) + bytes(max(min(size, 64), 0))


SCANCO = (
    case("scanco", "2^31 - 1 voxels each way", "a.isq", isq(x=2**31 - 1, y=2**31 - 1, z=2**31 - 1), "a.isq"),
    case("scanco", "a negative axis", "a.isq", isq(z=-4), "damaged"),
    case("scanco", "a negative length", "a.isq", isq(z_um=-40), "positive lengths"),
    case("scanco", "a start before the file", "a.isq", isq(blocks=-9), "damaged"),
    case("scanco", "a start beyond any file", "a.isq", isq(blocks=2**31 - 1), "a.isq"),
    case("scanco", "an ISQ of its head alone", "a.isq", isq()[:40], "truncated"),
    case("scanco", "runs of 2^60 voxels in 64 bytes", "a.aim", aim(0x80002, (2**20, 2**20, 2**20)), "a.aim"),
    case("scanco", "bits of 2^60 voxels in 64 bytes", "a.aim", aim(0x60001, (2**20, 2**20, 2**20)), "a.aim"),
    case("scanco", "a negative size", "a.aim", aim(size=-64), "damaged"),
    case("scanco", "a log before the file", "a.aim", aim(log=-(2**31)), "damaged"),
    case("scanco", "voxels of no type", "a.aim", aim(kind=0x7FFFFFFF), "is not read"),
)  # fmt: skip


def matrix(
    shape: tuple[int, ...] = (4, 4, 4), kind: int = 9, data: int = 64, name: bytes = b"a", count: int | None = None
) -> bytes:
    """One variable of MATLAB 5."""

    def part(code: int, content: bytes) -> bytes:
        return struct.pack("<II", code, len(content)) + content + bytes(-len(content) % 8)

    body = part(6, struct.pack("<II", kind, 0)) + part(5, struct.pack(f"<{len(shape)}i", *shape)) + part(1, name)
    body += struct.pack("<II", 2, data) + bytes(min(data, 64))
    return struct.pack("<II", 14, len(body) if count is None else count) + body


def mat(*variables: bytes) -> bytes:
    return b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H2s", 0x0100, b"IM") + b"".join(variables)


def packed(content: bytes) -> bytes:
    return struct.pack("<II", 15, len(content)) + content


STRUCT = 2
MATLAB = (
    case("matlab", "2^90 voxels in 64 bytes", "a.mat", mat(matrix((2**30, 2**30, 2**30))), "a.mat"),
    case("matlab", "negative sizes", "a.mat", mat(matrix((-4, 4, 4))), "damaged"),
    case("matlab", "an element of 4 GB", "a.mat", mat(matrix(count=2**32 - 1)), "truncated"),
    case("matlab", "a name of 4 GB", "a.mat", mat(struct.pack("<IIIIIIII", 14, 56, 6, 8, 9, 0, 5, 2**32 - 16) + bytes(32)), "damaged"),
    case("matlab", "a bomb", "a.mat", mat(packed(deflated_zeros("zlib", 1800))), "damaged"),
    case("matlab", "2^30 voxels in a packed kilobyte", "a.mat", mat(packed(zlib.compress(matrix((2**10,) * 3, data=2**30)))), "a.mat"),
    case("matlab", "structs in structs", "a.mat", mat(matrix(kind=STRUCT, name=b"s") * 50), "inside a struct"),
    case("matlab", "an object of a class", "a.mat", mat(matrix(kind=17, name=b"MCOS")), "opaque"),
    case("matlab", "a function", "a.mat", mat(matrix(kind=16, name=b"system")), "function"),
    case("matlab", "20 000 variables", "a.mat", mat(matrix() * 20_000), "more than 10000 variables"),
    case("matlab", "a name that moves the cursor", "a.mat", mat(matrix(name=b"\x1b[2Jx"), matrix(name=b"y")), "several volumes"),
    case("matlab", "version 7.3 that is no HDF5", "a.mat", b"MATLAB 7.3".ljust(124) + b"\0\2IM" + bytes(500), "not an HDF5 file"),
)  # fmt: skip
_PIPE = (
    Case("raw: a pipe", lambda here: os.mkfifo(here / "a.raw"), "info {here}/a.raw", 3, ("a pipe or a device",)),
    Case("raw: a device", lambda here: (here / "a.raw").symlink_to("/dev/zero"), "info {here}/a.raw", 3, ("a pipe or a device",)),
)  # fmt: skip
CASES = (*NIFTI, *NRRD, *METAIMAGE, *DICOM, *SCANCO, *MATLAB, *_PIPE)
