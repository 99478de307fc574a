"""How values look in a notebook: greys or the colours of classes, true proportions, a scale bar, a histogram."""

from __future__ import annotations

import io
import math
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tomoscale.notebook.thinned import Thinned, positions
from tomoscale.report.page import length, text
from tomoscale.report.planes import COLOURS, MAX_CLASSES, Palette

if TYPE_CHECKING:
    from tomoscale.volume import Volume

PIXELS = 320
"""Longest side of a picture, and width of a histogram."""
GREYS = 250
WHITE, BLACK, GAP = 250, 251, 252
_INKS = ((255, 255, 255), (0, 0, 0), (205, 205, 205))
_BAR_ROWS = 24
_LEAST_COLUMNS = 120
_LEAST_SIDE = 4  # of a needle, the short side stays visible


@dataclass(frozen=True)
class Look:
    """How values are drawn: as grey between `window`, or as classes in the colours of `palette`.

    Attributes
    ----------
    window : (float, float)
        Drawn black and white.
    palette : Palette or None
        None draws grey values.
    cycled : bool
        There are more values than colours, so that values share one.
    """

    window: tuple[float, float]
    palette: Palette | None = None
    cycled: bool = False

    @classmethod
    def of(cls, volume: Volume, values: np.ndarray) -> Look:
        """How to draw a volume of which `values` are shown."""
        if volume.dtype.kind == "f" or (volume.kind == "grey" and volume.dtype.kind != "b"):
            finite = values[np.isfinite(values)]
            low, high = np.percentile(finite, (0.2, 99.8)) if finite.size else (0.0, 1.0)
            return cls((float(low), float(high)))
        if volume.kind == "mask" or volume.dtype.kind == "b":
            classes = [{"id": 0, "name": "outside"}, {"id": 1, "name": "inside"}]
        elif volume.classes:
            classes = [_class(c.value, c.name, c.rgba) for c in volume.classes[:MAX_CLASSES]]
        else:
            found = np.unique(values)
            if found.size > MAX_CLASSES:
                return cls((0.0, 1.0), Palette.of([{"id": n} for n in range(len(COLOURS))]), cycled=True)
            classes = [{"id": int(v), "name": f"value {v}"} for v in found]
        return cls((0.0, 1.0), Palette.of(classes))

    def indices(self, values: np.ndarray) -> np.ndarray:
        """Index into `inks` of every value: uint8 array of the same shape."""
        if self.palette is None:
            low, high = self.window
            if high <= low:
                return np.full(values.shape, GREYS // 2, np.uint8)
            scaled = (values.astype(np.float64) - low) * ((GREYS - 1) / (high - low))
            return np.nan_to_num(scaled, posinf=GREYS - 1, neginf=0).clip(0, GREYS - 1).round().astype(np.uint8)
        if self.cycled:
            values = np.where(values == 0, 0, 1 + values.astype(np.int64) % (len(COLOURS) - 1))
        return self.palette.ranks(values)

    def inks(self) -> np.ndarray:
        """Colours by index: (253, 3) uint8; white, black and the colour of gaps are last."""
        table = np.zeros((GREYS + len(_INKS), 3), np.uint8)
        if self.palette is None:
            table[:GREYS] = np.linspace(0, 255, GREYS).round()[:, None]
        else:
            table[: len(self.palette.colours)] = self.palette.colours
        table[GREYS:] = _INKS
        return table


def picture(plane: Thinned, look: Look, pixel: tuple[float, float], scale: float, known: bool) -> bytes:
    """PNG of a plane with its scale bar below, on white.

    Parameters
    ----------
    plane : Thinned
    look : Look
    pixel : (float, float)
        Height and width of a voxel, in micrometres, or in voxels where they are not known.
    scale : float
        Pixels of the picture per micrometre (per voxel).
    known : bool
        Whether the unit is micrometres.
    """
    high, wide = (max(_LEAST_SIDE, round(n * p * scale)) for n, p in zip(plane.extent, pixel, strict=True))
    rows, columns = (
        _nearest(n, step, count) for n, step, count in zip(plane.extent, plane.steps, (high, wide), strict=True)
    )
    canvas = np.full((high + _BAR_ROWS, max(wide, _LEAST_COLUMNS)), WHITE, np.uint8)
    drawn = look.indices(plane.values)[np.ix_(rows, columns)]
    y, x = np.ogrid[:high, :wide]
    gap = np.where((y // 4 + x // 4) % 2, np.uint8(GAP), np.uint8(WHITE))
    canvas[:high, :wide] = np.where(plane.missing[np.ix_(rows, columns)], gap, drawn)
    image = Image.frombytes("P", canvas.shape[::-1], canvas.tobytes())
    image.putpalette(look.inks().tobytes())
    bar = scale_bar(wide / scale)
    pen, end = ImageDraw.Draw(image), max(round(bar * scale), 1)
    pen.rectangle((0, high + 6, end - 1, high + 9), fill=BLACK)
    # The font that comes with Pillow has no µ.
    pen.text((end + 6, high), length(bar, known).replace("µ", "u"), fill=BLACK, font=ImageFont.load_default(12))
    return _png(image)


def scale_bar(width: float) -> float:
    """Longest of 1, 2 and 5 times a power of ten within half of `width`."""
    power = 10.0 ** math.floor(math.log10(width / 2))
    return max(m * power for m in (1, 2, 5) if m * power <= width / 2 * (1 + 1e-9))


def histogram(values: np.ndarray, look: Look) -> bytes:
    """PNG of how often values occur, on a logarithmic scale, over the greys they are drawn in."""
    low, high = float(values.min()), float(values.max())
    # Of whole numbers, a bin holds whole ones: otherwise some are empty by chance.
    bins = min(PIXELS, int(high - low) + 1) if values.dtype.kind in "iu" else PIXELS
    edge = 0.5 if bins < PIXELS else 0.0
    top = high if high > low or edge else low + 1
    counts, _ = np.histogram(values.astype(np.float64), bins, (low - edge, top + edge))
    counts = counts[np.arange(PIXELS) * bins // PIXELS]
    heights = np.log1p(counts) / max(np.log1p(counts.max()), 1e-9)
    canvas = np.full((56, PIXELS), WHITE, np.uint8)
    canvas[:44][np.arange(44, 0, -1)[:, None] <= np.ceil(heights * 44)] = BLACK
    canvas[46:] = look.indices(np.linspace(low, high, PIXELS))
    image = Image.frombytes("P", (PIXELS, 56), canvas.tobytes())
    image.putpalette(look.inks().tobytes())
    return _png(image)


def img(png: bytes, alt: str) -> str:
    """Picture inside HTML, each of its pixels one of the screen's."""
    data = b64encode(png).decode("ascii")
    return (
        f'<img alt="{text(alt)}" style="max-width:none;image-rendering:pixelated" src="data:image/png;base64,{data}">'
    )


def _class(value: int, name: str, rgba: Sequence[int]) -> dict[str, Any]:
    # The colour of a class that viewers leave out says nothing: the palette has one for the background.
    return {"id": value, "name": name, **({"color": "#" + bytes(rgba[:3]).hex()} if rgba[3] else {})}


def _nearest(length_voxels: int, step: int, pixels: int) -> np.ndarray:
    """For each pixel of a picture, the rank of the closest voxel shown: (pixels,) int64."""
    shown = positions(length_voxels, step)
    voxel = (np.arange(pixels) + 0.5) * (length_voxels / pixels) - 0.5
    rank = ((voxel - shown[0]) / step).round().clip(0, len(shown) - 1)
    return np.asarray(rank, np.intp)


def _png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()
