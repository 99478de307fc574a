"""The report of a porosity study: one page that opens offline, with numbers, distributions and the largest cells."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tomoscale.geometry import Spacing, three
from tomoscale.places import replace_text
from tomoscale.report import page
from tomoscale.report.figures import BLUE, Chart, drawing, figure, plain
from tomoscale.report.page import text
from tomoscale.report.pictures import Picture, panels
from tomoscale.report.planes import png
from tomoscale.report.plates import joined
from tomoscale.report.provenance import provenance_parts
from tomoscale.report.rendering import render, view_onto
from tomoscale.report.sample import caveats_box, quantities_table
from tomoscale.volume import Volume

PICTURES = 6
CELLS_AT_MOST = 112
"""Edge of the coarsened box in which a cell is drawn."""
_PIXELS = 480
_READ_BYTES = 2**26
_COLOUR = np.array([[255, 255, 255], [213, 94, 0]], np.uint8)


def write_porosity_report(target: Path, content: Mapping[str, Any], cells: Volume) -> None:
    """Write the page of what `porosity` found; `cells` are its numbered cells."""
    replace_text(target, porosity_page(content, cells))


def porosity_page(content: Mapping[str, Any], cells: Volume) -> str:
    """Page as HTML; it holds everything it shows and runs nothing."""
    unit = str(content["unit"])
    body = [
        "<h1>Porosity</h1>",
        f"<p>{text(next(iter(content['inputs'].values()))['name'])}</p>",
        caveats_box(content["caveats"]),
        "<h2>Results</h2>",
        *quantities_table(content["quantities"]),
        "<h2>Distributions</h2>",
        *_charts(content["histograms"], unit),
        "<h2>Largest cells</h2>",
        _pictures(content["largest_cells"], cells, unit == "µm"),
        _largest(content["largest_cells"], unit),
        "<h2>Where it comes from</h2>",
        *provenance_parts(content),
    ]
    return page.page("Porosity", joined(body))


def read_cell(cells: Volume, number: int, start: Sequence[int], stop: Sequence[int]) -> tuple[np.ndarray, int]:
    """Cell of a label volume in its box, coarsened so that no edge is longer than 112.

    A coarse voxel is set where any voxel in it is of the cell. The box is read slab by slab, whatever its size.

    Returns
    -------
    (z, y, x) bool array
    int
        Voxels along the edge of a coarse one.
    """
    lengths = three(b - a for a, b in zip(start, stop, strict=True))
    factor = max(1, math.ceil(max(lengths) / CELLS_AT_MOST))
    coarse = np.zeros(three(-(-n // factor) for n in lengths), bool)
    columns = tuple(slice(a, b) for a, b in zip(start[1:], stop[1:], strict=True))
    plane_bytes = lengths[1] * lengths[2] * cells.dtype.itemsize
    step = max(factor, _READ_BYTES // plane_bytes // factor * factor)
    for z in range(0, lengths[0], step):
        part = cells.read((slice(start[0] + z, start[0] + min(z + step, lengths[0])), *columns)) == number
        padded = np.pad(part, [(0, -n % factor) for n in part.shape])
        a, b, c = (n // factor for n in padded.shape)
        coarse[z // factor : z // factor + a] = padded.reshape(a, factor, b, factor, c, factor).any(axis=(1, 3, 5))
    return coarse, factor


def histogram_chart(edges: Sequence[float], counts: Sequence[int], label: str, count_label: str, log: bool) -> Chart:
    """Bars of counts between edges; on a logarithmic axis where edges are."""
    with drawing():
        made, axes = figure(2.4)
        axes.bar(edges[:-1], counts, np.diff(edges), align="edge", color=BLUE, edgecolor="black", linewidth=0.4)
        axes.set(xlabel=plain(label, 80), ylabel=plain(count_label, 80), xscale="log" if log else "linear")
        return Chart(made)


def _charts(histograms: Mapping[str, Any], unit: str) -> list[str]:
    made = []
    for name, label, count_label, log in (
        ("thickness", f"thickness of the void ({unit})", "voxels", False),
        ("cell_volume", f"volume of a cell ({unit}³)", "cells", True),
    ):
        found = histograms[name]
        if sum(found["counts"]):
            drawn = histogram_chart(found["edges"], found["counts"], label, count_label, log)
            caption = f"Distribution of the {text(label)}."
            made.append(page.chart(drawn.svg, f"Histogram: {label}", caption))
    return made or ["<p>There is no void to show.</p>"]


def _pictures(rows: Sequence[Mapping[str, Any]], cells: Volume, known: bool) -> str:
    size: Spacing = (cells.voxel_size_um if known else None) or (1.0, 1.0, 1.0)
    pictures = []
    for row in rows[:PICTURES]:
        box = [[int(row[f"{axis}_{end}_voxels"]) for axis in "zyx"] for end in ("start", "stop")]
        shape, factor = read_cell(cells, int(row["id"]), *box)
        z, y, x = (h * factor for h in size)
        drawn, pixel = render(shape.astype(np.uint8), (z, y, x), _COLOUR, shape, view_onto(1), _PIXELS)
        extent = drawn.shape[0] * pixel, drawn.shape[1] * pixel
        title = f"Cell {row['id']}" + (f", every {factor} voxels" if factor > 1 else "")
        pictures.append(Picture(text(title), f"Cell {row['id']} in space", png(drawn), extent, known))
    if not pictures:
        return "<p>There is no cell of the size asked for.</p>"
    caption = (
        "The largest cells in their boxes, seen from high y, a little from above and from the right; z runs downwards."
    )
    return f"<figure>{panels(pictures)}<figcaption>{caption}</figcaption></figure>"


def _largest(rows: Sequence[Mapping[str, Any]], unit: str) -> str:
    if not rows:
        return ""
    suffix = "um" if unit == "µm" else "voxels"
    power = {"um": "um3", "voxels": "voxels3"}[suffix]
    head = (
        "cell",
        f"volume ({unit}³)",
        "box (voxels: z, y, x)",
        f"centroid ({unit}: z, y, x)",
        "mean",
        "maximum",
        "cut",
    )
    lines = [
        [
            str(row["id"]),
            page.number(row[f"volume_{power}"]),
            text(", ".join(f"{row[f'{a}_start_voxels']}–{row[f'{a}_stop_voxels']}" for a in "zyx")),
            text(", ".join(f"{row[f'centroid_{a}_{suffix}']:.1f}" for a in "zyx")),
            page.number(row[f"thickness_mean_{suffix}"]),
            page.number(row[f"thickness_max_{suffix}"]),
            "yes" if row["touches_border"] else "",
        ]
        for row in rows
    ]
    caption = f"The largest cells, with mean and maximum of their thickness ({text(unit)}); all are in cells.csv."
    return page.table(caption, head, lines, "", (1, 4, 5))
