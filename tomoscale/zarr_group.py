"""Find the array meant inside a Zarr group, and what the group says of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tomoscale.errors import InputError
from tomoscale.geometry import Shape, Spacing
from tomoscale.ome import (
    LEVEL,
    STATE,
    Kind,
    LabelClass,
    check_axes,
    level_paths,
    multiscales,
    stored_classes,
    stored_voxel_size,
)
from tomoscale.zarr_array import ZarrArray
from tomoscale.zarr_metadata import Node, check_array, child, read_node


@dataclass(frozen=True)
class FoundArray:
    """An array, the voxel size and classes stated for it, and our own state of its group ({} if it is not ours)."""

    storage: ZarrArray
    voxel_size_um: Spacing | None
    classes: tuple[LabelClass, ...]
    state: dict[str, Any]

    @property
    def is_ours(self) -> bool:
        """Whether we wrote it, every chunk of it."""
        return bool(self.state) and self.storage.inside == LEVEL


def find_array(directory: str, array: str | None) -> FoundArray:
    """Find array `array` of a group, or the full resolution of its image, or the only array there is.

    Raises
    ------
    InputError
        If there is none, or several, or its metadata make no sense.
    """
    root = Path(directory)
    top = read_node(root)
    if top is None:
        raise InputError(
            f"{root}: there is no Zarr array or group here" + ("" if root.exists() else "; the path does not exist")
        )
    node = _find(top, array)
    layout, inside = check_array(node), "" if node.path == root else node.path.relative_to(root).as_posix()
    voxel_size, classes = _described(top, node, len(layout.shape))
    state = top.attributes.get(STATE)
    ours = state if isinstance(state, dict) else {}
    metadata = node.metadata
    shard = metadata["chunk_grid"]["configuration"]["chunk_shape"] if node.version == 3 else metadata["chunks"]
    storage = ZarrArray(
        directory,
        inside,
        _last_three(layout.shape),
        layout.dtype,
        _last_three(layout.largest_chunk),
        _last_three(shard),
        _kind(ours, classes),
        version=node.version,
        leading=len(layout.shape) - 3,
    )
    return FoundArray(storage, voxel_size, classes, ours)


def _find(top: Node, array: str | None) -> Node:
    path = top.path if array is None else child(top.path, array)
    node = read_node(path)
    if node is None:
        raise InputError(f"{top.path}: there is no array {array!r} inside; {_listing(top.path)}")
    if node.is_array:
        return node
    image = multiscales(node.attributes)
    levels = level_paths(image) if image else []
    candidates = [child(path, levels[0])] if levels else _arrays_in(path)
    found = read_node(candidates[0]) if len(candidates) == 1 else None
    if found is None or not found.is_array:
        raise InputError(f"{path} is a group and it is not clear which array is meant; {_listing(path)}")
    return found


def _described(top: Node, node: Node, rank: int) -> tuple[Spacing | None, tuple[LabelClass, ...]]:
    """Voxel size and classes from the closest group above the array whose image lists it."""
    group = node.path
    while group != top.path:
        group = group.parent
        above = read_node(group)
        image = multiscales(above.attributes) if above else None
        level = node.path.relative_to(group).as_posix()
        if above and image and level in level_paths(image):
            check_axes(str(group), image, rank)
            return stored_voxel_size(str(group), image, level), stored_classes(above.attributes)
    return None, ()


def _kind(state: dict[str, Any], classes: tuple[LabelClass, ...]) -> Kind:
    stated = state.get("kind")
    if stated == "mask":
        return "mask"
    return "labels" if stated == "labels" or classes else "grey"


def _arrays_in(path: Path) -> list[Path]:
    nodes = [read_node(p) for p in sorted(path.iterdir()) if p.is_dir()]
    return [n.path for n in nodes if n is not None and n.is_array]


def _listing(path: Path) -> str:
    names = sorted(p.name for p in path.iterdir() if p.is_dir() and read_node(p) is not None)[:20]
    return f"give array= one of: {', '.join(names)}" if names else "it holds no arrays"


def _last_three(values: Any) -> Shape:
    z, y, x = values[-3:]
    return z, y, x
