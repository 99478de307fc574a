"""Labels in space as a figure of a page: the implant whole in bone that is cut open, and what lies under its layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from tomoscale.geometry import AXES
from tomoscale.report import page
from tomoscale.report.overview import SIDE, Overview, overview
from tomoscale.report.page import text
from tomoscale.report.pictures import Picture, legend_list, panels, pictures_chart
from tomoscale.report.planes import Palette, Scan, found_classes, middle_planes, png
from tomoscale.report.plates import Plate
from tomoscale.report.rendering import PIXELS, render, view_onto
from tomoscale.volume import Volume

COMPACT_SIDE, COMPACT_PIXELS = 128, 600
FEWEST_CELLS = 4
"""A volume thinner than this is a sheet, which the slices show better."""


@dataclass(frozen=True)
class Cut:
    """What is taken away so that the inside is seen.

    Attributes
    ----------
    matrix : int
        Rank of the class that surrounds the others.
    others : tuple of int
        Ranks of the others, in the order of the classes.
    axis : int
        1 for y, 2 for x.
    index : int
        Cells from here on, towards the reader, are taken away.
    """

    matrix: int
    others: tuple[int, ...]
    axis: int
    index: int


def scene_plates(
    labels: Volume | None, classes: Sequence[Mapping[str, Any]], *, compact: bool = False
) -> list[str | Plate]:
    """Labels in space; a sentence where the volume is too large to be read, nothing where there is nothing to draw."""
    if labels is None or min(labels.shape) < FEWEST_CELLS:
        return []
    found = classes or found_classes(list(middle_planes(Scan(labels=labels), SIDE)))
    palette = Palette.of(found)
    small = overview(labels, palette, COMPACT_SIDE if compact else SIDE)
    if small is None:
        return [
            f"<p>The labels are not drawn in space: {text(labels.name)} has {page.integer(int(np.prod(labels.shape, dtype=object)))} "
            "voxels and no coarser level to read instead.</p>"
        ]
    cut = choose_cut(small.ranks, palette)
    if cut is None or min(small.ranks.shape) < FEWEST_CELLS:
        return []
    pixels = COMPACT_PIXELS if compact else PIXELS
    shown = _bodies(small.ranks, cut, palette)
    pictures = [_picture(title, cells, small, palette, cut, pixels) for title, cells in shown]
    titles = [_capital(title) for title, _ in shown]
    drawn = sorted((cut.matrix, *cut.others))
    legend = [(name, palette.hex(n)) for n, name in enumerate((*palette.names, "no class")) if n in drawn]
    caption = _caption(small, cut)
    html = f"<figure>{panels(pictures, 'pair')}{legend_list(legend)}<figcaption>{caption}</figcaption></figure>"
    return [Plate("labels_3d", html, caption, partial(pictures_chart, [pictures], [titles], legend))]


def choose_cut(ranks: np.ndarray, palette: Palette) -> Cut | None:
    """Cut through the middle of all classes but the one around them: bone, or else the most frequent; None if all is empty.

    The plane lies along the longer extent of what is inside, so that it shows most of it.
    """
    counts = np.bincount(ranks.ravel(), minlength=len(palette.ids) + 1)
    drawn = [n for n in np.flatnonzero(counts).tolist() if n == len(palette.ids) or palette.ids[n] != 0]
    if not drawn:
        return None
    bone = [n for n in drawn if n < len(palette.names) and "bone" in palette.names[n].lower()]
    matrix = bone[0] if bone else max(drawn, key=lambda n: int(counts[n]))
    others = tuple(n for n in drawn if n != matrix)
    inside = np.isin(ranks, others or drawn)
    middles, spreads = [], []
    for axis in (1, 2):
        along = inside.sum(axis=tuple(a for a in range(3) if a != axis), dtype=np.float64)
        place = np.arange(along.size)
        middle = float(along @ place / along.sum())
        middles.append(middle)
        spreads.append(float(along @ (place - middle) ** 2))
    best = int(np.argmin(spreads))  # y where both are equal
    return Cut(matrix, others, 1 + best, max(1, round(middles[best] + 0.5)))


def _bodies(ranks: np.ndarray, cut: Cut, palette: Palette) -> list[tuple[str, np.ndarray]]:
    """Titles, and the cells that are drawn under each."""
    names = (*palette.names, "no class")
    back = np.zeros(ranks.shape, bool)
    back[tuple(slice(0, cut.index) if a == cut.axis else slice(None) for a in range(3))] = True
    matrix = ranks == cut.matrix
    if not cut.others:
        return [(names[cut.matrix], matrix), (f"{names[cut.matrix]}, cut open", matrix & back)]
    others = np.isin(ranks, cut.others)
    first = ranks == cut.others[0]
    whole = (f"{names[cut.matrix]} cut open", others | (matrix & back))
    if len(cut.others) == 1:
        return [whole, (f"without {names[cut.matrix]}", others)]
    return [whole, (f"{names[cut.others[0]]}, the rest cut open, without {names[cut.matrix]}", first | (others & back))]


def _picture(title: str, cells: np.ndarray, small: Overview, palette: Palette, cut: Cut, pixels: int) -> Picture:
    image, pixel = render(small.ranks, small.cell, palette.colours, cells, view_onto(cut.axis), pixels)
    extent = image.shape[0] * pixel, image.shape[1] * pixel
    return Picture(text(_capital(title)), f"Labels in space: {title}", png(image), extent, small.known)


def _capital(title: str) -> str:
    return title[:1].upper() + title[1:]


def _caption(small: Overview, cut: Cut) -> str:
    across = "x to the right" if cut.axis == 1 else "y to the left"
    where = page.length(cut.index * small.cell[cut.axis], small.known)
    return (
        f"Labels in space, seen from high {AXES[cut.axis]}, from a little above and to the right; z runs downwards, {across}. What is cut "
        f"open is taken away from {AXES[cut.axis]} = {where} on. The frame is the volume. The projection is parallel, so the "
        f"scale bar holds everywhere. {small.source}"
    )
