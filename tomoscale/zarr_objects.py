"""Voxels of an array in a bucket: the stored chunks that a region touches are got, looked at, and decoded from memory.

An object that a region covers, as a block nearly always covers a shard, takes one request as long as it has no more than
`MOST_BYTES`. Of any other shard the index is asked for, and then stretches of chunks that lie close to each other. Each
object is decoded as soon as its chunks are there, and every chunk is in memory once: pieces of what a server sends are let
go as chunks are cut out of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np
import tensorstore

from tomoscale.bucket_path import ADVICE, BucketPath
from tomoscale.errors import InputError, IntegrityError
from tomoscale.zarr_chunks import HEAD, check_heads, positions_of, touched_chunks
from tomoscale.zarr_layout import Layout

REQUESTS_AT_ONCE = 16
MOST_BYTES = 2**25
"""Of one request: at 1 MiB a second it ends before the client gives up."""
GAP_BYTES = 2**19
"""Between chunks that are asked for together: what lies there is sent for nothing, in less time than a request takes."""
SLACK_BYTES = 2**16
PIECE_BYTES = 2**18
_ABSENT = 2**64 - 1


class StoredChunk(NamedTuple):
    """Where in its object a chunk lies, and what it is called when it is handed to the reader."""

    start: int
    stop: int
    name: str


Hand = Callable[[Iterator[bytes], int, list[StoredChunk]], None]
"""Takes pieces of what lies from a byte on, and the chunks that are to be cut out of them."""


@dataclass(frozen=True)
class StoredObjects:
    """Objects of the chunks of an array in a bucket.

    Attributes
    ----------
    folder : BucketPath
    layout : Layout
    metadata : mapping
        Of the array, as stored.
    spec : mapping
        With which the reader opens the array, without its place.
    context : tensorstore.Context
    """

    folder: BucketPath
    layout: Layout
    metadata: Mapping[str, Any]
    spec: Mapping[str, Any]
    context: Any

    def read(
        self, store: Any, region: tuple[slice, ...], decoding: Callable[[], AbstractContextManager[None]]
    ) -> np.ndarray:
        """Values of a region, with all axes of the array.

        Parameters
        ----------
        store : tensorstore.TensorStore
            Not asked: the reader has no way to look at a chunk before it is decoded.
        region : tuple of slice
        decoding : callable
            Gives what turns errors of the reader into ours.

        Raises
        ------
        IntegrityError
            If an object is damaged or missing, or a chunk says that it unpacks to more than a chunk.
        InputError
            If there is no permission to read one.
        OSError
            If the server does not answer, or an object was replaced meanwhile.
        """
        values = np.empty([r.stop - r.start for r in region], self.layout.dtype.newbyteorder("="))
        positions = list(positions_of(region, self.layout.shard))
        with (
            ThreadPoolExecutor(REQUESTS_AT_ONCE) as stretches,
            ThreadPoolExecutor(min(REQUESTS_AT_ONCE, len(positions))) as objects,
        ):

            def read_object(position: tuple[int, ...]) -> None:
                # Chunks are kept in a store of their own for this one read.
                context = tensorstore.Context({"memory_key_value_store": {}}, self.context)
                memory = tensorstore.KvStore.open({"driver": "memory"}, context=context).result()
                self._get(position, region, memory, stretches)
                axes = list(zip(region, position, self.layout.shard, strict=True))
                part = tuple(slice(max(r.start, p * s), min(r.stop, (p + 1) * s)) for r, p, s in axes)
                here = tuple(slice(p.start - r.start, p.stop - r.start) for p, r in zip(part, region, strict=True))
                with decoding():
                    tensorstore.array(values[here], copy=False).write(self._reader(context)[part]).result()

            list(objects.map(read_object, positions))
        return values

    def check_links(self, positions: Iterable[tuple[int, ...]]) -> None:
        """Do nothing: objects are no links."""

    @cached_property
    def _of_chunks(self) -> dict[str, Any]:
        """Metadata of the array with every chunk in an object of its own."""
        if self.layout.index is None:
            return dict(self.metadata)
        grid = {"name": "regular", "configuration": {"chunk_shape": list(self.layout.chunk)}}
        codecs = self.metadata["codecs"][0]["configuration"]["codecs"]
        return {**self.metadata, "chunk_grid": grid, "codecs": codecs, "chunk_key_encoding": {"name": "default"}}

    def _reader(self, context: Any) -> Any:
        spec = {**self.spec, "kvstore": {"driver": "memory"}, "metadata": self._of_chunks}
        return tensorstore.open(spec, context=context, open=True, read=True, assume_metadata=True).result()

    def _get(
        self, position: tuple[int, ...], region: tuple[slice, ...], memory: Any, stretches: ThreadPoolExecutor
    ) -> None:
        """Get the chunks of an object that a region touches, and hand them to the reader's store."""
        name = f"{self.layout.prefix}{self.layout.separator.join(map(str, position))}"
        place = self.folder / name

        def hand(pieces: Iterator[bytes], start: int, chunks: list[StoredChunk]) -> None:
            # No compression adds that much: else a small file might have memory filled with one stretch again and again.
            largest = max((chunk.stop - chunk.start for chunk in chunks), default=0)
            if largest > 2 * self.layout.chunk_bytes + SLACK_BYTES:
                raise damaged(place, f"a chunk of {self.layout.chunk_bytes} bytes is stored in {largest}")
            for chunk, content in cut(place, pieces, start, chunks):
                if self.layout.blosc:
                    check_heads(str(place), self.layout, [content[: HEAD.size]])
                memory.write(chunk.name, content).result()

        try:
            first = place.read_part(self._asked_first(position, region), PIECE_BYTES)
            if self.layout.index is None:
                hand(first.pieces, 0, [StoredChunk(0, first.size, name)])
                return
            pieces = deque(first.pieces)
            chunks = self._listed(place, first.size, pieces, position, region)
            there = {chunk for chunk in chunks if first.span.start <= chunk.start and chunk.stop <= first.span.stop}
            hand((pieces.popleft() for _ in range(len(pieces))), first.span.start, sorted(there))
            missing = stretches_of([chunk for chunk in chunks if chunk not in there])
            list(stretches.map(partial(_get_stretch, place, first.version, hand), missing))
        except FileNotFoundError:
            return  # the reader misses the chunks, and says so
        except PermissionError:
            raise InputError(f"{place}: no permission to read it: {ADVICE}") from None

    def _asked_first(self, position: tuple[int, ...], region: tuple[slice, ...]) -> slice:
        """Bytes of an object that are asked for before its index is known."""
        index = self.layout.index
        if index is None:
            return slice(None)
        axes = zip(region, position, self.layout.shard, self.layout.shape, strict=True)
        covered = all(r.start <= p * s and r.stop >= min((p + 1) * s, n) for r, p, s, n in axes)
        most = max(MOST_BYTES, index.bytes) if covered else index.bytes
        return slice(-most, None) if index.at_end else slice(0, most)

    def _listed(
        self, place: BucketPath, size: int, pieces: deque[bytes], shard: tuple[int, ...], region: tuple[slice, ...]
    ) -> list[StoredChunk]:
        """Chunks of a shard that a region touches, in the order they lie, by the index in some of the pieces."""
        index = self.layout.index
        assert index is not None
        stored = b""
        for piece in reversed(pieces) if index.at_end else pieces:
            if len(stored) >= index.bytes:
                break
            stored = piece + stored if index.at_end else stored + piece
        if len(stored) < index.bytes:
            raise damaged(place, f"it has {size} bytes, its index alone {index.bytes}")
        stored = stored[-index.bytes :] if index.at_end else stored[: index.bytes]
        touched = touched_chunks(self.layout, shard, region)
        entries = self._decoded(place, stored)[touched]
        first = [
            p * s // c + t.start
            for p, s, c, t in zip(shard, self.layout.shard, self.layout.chunk, touched, strict=True)
        ]
        found = []
        for at in np.ndindex(entries.shape[:-1]):
            start, n_bytes = map(int, entries[at])
            if start == n_bytes == _ABSENT:
                continue
            name = "/".join(["c", *(str(f + a) for f, a in zip(first, at, strict=True))])
            if start + n_bytes > size:
                raise damaged(place, f"it has {size} bytes, but its index names a chunk up to byte {start + n_bytes}")
            found.append(StoredChunk(start, start + n_bytes, name))
        return sorted(found)

    def _decoded(self, place: BucketPath, stored: bytes) -> np.ndarray:
        """Index of a shard, decoded and checked by the reader as the only chunk of an array."""
        counts = [s // c for s, c in zip(self.layout.shard, self.layout.chunk, strict=True)]
        shape = [*counts, 2]
        metadata = {
            "zarr_format": 3,
            "node_type": "array",
            "shape": shape,
            "data_type": "uint64",
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": shape}},
            "chunk_key_encoding": {"name": "default"},
            "codecs": self.metadata["codecs"][0]["configuration"]["index_codecs"],
            "fill_value": 0,
        }
        context = tensorstore.Context({"memory_key_value_store": {}}, self.context)
        spec = {"driver": "zarr3", "kvstore": {"driver": "memory"}, "metadata": metadata}
        memory = tensorstore.KvStore.open({"driver": "memory"}, context=context).result()
        memory.write("/".join(["c", *("0" for _ in shape)]), stored).result()
        try:
            array = tensorstore.open(spec, context=context, open=True, read=True, assume_metadata=True).result()
            entries: np.ndarray = array.read(order="C").result()
        except ValueError:
            raise damaged(place, "its index does not agree with its checksum") from None
        return entries


def _get_stretch(place: BucketPath, version: str, hand: Hand, chunks: list[StoredChunk]) -> None:
    start = chunks[0].start
    part = place.read_part(slice(start, max(chunk.stop for chunk in chunks)), PIECE_BYTES)
    if part.version != version:
        raise OSError(f"{place} was replaced while it was read: read it again when what writes it has finished")
    hand(part.pieces, start, chunks)


def cut(
    place: BucketPath, pieces: Iterator[bytes], start: int, chunks: list[StoredChunk]
) -> Iterator[tuple[StoredChunk, bytes]]:
    """Chunks out of pieces of what lies from byte `start` on, in the order they lie; only what one needs is held.

    Raises
    ------
    OSError
        If the pieces end before the last chunk does.
    """
    held = bytearray()
    for chunk in chunks:
        while start + len(held) < chunk.stop:
            piece = next(pieces, None)
            if piece is None:
                raise OSError(f"{place}: the object store sent less than it said; read it again")
            held += piece
            if start + len(held) <= chunk.start:
                start += len(held)
                held.clear()
        if chunk.start > start:
            del held[: chunk.start - start]
            start = chunk.start
        yield chunk, bytes(held[: chunk.stop - start])


def stretches_of(chunks: list[StoredChunk]) -> list[list[StoredChunk]]:
    """Chunks that are asked for together, of those in the order they lie.

    Examples
    --------
    >>> near, far = StoredChunk(100, 900, "c/0"), StoredChunk(10_000_000, 10_000_800, "c/2")
    >>> [len(stretch) for stretch in stretches_of([near, StoredChunk(1000, 1800, "c/1"), far])]
    [2, 1]
    """
    found: list[list[StoredChunk]] = []
    for chunk in chunks:
        if found and chunk.start <= found[-1][-1].stop + GAP_BYTES and chunk.stop <= found[-1][0].start + MOST_BYTES:
            found[-1].append(chunk)
        else:
            found.append([chunk])
    return found


def damaged(place: BucketPath, how: str) -> IntegrityError:
    """Error that tells of a damaged object."""
    return IntegrityError(f"{place} is damaged: {how}; compute the volume again or restore the object")
