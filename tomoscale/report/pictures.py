"""Pictures of a sample under a title, with a scale bar: side by side in a page, or as one figure of a paper."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from tomoscale.report import page
from tomoscale.report.figures import WIDTH_INCHES, Chart, drawing, figure, plain
from tomoscale.report.page import text

Legend = Sequence[tuple[str, str]]
"""Name and colour (``#rrggbb``) of each class shown."""

_TALLEST_ROW_INCHES = 7.0


@dataclass(frozen=True)
class Picture:
    """One picture.

    Attributes
    ----------
    title, alt : str
        What stands over it, as HTML, and what stands for it where it cannot be seen.
    png : bytes
    extent : (float, float)
        Height and width in micrometres, or in voxels.
    known : bool
        Whether the extent is in micrometres.
    pixels : bool
        Show single pixels sharply: it has few.
    """

    title: str
    alt: str
    png: bytes
    extent: tuple[float, float]
    known: bool
    pixels: bool = False

    @property
    def bar(self) -> tuple[float, str]:
        """Length of the scale bar as part of the width, and in words."""
        length = scale_bar(self.extent[1])
        return length / self.extent[1], page.length(length, self.known)


def scale_bar(width: float) -> float:
    """Length of a scale bar for a picture `width` wide: 1, 2 or 5 times a power of ten, at most 0.35 of the width."""
    power = 10.0 ** np.floor(np.log10(width * 0.35))
    return float(max(m * power for m in (1, 2, 5) if m * power <= width * 0.35 * (1 + 1e-9)))


def panels(pictures: Sequence[Picture], kind: str = "") -> str:
    """Pictures side by side, as HTML."""
    return f'<div class="panels{" " + kind if kind else ""}">{"".join(_panel(p) for p in pictures)}</div>'


def _panel(picture: Picture) -> str:
    """Picture under its title, in true proportions, with a scale bar."""
    height, width = picture.extent
    part, length = picture.bar
    ratio = width / height
    scale = f'<div class="scale" style="width: {100 * part:.2f}%"><span>{length}</span><b></b></div>'
    # As wide as its column, but not higher than a screen: a long thin plane stays whole.
    style = f"aspect-ratio: {ratio:.6g}; width: min(100%, {32 * ratio:.4g}rem)"
    image = page.image(picture.png, picture.alt, "pixels" if picture.pixels else "")
    return f'<div class="panel"><p>{picture.title}</p><div class="picture" style="{style}">{image}{scale}</div></div>'


def legend_list(legend: Legend, swatches: Sequence[str] | None = None) -> str:
    """Colours and their names as a list; `swatches` are other CSS backgrounds for the same names."""
    shown = swatches or [colour for _, colour in legend]
    items = (
        f'<li><i style="background: {s}"></i>{text(name)}</li>' for s, (name, _) in zip(shown, legend, strict=True)
    )
    return f'<ul class="legend">{"".join(items)}</ul>'


def pictures_chart(rows: Sequence[Sequence[Picture]], titles: Sequence[Sequence[str]], legend: Legend) -> Chart:
    """Rows of pictures as one figure, each with its own pixels, a plain title and a scale bar; a legend below."""
    columns = max(len(row) for row in rows)
    wide = WIDTH_INCHES / columns
    heights = [min(max(p.extent[0] / p.extent[1] for p in row) * wide, _TALLEST_ROW_INCHES) for row in rows]
    with drawing():
        made, axes = figure(
            sum(heights) + 0.3 * len(rows) + (0.3 if legend else 0), len(rows), columns, height_ratios=heights
        )
        for axis in axes.ravel():
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set(visible=True, linewidth=0.4, color="#aaaaaa")
        for row, named, line in zip(rows, titles, axes, strict=True):
            for picture, title, axis in zip(row, named, line, strict=False):
                _draw(axis, picture, title)
        if legend:
            from matplotlib.patches import Patch

            handles = [Patch(facecolor=colour, edgecolor="#444444", label=plain(name)) for name, colour in legend]
            made.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 4), frameon=False)
        return Chart(made)


def _draw(axis: Any, picture: Picture, title: str) -> None:
    pixels = np.asarray(Image.open(io.BytesIO(picture.png)).convert("RGB"))
    height, width = picture.extent
    axis.imshow(pixels, extent=(0, width, height, 0), interpolation="none", aspect="equal")
    axis.set_title(plain(title, 60), fontsize=8, loc="left")
    part, length = picture.bar
    left, low, thick = 0.03 * width, 0.96 * height, max(0.012 * height, 0.006 * width)
    place = {"ha": "left", "va": "bottom", "fontsize": 7}
    box = {"facecolor": "black", "alpha": 0.6, "pad": 1.2, "linewidth": 0}
    axis.text(left, low - 1.5 * thick, length, color="white", bbox=box, **place)
    bar = {"facecolor": "white", "edgecolor": "black", "linewidth": 0.5}
    axis.bar(left, thick, part * width, bottom=low - thick, align="edge", **bar)
