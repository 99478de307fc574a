"""What is inside a Zarr group: the array that is meant, the levels of an image, and its label images.

.. code-block:: text

    scan.zarr/                  an image: its metadata list the levels that are finished
        0/ 1/ 2/                full resolution, and coarser levels made by `tomoscale.pyramid`
        labels/                 lists the label images that are finished
            bone/               an image like the one above, on the same grid
                0/ 1/ 2/
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tomoscale.errors import InputError
from tomoscale.geometry import Shape, Spacing
from tomoscale.ome import (
    LABELS,
    LEVEL,
    STATE,
    Kind,
    LabelClass,
    OmeVersion,
    check_axes,
    label_names,
    level_paths,
    multiscales,
    stored_classes,
    stored_voxel_size,
    with_label_names,
    with_levels,
)
from tomoscale.places import Place, path_inside
from tomoscale.voxel_size import agreed_voxel_size
from tomoscale.zarr_array import ZarrArray
from tomoscale.zarr_layout import check_array
from tomoscale.zarr_metadata import NODES, Node, child, group_metadata, read_node, write_node


@dataclass(frozen=True)
class FoundArray:
    """An array, the voxel size and classes stated for it, and our own state of it ({} if it is not ours)."""

    storage: ZarrArray
    voxel_size_um: Spacing | None
    classes: tuple[LabelClass, ...]
    state: dict[str, Any]

    @property
    def is_ours(self) -> bool:
        """Whether we wrote it, every chunk of it."""
        return bool(self.state)


def find_array(directory: Place, array: str | None) -> FoundArray:
    """Find array `array` of a group, or the full resolution of its image, or the only array there is.

    Raises
    ------
    InputError
        If there is none, or several, or its metadata make no sense.
    """
    root = directory
    top = read_node(root)
    if top is None:
        raise InputError(
            f"{root}: there is no Zarr array or group here" + ("" if root.exists() else "; the path does not exist")
        )
    node = _find(top, array)
    layout, inside = check_array(node), "" if node.path == root else path_inside(node.path, root)
    voxel_size, classes = _described(top, node, len(layout.shape))
    ours = _state_of(top, node)
    if ours and inside:
        # However it was addressed, the group that holds it is its volume.
        directory, inside = node.path.parent, node.path.name
    storage = ZarrArray(
        directory,
        inside,
        _last_three(layout.shape),
        layout.dtype,
        _last_three(layout.chunk),
        _last_three(layout.shard),
        _kind(ours, classes),
        version=node.version,
        leading=len(layout.shape) - 3,
    )
    return FoundArray(storage, voxel_size, classes, ours)


def list_levels(storage: ZarrArray, factors: Sequence[Shape], method: Mapping[str, Any]) -> None:
    """Make the metadata of a volume of ours list its full resolution and as many coarser levels as `factors`.

    See `tomoscale.ome.with_levels`. The metadata are replaced at once, and only if they change.
    """
    node = read_node(storage.directory)
    assert node is not None
    attributes = with_levels(node.attributes, factors, method)
    if attributes != node.attributes:
        write_node(node.path, node.metadata, attributes)


def image_of(directory: Place) -> Node | None:
    """Image in whose folder of labels a volume lies; None if there is no image around it."""
    folder = directory.parent
    if folder.name != LABELS:
        return None
    node = read_node(folder.parent)
    return node if node is not None and multiscales(node.attributes) else None


def check_label(storage: ZarrArray, voxel_size_um: Spacing | None) -> bool:
    """Tell whether a new volume is a label image in an image.

    Raises
    ------
    ValueError
        If it is in the folder of labels of an image, but does not hold labels.
    InputError
        If it does not lie on the grid of its image, or is not of the same version.
    """
    image = image_of(storage.directory)
    if image is None:
        return False
    if storage.kind != "labels":
        raise ValueError(
            f"{storage.name} is to be a label image of {image.path}, but holds {storage.kind} of {storage.dtype}: give another "
            "output, or write labels (an integer type)"
        )
    found = find_array(image.path, None)
    if found.storage.shape != storage.shape or image.version != storage.version:
        what = f"{storage.shape} voxels in Zarr {storage.version}"
        raise InputError(
            f"{storage.name} has {what}, but the image it is in has {found.storage.shape} in Zarr {image.version}: a label "
            "image lies on the grid of its image and in its format; give another output"
        )
    if found.voxel_size_um and voxel_size_um:
        agreed_voxel_size(str(image.path), found.voxel_size_um, voxel_size_um)
    return True


def labels_of(directory: Place) -> list[Place]:
    """Folders of the label images that an image lists and that we wrote."""
    folder = directory / LABELS
    node = read_node(folder)
    names = label_names(node.attributes) if node else []
    return [folder / name for name in names if _plain(name) and _finished(folder / name)]


def list_labels(folder: Place, version: OmeVersion) -> None:
    """Make a folder of labels list what is in it.

    Labels of ours are listed as soon as they are finished and not before; others stay as they are listed, unless they
    are gone. What another process finishes meanwhile is not lost, since the one that writes last looks again.
    """
    while True:
        node = read_node(folder)
        listed = label_names(node.attributes) if node else []
        kept = [name for name in listed if not _plain(name) or _finished(folder / name) is not False]
        new = [p.name for p in _inside(folder) if p.name not in kept and _finished(p)]
        if listed == [*kept, *new]:
            return
        if not kept and not new:
            # The specification has no empty list, and a folder that lists no labels is no folder of labels.
            (folder / (".zattrs" if version == "0.4" else "zarr.json")).unlink(missing_ok=True)
            return
        metadata = node.metadata if node else group_metadata(2 if version == "0.4" else 3)
        write_node(folder, metadata, with_label_names(node.attributes if node else {}, [*kept, *new], version))


def _plain(name: str) -> bool:
    """Whether a listed name is that of a folder beside the list."""
    return name not in ("", ".", "..") and "/" not in name and "\\" not in name


def _finished(path: Place) -> bool | None:
    """Whether an image is there and finished; None for one that is not ours, or cannot be read."""
    try:
        node = read_node(child(path.parent, path.name))
    except (InputError, OSError, ValueError):
        return None
    if node is None:
        return False
    state = node.attributes.get(STATE)
    return state.get("finished") is True if isinstance(state, dict) else None


def _state_of(top: Node, node: Node) -> dict[str, Any]:
    """Our own state of an array: of the full resolution it is in the group that holds it, of others in their own."""
    state = node.attributes.get(STATE)
    if state is None and node.path != top.path and node.path.name == LEVEL:
        group = read_node(node.path.parent)
        state = group.attributes.get(STATE) if group else None
    return state if isinstance(state, dict) else {}


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
        level = path_inside(node.path, group)
        if above and image and level in level_paths(image):
            check_axes(str(group), image, rank)
            return stored_voxel_size(str(group), image, level), stored_classes(above.attributes)
    return None, ()


def _kind(state: dict[str, Any], classes: tuple[LabelClass, ...]) -> Kind:
    stated = state.get("kind")
    if stated == "mask":
        return "mask"
    return "labels" if stated == "labels" or classes else "grey"


def _arrays_in(path: Place) -> list[Place]:
    nodes = [read_node(child(path, p.name)) for p in _inside(path) if p.is_dir()]
    return [n.path for n in nodes if n is not None and n.is_array]


def _inside(path: Place) -> list[Place]:
    return sorted(path.iterdir(), key=str)


def _listing(path: Place) -> str:
    names = sorted(p.name for p in path.iterdir() if p.is_dir() and any((p / n).is_file() for n in NODES))[:20]
    return f"give array= one of: {', '.join(names)}" if names else "it holds no arrays"


def _last_three(values: Any) -> Shape:
    z, y, x = values[-3:]
    return z, y, x
