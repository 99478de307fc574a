"""What is asked of the packed chunks of an HDF5 dataset before the library unpacks them: to how many bytes.

The library's filters unpack whatever they are given, into as much memory as that takes; a dataset says how many bytes a
chunk has, and most ways of packing say it too. Deflate does not: what can fill much memory is first unpacked piece by
piece, and nothing of it kept.
"""

from __future__ import annotations

import itertools
import math
import os
import zlib
from collections.abc import Iterator, Sequence

import h5py

from tomoscale.errors import InputError
from tomoscale.formats.inflate import MAX_RATIO

MAX_UNSEEN_BYTES = 2**29
"""A deflated chunk that can hold no more than this is left to the library."""
_DEFLATE, _FLETCHER, _LZ4, _BLOSC, _BITSHUFFLE, _ZSTD, _BLOSC_2 = 1, 3, 32004, 32001, 32008, 32015, 32026
_HEAD_BYTES = 38
_BLOSC_2_FRAME = b"\x9e\xa8b2frame"
_PIECE_BYTES = 2**20
_ZSTD_WIDTHS = {0: 0, 1: 2, 2: 4, 3: 8}


def check_chunks(path: str, node: h5py.Dataset, region: Sequence[slice]) -> None:
    """Look at the chunks that hold a region.

    Parameters
    ----------
    path : str
        Of the file.
    node : Dataset
    region : slices along the axes of the dataset

    Raises
    ------
    InputError
        If one takes more room than its voxels, or unpacks to more.
    """
    packing = _packing(node)
    if packing is None or node.chunks is None:
        return
    size = math.prod(node.chunks) * node.dtype.itemsize
    # No packing makes more of random bytes than this; a pad or a checksum is in it.
    most = size + size // 64 + 4096
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        for start in _starts(node, region):
            info = node.id.get_chunk_info_by_coord(start)
            if info.byte_offset is None or info.filter_mask:
                continue
            held = info.size
            if held <= most:
                held = _unpacked(descriptor, info.byte_offset + node.file.userblock_size, info.size, packing, most)
            if held > most:
                raise InputError(
                    f"{path}::{node.name}: the chunk at {start} has {size} bytes of voxels, but holds {held} or more: it is "
                    "damaged; copy the file again"
                )
    finally:
        os.close(descriptor)


def _packing(node: h5py.Dataset) -> int | None:
    """Filter that is undone first, checksums aside; None where nothing is packed."""
    created = node.id.get_create_plist()
    codes = [created.get_filter(number)[0] for number in range(created.get_nfilters())]
    return next((code for code in reversed(codes) if code != _FLETCHER), None)


def _starts(node: h5py.Dataset, region: Sequence[slice]) -> Iterator[tuple[int, ...]]:
    return itertools.product(
        *(range(r.start // c * c, r.stop, c) for r, c in zip(region, node.chunks, strict=True)),
    )


def _unpacked(file: int, offset: int, stored: int, packing: int, most: int) -> int:
    """Bytes that a chunk says it unpacks to, or that it does; 0 where it says nothing."""
    if packing == _DEFLATE:
        return _inflated(file, offset, stored, most) if MAX_RATIO * stored > MAX_UNSEEN_BYTES else 0
    head = os.pread(file, min(_HEAD_BYTES, stored), offset).ljust(_HEAD_BYTES, b"\0")
    if packing in (_LZ4, _BITSHUFFLE):
        return int.from_bytes(head[:8], "big")
    if head.startswith(_BLOSC_2_FRAME):
        return int.from_bytes(head[30:38], "big")
    if packing in (_BLOSC, _BLOSC_2):
        return int.from_bytes(head[4:8], "little")
    return _of_zstd(head) if packing == _ZSTD else 0


def _of_zstd(head: bytes) -> int:
    """Content size in the header of a Zstandard frame (RFC 8878, 3.1.1.1)."""
    if head[:4] != b"\x28\xb5\x2f\xfd":
        return 0
    flags = head[4]
    single = flags >> 5 & 1
    width = _ZSTD_WIDTHS[flags >> 6] or single
    start = 5 + (1 - single) + (0, 1, 2, 4)[flags & 3]
    return int.from_bytes(head[start : start + width], "little") + (256 if width == 2 else 0)


def _inflated(file: int, offset: int, stored: int, most: int) -> int:
    decoder, held, place, rest = zlib.decompressobj(), 0, offset, b""
    while held <= most and not decoder.eof:
        rest = rest or os.pread(file, min(_PIECE_BYTES, offset + stored - place), place)
        place += 0 if decoder.unconsumed_tail else len(rest)
        try:
            part = decoder.decompress(rest, _PIECE_BYTES)
        except zlib.error:
            return 0  # the library says what is wrong
        rest = decoder.unconsumed_tail
        held += len(part)
        if not part and not rest and place >= offset + stored:
            break
    return held
