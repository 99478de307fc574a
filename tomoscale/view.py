"""Look at a volume and its labels in a viewer.

Neuroglancer runs in the browser and reads chunks, of the level that the screen can show, from a small server of files,
which fetches those of a volume in a bucket. Both that and the server of the program itself listen on 127.0.0.1 alone,
behind a token that only the address holds, since other users of the machine reach 127.0.0.1 too. Nothing is loaded from
elsewhere. napari is started as a program.
"""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import numpy as np

from tomoscale.bucket_path import BucketPath
from tomoscale.errors import InputError, PlanError
from tomoscale.file_server import HOST, FileServer
from tomoscale.formats import opened
from tomoscale.ome import level_paths, multiscales
from tomoscale.places import Place
from tomoscale.volume import Volume, ZarrArray, open_zarr
from tomoscale.zarr_group import labels_of
from tomoscale.zarr_metadata import read_node

LOOKED_AT_VOXELS = 512
"""Edge of the part of a plane that the grey window is taken from."""
PANEL_PIXELS = 400
"""Edge of a panel in which the whole volume is to be seen at first."""
_UNKNOWN_GREYS = ("float16", "float64", "int64")
MASK_COLOUR = "#f5a63d"
_shown: list[Any] = []
"""What must live as long as the process: viewers and servers of addresses that were given out."""


def view(
    source: Volume | str | Place,
    *,
    labels: Sequence[Volume | str | Place] = (),
    viewer: Literal["neuroglancer", "napari"] = "neuroglancer",
    port: int = 0,
    wait: bool = True,
) -> str:
    """Show a volume, and label volumes over it.

    Parameters
    ----------
    source : Volume or path
        An OME-Zarr volume, on a file system or at ``s3://``; label images in its group are shown too.
    labels : sequence of Volume or path
        Other label volumes on the same grid.
    viewer : "neuroglancer" or "napari"
    port : int
        Of the page of neuroglancer; 0 takes a free one.
    wait : bool
        Return when it is interrupted (Ctrl-C), or when napari is closed; else at once, and neuroglancer serves until
        the process ends.

    Returns
    -------
    str
        Address of the page, which is printed too; for napari the command that was started.

    Raises
    ------
    InputError
        If a volume is not a finished Zarr volume.
    PlanError
        If the viewer is not installed, or the port is taken.
    """
    if viewer not in ("neuroglancer", "napari"):
        raise ValueError(f'viewer must be "neuroglancer" or "napari", got {viewer!r}')
    if not 0 <= port < 2**16:
        raise ValueError(f"port must be 0 to 65535, got {port}")
    if importlib.util.find_spec(viewer) is None:
        extra = "view" if viewer == "neuroglancer" else "napari"
        raise PlanError(
            f"{viewer} is not installed: install it by `pip install 'tomoscale[{extra}]'`, or take the other viewer"
        )
    first = _zarr_volume(source)
    others = [open_zarr(folder) for folder in labels_of(_folder(first))]
    known = {first.name, *(v.name for v in others)}
    others += [v for v in map(_zarr_volume, labels) if v.name not in known]
    return _in_napari([first, *others], wait) if viewer == "napari" else _in_neuroglancer([first, *others], port, wait)


def _in_napari(volumes: list[Volume], wait: bool) -> str:
    for volume in volumes:
        if isinstance(_folder(volume), BucketPath):
            raise InputError(
                f"{volume.name} is in a bucket, and napari is given paths of files: take the other viewer (neuroglancer), or "
                "copy the volume to a file system"
            )
    command = [sys.executable, "-m", "napari", *(str(_folder(v)) for v in volumes)]
    process = subprocess.Popen(command)
    if wait:
        process.wait()
    return " ".join(command)


def _in_neuroglancer(volumes: list[Volume], port: int, wait: bool) -> str:
    for volume in volumes:
        if volume.kind == "grey" and volume.dtype.name in _UNKNOWN_GREYS:
            raise InputError(
                f"{volume.name} holds {volume.dtype}, which neuroglancer does not show: store it as float32 (`tomoscale "
                'normalise`), or take viewer="napari"'
            )
    neuroglancer = importlib.import_module("neuroglancer")
    try:
        neuroglancer.set_server_bind_address(HOST, port)
        page = neuroglancer.Viewer()
        address = str(page)
    except OSError as error:
        raise PlanError(
            f"port {port} cannot be listened on ({error.strerror or error}): give another, or 0 for any"
        ) from None
    if port and urlsplit(address).port != port:
        raise PlanError(f"this process shows other volumes at {_origin(address)}: leave the port out")
    files = FileServer([_folder(v) for v in volumes], _origin(address))
    with page.txn() as state:
        for number, volume in enumerate(volumes):
            name = Path(volume.name).name.removesuffix(".zarr")
            title = name if name not in state.layers else f"{name} {number}"
            state.layers[title] = _layer(neuroglancer, volume, files.address(number))
        state.layout = "4panel"
        # The first panel is a slice as a scan has them, y downwards and x to the right, and shows the whole of it.
        size = volumes[0].voxel_size_um
        unit = "" if size is None else "um"
        state.dimensions = neuroglancer.CoordinateSpace(
            names=["x", "y", "z"], units=[unit] * 3, scales=(size or (1.0, 1.0, 1.0))[::-1]
        )
        state.cross_section_scale = _extent(volumes[0]) / PANEL_PIXELS
        state.projection_scale = 2.0 * _extent(volumes[0])
    _shown.append((page, files))
    print(address, flush=True)
    if wait:
        print("serving until it is interrupted (Ctrl-C)", file=sys.stderr, flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            files.close()
    return address


def _extent(volume: Volume) -> float:
    """Longest edge of a volume in lengths of its shortest voxel."""
    size = volume.voxel_size_um or (1.0, 1.0, 1.0)
    return max(s * n for s, n in zip(size, volume.shape, strict=True)) / min(size)


def _layer(neuroglancer: Any, volume: Volume, address: str) -> Any:
    """Layer of one volume: labels and masks in the colours of their classes, grey values in a window they fill."""
    source = f"{address}|{'zarr2' if getattr(volume.storage, 'version', 3) == 2 else 'zarr3'}:"
    if volume.kind == "grey":
        low, high = grey_window(volume)
        layer = neuroglancer.ImageLayer(source=source)
        layer.shader = "#uicontrol invlerp normalized\nvoid main() { emitGrayscale(normalized()); }"
        layer.shader_controls = {"normalized": {"range": [low, high]}}
        return layer
    colours = {c.value: "#{:02x}{:02x}{:02x}".format(*c.rgba) for c in volume.classes if c.rgba[3] and c.value > 0}
    if volume.kind == "mask":
        colours = {1: MASK_COLOUR}
    layer = neuroglancer.SegmentationLayer(source=source, segment_colors=colours, segments=list(colours))
    layer.selected_alpha = 0.5
    return layer


def grey_window(volume: Volume) -> tuple[float, float]:
    """Grey values that 1 % of the voxels lie below, and above, in the middle plane of the coarsest level."""
    levels = _levels(volume)
    level = open_zarr(_folder(volume), array=levels[-1]) if levels else volume
    z, *plane = level.shape
    middle = [slice(max(0, (n - LOOKED_AT_VOXELS) // 2), min(n, (n + LOOKED_AT_VOXELS) // 2)) for n in plane]
    values = level.read((slice(z // 2, z // 2 + 1), *middle))
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    low, high = np.percentile(finite, (1, 99)).tolist() if finite.size else (0.0, 1.0)
    return (low, high) if low < high else (low, low + 1)


def _zarr_volume(source: Volume | str | Place) -> Volume:
    """Open a volume that viewers read as it lies on disk."""
    volume = opened(source)
    storage = volume.storage
    if not isinstance(storage, ZarrArray) or not volume.finished:
        raise InputError(
            f"{volume.name} is no finished Zarr volume, which viewers read: run `tomoscale convert` on it first"
        )
    return volume


def _folder(volume: Volume) -> Place:
    """Folder that a viewer is given: of the whole image if the volume is its full resolution, else of the array."""
    storage = volume.storage
    assert isinstance(storage, ZarrArray)
    return storage.directory if _levels(volume) else storage.folder


def _levels(volume: Volume) -> list[str]:
    """Levels of an image whose full resolution the volume is, finest first; none of any other array."""
    storage = volume.storage
    assert isinstance(storage, ZarrArray)
    node = read_node(storage.directory)
    image = multiscales(node.attributes) if node else None
    levels = level_paths(image) if image else []
    return levels if storage.inside in levels[:1] else []


def _origin(address: str) -> str:
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc}"
