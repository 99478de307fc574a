"""Objects of the chunks of an array in a bucket: got whole where a region covers them, and looked at before they are decoded.

A shard that is read whole, as the shard of a block nearly always is, takes one request: its chunks are looked at in
memory and decoded from there. Of any other object the end and the heads of its chunks are asked for first, as
`tomoscale.zarr_chunks` looks at files, and the reader then asks for the chunks it needs.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import tensorstore

from tomoscale.bucket_path import BucketPath
from tomoscale.zarr_chunks import HEAD, check_heads, places_in, positions_of
from tomoscale.zarr_layout import Layout

OBJECTS_AT_ONCE = 8
MOST_BYTES = 2**25
"""Of an object that is got whole: while it is handed to the reader, it is in memory twice."""
_handing = threading.Lock()


@dataclass(frozen=True)
class StoredObjects:
    """Objects of the chunks of an array in a bucket.

    Attributes
    ----------
    folder : BucketPath
    layout : Layout
    spec : mapping
        With which the reader was opened.
    context : tensorstore.Context
    metadata : tuple of str and bytes
        Name and content of the object that describes the array.
    """

    folder: BucketPath
    layout: Layout
    spec: Mapping[str, Any]
    context: Any
    metadata: tuple[str, bytes] = field(repr=False)

    def looked_at(self, store: Any, region: tuple[slice, ...]) -> Any:
        """Look at the objects that hold a region, with all axes of the array, and return what reads them.

        Raises
        ------
        IntegrityError
            If a chunk says that it unpacks to more than a chunk.
        """
        if not self.layout.blosc:
            return store
        positions = list(positions_of(region, self.layout.shard))
        whole = {position for position in positions if self._covers(region, position)}
        taken = whole if len(whole) <= OBJECTS_AT_ONCE else set()
        # Objects are kept in a store of their own for this one read.
        context = tensorstore.Context({"memory_key_value_store": {}}, self.context)
        memory = tensorstore.KvStore.open({"driver": "memory"}, context=context).result()

        def look(position: tuple[int, ...]) -> str | None:
            name = self._taken(position, memory) if position in taken else None
            if name is None:
                self._check(position, region)
            return name

        with ThreadPoolExecutor(min(OBJECTS_AT_ONCE, len(positions))) as pool:
            names = [name for name in pool.map(look, positions) if name is not None]
        return self._reader(memory, names, context) if names else store

    def check_links(self, positions: Iterable[tuple[int, ...]]) -> None:
        """Do nothing: objects are no links."""

    def _covers(self, region: tuple[slice, ...], position: tuple[int, ...]) -> bool:
        axes = zip(region, position, self.layout.shard, self.layout.shape, strict=True)
        return all(r.start <= p * s and r.stop >= min((p + 1) * s, n) for r, p, s, n in axes)

    def _name(self, position: tuple[int, ...]) -> str:
        return f"{self.layout.prefix}{self.layout.separator.join(map(str, position))}"

    def _taken(self, position: tuple[int, ...], memory: Any) -> str | None:
        """Get an object, look at it and hand it to the reader; None leaves all that to the reader."""
        name = self._name(position)
        place = self.folder / name
        try:
            size, content = place.read(MOST_BYTES)
        except OSError:
            return None  # the reader asks again, and says what became of it
        if content is None:
            return None
        places, index = [0], self.layout.index
        if index is not None:
            stored = content[-index.bytes :] if index.at_end else content[: index.bytes]
            region = tuple(slice(p * s, (p + 1) * s) for p, s in zip(position, self.layout.shard, strict=True))
            places = places_in(self.layout, index, stored, size, position, region)
        check_heads(str(place), self.layout, (content[start : start + HEAD.size] for start in places))
        with _handing:
            memory.write(name, content).result()
        return name

    def _reader(self, memory: Any, names: list[str], context: Any) -> Any:
        """Open the array on objects in memory, and on the server for all others."""
        memory.write(*self.metadata).result()
        here = [{"base": {"driver": "memory", "path": name}, "exact": name} for name in (self.metadata[0], *names)]
        layers = [{"base": self.spec["kvstore"]}, *here]
        spec = {**self.spec, "kvstore": {"driver": "kvstack", "layers": layers}}
        return tensorstore.open(spec, context=context, read=True).result()

    def _check(self, shard: tuple[int, ...], region: tuple[slice, ...]) -> None:
        layout, index = self.layout, self.layout.index
        place = self.folder / self._name(shard)
        try:
            if index is None:
                heads = place.read_parts([0], HEAD.size)
            else:
                size, stored = place.read_end(index.bytes) if index.at_end else place.read_start(index.bytes)
                heads = place.read_parts(places_in(layout, index, stored, size, shard, region), HEAD.size)
        except FileNotFoundError:
            return  # the reader says so
        check_heads(str(place), layout, heads)
