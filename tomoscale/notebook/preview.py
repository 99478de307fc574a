"""What a volume shows of itself in a notebook: three planes through its middle, its values, and what is known of it.

Each picture is a PNG inside the HTML: one voxel shown is one square, proportions are true, and below it stands a scale
bar. Nothing is read but these planes, thinned and within a budget (`thinned`); of a volume with coarser levels, the
finest of them that fits. Nothing here raises: what cannot be shown says why.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tomoscale.errors import InputError
from tomoscale.geometry import AXES, Spacing
from tomoscale.notebook.look import PIXELS, Look, histogram, img, picture
from tomoscale.notebook.thinned import BUDGET_BYTES, SECONDS, Thinned, plane_bytes, read_thinned
from tomoscale.ome import level_paths, multiscales
from tomoscale.places import Place, path_inside
from tomoscale.report.page import length, text
from tomoscale.volume import Volume, ZarrArray, open_zarr
from tomoscale.words import shape_text, size
from tomoscale.zarr_metadata import read_node

_MAX_LEVELS = 32
_LINE = "margin:0.3em 0;font-size:90%"


def preview_html(volume: Volume) -> str:
    """Three middle planes of a volume as pictures, with a histogram and what is known of it, as HTML.

    It never raises: a volume that cannot be read shows its message.
    """
    try:
        return f"<div>{_facts(volume)}{_pictures(volume)}</div>"
    except Exception as error:  # in a notebook a traceback would hide the one line that helps
        return f"<div>{_message(error)}</div>"


def levels_of(volume: Volume) -> list[Volume]:
    """Volumes of the coarser levels of an OME-Zarr image, finest first; those that make no sense are left out."""
    storage = volume.storage
    if not isinstance(storage, ZarrArray) or not storage.inside:
        return []
    root = storage.directory
    array = root / storage.inside
    found = []
    for group in array.parents:
        node = read_node(group)
        image = multiscales(node.attributes) if node else None
        paths = level_paths(image)[:_MAX_LEVELS] if image else []
        own = path_inside(array, group)
        if own in paths:
            for path in paths[paths.index(own) + 1 :]:
                level = _level(storage.directory, path_inside(group / path, root))
                if level is not None and all(a <= b for a, b in zip(level.shape, volume.shape, strict=True)):
                    found.append(level)
        if found or group == root:
            break
    return found


def _facts(volume: Volume) -> str:
    spacing = volume.voxel_size_um
    if spacing is None:
        sizes = "voxel size not known: give voxel_size_um"
    else:
        edges = " x ".join(length(n * s, True) for n, s in zip(volume.shape, spacing, strict=True))
        sizes = f"voxels of {' x '.join(f'{s:g}' for s in spacing)} µm (z, y, x), {edges} in all"
    state = "" if volume.finished else " <b>not finished</b>"
    facts = f"{shape_text(volume.shape)} {volume.dtype} ({volume.kind}), {size(volume.nbytes)}; {sizes}"
    return f'<div style="{_LINE}"><b>{text(volume.name)}</b>{state}<br>{text(facts)}</div>'


def _pictures(volume: Volume) -> str:
    if not volume.exists:
        return f'<div style="{_LINE}">Nothing is on disk yet.</div>'
    shown = _shown_level(volume)
    planes, notes = _middle_planes(shown)
    if shown.shape != volume.shape:
        notes.insert(0, f"Shown is a coarser level of {shape_text(shown.shape)} voxels.")
    if not planes:
        return _notes(notes)
    values = np.concatenate([p.values[~p.missing] for p in planes])
    look = Look.of(volume, values)
    spacing, known = _pixel(volume, shown)
    # One scale for the three, so that they compare.
    scale = PIXELS / max(e * s for p in planes for e, s in zip(p.extent, _without(spacing, p.axis), strict=True))
    cells = "".join(_cell(p, look, spacing, scale, shown, known) for p in planes)
    return (
        f'<div style="display:flex;flex-wrap:wrap;gap:12px;align-items:flex-start">{cells}</div>'
        f"{_values(values, look)}{_notes(notes)}"
    )


def _middle_planes(volume: Volume) -> tuple[list[Thinned], list[str]]:
    """Planes across z, y and x that can be shown, and why others cannot."""
    planes, notes = [], []
    deadline = time.monotonic() + SECONDS
    for axis in range(3):
        try:
            plane = read_thinned(volume, axis, volume.shape[axis] // 2, PIXELS, deadline)
        except InputError as error:
            notes.append(str(error))
            continue
        if plane.problem:
            notes.append(f"Plane {AXES[axis]} = {plane.index}: {plane.problem}")
        if not plane.missing.all():
            planes.append(plane)
    return planes, list(dict.fromkeys(notes))


def _shown_level(volume: Volume) -> Volume:
    """The finest level whose planes can be decoded whole, else the coarsest."""
    levels = [volume, *levels_of(volume)]
    fitting = (v for v in levels if max(plane_bytes(v, axis) for axis in range(3)) <= BUDGET_BYTES)
    return next(fitting, levels[-1])


def _pixel(volume: Volume, shown: Volume) -> tuple[Spacing, bool]:
    """Size of a shown voxel in micrometres, or in voxels of the volume, and whether it is known."""
    if shown.voxel_size_um is not None:
        return shown.voxel_size_um, True
    spacing = volume.voxel_size_um or (1.0, 1.0, 1.0)
    z, y, x = (s * n / m for s, n, m in zip(spacing, volume.shape, shown.shape, strict=True))
    return (z, y, x), volume.voxel_size_um is not None


def _without(spacing: Spacing, axis: int) -> tuple[float, float]:
    rows, columns = (s for a, s in enumerate(spacing) if a != axis)
    return rows, columns


def _cell(plane: Thinned, look: Look, spacing: Spacing, scale: float, volume: Volume, known: bool) -> str:
    rows, columns = (axis for axis in range(3) if axis != plane.axis)
    png = picture(plane, look, _without(spacing, plane.axis), scale, known)
    where = f"{AXES[plane.axis]} = {plane.index}"
    down, right = plane.steps
    thinned = "" if (down, right) == (1, 1) else f"; one voxel in {down} down, {right} across"
    whole = plane.extent == (volume.shape[rows], volume.shape[columns])
    part = "" if whole else f"; only the middle {plane.extent[0]} x {plane.extent[1]} voxels"
    caption = f"{where} ({AXES[rows]} down, {AXES[columns]} right{part}{thinned})"
    return f"<div>{img(png, f'{volume.name}, plane {where}')}<br><small>{text(caption)}</small></div>"


def _values(values: np.ndarray, look: Look) -> str:
    """What the voxels shown hold: a histogram, or the share of each class."""
    if look.palette is None:
        finite = values[np.isfinite(values)]
        if not finite.size:
            return f'<div style="{_LINE}">No voxel shown has a finite value.</div>'
        odd = "" if finite.size == values.size else f", {100 * (1 - finite.size / values.size):.2g} % not finite"
        line = f"{finite.min():g} to {finite.max():g} in the voxels shown{odd}; bars are logarithmic"
        strip = img(histogram(finite, look), "histogram of the voxels shown")
        return f'<div style="{_LINE}">{strip}<br><small>{text(line)}</small></div>'
    if look.cycled:
        found = f"{np.unique(values).size} values in the planes shown; values share colours"
        return f'<div style="{_LINE}"><small>{found}</small></div>'
    counts = np.bincount(look.indices(values), minlength=len(look.palette.colours))
    names = [*look.palette.names, "a value that is no class"]
    shown = [n for n in range(len(names)) if counts[n] or n < len(look.palette.names)]
    items = "".join(
        f'<span style="margin-right:1em;white-space:nowrap"><span style="display:inline-block;width:0.9em;height:0.9em;'
        f'border:1px solid #888;background:{look.palette.hex(n)}"></span> {text(names[n])} '
        f"{100 * counts[n] / values.size:.3g} %</span>"
        for n in shown
    )
    return f'<div style="{_LINE}">{items}<small>of the voxels shown</small></div>'


def _level(directory: Place, inside: str) -> Volume | None:
    try:
        level = open_zarr(directory, array=inside, unfinished=True)
    except (InputError, OSError, ValueError):
        return None
    assert isinstance(level.storage, ZarrArray)
    return replace(level, storage=replace(level.storage, writable=False))


def _notes(notes: Sequence[str]) -> str:
    return "".join(f'<div style="{_LINE}">{text(note)}</div>' for note in notes)


def _message(error: Exception) -> str:
    return f'<div style="{_LINE}"><b>This volume cannot be shown.</b> {text(str(error) or type(error).__name__)}</div>'
