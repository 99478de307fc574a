"""Slices of a scan as figures of a page: grey values, labels over them, and errors against the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from tomoscale.geometry import AXES
from tomoscale.report import page
from tomoscale.report.pictures import Legend, Picture, legend_list, panels, pictures_chart
from tomoscale.report.planes import (
    Palette,
    Plane,
    Scan,
    cut,
    error_picture,
    found_classes,
    grey_picture,
    grey_window,
    label_picture,
    middle_planes,
    strip_indices,
)
from tomoscale.report.plates import Plate

PLANE_PIXELS = 1000
COMPACT_PIXELS = 500
STRIP_PIXELS = 500
STRIP_PLANES = 5


@dataclass(frozen=True)
class Look:
    """How all planes of a scan are drawn, so that they can be compared.

    Attributes
    ----------
    window : (float, float)
        Grey values drawn black and white.
    palette : Palette
    known : bool
        Whether lengths are in micrometres.
    """

    window: tuple[float, float]
    palette: Palette
    known: bool


def slice_plates(scan: Scan, classes: Sequence[Mapping[str, Any]], *, compact: bool = False) -> list[str | Plate]:
    """Three planes through the middle and a few slices along z; nothing if there is nothing to show.

    A `compact` one has smaller planes and no strip.
    """
    if scan.grey is None and scan.labels is None:
        return []
    planes = list(middle_planes(scan, COMPACT_PIXELS if compact else PLANE_PIXELS))
    palette = Palette.of(classes or found_classes(planes))
    look = Look(grey_window(planes), palette, scan.voxel_size_um is not None)
    plates: list[str | Plate] = [_plane_plate(p, scan, look) for p in planes]
    indices = strip_indices(scan.shape[0], STRIP_PLANES)
    if len(indices) > 1 and not compact:
        plates.append(_strip_plate([cut(scan, 0, index, STRIP_PIXELS) for index in indices], look))
    return [f"<p>{_reading(planes[0], look.window)}</p>", *plates]


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


def _plane_plate(plane: Plane, scan: Scan, look: Look) -> Plate:
    where = f"plane {AXES[plane.axis]} = {plane.index}"
    row, titles = [], []
    if plane.grey is not None:
        row.append(_picture("Grey values", f"Grey values, {where}", grey_picture(plane, look.window), plane, look))
        titles.append("Grey values")
    if plane.labels is not None:
        row.append(_labels(plane, "Labels", where, look))
        titles.append("Labels")
    if plane.wrong is not None:
        row.append(_errors(plane, f"Errors: {page.percent(plane.wrong)} of the voxels shown", where, look))
        titles.append(f"Errors: {page.percent(plane.wrong)} of the voxels")
    rows, columns = (axis for n, axis in enumerate(AXES) if n != plane.axis)
    caption = (
        f"Plane {AXES[plane.axis]} = {_position(plane, scan)}; {rows} runs downwards, {columns} to the right. "
        f"{_thinned(plane)}"
    )
    return _plate(f"plane_{AXES[plane.axis]}", [row], [titles], caption, [plane], look)


def _strip_plate(planes: Sequence[Plane], look: Look) -> Plate:
    where = [f"slice z = {p.index}" for p in planes]
    titles = [[f"z = {p.index}" for p in planes]]
    if planes[0].labels is None:
        named = zip(planes, titles[0], where, strict=True)
        rows = [[_picture(t, t.capitalize(), grey_picture(p, look.window), p, look) for p, t, _ in named]]
    else:
        rows = [[_labels(p, f"z = {p.index}", w, look) for p, w in zip(planes, where, strict=True)]]
    if planes[0].wrong is not None:
        shares = [f"Errors: {page.percent(p.wrong or 0.0)}" for p in planes]
        rows.append([_errors(p, s, w, look) for p, s, w in zip(planes, shares, where, strict=True)])
        titles.append(shares)
    below = ", and under each its errors" if len(rows) > 1 else ""
    caption = f"{len(planes)} slices along z, evenly spread{below}. {_thinned(planes[0])}"
    return _plate("slices_z", rows, titles, caption, planes, look)


def _plate(
    name: str,
    rows: Sequence[Sequence[Picture]],
    titles: Sequence[Sequence[str]],
    caption: str,
    planes: Sequence[Plane],
    look: Look,
) -> Plate:
    shown, swatches = _legend(look.palette, planes)
    kind = "strip" if len(rows[0]) > 3 else ""
    inside = "".join(panels(row, kind) for row in rows) + (legend_list(shown, swatches) if shown else "")
    html = f"<figure>{inside}<figcaption>{caption}</figcaption></figure>"
    alone = f"{caption} {_reading(planes[0], look.window)}"  # away from the page, the figure must explain itself
    return Plate(name, html, alone, partial(pictures_chart, rows, titles, shown))


def _picture(title: str, alt: str, png: bytes, plane: Plane, look: Look) -> Picture:
    few = max(plane.arrays[0].shape) < PLANE_PIXELS // 4
    return Picture(title, alt, png, plane.extent, look.known, few)


def _labels(plane: Plane, title: str, where: str, look: Look) -> Picture:
    over = " over grey values" if plane.grey is not None else ""
    picture = label_picture(plane, look.window, look.palette)
    return _picture(title, f"Labels{over}, {where}", picture, plane, look)


def _errors(plane: Plane, title: str, where: str, look: Look) -> Picture:
    alt = f"Voxels whose label differs from the truth, {where}: {page.percent(plane.wrong or 0.0)}"
    return _picture(title, alt, error_picture(plane, look.window, look.palette), plane, look)


def _legend(palette: Palette, planes: Sequence[Plane]) -> tuple[Legend, Sequence[str]]:
    """Names and colours of the classes shown, and how the page draws their swatches."""
    if planes[0].labels is None:
        return [], []
    names = [*palette.names]
    if any((palette.ranks(a) == len(names)).any() for p in planes for a in (p.labels, p.truth) if a is not None):
        names.append("a value that is no class")
    colours = [palette.hex(n) for n in range(len(names))]
    swatches = colours
    if planes[0].wrong is not None:  # two halves: the colour in the labels, and in the error map
        swatches = [
            f"linear-gradient(135deg, {c} 50%, {palette.hex(n, paper=True)} 50%)" for n, c in enumerate(colours)
        ]
    return list(zip(names, colours, strict=True)), swatches


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
