"""Results of folds in one table: IoU of each class and their means, with the standard error over folds.

.. code-block:: text

    fold            background  metal  layer  bone   mean of all classes   mean without background
    1               0.95        ...
    mean
    standard error
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tomoscale.measures.overlap import iou, mean_iou
from tomoscale.report.charts import line_chart
from tomoscale.report.page import chart, page, table, text

ALL, FOREGROUND = "mean of all classes", "mean without the first class"
"""Means of Lopes Marinho et al. 2024 (four classes) and of Baltruschat et al. 2021 (three, without background)."""


def quantities(confusion: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """IoU of each class by its name, and both papers' means; NaN of what is not there.

    Parameters
    ----------
    confusion : (n_classes, n_classes) int64 array
    names : sequence of str
        Of the classes.
    """
    by_class = {name: float(v) for name, v in zip(names, iou(confusion), strict=True)}
    means = {ALL: tuple(range(len(names))), FOREGROUND: tuple(range(1, len(names)))}
    return by_class | {name: mean_iou(confusion, classes) for name, classes in means.items()}


def over_folds(values: Sequence[float]) -> dict[str, Any]:
    """Mean and standard error, the standard deviation (ddof 1) over the root of their number; NaN values do not count.

    Returns
    -------
    dict
        ``mean``, ``standard_error`` (NaN for less than two values), ``folds``: how many values there were.
    """
    found = [v for v in values if not math.isnan(v)]
    mean = math.fsum(found) / len(found) if found else math.nan
    error = math.nan
    if len(found) > 1:
        error = math.sqrt(math.fsum((v - mean) ** 2 for v in found) / (len(found) - 1) / len(found))
    return {"mean": mean, "standard_error": error, "folds": len(found)}


def table_of(folds: Sequence[Mapping[str, float]]) -> dict[str, dict[str, Any]]:
    """`over_folds` of every quantity."""
    return {name: over_folds([fold[name] for fold in folds]) for name in folds[0]}


def csv_of(folds: Sequence[Mapping[str, float]]) -> str:
    """The table as CSV, all digits."""
    whole, out = table_of(folds), io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["fold", *whole])
    for number, fold in enumerate(folds, 1):
        writer.writerow([number, *(_cell(v) for v in fold.values())])
    for what in ("mean", "standard_error"):
        writer.writerow([what.replace("_", " "), *(_cell(v[what]) for v in whole.values())])
    return out.getvalue()


def page_of(
    name: str,
    names: Sequence[str],
    folds: Sequence[Mapping[str, float]],
    lines: Sequence[Sequence[Mapping[str, Any]]],
    judged_by: Sequence[Sequence[str]],
) -> str:
    """HTML page with the table and the curves of all folds.

    Parameters
    ----------
    name : str
        Of the network.
    names : sequence of str
        Of the classes.
    folds : sequence of mappings
        From `quantities`.
    lines : sequence of sequences of mappings
        Those of each fold's ``progress.jsonl``.
    judged_by : sequence of sequences of str
        Names of the samples that each fold was judged by.
    """
    whole = table_of(folds)
    rows = [
        [f"fold {n}", text(", ".join(samples)), *map(_percent, fold.values())]
        for n, (fold, samples) in enumerate(zip(folds, judged_by, strict=True), 1)
    ]
    rows.append(["mean ± standard error", "", *(plus_minus(v) for v in whole.values())])
    body = table(
        "IoU in per cent on samples that the network had not seen. The standard error is the standard deviation over "
        "folds (ddof 1), over the root of their number.",
        ["", "judged by", *map(text, whole)],
        rows,
        numbers=range(2, len(whole) + 2),
    )
    for key, label in (("mean_iou", "mean IoU"), ("loss", "training loss"), ("validation_loss", "validation loss")):
        series = [
            (f"fold {n}", [line["step"] for line in fold], [_known(line[key]) for line in fold])
            for n, fold in enumerate(lines, 1)
        ]
        body += chart(line_chart(series, "step", label, {}).svg, f"{label} of each fold", f"{label} of each fold.")
    title = f"Cross-validation of {name}"
    return page(title, f"<h1>{text(title)}</h1>\n<p>Classes: {text(', '.join(names))}.</p>\n{body}")


def plus_minus(value: Mapping[str, Any]) -> str:
    """Mean and standard error in per cent, as the papers print them."""
    if math.isnan(value["mean"]):
        return "absent"
    error = "" if math.isnan(value["standard_error"]) else f" ± {100 * value['standard_error']:.2f}"
    return f"{100 * value['mean']:.2f}{error}"


def _percent(value: float) -> str:
    return "absent" if math.isnan(value) else f"{100 * value:.2f}"


def _cell(value: float) -> str:
    return "" if math.isnan(value) else repr(value)


def _known(value: float | None) -> float:
    return math.nan if value is None else value
