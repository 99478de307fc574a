"""Charts of a report as PNG, through matplotlib's objects: no window, no global figure.

Equal numbers give equal bytes: no date and no version enters a picture.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font

PARTS = (("read", "#56b4e9", ""), ("compute", "#0072b2", "//"), ("write", "#e69f00", ".."))
NAME_LENGTH = 40
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
}


def bar_chart(bars: Sequence[tuple[str, float, str]], label: str) -> bytes:
    """Horizontal bars of (name, value between 0 and 1, colour), each with its value."""
    with _drawing():
        figure, axes = _figure(0.7 + 0.34 * len(bars))
        for place, (_, value, colour) in enumerate(bars):
            axes.barh(place, value, height=0.62, color=colour, edgecolor="black", linewidth=0.6)
            axes.text(value + 0.01, place, f"{value:.3f}", va="center")
        axes.set_yticks(range(len(bars)), [_plain(name) for name, _, _ in bars])
        axes.set(xlim=(0, 1.09), xticks=np.linspace(0, 1, 6), xlabel=_plain(label))
        axes.invert_yaxis()
        return _saved(figure)


def histogram_chart(centres: Sequence[float], counts: Sequence[int], label: str) -> bytes:
    """Counts over grey values, on a logarithmic axis."""
    with _drawing():
        figure, axes = _figure(2.3)
        drawn = np.maximum(np.asarray(counts, np.float64), 0.5)  # an empty bin lies on the floor of a log axis
        axes.fill_between(centres, drawn, 0.5, step="mid", color="#0072b2", alpha=0.25, linewidth=0)
        axes.step(centres, drawn, where="mid", color="#0072b2", linewidth=1.0)
        axes.set(yscale="log", ylim=(0.5, None), xlabel=_plain(label), ylabel="voxels")
        filled = np.flatnonzero(counts)
        axes.set_xlim(centres[max(filled[0] - 1, 0)], centres[min(filled[-1] + 1, len(centres) - 1)])
        return _saved(figure)


def seconds_chart(runs: Sequence[tuple[str, Mapping[str, float]]]) -> bytes:
    """Stacked bars of the seconds of each run's blocks: read, compute, write."""
    with _drawing():
        figure, axes = _figure(1.05 + 0.34 * len(runs))
        left = np.zeros(len(runs))
        for part, colour, hatch in PARTS:
            width = np.array([float(seconds.get(part) or 0) for _, seconds in runs])
            style = {"height": 0.58, "edgecolor": "black", "linewidth": 0.5, "hatch": hatch, "label": part}
            axes.barh(range(len(runs)), width, left=left, color=colour, **style)
            left += width
        axes.set_yticks(range(len(runs)), [_plain(name) for name, _ in runs])
        axes.set(xlabel="seconds, summed over blocks", xlim=(0, max(float(left.max()) * 1.02, 1e-3)))
        axes.invert_yaxis()
        axes.legend(ncols=3, loc="lower right", bbox_to_anchor=(1, 1), frameon=False, borderaxespad=0.2)
        return _saved(figure)


@contextmanager
def _drawing() -> Iterator[None]:
    """Matplotlib's own settings and ours, so that no settings of the user's change a report; his are put back."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def _plain(name: str) -> str:
    """Text that matplotlib draws as it is: on one line, without formulas, not too long, in glyphs the font has."""
    shown = "".join(c if ord(c) in _glyphs() else "\ufffd" for c in name)
    return (shown if len(shown) <= NAME_LENGTH else shown[: NAME_LENGTH - 1] + "…").replace("$", r"\$")


@cache
def _glyphs() -> frozenset[int]:
    return frozenset(get_font(findfont(_FONT)).get_charmap())


def _figure(height: float) -> tuple[Any, Any]:
    figure = Figure(figsize=(6.6, height), dpi=200, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _saved(figure: Any) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()
