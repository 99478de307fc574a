"""How labels agree with the truth: the confusion matrix, its rates by class, and a chart of IoU."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from tomoscale.errors import InputError
from tomoscale.report import page
from tomoscale.report.charts import bar_chart, confusion_chart
from tomoscale.report.figures import BLUE
from tomoscale.report.page import text
from tomoscale.report.planes import Palette
from tomoscale.report.plates import Plate, chart_plate

Bar = tuple[str, float, str]


def agreement_plates(results: Mapping[str, Any]) -> list[str | Plate]:
    """Confusion matrix with recall and IoU by class (TP/(TP+FN) and TP/(TP+FP+FN)), and a chart of IoU.

    Raises
    ------
    InputError
        If the matrix has not one row and one column per class.
    """
    palette = Palette.of(results.get("classes") or [])
    plates: list[str | Plate] = []
    bars = _iou_bars(results.get("quantities") or [], palette)
    if results.get("confusion"):
        counts = results["confusion"]["counts"]
        names = palette.names or tuple(f"class {n}" for n in range(len(counts)))
        if any(len(row) != len(names) for row in (counts, *counts)):
            raise InputError(
                f"results name {len(names)} classes but their confusion matrix has rows of {[len(r) for r in counts]}: "
                "it needs one row and one column per class"
            )
        plates.append(_confusion_plate(counts, names))
        bars = bars or [
            (name, value, palette.hex(n) if palette.names else BLUE)
            for n, (name, value) in enumerate(zip(names, _ious(counts), strict=True))
            if value is not None
        ]
    if bars:
        alt = "Intersection over union by class: " + ", ".join(f"{name} {value:.3f}" for name, value, _ in bars)
        caption = "Intersection over union (IoU) of each class."
        plates.append(chart_plate("iou", bar_chart(bars, "intersection over union (IoU)"), alt, caption))
    return plates


def _confusion_plate(counts: Sequence[Sequence[int]], names: Sequence[str]) -> Plate:
    """Table in the page; the files hold the same as a chart."""
    rows = []
    given = _column_sums(counts)
    for n, row in enumerate(counts):
        true, hit = sum(map(int, row)), int(row[n])
        cells = [page.share(int(c), true, hit=k == n) for k, c in enumerate(row)]
        rates = (page.rate(hit, true), page.rate(hit, given[n]), page.rate(hit, true + given[n] - hit))
        rows.append([text(names[n]), *cells, *rates])
    head = ["Truth ↓ given →", *map(text, names), "Recall", "Precision", "IoU"]
    note = (
        "Voxels of each true class (row) by the class they were given (column), and their share of the row. Recall: share of the "
        "true class that was found; precision: share of the given class that is true; IoU: intersection over union."
    )
    html = page.table(note, head, rows, "confusion", numbers=range(1, len(head)))
    return Plate("confusion", html, note, partial(confusion_chart, counts, names))


def _ious(counts: Sequence[Sequence[int]]) -> list[float | None]:
    unions = [sum(map(int, row)) + column for row, column in zip(counts, _column_sums(counts), strict=True)]
    hits = [int(row[n]) for n, row in enumerate(counts)]
    return [hit / (union - hit) if union - hit else None for hit, union in zip(hits, unions, strict=True)]


def _column_sums(counts: Sequence[Sequence[int]]) -> list[int]:
    return [sum(int(row[n]) for row in counts) for n in range(len(counts))]


def _iou_bars(quantities: Sequence[Mapping[str, Any]], palette: Palette) -> list[Bar]:
    """Bars of the quantities called IoU, in the colours of the classes they name; a mean over classes is no class."""
    bars = []
    for q in quantities:
        name, value = str(q.get("name", "")), q.get("value")
        if is_iou(f"{name} {q.get('symbol') or ''}") and isinstance(value, int | float) and math.isfinite(value):
            rank = class_of(name, palette.names)
            shown, colour = (name, BLUE) if rank is None else (palette.names[rank], palette.hex(rank))
            bars.append((shown, float(value), colour))
    return bars


def is_iou(title: str) -> bool:
    """Whether a quantity is the intersection over union of one class."""
    return bool(re.search(r"\biou\b|\biou_|intersection over union", title, re.IGNORECASE)) and (
        "mean" not in title.lower()
    )


def class_of(title: str, names: Sequence[str]) -> int | None:
    """Rank of the longest class name that stands in `title` as a word, or None."""
    found = [n for n in range(len(names)) if re.search(rf"(?<!\w){re.escape(names[n])}(?!\w)", title, re.IGNORECASE)]
    return max(found, key=lambda n: len(names[n]), default=None)
