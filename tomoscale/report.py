"""The report of a measured scan: one HTML file with everything in it, to read, print and keep.

Nothing is fetched and nothing runs: pictures are inside, there is no script, and a content policy forbids the rest. Equal
inputs give equal bytes, so no date stands in it. Every text that comes from outside passes `page.text` before it enters the page.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tomoscale import page
from tomoscale.errors import InputError
from tomoscale.figures import bar_chart, histogram_chart, seconds_chart
from tomoscale.page import text
from tomoscale.planes import Palette, Scan
from tomoscale.slices import slices_section

if TYPE_CHECKING:
    from tomoscale.volume import Volume

TITLE = "Measurements of a tomogram"


def write_report(  # noqa: PLR0913 - a keyword for every part of the page reads better than one bag
    path: str | os.PathLike[str],
    *,
    results: dict[str, Any],
    grey: Volume | None,
    labels: Volume | None,
    truth: Volume | None,
    runs: list[dict[str, Any]],
    title: str = TITLE,
) -> Path:
    """Write the report of a measured scan as one HTML file; it appears whole or not at all.

    Parameters are those of `report_html`; a file that is there is replaced.

    Returns
    -------
    Path of the file.

    Raises
    ------
    InputError
        If the volumes or the confusion matrix do not fit each other.
    OSError
        If the file cannot be written; nothing is left behind then.
    """
    page = report_html(results=results, grey=grey, labels=labels, truth=truth, runs=runs, title=title)
    path = Path(path)
    draft = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        draft.write_bytes(page.encode("utf-8"))
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return path


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
        What was measured, as JSON values: ``program``, ``inputs``, ``classes``, ``quantities``, ``confusion``,
        ``histogram``, ``caveats``, ``parameters``; any of them may be absent. ``confusion`` has the truth along its rows.
    grey, labels, truth : Volume or None
        What to show, on one grid. Three planes through the middle and a few slices along z are read, thinned to
        about a thousand pixels on a side; never a whole volume.
    runs : list of dict
        ``name``, ``rows`` (the plan), ``seconds`` (read, compute, write, wall), ``blocks``, ``retries``.
    title : str

    Raises
    ------
    InputError
        If the volumes or the confusion matrix do not fit each other.
    """
    parts = [
        _header(results, title),
        _quantities(results.get("quantities") or []),
        slices_section(Scan(grey, labels, truth), results.get("classes") or []),
        _agreement(results),
        _histogram(results.get("histogram")),
        _runs(runs),
        _provenance(results),
    ]
    return page.page(title, "\n".join(p for p in parts if p))


def _header(results: Mapping[str, Any], title: str) -> str:
    lines = [f"<li><strong>{text(role)}</strong>: {_summary(entry)}</li>" for role, entry in _inputs(results)]
    caveats = "".join(f"<li>{text(c)}</li>" for c in results.get("caveats") or [])
    measured = f"<p>Measured:</p>\n<ul>{''.join(lines)}</ul>" if lines else ""
    box = (
        f'<aside class="caveats"><strong>Before you use these numbers</strong><ul>{caveats}</ul></aside>'
        if caveats
        else ""
    )
    return f"<header><h1>{text(title)}</h1>\n{measured}</header>\n{box}"


def _quantities(quantities: Sequence[Mapping[str, Any]]) -> str:
    if not quantities:
        return ""
    compared = any(q.get("truth") is not None for q in quantities)
    rows = []
    for q in quantities:
        definition = f'<span class="soft">{text(q["definition"])}</span>' if q.get("definition") else ""
        row = [
            f"{_name(q)}{definition}",
            page.number(q.get("value"), "not defined"),
            text(q.get("unit") or ""),
        ]
        rows.append(
            row + ([page.number(q.get("truth")), page.relative_error(q.get("relative_error"))] if compared else [])
        )
    head = ["Quantity", "Value", "Unit"] + (["Truth", "Relative error"] if compared else [])
    note = "Measured quantities and how they are defined."
    if compared:
        note += " Relative error: (value − truth) / truth; a dash (–) stands for less than 1 % either way."
    return "<h2>Results</h2>\n" + page.table(note, head, rows, "quantities", numbers=(1, 3, 4))


def _name(quantity: Mapping[str, Any]) -> str:
    name, symbol = str(quantity.get("name", "")), str(quantity.get("symbol") or "")
    repeated = not symbol or symbol in re.split(r"[\s,()]+", name)
    return text(name) if repeated else f"{text(name)}, <i>{text(symbol)}</i>"


def _agreement(results: Mapping[str, Any]) -> str:
    """Confusion matrix with recall and IoU by class (TP/(TP+FN) and TP/(TP+FP+FN)), and a chart of IoU."""
    classes = results.get("classes") or []
    palette = Palette.of(classes)
    table = ""
    bars = _iou_bars(results.get("quantities") or [], palette)
    if results.get("confusion"):
        counts = results["confusion"]["counts"]
        names = palette.names or tuple(f"class {n}" for n in range(len(counts)))
        if any(len(row) != len(names) for row in (counts, *counts)):
            raise InputError(
                f"results name {len(names)} classes but their confusion matrix has rows of {[len(r) for r in counts]}: "
                "it needs one row and one column per class"
            )
        table, ious = _confusion(counts, names)
        bars = bars or [
            (name, value, palette.hex(n) if palette.names else "#0072b2")
            for n, (name, value) in enumerate(zip(names, ious, strict=True))
            if value is not None
        ]
    if not table and not bars:
        return ""
    chart = ""
    if bars:
        alt = "Intersection over union by class: " + ", ".join(f"{name} {value:.3f}" for name, value, _ in bars)
        chart = page.chart(
            bar_chart(bars, "intersection over union (IoU)"), alt, "Intersection over union (IoU) of each class."
        )
    return f"<h2>Agreement with the truth</h2>\n{table}{chart}"


def _confusion(counts: Sequence[Sequence[int]], names: Sequence[str]) -> tuple[str, list[float | None]]:
    rows, ious = [], []
    given = [sum(int(row[n]) for row in counts) for n in range(len(names))]
    for n, row in enumerate(counts):
        true, hit = sum(map(int, row)), int(row[n])
        union = true + given[n] - hit
        ious.append(hit / union if union else None)
        cells = [page.share(int(c), true, hit=k == n) for k, c in enumerate(row)]
        rates = (page.rate(hit, true), page.rate(hit, given[n]), page.rate(hit, union))
        rows.append([text(names[n]), *cells, *rates])
    head = ["Truth ↓ given →", *map(text, names), "Recall", "Precision", "IoU"]
    note = (
        "Voxels of each true class (row) by the class they were given (column). Recall: share of the true class that was found; "
        "precision: share of the given class that is true; IoU: intersection over union."
    )
    return page.table(note, head, rows, "confusion", numbers=range(1, len(head))), ious


def _histogram(histogram: Mapping[str, Any] | None) -> str:
    if not histogram or not sum(histogram["counts"]):
        return ""
    centres, counts = histogram["centres"], histogram["counts"]
    if len(centres) != len(counts):
        raise InputError(
            f"the histogram has {len(centres)} centres but {len(counts)} counts: it needs one count per centre"
        )
    alt = f"Histogram of {page.integer(sum(counts))} grey values from {page.plain_number(centres[0])} to {page.plain_number(centres[-1])}"
    caption = f"Histogram of all {page.integer(sum(counts))} grey values, on a logarithmic axis."
    return "<h2>Grey values</h2>\n" + page.chart(histogram_chart(centres, counts, "grey value"), alt, caption)


def _runs(runs: Sequence[Mapping[str, Any]]) -> str:
    if not runs:
        return ""
    parts = []
    timed = [(str(r.get("name", "")), r["seconds"]) for r in runs if r.get("seconds")]
    if timed:
        rows = [[text(r.get("name", "")), *_timing(r)] for r in runs]
        head = ["Run", "Read", "Compute", "Write", "Wall", "Blocks", "Retries"]
        note = "Seconds of each run. Read, compute and write are summed over all blocks, so on several workers they exceed the wall time."
        parts.append(page.table(note, head, rows, numbers=range(1, 7)))
        alt = "Seconds by run: " + "; ".join(
            f"{name}: " + ", ".join(f"{k} {page.duration(s[k])}" for k in s) for name, s in timed
        )
        parts.append(page.chart(seconds_chart(timed), alt, "Where the time of each run went, summed over its blocks."))
    plans = "".join(_plan(run) for run in runs if run.get("rows"))
    return "<h2>How it was computed</h2>\n" + "".join(parts) + (f'<div class="plans">{plans}</div>' if plans else "")


def _plan(run: Mapping[str, Any]) -> str:
    rows = [[text(cell) for cell in row] for row in run["rows"]]
    return page.table(f"Plan of the run “{text(run.get('name', ''))}”.", [], rows)


def _provenance(results: Mapping[str, Any]) -> str:
    inputs = [_input_row(role, entry) for role, entry in _inputs(results)]
    parameters = [[text(name), text(value)] for name, value in page.flat(results.get("parameters") or {})]
    parts = [
        page.table("Inputs.", ["Input", "Name", "Voxels (z × y × x)", "Voxel size", ""], inputs) if inputs else "",
        page.table("Parameters.", [], parameters) if parameters else "",
    ]
    program = f"<p>Computed with {text(results['program'])}.</p>" if results.get("program") else ""
    return f"<h2>Where it comes from</h2>\n{program}{''.join(parts)}" if program or any(parts) else ""


def _inputs(results: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    return ((role, entry) for role, entry in (results.get("inputs") or {}).items() if isinstance(entry, Mapping))


def _voxels(entry: Mapping[str, Any]) -> str:
    return " × ".join(page.integer(int(n)) for n in entry.get("shape") or ())


def _voxel_size(entry: Mapping[str, Any]) -> str:
    size = entry.get("voxel_size_um")
    return " × ".join(f"{float(v):g}" for v in size) + " µm" if size else "not known"


def _summary(entry: Mapping[str, Any]) -> str:
    """Name of an input and how large it is in the sample."""
    shape, size = entry.get("shape"), entry.get("voxel_size_um")
    if shape and size:
        extent = " × ".join(f"{n * v / 1000:.3g}" for n, v in zip(shape, size, strict=True))
        return f"{text(entry.get('name', ''))}, {extent} mm (z × y × x) in voxels of {_voxel_size(entry)}"
    return text(entry.get("name", "")) + (f", {_voxels(entry)} voxels (z × y × x)" if shape else "")


def _input_row(role: str, entry: Mapping[str, Any]) -> list[str]:
    rest = {k: v for k, v in entry.items() if k not in ("name", "shape", "voxel_size_um")}
    others = ", ".join(f"{text(name)} {text(value)}" for name, value in page.flat(rest))
    return [text(role), text(entry.get("name", "")), _voxels(entry), _voxel_size(entry), others]


def _timing(run: Mapping[str, Any]) -> list[str]:
    seconds = run.get("seconds") or {}
    times = [page.duration(seconds.get(part)) for part in ("read", "compute", "write", "wall")]
    return times + ["" if run.get(key) is None else page.integer(int(run[key])) for key in ("blocks", "retries")]


def _iou_bars(quantities: Sequence[Mapping[str, Any]], palette: Palette) -> list[tuple[str, float, str]]:
    """Bars of the quantities called IoU, in the colours of the classes they name; a mean over classes is no class."""
    bars = []
    for q in quantities:
        title, value = f"{q.get('name', '')} {q.get('symbol') or ''}", q.get("value")
        if not re.search(r"\biou\b|\biou_|intersection over union", title, re.IGNORECASE) or "mean" in title.lower():
            continue
        rank = _class_of(title, palette.names)
        if isinstance(value, int | float) and math.isfinite(value):
            bars.append(
                (
                    str(q.get("name", "")) if rank is None else palette.names[rank],
                    float(value),
                    _bar_colour(palette, rank),
                )
            )
    return bars


def _bar_colour(palette: Palette, rank: int | None) -> str:
    return "#0072b2" if rank is None else palette.hex(rank)


def _class_of(text: str, names: Sequence[str]) -> int | None:
    """Rank of the longest class name that stands in `text` as a word, or None."""
    found = [n for n in range(len(names)) if re.search(rf"(?<!\w){re.escape(names[n])}(?!\w)", text, re.IGNORECASE)]
    return max(found, key=lambda n: len(names[n]), default=None)
