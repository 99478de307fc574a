"""The report of a measured scan: one HTML file with everything in it, to read, print and keep.

Nothing is fetched and nothing runs: pictures are inside, there is no script, and a content policy forbids the rest. Equal
inputs give equal bytes, so no date stands in it. Every text that comes from outside passes `page.text` before it enters the page.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tomoscale.errors import InputError
from tomoscale.report import page
from tomoscale.report.agreement import agreement_plates
from tomoscale.report.charts import histogram_chart
from tomoscale.report.figures import BLUE
from tomoscale.report.interface import interface_plates
from tomoscale.report.page import text
from tomoscale.report.papers import S1, S2
from tomoscale.report.planes import Palette, Scan
from tomoscale.report.plates import Parts, Plate, chart_plate, joined, under, write_plates, write_whole
from tomoscale.report.provenance import inputs_of, provenance_parts, run_plates, summary_of
from tomoscale.report.scene import scene_plates
from tomoscale.report.slices import slice_plates
from tomoscale.report.wording import symbol

if TYPE_CHECKING:
    from tomoscale.volume import Volume

TITLE = "Measurements of a tomogram"
PAPERS = {"S1": S1, "S2": S2}
"""What definitions cite."""
STATES = ("ok", "warning", "failed")


def write_report(  # noqa: PLR0913 - a keyword for every part of the page reads better than one bag
    path: str | os.PathLike[str],
    *,
    results: dict[str, Any],
    grey: Volume | None,
    labels: Volume | None,
    truth: Volume | None,
    runs: list[dict[str, Any]],
    title: str = TITLE,
    figures: Path | None = None,
) -> Path:
    """Write the report of a measured scan as one HTML file; it appears whole or not at all.

    Parameters are those of `report_html`; a file that is there is replaced. With `figures`, that folder gets every figure
    as SVG and PNG, and their captions.

    Returns
    -------
    Path of the file.

    Raises
    ------
    InputError
        If the volumes or the confusion matrix do not fit each other.
    OSError
        If a file cannot be written; no part of it is left behind then.
    """
    parts = report_parts(results, Scan(grey, labels, truth), runs, title)
    if figures is not None:
        write_plates(figures, parts)
    return write_whole(Path(path), page.page(title, joined(parts)).encode("utf-8"))


def report_html(
    *,
    results: dict[str, Any],
    grey: Volume | None = None,
    labels: Volume | None = None,
    truth: Volume | None = None,
    runs: Sequence[Mapping[str, Any]] = (),
    title: str = TITLE,
) -> str:
    """Report of a measured scan as one HTML page.

    Parameters
    ----------
    results : dict
        What was measured, as JSON values: ``program``, ``inputs``, ``classes``, ``quantities``, ``confusion``, ``profile``,
        ``contact_map``, ``gap_tolerance``, ``histogram``, ``checks``, ``caveats``, ``model``, ``parameters``; any of them may
        be absent. ``confusion`` has the truth along its rows.
    grey, labels, truth : Volume or None
        What to show, on one grid. Three planes through the middle and a few slices along z are read, thinned to
        about a thousand pixels on a side, and a small copy of the labels for the picture in space; a whole volume is never held.
    runs : list of dict
        ``name``, ``target`` (what it made), ``rows`` (the plan), ``seconds`` (read, compute, write, wall), ``blocks``, ``retries``, ``blocks_done``.
    title : str

    Raises
    ------
    InputError
        If the volumes or the confusion matrix do not fit each other.
    """
    return page.page(title, joined(report_parts(results, Scan(grey, labels, truth), runs, title)))


def report_parts(
    results: Mapping[str, Any], scan: Scan, runs: Sequence[Mapping[str, Any]], title: str
) -> list[str | Plate]:
    """Everything on the page in its order."""
    classes = results.get("classes") or []
    return [
        _header(results, title),
        *under("Results", quantities_table(results.get("quantities") or [])),
        *under("Checks", checks_list(results.get("checks") or [])),
        *under("Labels in space", scene_plates(scan.labels, classes)),
        *under("Slices", slice_plates(scan, classes)),
        *under("Bone around the implant", interface_plates(results)),
        *under("Agreement with the truth", agreement_plates(results)),
        *under("Grey values", histogram_plates(results.get("histogram"), classes)),
        *under("How it was computed", run_plates(runs)),
        *under("Where it comes from", provenance_parts(results)),
    ]


def _header(results: Mapping[str, Any], title: str) -> str:
    lines = [f"<li><strong>{text(role)}</strong>: {summary_of(entry)}</li>" for role, entry in inputs_of(results)]
    measured = f"<p>Measured:</p>\n<ul>{''.join(lines)}</ul>" if lines else ""
    return f"<header><h1>{text(title)}</h1>\n{measured}</header>\n{caveats_box(results.get('caveats') or [])}"


def caveats_box(caveats: Sequence[Any]) -> str:
    """What a reader must know before using the numbers, or nothing."""
    items = "".join(f"<li>{text(c)}</li>" for c in caveats)
    title = "<strong>Before you use these numbers</strong>"
    return f'<aside class="caveats">{title}<ul>{items}</ul></aside>' if items else ""


def quantities_table(quantities: Sequence[Mapping[str, Any]]) -> Parts:
    """Every number with its unit and definition, beside the truth where there is one."""
    if not quantities:
        return []
    compared = any(q.get("truth") is not None for q in quantities)
    rows = []
    for q in quantities:
        definition = f'<span class="soft">{symbol(str(q["definition"]))}</span>' if q.get("definition") else ""
        row = [
            f"{name_of(q)}{definition}",
            page.number(q.get("value"), "not defined"),
            text(q.get("unit") or ""),
        ]
        rows.append(
            row + ([page.number(q.get("truth")), page.relative_error(q.get("relative_error"))] if compared else [])
        )
    head = ["Quantity", "Value", "Unit"] + (["Truth", "Relative error"] if compared else [])
    note = "Measured quantities and how they are defined; those without a unit are plain numbers."
    if compared:
        note += " Relative error: (value − truth) / truth; a dash (–) stands for less than 1 % either way."
    cited = " ".join(str(q.get("definition") or "") for q in quantities)
    note += "".join(f" {short}: {paper}." for short, paper in PAPERS.items() if re.search(rf"\b{short}\b", cited))
    return [page.table(note, head, rows, "quantities", numbers=(1, 3, 4))]


def name_of(quantity: Mapping[str, Any]) -> str:
    """Name of a quantity and its symbol, unless the name holds it."""
    name, short = str(quantity.get("name", "")), str(quantity.get("symbol") or "")
    repeated = not short or short in re.split(r"[\s,()]+", name)
    return text(name) if repeated else f"{text(name)}, <i>{symbol(short)}</i>"


def checks_list(checks: Sequence[Mapping[str, Any]]) -> Parts:
    """Pitfalls that were looked for, each with its state in words; what is not one of `STATES` is a warning."""
    if not checks:
        return []
    items = []
    for check in checks:
        state = check.get("state") if check.get("state") in STATES else "warning"
        items.append(
            f'<li class="{state}"><b>{state}</b><span><strong>{text(check.get("name", ""))}</strong> '
            f"{text(check.get('text') or '')}</span></li>"
        )
    return [f'<ul class="checks">{"".join(items)}</ul>']


def histogram_plates(histogram: Mapping[str, Any] | None, classes: Sequence[Mapping[str, Any]]) -> Parts:
    """Grey values of all voxels (``counts``) or of each class (``classes``), on a logarithmic axis.

    Raises
    ------
    InputError
        If there is not one count per centre.
    """
    if not histogram:
        return []
    centres, named = histogram["centres"], histogram.get("classes") or {}
    counts = histogram.get("counts") or [sum(column) for column in zip(*named.values(), strict=False)]
    if any(len(c) != len(centres) for c in (counts, *named.values())):
        raise InputError(
            f"the histogram has {len(centres)} centres but {[len(c) for c in (counts, *named.values())]} counts: it needs one count "
            "per centre"
        )
    total = sum(counts)
    if not total:
        return []
    palette = Palette.of(classes)
    colours = {name: palette.hex(n, paper=True) for n, name in enumerate(palette.names)}
    series = [(name, c, colours.get(name, BLUE)) for name, c in named.items()]
    unit = str(histogram.get("unit") or "grey value")
    span = f"{page.integer(total)} voxels"
    shares = "; ".join(f"{name}: {page.integer(sum(c))} voxels" for name, c in named.items())
    alt = f"Histogram of {span}, from {page.plain_number(centres[0])} to {page.plain_number(centres[-1])}. {shares}".strip()
    caption = f"Histogram of the {text(unit)} of {span}, on a logarithmic axis"
    caption += f"; lines: by the class of their label ({text(shares)})." if named else "."
    return [chart_plate("histogram", histogram_chart(centres, counts, series, unit), alt, caption)]
