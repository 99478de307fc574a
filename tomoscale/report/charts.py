"""Charts that any labelled scan has: bars by class, grey values, the confusion matrix, and where the time went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib.ticker import LogLocator

from tomoscale.report.figures import BLUE, SERIES, Chart, drawing, figure, legend_above, plain

PARTS = (("read", "#56b4e9", ""), ("compute", "#0072b2", "//"), ("write", "#e69f00", ".."))
SEQUENTIAL = "cividis"  # rises evenly in lightness, for every common colour vision and in grey print
DARK_CELL = 0.55  # part of a colour scale above which black ink is read better than white


def bar_chart(bars: Sequence[tuple[str, float, str]], label: str) -> Chart:
    """Horizontal bars of (name, value between 0 and 1, colour), each with its value."""
    with drawing():
        made, axes = figure(0.7 + 0.34 * len(bars))
        for place, (_, value, colour) in enumerate(bars):
            axes.barh(place, value, height=0.62, color=colour, edgecolor="black", linewidth=0.6)
            axes.text(value + 0.01, place, f"{value:.3f}", va="center")
        axes.set_yticks(range(len(bars)), [plain(name) for name, _, _ in bars])
        axes.set(xlim=(0, 1.09), xticks=np.linspace(0, 1, 6), xlabel=plain(label))
        axes.invert_yaxis()
        return Chart(made)


def histogram_chart(
    centres: Sequence[float], all_counts: Sequence[int], series: Sequence[tuple[str, Sequence[int], str]], label: str
) -> Chart:
    """Counts over grey values, on a logarithmic axis: all of them as an area, and lines of (name, counts, colour)."""
    with drawing():
        made, axes = figure(2.6)
        for counts, colour, how in [
            (all_counts, BLUE if not series else "#666666", {}),
            *(
                (c, colour, {"linestyle": SERIES[n % len(SERIES)][1], "label": plain(name)})
                for n, (name, c, colour) in enumerate(series)
            ),
        ]:
            drawn = np.maximum(np.asarray(counts, np.float64), 0.5)  # an empty bin lies on the floor of a log axis
            if not how:
                axes.fill_between(centres, drawn, 0.5, step="mid", color=colour, alpha=0.2, linewidth=0)
            axes.step(centres, drawn, where="mid", color=colour, linewidth=1.6 if how else 0.8, **how)
        axes.set(yscale="log", ylim=(0.5, None), xlabel=plain(label), ylabel="voxels")
        found = np.flatnonzero(all_counts)
        axes.set_xlim(centres[max(found[0] - 1, 0)], centres[min(found[-1] + 1, len(centres) - 1)])
        if series:
            legend_above(axes, min(len(series), 4))
        return Chart(made)


def confusion_chart(counts: Sequence[Sequence[int]], names: Sequence[str]) -> Chart:
    """Confusion matrix: truth down, given label across, each row shaded and marked by its shares, with the counts."""
    table = np.array([[float(c) for c in row] for row in counts])
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    with drawing():
        made, axes = figure(1.1 + 0.55 * len(names))
        shown = axes.imshow(shares, vmin=0, vmax=1, cmap=SEQUENTIAL, aspect="auto")
        axes.set_xticks(range(len(names)), ["\n".join(wrap(plain(name, 30), 12)) for name in names])
        axes.set_yticks(range(len(names)), [plain(name, 20) for name in names])
        axes.set(xlabel="given label", ylabel="truth")
        size = 8 if len(names) <= 5 else 6
        for (row, column), part in np.ndenumerate(shares):
            ink = "black" if part > DARK_CELL else "white"
            text = f"{100 * part:.1f} %\n{counts[row][column]:,}".replace(",", "\u2009")
            axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=size)
        made.colorbar(shown, ax=axes, label="share of the true class")
        return Chart(made)


def seconds_chart(runs: Sequence[tuple[str, Mapping[str, float]]]) -> Chart:
    """Stacked bars of the seconds of each run's blocks: read, compute, write."""
    with drawing():
        made, axes = figure(1.05 + 0.34 * len(runs))
        left = np.zeros(len(runs))
        for part, colour, hatch in PARTS:
            width = np.array([float(seconds.get(part) or 0) for _, seconds in runs])
            style = {"height": 0.58, "edgecolor": "black", "linewidth": 0.5, "hatch": hatch, "label": part}
            axes.barh(range(len(runs)), width, left=left, color=colour, **style)
            left += width
        axes.set_yticks(range(len(runs)), [plain(name) for name, _ in runs])
        axes.set(xlabel="seconds, summed over blocks", xlim=(0, max(float(left.max()) * 1.02, 1e-3)))
        axes.invert_yaxis()
        legend_above(axes, 3)
        return Chart(made)


def line_chart(lines: Sequence[tuple[str, Any, Any]], x_label: str, y_label: str, limits: Mapping[str, Any]) -> Chart:
    """Lines of (name, x, y) with marks; y may hold NaN, which leaves a gap; the second is dashed, and so on."""
    with drawing():
        made, axes = figure(2.6)
        for place, (name, x, y) in enumerate(lines):
            colour, style, mark, _ = SERIES[place % len(SERIES)]
            how = {"linestyle": style, "marker": mark, "markersize": 3.5, "label": plain(name)}
            axes.plot(x, y, color=colour, linewidth=1.4, **how)
        axes.set(xlabel=plain(x_label, 80), ylabel=plain(y_label, 80), **limits)
        axes.grid(visible=True, linewidth=0.4, color="#cccccc")
        if len(lines) > 1:
            legend_above(axes, min(len(lines), 4))
        return Chart(made)


def marks_chart(
    series: Sequence[tuple[str, Any, Any, Any]], x_label: str, y_label: str, limits: Mapping[str, Any]
) -> Chart:
    """Marks of (name, x, y, half the length of their error bars), which no line joins; x is on a logarithmic axis."""
    with drawing():
        made, axes = figure(2.6)
        for place, (name, x, y, errors) in enumerate(series):
            colour, _, mark, _ = SERIES[place % len(SERIES)]
            how = {"marker": mark, "markersize": 4.5, "capsize": 2.5, "elinewidth": 1.0, "label": plain(name)}
            axes.errorbar(x, y, errors, color=colour, linestyle="none", **how)
        axes.set(xlabel=plain(x_label, 80), ylabel=plain(y_label, 80), xscale="log", **limits)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        axes.xaxis.set_minor_formatter("{x:g}")
        axes.grid(visible=True, linewidth=0.4, color="#cccccc")
        legend_above(axes, min(len(series), 4))
        return Chart(made)
