"""Charts of a study: every quantity of every sample beside its truth, the mean and the deviation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tomoscale.report.figures import Chart, drawing, figure, plain

COLUMNS = 3


@dataclass(frozen=True)
class SampleBars:
    """One quantity over all samples; NaN where a sample has none.

    Attributes
    ----------
    title, unit, colour : str
    values, truths : sequence of float
        By sample.
    mean, deviation : float
    """

    title: str
    unit: str
    colour: str
    values: Sequence[float]
    truths: Sequence[float]
    mean: float
    deviation: float


def sample_bars_chart(panels: Sequence[SampleBars], samples: Sequence[str]) -> Chart:
    """Panel for each quantity: a bar for each sample, a diamond at its truth, a line at the mean, a band of one deviation."""
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    with drawing():
        made, axes = figure(rows * (0.95 + 0.2 * len(samples)), rows, columns, sharey=True)
        for place, axis in enumerate(axes.ravel()):
            if place < len(panels):
                _draw(axis, panels[place], len(samples))
            else:
                axis.set_axis_off()
        first = axes[0, 0]
        first.set_yticks(range(len(samples)), [plain(s, 24) for s in samples])
        first.invert_yaxis()
        return Chart(made)


def _draw(axis: Any, panel: SampleBars, count: int) -> None:
    places = np.arange(count)
    style = {"height": 0.62, "edgecolor": "black", "linewidth": 0.6}
    axis.barh(places, np.nan_to_num(np.array(panel.values)), color=panel.colour, **style)
    if any(t == t for t in panel.truths):
        marks = {"s": 26, "marker": "D", "facecolor": "white", "edgecolor": "black", "linewidth": 1.0, "zorder": 3}
        axis.scatter(panel.truths, places, **marks)
    if math.isfinite(panel.mean):
        axis.axvline(panel.mean, color="#333333", linewidth=1.0, linestyle="--")
        if math.isfinite(panel.deviation):
            band = panel.mean - panel.deviation, panel.mean + panel.deviation
            axis.axvspan(*band, color="#333333", alpha=0.12, linewidth=0)
    axis.set_title(plain(panel.title, 38), fontsize=7.5, loc="left")
    axis.set_xlabel(plain(panel.unit or "no unit"), fontsize=7.5)
    axis.tick_params(labelsize=7.5)
    axis.locator_params(axis="x", nbins=4)
