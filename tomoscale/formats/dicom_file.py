"""How a DICOM file is written: its mark, its encoding and the element of its voxels; the rest is left to pydicom."""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path

from tomoscale.errors import InputError

MARK = b"DICM"
MARK_AT = 128
MAX_VALUE_BYTES = 64 * 2**20
"""A header value is read as a whole; only the voxels are larger."""

_IMPLICIT, _EXPLICIT, BIG, RLE = (
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.5",
)
_PACKED = {
    "1.2.840.10008.1.2.1.99": "deflated",
    "1.2.840.10008.1.2.4.50": "JPEG baseline",
    "1.2.840.10008.1.2.4.57": "JPEG lossless",
    "1.2.840.10008.1.2.4.70": "JPEG lossless",
    "1.2.840.10008.1.2.4.80": "JPEG-LS lossless",
    "1.2.840.10008.1.2.4.81": "JPEG-LS",
    "1.2.840.10008.1.2.4.90": "JPEG 2000 lossless",
    "1.2.840.10008.1.2.4.91": "JPEG 2000",
}
_LONG_VALUES = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"UC", b"UN", b"UR", b"UT", b"SV", b"UV")
_PIXELS = {0x7FE00010: "", 0x7FE00008: "float32", 0x7FE00009: "float64"}


class BoundedFile(io.BufferedReader):
    """A file of which no more is read at once than is left of it, or than a header value may take."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path, "rb"))
        self.bytes = os.fstat(self.fileno()).st_size
        self.largest = MAX_VALUE_BYTES

    def read(self, size: int | None = -1, /) -> bytes:
        """At most what is left; a header that asks for much more is wrong, and a buffer for it would be made first."""
        left = self.bytes - self.tell()
        wanted = left if size is None or size < 0 else size
        if wanted > max(left, 64) or wanted > self.largest:
            raise ValueError(f"a value of {wanted} bytes is announced at byte {self.tell()} of {self.bytes}")
        return super().read(wanted)


def has_mark(path: Path, start: bytes = b"") -> bool:
    """Tell whether a file has the mark of DICOM after its preamble; `start` are bytes of it already read."""
    if len(start) < MARK_AT + 4:
        try:
            with path.open("rb") as file:
                start = file.read(MARK_AT + 4)
        except OSError:
            return False
    return start[MARK_AT : MARK_AT + 4] == MARK


def transfer_syntax(path: Path, file: BoundedFile) -> str:
    """How the file is encoded, from its first group: a deflated one must not be unpacked before it is known."""
    file.seek(MARK_AT)
    if file.read(4) != MARK:
        raise InputError(f"{path} has no mark of DICOM at byte {MARK_AT}; export it again as DICOM Part 10")
    while True:
        head = file.read(8)
        if len(head) < 8 or head[:2] != b"\x02\0":
            raise InputError(f"{path} does not say how it is encoded (no transfer syntax); export it again")
        element, vr, count = struct.unpack("<H2sH", head[2:])
        if vr in _LONG_VALUES:
            (count,) = struct.unpack("<I", file.read(4))
        value = file.read(count)
        if element == 0x0010:
            syntax = value.rstrip(b"\0 ").decode("ascii", "replace")
            break
    if syntax not in (_IMPLICIT, _EXPLICIT, BIG, RLE):
        raise InputError(
            f"{path} is encoded as {_PACKED.get(syntax, syntax)}, which is not read: convert it to uncompressed DICOM "
            "(explicit little endian), for example with `gdcmconv --raw` or dcmdjpeg"
        )
    return syntax


def pixel_element(path: Path, file: BoundedFile, syntax: str) -> tuple[str, bytes, int, int]:
    """Type, if the tag tells it, representation and bytes of the voxels, before which the header's reader stopped."""
    end, at = ">" if syntax == BIG else "<", file.tell()
    head = file.read(min(12, file.bytes - at)).ljust(12, b"\0")
    group, element = struct.unpack_from(end + "2H", head)
    kind = _PIXELS.get(group << 16 | element)
    if kind is None:
        raise InputError(f"{path} has no voxels (it is a report, a plan or an index): remove it from the folder")
    if syntax == _IMPLICIT:
        return kind, b"OW", struct.unpack_from(end + "I", head, 4)[0], at + 8
    return kind, head[4:6], struct.unpack_from(end + "I", head, 8)[0], at + 12
