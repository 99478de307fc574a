"""Files in a volume that nothing needs: what killed writers left there, and what is no part of it.

.. code-block:: text

    .NAME.HOST.PID.RANDOM.partial    draft of a file or a folder (`tomoscale.drafts`), also beside the volume
    0_RANDOM.__lock                  half a shard, as tensorstore writes it
    .RANDOM.time                     question for the time of a server (`tomoscale.places`)
    .RANDOM.probe                    whether a server keeps conditions (`tomoscale.bucket_conditions`)

These are left over once their writer is gone: its process has ended, nobody runs on the array, or where neither is known
nothing was written to them for `SILENT_SECONDS`. All else that belongs to no array, group or record is a stray: who put it there may want it, so
it is named and never removed. Arrays and groups of other programs in the same folder are passed over.

Objects of a bucket appear whole, so there only such questions are left over. This program sends no object in
several parts; what others began to send so and did not end is not seen, since no library used here lists it.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from tomoscale.bucket_client import Stored
from tomoscale.bucket_path import PROBE, BucketPath
from tomoscale.drafts import SILENT_SECONDS, is_abandoned, remove
from tomoscale.errors import InputError
from tomoscale.lease import FOLDER, lease_owner, take_lease
from tomoscale.ome import LABELS, LEVEL, STATE
from tomoscale.places import Place, server_time
from tomoscale.zarr_layout import check_array
from tomoscale.zarr_metadata import NODES, Node, read_node

SHOWN = 5
"""Paths that are told; the others are counted."""
_DRAFT = re.compile(r"\..+\.\d+\.[0-9a-f]{12}\.partial")
_TEMPORARY = re.compile(rf"{_DRAFT.pattern}|.+\.__lock|\.[0-9a-f]{{12}}(\.time|{re.escape(PROBE)})")
_METADATA = {"zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata"}
_RECORD = re.compile(
    r"(plan|failures|sealed)\.json|blocks\.log|blocks/\d{9}\.frame|progress\.jsonl|lease\.\d{6,12}\.json"
)
_REPLACED = ("zarr.json", ".zgroup", ".zattrs", ".zarray", "plan.json", "failures.json", "sealed.json")
"""Files of which there may be drafts in a volume."""


class Leftover(NamedTuple):
    """A file or a folder that nothing needs; a stray is not known to be left over."""

    place: Place
    n_bytes: int
    stray: bool


@dataclass
class Tally:
    """How many there are, how large they are, and the paths of the first."""

    count: int = 0
    n_bytes: int = 0
    paths: list[str] = field(default_factory=list)

    def add(self, found: Leftover) -> None:
        """Count one more."""
        self.count += 1
        self.n_bytes += found.n_bytes
        if len(self.paths) < SHOWN:
            self.paths.append(str(found.place))

    def told(self) -> dict[str, Any]:
        """As JSON values."""
        return {"count": self.count, "bytes": self.n_bytes, "paths": self.paths}


class _Entry(NamedTuple):
    """A file, or a folder that is a draft: its size with all that is in it, and when that was written to last."""

    place: Place
    n_bytes: int
    modified: float


@dataclass(frozen=True)
class _Folder:
    """What a folder in a volume is: one of an array or of a group, ours or another's, or nothing that is known."""

    kind: str
    has_state: bool = False
    knows: Callable[[str], bool] = _METADATA.__contains__


@dataclass
class Search:
    """Looks through a volume, or the record of a measure.

    Attributes
    ----------
    root : Path or BucketPath
    record : Path or BucketPath
        Of the run that made it.
    held : set
        Records whose lease this process has taken, so that nobody else writes.
    """

    root: Place
    record: Place
    held: set[Place] = field(default_factory=set)
    _folders: dict[str, _Folder] = field(default_factory=dict)
    _owners: dict[Place, bool] = field(default_factory=dict)

    def leftovers(self) -> Iterator[Leftover]:
        """What nothing needs, in the order of a walk."""
        volume = self.record.name == FOLDER
        for draft in _beside(self.root) if volume else ():
            yield Leftover(draft, _entry(draft).n_bytes, stray=False)
        for inside, stored in _files(self.root, into_volumes=volume):
            known = self._known(inside) if volume else True
            temporary = any(map(_TEMPORARY.fullmatch, inside.split("/")))
            # Whole chunks are not looked at any further: there may be millions.
            if known is None or (known and not temporary):
                continue
            with suppress(FileNotFoundError):  # it is gone meanwhile
                entry = _entry(self.root / inside, stored)
                if not temporary or self._is_over(entry, inside):
                    yield Leftover(entry.place, entry.n_bytes, stray=not temporary)

    def records(self) -> set[Place]:
        """Records of all runs whose arrays the search came by."""
        arrays = [inside for inside, folder in self._folders.items() if folder.kind == "array"]
        return {self.record, *(r for r in map(self._record_of, arrays) if r is not None)}

    def _known(self, inside: str) -> bool | None:
        """Whether a file is part of the volume; None where another program's folder holds it."""
        parts, above = inside.split("/"), ""
        folder = self._folder("", None)
        for number, part in enumerate(parts):
            if folder.kind == "other":
                return None
            if folder.kind != "group" or number == len(parts) - 1:
                return folder.knows("/".join(parts[number:]))
            above = f"{above}/{part}" if above else part
            folder = self._folder(above, folder)
        raise AssertionError("a path has a last part")

    def _folder(self, inside: str, above: _Folder | None) -> _Folder:
        if inside not in self._folders:
            try:
                node = read_node(self.root / inside)
                self._folders[inside] = _folder_of(node, inside.rpartition("/")[2], above)
            except (InputError, OSError):
                self._folders[inside] = _Folder("other")
        return self._folders[inside]

    def _is_over(self, entry: _Entry, inside: str) -> bool:
        """Whether the writer of a temporary file is gone."""
        place = entry.place
        if place.name.endswith(".__lock") and isinstance(place, Path):
            array = next((f for f, d in self._folders.items() if d.kind == "array" and _is_below(inside, f)), "")
            record = self._record_of(array)
            if record is not None:
                return not self._is_written(record)
        of = next((n for n in (*_REPLACED, place.name[1:].partition(".")[0]) if place.name.startswith(f".{n}.")), "")
        if isinstance(place, Path) and (of in _REPLACED or of.isdecimal()):
            return is_abandoned(place, place.with_name(of))
        return self._now - entry.modified > SILENT_SECONDS

    def _record_of(self, array: str) -> Place | None:
        """Record of the run that writes an array; None where none tells."""
        record = self.root / array / FOLDER
        return record if (record / "plan.json").exists() else None

    def _is_written(self, record: Place) -> bool:
        if record not in self._owners:
            self._owners[record] = record not in self.held and lease_owner(record) is not None
        return self._owners[record]

    @cached_property
    def _now(self) -> float:
        return server_time(self.root)


def clear(searches: Sequence[Search]) -> int:
    """Remove what is left over, not strays, while no run can begin; return how many could be removed.

    Raises
    ------
    PlanError
        If a run writes any of it.
    """
    for search in searches:
        for _ in search.leftovers():
            pass
    records = {record for search in searches for record in search.records()}
    removed = 0
    with ExitStack() as leases:
        for record in sorted(records, key=str):
            leases.callback(take_lease(record).drop)
        for search in searches:
            for found in Search(search.root, search.record, records).leftovers():
                if not found.stray:
                    _remove(found.place)
                    removed += not (found.place.is_symlink() or found.place.exists())
    return removed


def _remove(place: Place) -> None:
    if isinstance(place, BucketPath):
        with suppress(OSError):
            place.unlink(missing_ok=True)
    else:
        remove(place)


def _folder_of(node: Node | None, name: str, above: _Folder | None) -> _Folder:
    if node is None:
        return _Folder("nothing", knows=lambda _: False)
    has_state = isinstance(node.attributes.get(STATE), dict)
    if not node.is_array:
        return _Folder("group" if above is None or has_state or name == LABELS else "other", has_state)
    if above is None or has_state or (name == LEVEL and above.has_state):
        return _Folder("array", has_state, _names_in(node))
    return _Folder("other")


def _names_in(node: Node) -> Callable[[str], bool]:
    """What tells whether a file, by its path from an array's folder, is part of the array."""
    layout = check_array(node)
    position = re.escape(layout.separator).join([r"(0|[1-9]\d{0,17})"] * len(layout.shape))
    chunk = re.compile(re.escape(layout.prefix) + position, re.ASCII)
    counts = [-(-n // s) for n, s in zip(layout.shape, layout.shard, strict=True)]

    def known(inside: str) -> bool:
        found = chunk.fullmatch(inside)
        if found:
            return all(int(p) < n for p, n in zip(found.groups(), counts, strict=True))
        above, _, name = inside.partition("/")
        return inside in _METADATA or (above == FOLDER and _RECORD.fullmatch(name) is not None)

    return known


def _beside(root: Place) -> list[Path]:
    """Drafts of a folder that those who made it left beside it."""
    if isinstance(root, BucketPath):
        return []
    root = root.absolute()
    return [p for p in root.parent.glob(f".{glob.escape(root.name)}.*.partial") if is_abandoned(p, root)]


def _files(root: Place, *, into_volumes: bool) -> Iterator[tuple[str, Stored | None]]:
    """Paths of all files below a folder, and of folders that are drafts; links are not followed."""
    if isinstance(root, BucketPath):
        yield from root.below()
        return
    waiting = [""]
    while waiting:
        prefix = waiting.pop()
        entries: list[os.DirEntry[str]] = []
        with suppress(OSError), os.scandir(root / prefix) as found:
            entries = sorted(found, key=lambda entry: entry.name, reverse=True)
        if prefix and not into_volumes and any(entry.name in NODES for entry in entries):
            continue
        for entry in entries:
            if entry.is_dir(follow_symlinks=False) and not _DRAFT.fullmatch(entry.name):
                waiting.append(f"{prefix}{entry.name}/")
            else:
                yield prefix + entry.name, None


def _entry(place: Place, stored: Stored | None = None) -> _Entry:
    if isinstance(place, BucketPath):
        return _Entry(place, stored.size if stored else 0, stored.modified if stored else 0.0)
    stats = [place.lstat()]
    if place.is_dir() and not place.is_symlink():
        stats += [part.lstat() for part in place.rglob("*")]
    return _Entry(place, sum(s.st_size for s in stats), max(s.st_mtime for s in stats))


def _is_below(inside: str, folder: str) -> bool:
    return not folder or inside.startswith(f"{folder}/")
