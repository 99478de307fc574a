"""How a training goes, as a picture and a page that is written anew at every validation."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tomoscale.report.charts import line_chart
from tomoscale.report.page import chart, page, table, text

PICTURE, LOSSES = "curves.png", "losses.png"
PAGE = "curves.html"


def draw_curves(folder: Path, lines: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
    """Write ``curves.png`` (IoU), ``losses.png`` and ``curves.html`` (both, with a table).

    Parameters
    ----------
    folder : path
    lines : sequence of mappings
        Those of ``progress.jsonl``.
    names : sequence of str
        Of the classes.
    """
    steps = [line["step"] for line in lines]
    by_class = [
        (name, steps, [math.nan if line["iou"][k] is None else line["iou"][k] for line in lines])
        for k, name in enumerate(names)
    ]
    agreement = line_chart(by_class, "step", "IoU on validation slices", {"ylim": (0, 1)})
    losses = line_chart(
        [
            (what, steps, [line[key] for line in lines])
            for what, key in (("training", "loss"), ("validation", "validation_loss"))
        ],
        "step",
        "loss",
        {},
    )
    rows = [
        [
            str(line["step"]),
            f"{line['loss']:.4f}",
            f"{line['validation_loss']:.4f}",
            *map(_share, [*line["iou"], line["mean_iou"]]),
        ]
        for line in lines
    ]
    body = (
        chart(
            agreement.svg, "IoU of each class over the steps", "Agreement with the labels of whole validation slices."
        )
        + chart(
            losses.svg, "losses over the steps", "The training loss is that of the recipe, the other a cross-entropy."
        )
        + table(
            "Every validation.",
            ["step", "loss", "validation loss", *map(text, names), "mean"],
            rows,
            numbers=range(len(names) + 4),
        )
    )
    for name, content in ((PICTURE, agreement.png), (LOSSES, losses.png), (PAGE, page("Training", body).encode())):
        partial = folder / (name + ".partial")
        partial.write_bytes(content)
        os.replace(partial, folder / name)


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
