"""Picture of which block of a run took how long, was tried again, or is missing, from the summary in the results."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tomoscale.block_summary import FIELDS_PER_AXIS
from tomoscale.errors import InputError
from tomoscale.report import page
from tomoscale.report.charts import SEQUENTIAL
from tomoscale.report.figures import ORANGE, WIDTH_INCHES, Chart, drawing, figure, plain
from tomoscale.report.page import text
from tomoscale.report.plates import Plate, chart_plate
from tomoscale.report.wording import run_title

DRAWN_RUNS = 12
FEWEST_COLUMNS = 15


def block_plates(runs: Sequence[Mapping[str, Any]]) -> list[str | Plate]:
    """Maps of the runs that hold a summary (``blocks_done``) of more than one field.

    Raises
    ------
    InputError
        If a summary does not fit its own fields.
    """
    drawn = [(run_title(run), run, _read(run)) for run in runs if run.get("blocks_done")]
    drawn = [(name, run, found) for name, run, found in drawn if found[0].size > 1][:DRAWN_RUNS]
    if not drawn:
        return []
    caption = (
        "Blocks of each run: the layers of the grid along z side by side (first on the left), y downwards, x to the right. Colour: "
        "seconds of a block, read, compute and write together. White dot: tried more than once. Cross: not done. "
        + " ".join(_troubles(name, found) for name, _, found in drawn)
    )
    alt = "Seconds by block. " + " ".join(_words(name, run, found) for name, run, found in drawn)
    # The caption is HTML, the alternative is escaped where it enters the page.
    return [chart_plate("blocks", block_chart([(name, found) for name, _, found in drawn]), alt, text(caption.strip()))]


def block_chart(runs: Sequence[tuple[str, tuple[np.ndarray, np.ndarray, np.ndarray]]]) -> Chart:
    """One row per run of (name, (seconds, attempts, missing)), each a (z, y, x) array; layers along z are side by side."""
    heights = [_height(found[0].shape) for _, found in runs]
    with drawing():
        made, axes = figure(sum(heights) + 0.42 * len(runs), len(runs), 1, height_ratios=heights)
        for (name, (seconds, attempts, missing)), axis in zip(runs, axes[:, 0], strict=True):
            top = float(np.nanmax(seconds)) if np.isfinite(seconds).any() else 1.0
            shown = axis.imshow(_montage(seconds), cmap=SEQUENTIAL, vmin=0, vmax=max(top, 1e-3))
            axis.set_xlim(-0.5, _columns(seconds.shape) - 0.5)
            _mark(axis, attempts > 1, {"marker": "o", "s": 9, "facecolor": "white", "edgecolor": "black"})
            _mark(axis, missing > 0, {"marker": "x", "s": 22, "color": ORANGE})
            axis.set_axis_off()
            axis.set_title(plain(name), fontsize=8, loc="left")
            bar = made.colorbar(shown, ax=axis, fraction=0.03, pad=0.01, aspect=8)
            bar.set_label("seconds", fontsize=7)
            bar.ax.tick_params(labelsize=7)
            bar.ax.locator_params(nbins=3)
        return Chart(made)


def _mark(axis: Any, fields: np.ndarray, style: dict[str, Any]) -> None:
    z, y, x = np.nonzero(fields)
    axis.scatter(z * (fields.shape[2] + 1) + x, y, linewidth=0.8, zorder=3, **style)


def _montage(values: np.ndarray) -> np.ndarray:
    """(z, y, x) as layers side by side with one empty column between: (y, z * (x + 1) - 1)."""
    spaced = np.pad(values, ((0, 0), (0, 0), (0, 1)), constant_values=np.nan)
    return spaced.transpose(1, 0, 2).reshape(values.shape[1], -1)[:, :-1]


def _columns(shape: Sequence[int]) -> int:
    """Fields that fit a row of the chart: all of a run with some air between layers, of a few large ones no more than fit."""
    return max(shape[0] * (shape[2] + 1) - 1, FEWEST_COLUMNS)


def _height(shape: Sequence[int]) -> float:
    """Inches in which the fields are square."""
    return float(max(0.8 * WIDTH_INCHES * shape[1] / _columns(shape), 0.25))


def _words(name: str, run: Mapping[str, Any], found: tuple[np.ndarray, np.ndarray, np.ndarray]) -> str:
    seconds = found[0]
    known = seconds[np.isfinite(seconds)]
    grid = " × ".join(str(n) for n in run.get("grid") or seconds.shape)
    times = f"{page.duration(known.min())} to {page.duration(known.max())} s" if known.size else "none done"
    return f"{name}: {grid} blocks, {times}. {_troubles(name, found)}".strip()


def _troubles(name: str, found: tuple[np.ndarray, np.ndarray, np.ndarray]) -> str:
    _, attempts, missing = found
    tried = f"blocks tried up to {int(attempts.max())} times" if (attempts > 1).any() else ""
    lost = f"{page.integer(int(missing.sum()))} not done" if missing.any() else ""
    return f"{name}: {', '.join(filter(None, (tried, lost)))}." if tried or lost else ""


def _read(run: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Seconds, attempts and missing blocks as (z, y, x) arrays."""
    found = run["blocks_done"]
    try:
        z, y, x = (int(n) for n in found["fields"])
        if not 1 <= min(z, y, x) <= max(z, y, x) <= FIELDS_PER_AXIS:
            raise ValueError(f"fields {found['fields']}")
        seconds, attempts, missing = (
            np.array([math.nan if v is None else float(v) for v in found[key]]).reshape(z, y, x)
            for key in ("seconds", "attempts", "missing")
        )
        return seconds, attempts.astype(np.int64), missing.astype(np.int64)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(
            f"the blocks of the run {str(run.get('name', ''))[:60]!r} are not {FIELDS_PER_AXIS} fields an axis at most with one "
            f"value each ({error}): measure again"
        ) from error
