"""Slices of a scan as figures of a page: grey values, labels over them, and errors against the truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tomoscale import page
from tomoscale.geometry import AXES
from tomoscale.page import text
from tomoscale.planes import (
    Palette,
    Plane,
    Scan,
    cut,
    error_picture,
    grey_picture,
    grey_window,
    label_picture,
    middle_planes,
    scale_bar,
    strip_indices,
)

PLANE_PIXELS = 1000
STRIP_PIXELS = 500
STRIP_PLANES = 5


def slices_section(scan: Scan, classes: Sequence[Mapping[str, Any]]) -> str:
    """Section with the three planes through the middle and a few slices along z; nothing if there is nothing to show."""
    if scan.grey is None and scan.labels is None:
        return ""
    planes = list(middle_planes(scan, PLANE_PIXELS))
    if not classes:
        classes = _found_classes(planes)
    window, palette = grey_window(planes), Palette.of(classes)
    figures = [_plane_figure(p, scan, window, palette) for p in planes]
    indices = strip_indices(scan.shape[0], STRIP_PLANES)
    if len(indices) > 1:
        shown = Scan(scan.grey, scan.labels)
        strip = [cut(shown, 0, index, STRIP_PIXELS) for index in indices]
        figures.append(_strip_figure(strip, scan, window, palette))
    return f"<h2>Slices</h2>\n<p>{_reading(planes[0], window)}</p>\n" + "\n".join(figures)


def _reading(plane: Plane, window: tuple[float, float]) -> str:
    """How to read the pictures."""
    lines = []
    if plane.grey is not None:
        lines.append(f"In all pictures the grey value {window[0]:.5g} is black and {window[1]:.5g} is white.")
    if plane.grey is not None and plane.labels is not None:
        lines.append("Labels tint the grey values; class 0 is left clear.")
    if plane.wrong is not None:
        lines.append(
            "In the error maps, voxels that agree with the truth are faint, and a voxel that does not has the colour of the class "
            "it was given, darkened where it would be lost on white."
        )
    return " ".join(lines)


def _plane_figure(plane: Plane, scan: Scan, window: tuple[float, float], palette: Palette) -> str:
    where = f"plane {AXES[plane.axis]} = {plane.index}"
    panels, legend = [], ""
    if plane.grey is not None:
        panels.append(_panel("Grey values", f"Grey values, {where}", grey_picture(plane, window), plane, scan))
    if plane.labels is not None:
        over = " over grey values" if plane.grey is not None else ""
        picture = label_picture(plane, window, palette)
        panels.append(_panel("Labels", f"Labels{over}, {where}", picture, plane, scan))
        legend = _legend(palette, [plane])
    if plane.wrong is not None:
        title = f"Errors: {page.percent(plane.wrong)} of the voxels shown"
        alt = f"Voxels whose label differs from the truth, {where}: {page.percent(plane.wrong)}"
        panels.append(_panel(title, alt, error_picture(plane, window, palette), plane, scan))
    rows, columns = (axis for n, axis in enumerate(AXES) if n != plane.axis)
    caption = f"Plane {AXES[plane.axis]} = {_position(plane, scan)}; {rows} runs downwards, {columns} to the right. {_thinned(plane)}"
    return f'<figure><div class="panels">{"".join(panels)}</div>{legend}<figcaption>{caption}</figcaption></figure>'


def _strip_figure(planes: Sequence[Plane], scan: Scan, window: tuple[float, float], palette: Palette) -> str:
    draw: Callable[[Plane], bytes] = (
        (lambda p: grey_picture(p, window)) if scan.labels is None else (lambda p: label_picture(p, window, palette))
    )
    panels = [_panel(f"z = {p.index}", f"Slice z = {p.index}", draw(p), p, scan) for p in planes]
    legend = _legend(palette, planes) if scan.labels is not None else ""
    caption = f"{len(planes)} slices along z, evenly spread. {_thinned(planes[0])}"
    return (
        f'<figure><div class="panels strip">{"".join(panels)}</div>{legend}<figcaption>{caption}</figcaption></figure>'
    )


def _panel(title: str, alt: str, png: bytes, plane: Plane, scan: Scan) -> str:
    """Picture under its title, in true proportions, with a scale bar."""
    height, width = plane.extent
    bar, ratio = scale_bar(width), width / height
    enlarged = "pixels" if max(plane.arrays[0].shape) < PLANE_PIXELS // 4 else ""
    length = page.length(bar, scan.voxel_size_um is not None)
    scale = f'<div class="scale" style="width: {100 * bar / width:.2f}%"><span>{length}</span><b></b></div>'
    # As wide as its column, but not higher than a screen: a long thin plane stays whole.
    style = f"aspect-ratio: {ratio:.6g}; width: min(100%, {32 * ratio:.4g}rem)"
    picture = f'<div class="picture" style="{style}">{page.image(png, alt, enlarged)}{scale}</div>'
    return f'<div class="panel"><p>{title}</p>{picture}</div>'


def _legend(palette: Palette, planes: Sequence[Plane]) -> str:
    names = [*map(text, palette.names)]
    if any((palette.ranks(a) == len(names)).any() for p in planes for a in (p.labels, p.truth) if a is not None):
        names.append("a value that is no class")
    swatches = [palette.hex(n) for n in range(len(names))]
    if planes[0].wrong is not None:  # two halves: the colour in the labels, and in the error map
        swatches = [
            f"linear-gradient(135deg, {c} 50%, {palette.hex(n, paper=True)} 50%)" for n, c in enumerate(swatches)
        ]
    items = (f'<li><i style="background: {c}"></i>{name}</li>' for c, name in zip(swatches, names, strict=True))
    return f'<ul class="legend">{"".join(items)}</ul>'


def _position(plane: Plane, scan: Scan) -> str:
    """Index of a plane, how many there are, and how deep it lies."""
    size = scan.voxel_size_um
    depth = "" if size is None else f", {page.length(plane.index * size[plane.axis], True)} from the first"
    return f"{plane.index} (of 0 to {scan.shape[plane.axis] - 1}{depth})"


def _thinned(plane: Plane) -> str:
    rows, columns = plane.steps
    if rows == columns == 1:
        return "Every voxel is shown."
    return f"Shown is one voxel in {rows} downwards and one in {columns} to the right."


def _found_classes(planes: Sequence[Plane]) -> list[dict[str, Any]]:
    """Classes named after the values seen, for labels that come without names."""
    seen = {int(v) for p in planes for a in (p.labels, p.truth) if a is not None for v in np.unique(a)}
    return [{"id": value, "name": f"value {value}"} for value in sorted(seen)]
