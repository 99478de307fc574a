"""Which dataset of a NeXus or Data Exchange file is the volume, in what order its axes lie, and how large a voxel is."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tomoscale.errors import InputError
from tomoscale.formats.hdf5_links import Target, is_volume, open_file, resolve
from tomoscale.geometry import Shape, Spacing
from tomoscale.voxel_size import micrometres_per

MAX_DEFAULTS = 8
MAX_COORDINATES = 2**24
_UNEVEN = 1e-3
"""Share of the spacing by which a coordinate may be off a regular grid."""
_LETTER = re.compile(r"(?:\w+_)?([xyz])\Z")

Order = tuple[int, int, int]


def signed_volume(path: Path) -> tuple[Target, Target] | None:
    """Volume that the file itself points to, and the group that does; None if it points to none that can be read.

    In this order: the default plot of NeXus (``default`` and ``signal`` attributes), the result of a reconstruction
    (application definition NXtomoproc), the data of Data Exchange (``/exchange/data``).
    """
    root = path.parent
    for found in itertools.chain(_default(path, root), _reconstructions(path, root), _exchange(path, root)):
        target, _ = found
        with open_file(target.path) as file:
            if is_volume(file[target.inside]):
                return found
    return None


def axis_names(node: h5py.Dataset, group: h5py.Group | None) -> list[str]:
    """Names of the axes of a dataset: stated by its group or, in older files, by itself; empty if they are not."""
    for holder in (group, node):
        value = None if holder is None else holder.attrs.get("axes")
        names = _names(value)
        if len(names) == len(node.shape or ()):
            return names
    return []


def axis_order(name: str, node: h5py.Dataset, group: h5py.Group | None, *, chosen: bool) -> Order | None:
    """Axis of the dataset that is z, y and x; None where nothing is stated and the dataset is taken as (z, y, x).

    Parameters
    ----------
    name : str
        For messages.
    node : Dataset
        With three axes.
    group : Group or None
        NXdata, or whatever the dataset is in.
    chosen : bool
        Whether the user named the dataset, and so takes its axes as they are where nothing is stated.

    Raises
    ------
    InputError
        If it is the result of a reconstruction (NXtomoproc) whose axes nothing tells: the definition has them as
        (x, y, z), programs write (z, y, x).
    """
    letters = [m.group(1) if (m := _LETTER.match(n.lower())) else "" for n in axis_names(node, group)]
    if sorted(letters) == ["x", "y", "z"]:
        return letters.index("z"), letters.index("y"), letters.index("x")
    if group is None or not _is_reconstruction(group):
        return None
    shape = node.shape
    lengths = [len(c) if (c := _coordinates(group, letter)) is not None else None for letter in "zyx"]
    orders: list[Order] = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
    fitting = [p for p in orders if [shape[a] for a in p] == lengths]
    if len(fitting) == 1:
        return fitting[0]
    if chosen:
        return None
    raise InputError(
        f"{name} is the result of a reconstruction of shape {shape}, but does not say which axis is z, y and x (no attribute "
        f"axes): give dataset={node.name} to take them as (z, y, x)"
    )


def spacing(node: h5py.Dataset, group: h5py.Group | None, order: Order) -> Spacing | None:
    """Voxel size (z, y, x) in µm from the coordinates of the axes, where they are regular and have a unit of length."""
    names = axis_names(node, group) or ["" for _ in order]
    if group is None:
        return None
    shape: Shape = node.shape
    lengths = []
    for letter, axis in zip("zyx", order, strict=True):
        coordinates = _coordinates(group, names[axis]) if names[axis] else _coordinates(group, letter)
        if coordinates is None or len(coordinates) != shape[axis]:
            return None
        length = _step(coordinates)
        if length is None:
            return None
        lengths.append(length)
    z, y, x = lengths
    return z, y, x


def _default(path: Path, root: Path) -> Iterator[tuple[Target, Target]]:
    target = group = Target(path, "/")
    try:
        for _ in range(MAX_DEFAULTS):
            with open_file(target.path) as file:
                node = file[target.inside]
                if isinstance(node, h5py.Dataset):
                    yield target, group
                    return
                name = _next(node)
            if name is None:
                return
            target, group = resolve(target.path, f"{target.inside}/{name}", root), target
    except InputError:
        # A default that was not copied with the file; what else there is, is looked at.
        return


def _next(node: h5py.Group) -> str | None:
    """Where the default of a group leads."""
    if _text(node.attrs.get("NX_class")) == "NXdata" or "signal" in node.attrs:
        return _signal(node)
    name = _text(node.attrs.get("default"))
    if name is not None or node.name != "/":
        return name
    entries = [n for n in node if _class(node, n) == "NXentry"]
    return entries[0] if len(entries) == 1 else None


def _signal(node: h5py.Group) -> str | None:
    name = _text(node.attrs.get("signal"))
    if name is not None:
        return name
    # Before 2014 the dataset itself said that it is the signal.
    marked = [n for n in node if _hard(node, n) and str(_first(node[n].attrs.get("signal"))) in ("1", "b'1'")]
    return marked[0] if len(marked) == 1 else None


def _reconstructions(path: Path, root: Path) -> Iterator[tuple[Target, Target]]:
    with open_file(path) as file:
        entries = [n for n in file if _class(file, n) == "NXentry" and _definition(file[n]) == "NXtomoproc"]
    for name in entries if len(entries) == 1 else ():
        try:
            group = resolve(path, f"/{name}/data", root)
            with open_file(group.path) as file:
                node = file[group.inside]
                signal = (_signal(node) if isinstance(node, h5py.Group) else None) or "data"
            yield resolve(group.path, f"{group.inside}/{signal}", root), group
        except InputError:
            continue


def _exchange(path: Path, root: Path) -> Iterator[tuple[Target, Target]]:
    try:
        yield resolve(path, "/exchange/data", root), resolve(path, "/exchange", root)
    except InputError:
        return


def _is_reconstruction(group: h5py.Group) -> bool:
    return group.name != "/" and _definition(group.parent) == "NXtomoproc"


def _definition(entry: h5py.Group) -> str | None:
    node = entry["definition"] if _hard(entry, "definition") else None
    return _text(node[()]) if isinstance(node, h5py.Dataset) and node.size == 1 else None


def _class(group: h5py.Group, name: str) -> str | None:
    return _text(group[name].attrs.get("NX_class")) if _hard(group, name) else None


def _hard(group: h5py.Group, name: str) -> bool:
    """Whether a group holds this itself: only links that lead nowhere else are followed here."""
    return isinstance(group.get(name, getlink=True), h5py.HardLink)


def _coordinates(group: h5py.Group, name: str) -> h5py.Dataset | None:
    """Positions along an axis, if the group holds such numbers itself."""
    node = group[name] if name != "." and "/" not in name and _hard(group, name) else None
    if not isinstance(node, h5py.Dataset) or node.ndim != 1 or node.dtype.kind not in "iuf":
        return None
    outside = bool(node.external) or node.is_virtual
    return None if outside or len(node) > MAX_COORDINATES else node


def _step(coordinates: h5py.Dataset) -> float | None:
    """Distance between neighbours in µm; None if they are uneven or have no unit of length."""
    factor = micrometres_per(_text(coordinates.attrs.get("units")))
    if factor is None or len(coordinates) < 2:
        return None
    values = coordinates[()].astype(np.float64)
    step = float(values[-1] - values[0]) / (len(values) - 1)
    even = np.allclose(np.diff(values), step, rtol=0, atol=_UNEVEN * abs(step))
    return abs(step) * factor if even and step else None


def _names(value: Any) -> list[str]:
    """Names in an attribute: a list of strings, or one string with colons or commas."""
    if isinstance(value, np.ndarray):
        return [_text(v) or "" for v in value.ravel()[:8]]
    text = _text(value)
    return [] if text is None else [part.strip() for part in re.split(r"[:,]", text.strip("[] "))]


def _first(value: Any) -> Any:
    return value.ravel()[0] if isinstance(value, np.ndarray) and value.size else value


def _text(value: Any) -> str | None:
    """Text of an attribute or scalar."""
    value = _first(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace").strip()
    return str(value).strip() if isinstance(value, str) else None
