"""How charts are drawn: matplotlib's objects with our own settings, no window, no global figure.

A chart is kept as SVG, which stays sharp at any size, and as PNG of 300 dots an inch for journals that take no vectors.
Equal numbers give equal bytes: no date, no version and no random name enters a file.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any
from unicodedata import category

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font

WIDTH_INCHES = 6.6
PAPER_DPI = 300
NAME_LENGTH = 40
BLUE, ORANGE = "#0072b2", "#d55e00"
# Okabe and Ito's colours in an order that also differs in lightness, each with its own line and hatch: no reader needs
# colour alone.
SERIES = (
    ("#0072b2", "-", "o", ""),
    ("#e69f00", "--", "s", "//"),
    ("#009e73", "-.", "^", ".."),
    ("#cc79a7", ":", "D", "\\\\"),
    ("#56b4e9", (0, (5, 1)), "v", "xx"),
    ("#d55e00", (0, (3, 1, 1, 1)), "P", "oo"),
    ("#999999", (0, (1, 1)), "X", "++"),
)
_FONT = "DejaVu Sans"  # comes with matplotlib, so that a report looks the same on every machine
_STYLE = {
    "font.family": [_FONT],
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "hatch.linewidth": 0.6,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "text.usetex": False,
    "svg.fonttype": "path",  # outlines: the font need not be there where the figure is read
    "svg.hashsalt": "tomoscale",  # names inside the file come from what is drawn, not from chance
}


@dataclass(frozen=True)
class Chart:
    """A chart that is drawn, ready to be saved.

    Attributes
    ----------
    figure : matplotlib Figure
    """

    figure: Any

    @cached_property
    def svg(self) -> bytes:
        """Chart as SVG without date, program and document type."""
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        saved = self._saved("svg", nothing)
        self.figure.set_layout_engine("none")  # what is placed now stays there in the PNG, and is not placed again
        return re.sub(rb"<!DOCTYPE[^>]*>\s*", b"", saved)

    @property
    def png(self) -> bytes:
        """Chart as PNG of 300 dots an inch, laid out as the SVG."""
        assert self.svg
        return self._saved("png", {"Software": None})

    def _saved(self, kind: str, metadata: dict[str, Any]) -> bytes:
        out = io.BytesIO()
        with drawing():
            self.figure.savefig(out, format=kind, dpi=PAPER_DPI, metadata=metadata)
        return out.getvalue()


@contextmanager
def drawing() -> Iterator[None]:
    """Matplotlib's own settings and ours, so that no settings of the user's change a report; his are put back."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def figure(height_inches: float, rows: int = 1, columns: int = 1, **how: Any) -> tuple[Any, Any]:
    """Figure as wide as a page, and its axes: one, or (rows, columns) of them; to be called while `drawing`."""
    made = Figure(figsize=(WIDTH_INCHES, height_inches), layout="constrained")
    FigureCanvasAgg(made)
    if rows == columns == 1 and not how:
        return made, made.add_subplot()
    return made, made.subplots(rows, columns, squeeze=False, **how)


def legend_above(axes: Any, columns: int) -> None:
    """Legend over the axes, where it hides no data."""
    axes.legend(ncols=columns, loc="lower right", bbox_to_anchor=(1, 1), frameon=False, borderaxespad=0.2)


def plain(name: Any, length: int = NAME_LENGTH) -> str:
    """Text that matplotlib draws as it is: on one line, without formulas, not too long, in glyphs the font has."""
    # Format characters, such as those that turn the direction of text, are in the font but draw nothing.
    drawn = (c if ord(c) in _glyphs() and category(c) != "Cf" else "\ufffd" for c in str(name))
    shown = "".join(drawn)
    return (shown if len(shown) <= length else shown[: length - 1] + "…").replace("$", r"\$")


@cache
def _glyphs() -> frozenset[int]:
    return frozenset(get_font(findfont(_FONT)).get_charmap())
