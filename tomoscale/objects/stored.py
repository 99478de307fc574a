"""Named arrays in one file, written whole or not at all, each with a checksum.

.. code-block:: text

    TSARRAY1 | length of the header, 8 bytes | header: JSON {name: [dtype, shape, offset, checksum]} | arrays
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tomoscale.checksums import checksum
from tomoscale.drafts import new_draft_of
from tomoscale.errors import IntegrityError

_MAGIC = b"TSARRAY1"
_ALIGNMENT = 64
_MAX_HEADER_BYTES = 2**20
_HEAD_BYTES = 2**15
"""Read when a file is opened: all of a small one, at once."""


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray], *, durable: bool = True) -> None:
    """Write integer and bool arrays to a file that appears only when it is whole.

    Parameters
    ----------
    path : Path
        Its folder is made where it is missing.
    arrays : mapping of str to array
    durable : bool
        Sync the file to the disk: the ledger says "done" once.
    """
    entries: dict[str, Any] = {}
    values = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    offset = 0
    for name, array in values.items():
        entries[name] = [array.dtype.str, list(array.shape), offset, f"{checksum(array.reshape(-1)):016x}"]
        offset += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
    header = json.dumps(entries).encode()
    header += b" " * (-(len(header) + 16) % _ALIGNMENT)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = new_draft_of(path)
    try:
        with partial.open("wb") as file:
            file.write(_MAGIC + struct.pack("<Q", len(header)) + header)
            for array in values.values():
                file.write(array.data)
                file.write(bytes(-array.nbytes % _ALIGNMENT))
            file.flush()
            if durable:
                os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@dataclass(frozen=True)
class StoredArrays:
    """A file of `save_arrays`, opened: what is in it is known, and read only its first bytes."""

    path: Path
    header: Mapping[str, Any]
    start: int
    size: int
    head: bytes

    @classmethod
    def open(cls, path: Path) -> StoredArrays:
        """Read the header and hold it against the size of the file.

        Raises
        ------
        IntegrityError
            If the file is missing or not one of `save_arrays`; what it says of an array is looked at where that is read.
        """
        try:
            with path.open("rb", buffering=0) as file:
                size = os.fstat(file.fileno()).st_size
                head = file.read(_HEAD_BYTES)
                magic, length = struct.unpack("<8sQ", head[:16])
                if magic != _MAGIC or length > min(size, _MAX_HEADER_BYTES):
                    raise ValueError("not a file of arrays")
                header = json.loads(head[16 : 16 + length] + file.read(max(0, 16 + length - len(head))))
            if not isinstance(header, dict):
                raise ValueError("a header that names no arrays")
        except (OSError, ValueError, RecursionError, struct.error) as error:
            raise _unreadable(path, error) from error
        return cls(path, header, 16 + length, size, head)

    def __contains__(self, name: str) -> bool:
        return name in self.header

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of an array."""
        return self._entry(name)[1]

    def view(self, name: str) -> np.ndarray:
        """Array as mapped from the file: what is not looked at is not read. Not held against its checksum."""
        dtype, shape, offset, _ = self._entry(name)
        if math.prod(shape) == 0:
            return np.zeros(shape, dtype)
        return np.memmap(self.path, dtype, "r", offset, shape)

    def read(self, name: str) -> np.ndarray:
        """Array, read as a whole.

        Raises
        ------
        IntegrityError
            If it is not what was written.
        """
        dtype, shape, offset, digest = self._entry(name)
        count = math.prod(shape)
        # To map the file would take ten times longer, which counts where there are 10^6 of them.
        if offset + count * dtype.itemsize <= len(self.head):
            array = np.frombuffer(self.head, dtype, count, offset).reshape(shape).copy()
        else:
            array = np.fromfile(self.path, dtype, count, offset=offset).reshape(shape)
        if checksum(array.reshape(-1)) != digest:
            raise IntegrityError(f"{self.path} is damaged ({name}): remove its folder and give the command again")
        return array

    def _entry(self, name: str) -> tuple[np.dtype[Any], tuple[int, ...], int, int]:
        """Type, shape, place and checksum of an array; looked at where it is needed, since there are 10^6 files."""
        try:
            kind, shape, offset, digest = self.header[name]
            dtype, shape, offset = np.dtype(str(kind)), tuple(map(int, shape)), self.start + int(offset)
            end = offset + math.prod(shape) * dtype.itemsize
            if dtype.kind not in "iubf" or min((*shape, 0)) < 0 or offset < self.start or end > self.size:
                raise ValueError("arrays that reach past its end")
            return dtype, shape, offset, int(digest, 16)
        except (KeyError, ValueError, TypeError) as error:
            raise _unreadable(self.path, error) from error


def _unreadable(path: Path, error: Exception) -> IntegrityError:
    return IntegrityError(f"{path} cannot be read ({error}): remove its folder and give the command again")
