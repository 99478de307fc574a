"""Nodes of HDF5 files reached link by link, so that none leads out of the folder, and the files that hold voxels."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import h5py

from tomoscale.errors import InputError
from tomoscale.zarr_metadata import DTYPES

MAX_LINKS = 32
MAX_NODES = 20_000
MAX_FOLLOWED = 1000
"""Links that a listing of a file follows, at a millisecond each."""
MAX_DEPTH = 64
"""Groups in each other that a listing looks into."""
MAX_NESTED = 8
_UNLIMITED = 2**64 - 1
_BLOCK_PATTERN = "%b"


@dataclass(frozen=True)
class Target:
    """A node of a file, reached without letting the library follow a link out of it."""

    path: Path
    inside: str

    def __str__(self) -> str:
        return f"{self.path}::{self.inside}"

    @property
    def parent(self) -> str:
        """Path of the group it is in."""
        return self.inside.rpartition("/")[0] or "/"


@dataclass
class Found:
    """Three-dimensional numeric datasets of a file with the group each was met in, and links that lead nowhere."""

    volumes: dict[Target, tuple[tuple[int, ...], Target]] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    followed: int = 0

    def listing(self) -> str:
        """What can be chosen, for messages."""
        lines = [f"{target.inside} {shape}" for target, (shape, _) in sorted(self.volumes.items(), key=str)[:12]]
        choice = (
            f"give dataset= one of: {'; '.join(lines)}"
            if lines
            else "give dataset= a (z, y, x) volume, or another file"
        )
        return choice + (f". Links that lead nowhere: {'; '.join(self.broken[:3])}" if self.broken else "")


def open_file(path: Path) -> h5py.File:
    """Open a file for reading.

    Raises
    ------
    InputError
        If it is not there, or damaged.
    """
    try:
        # File systems of clusters often know no locks, and a reader needs none.
        return h5py.File(path, "r", locking="best-effort")
    except OSError as error:
        raise InputError(f"{path} is not an HDF5 file that can be read: {error}") from None


def open_dataset(file: h5py.File, inside: str) -> h5py.Dataset:
    """Open a dataset so that files it stores voxels in are looked for in its own folder, not in the current one."""
    access = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
    access.set_efile_prefix(b"${ORIGIN}")
    access.set_virtual_prefix(b"${ORIGIN}")
    return h5py.Dataset(h5py.h5d.open(file.id, inside.encode(), access))


def resolve(path: Path, inside: str, root: Path, links: int = 0) -> Target:
    """Follow soft and external links one by one, and only to files under `root`.

    Raises
    ------
    InputError
        If a link leads out of `root`, nowhere, or in a circle.
    """
    if links > MAX_LINKS:
        raise InputError(f"{path}::{inside} is a chain of more than {MAX_LINKS} links, probably a circle")
    parts = [p for p in inside.split("/") if p not in ("", ".")]
    with open_file(path) as file:
        group, done = file["/"], ""
        for number, part in enumerate(parts):
            link = group.get(part, getlink=True) if isinstance(group, h5py.Group) else None
            rest = "/".join(parts[number + 1 :])
            if link is None:
                held = (
                    ", ".join(itertools.islice(group, 20))
                    if isinstance(group, h5py.Group)
                    else "nothing, it is a dataset"
                )
                raise InputError(f"{path} has no {part!r} in {done or '/'}, which holds: {held}")
            if isinstance(link, h5py.SoftLink):
                target = link.path if link.path.startswith("/") else f"{done}/{link.path}"
                return resolve(path, f"{target}/{rest}", root, links + 1)
            if isinstance(link, h5py.ExternalLink):
                other = inside_root(path, link.filename, root, f"{path}::{done}/{part}")
                return resolve(other, f"{link.path}/{rest}", root, links + 1)
            group, done = group[part], f"{done}/{part}"
    return Target(path, done or "/")


def inside_root(path: Path, filename: str, root: Path, what: str) -> Path:
    """File a link leads to; refuse one outside the folder of the file opened, or one that is not there."""
    other = path.parent / filename
    if not other.resolve().is_relative_to(root.resolve()):
        raise InputError(
            f"{what} leads to {filename}, outside the folder {root}: links are followed inside it only; open that file itself"
        )
    if not other.is_file():
        raise InputError(f"{what} leads to {other}, which is not there: copy the file that belongs to it")
    return other


def volumes(path: Path) -> Found:
    """All three-dimensional numeric datasets that can be reached, each once.

    Raises
    ------
    InputError
        If the file is damaged, or holds too much to look through.
    """
    found = Found()
    seen: set[tuple[Path, int]] = set()
    root = Target(path, "/")
    waiting = [(root, root)]
    with contextlib.ExitStack() as stack:
        files: dict[Path, h5py.File] = {}
        while waiting:
            if len(seen) > MAX_NODES or len(waiting) > MAX_NODES:
                raise InputError(
                    f"{path} holds more than {MAX_NODES} objects: give dataset= the path of the volume in it"
                )
            target, group = waiting.pop()
            if target.path not in files:
                files[target.path] = stack.enter_context(open_file(target.path))
            node = _node(files[target.path], target)
            # By its place in the file: hard links can form circles, and one dataset can have many names.
            known = (target.path, h5py.h5o.get_info(node.id).addr)
            if known in seen:
                continue
            seen.add(known)
            if is_volume(node):
                found.volumes[target] = (node.shape, group)
            if isinstance(node, h5py.Group):
                waiting += _children(node, target, path.parent, found)
            if found.followed > MAX_FOLLOWED or target.inside.count("/") > MAX_DEPTH:
                raise InputError(
                    f"{path} holds more than {MAX_FOLLOWED} links, or groups more than {MAX_DEPTH} deep: give dataset= the path of "
                    "the volume in it"
                )
    return found


def is_volume(node: h5py.HLObject) -> bool:
    """Whether a node is a dataset of numbers with three axes."""
    try:
        return isinstance(node, h5py.Dataset) and len(node.shape or ()) == 3 and node.dtype.name in DTYPES
    except TypeError:
        # There are types in HDF5 that NumPy has no name for.
        return False


def _node(file: h5py.File, target: Target) -> h5py.HLObject:
    try:
        return file[target.inside]
    except (KeyError, OSError, RuntimeError, TypeError) as error:
        raise InputError(f"{target} cannot be read: {error}; copy the file again") from None


def _children(node: h5py.Group, target: Target, root: Path, found: Found) -> list[tuple[Target, Target]]:
    reached = []
    for name in node:
        inside = f"{target.inside.rstrip('/')}/{name}"
        try:
            hard = isinstance(node.get(name, getlink=True), h5py.HardLink)
            found.followed += not hard
            if found.followed > MAX_FOLLOWED:
                break
            reached.append((Target(target.path, inside) if hard else resolve(target.path, inside, root), target))
        except InputError as error:
            found.broken.append(str(error))
    return reached


def sources(target: Target, node: h5py.Dataset, root: Path) -> tuple[tuple[str, int], ...]:
    """Other files that hold voxels of a dataset, each with the bytes it must have at least.

    The library fills what is missing in them with zeros, and reads any file it is told to.

    Raises
    ------
    InputError
        If one is outside `root`, not there or too short.
    """
    found: dict[str, int] = {}
    done: set[Target] = set()
    waiting: list[tuple[Target, tuple[Target, ...]]] = [(target, ())]
    while waiting:
        current, above = waiting.pop()
        if current in above or len(above) > MAX_NESTED:
            raise InputError(
                f"{target} is made of datasets that are made of others, in a circle or more than {MAX_NESTED} times over: give "
                "one of them"
            )
        if current in done:
            continue
        done.add(current)
        with open_file(current.path) as file:
            part = node if current == target else _node(file, current)
            if not isinstance(part, h5py.Dataset):
                raise InputError(f"the storage of {target} leads to {current}, which is no dataset")
            for place, size in _external(current, part, root):
                found[place] = max(found.get(place, 0), size)
            if part.is_virtual:
                waiting += [(other, (*above, current)) for other in _virtual(current, part, root)]
        if current.path != target.path:
            found.setdefault(str(current.path), 0)
    return tuple(sorted(found.items()))


def check_sources(name: str, files: tuple[tuple[str, int], ...]) -> None:
    """Refuse a dataset some of whose files are gone or shorter than when it was opened."""
    for place, size in files:
        try:
            held = os.stat(place).st_size
        except OSError:
            raise InputError(f"{name} has voxels in {place}, which is not there any more: copy it again") from None
        if held < size:
            raise InputError(f"{name} has voxels in {place} up to byte {size}, but it has {held}: copy it again")


def _external(target: Target, node: h5py.Dataset, root: Path) -> Iterator[tuple[str, int]]:
    wanted = math.prod(node.shape or ()) * node.dtype.itemsize
    entries = node.external or ()
    for filename, offset, size in entries:
        place = inside_root(target.path, os.fsdecode(filename), root, f"the storage of {target}")
        used = min(size, wanted) if size != _UNLIMITED else wanted
        wanted -= used
        check_sources(str(target), ((str(place), offset + used),))
        yield str(place), offset + used
    if entries and wanted:
        raise InputError(f"{target} is said to lie in other files, but {wanted} bytes of it lie in none: it is damaged")


def _virtual(target: Target, node: h5py.Dataset, root: Path) -> Iterator[Target]:
    for filename, inside in {(s.file_name, s.dset_name) for s in node.virtual_sources()}:
        if _BLOCK_PATTERN in filename or _BLOCK_PATTERN in inside:
            raise InputError(
                f"{target} is made of files named by the pattern {filename}, which are not read: give one of them"
            )
        what = f"the storage of {target}"
        yield resolve(target.path if filename == "." else inside_root(target.path, filename, root, what), inside, root)
