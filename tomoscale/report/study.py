"""The report of a study: the table over samples, its charts and tests, what is published beside it, and each sample."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tomoscale.errors import InputError
from tomoscale.formats import open_volume
from tomoscale.json_files import read_json
from tomoscale.report import page
from tomoscale.report.agreement import agreement_plates, class_of, is_iou
from tomoscale.report.figures import BLUE
from tomoscale.report.interface import interface_plates
from tomoscale.report.page import text
from tomoscale.report.planes import Palette, Scan
from tomoscale.report.plates import (
    Parts,
    Plate,
    chart_plate,
    file_stem,
    joined,
    prefixed,
    under,
    write_plates,
    write_whole,
)
from tomoscale.report.provenance import inputs_of, provenance_parts, run_table, summary_of
from tomoscale.report.sample import caveats_box, checks_list, histogram_plates, name_of
from tomoscale.report.scene import scene_plates
from tomoscale.report.slices import slice_plates
from tomoscale.report.study_charts import COLUMNS, SampleBars, sample_bars_chart

TITLE = "Measurements of several samples"
SCHEMA = "tomoscale-study/1"
SAMPLES_PER_TABLE = 5
ROWS_PER_CHART = 4
BARS_PER_COLUMN = 60
"""So many bars one below the other fill a page."""
ROLES = ("grey", "labels", "truth")


def write_study_report(target: str | Path, study: dict[str, Any], folder: Path, *, figures: Path | None = None) -> Path:
    """Write the report of a study as one HTML file; it appears whole or not at all.

    Parameters
    ----------
    target : path
        Of the HTML file; one that is there is replaced.
    study : dict
        Content of ``study.json``: ``samples``, ``table``, ``statistics``, ``published``, ``caveats``, ``parameters``.
    folder : Path
        Where ``study.json`` lies; the results of the samples are sought inside, nowhere else.
    figures : Path, optional
        Folder that gets every figure as SVG and PNG; those of a sample begin with its number and name.

    Returns
    -------
    Path of the file.

    Raises
    ------
    InputError
        If the study is of another schema, or a sample's results or volumes cannot be read.
    OSError
        If a file cannot be written.
    """
    if study.get("schema") != SCHEMA:
        raise InputError(
            f"{folder} holds a study of schema {study.get('schema')!r:.60}, but {SCHEMA!r} is needed: run it again"
        )
    parts = study_parts(study, folder)
    if figures is not None:
        write_plates(figures, parts)
    return write_whole(Path(target), page.page(TITLE, joined(parts)).encode("utf-8"))


def study_parts(study: Mapping[str, Any], folder: Path) -> list[str | Plate]:
    """Everything on the page in its order."""
    names = [str(s.get("name", "")) for s in study.get("samples") or []]
    results = [read_results(folder, s) for s in study.get("samples") or []]
    classes: list[Any] = next((r["classes"] for r in results if r.get("classes")), [])
    table = study.get("table") or []
    samples = (_sample_parts(n, name, r) for n, (name, r) in enumerate(zip(names, results, strict=True), 1))
    return [
        f"<header><h1>{text(TITLE)}</h1>\n<p>{len(names)} samples: {text(', '.join(names))}.</p></header>",
        caveats_box(study.get("caveats") or []),
        *under("Results", [*_tables(table, names), *_charts(table, names, classes)]),
        *under("Tests over samples", _statistics(study.get("statistics") or [])),
        *under("Published for comparison", [_published(p) for p in study.get("published") or []]),
        *(part for parts in samples for part in parts),
        *under("Where it comes from", provenance_parts(study)),
    ]


def read_results(folder: Path, sample: Mapping[str, Any]) -> dict[str, Any]:
    """Read the results of a sample, which must lie inside the folder of the study.

    Raises
    ------
    InputError
        If they lie elsewhere, or cannot be read.
    """
    name, inside = str(sample.get("name", ""))[:60], str(sample.get("results", ""))
    try:
        path = (folder / inside).resolve()
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"sample {name!r} names results at {inside[:200]!r}, which is no path: {error}") from None
    if not path.is_relative_to(folder.resolve()):
        raise InputError(
            f"sample {name!r} names results outside of the study, {inside[:200]!r}: a study lies in one folder"
        )
    return read_json(path, f"results of sample {name!r}", "run the study again")


def _sample_parts(number: int, name: str, results: Mapping[str, Any]) -> list[str | Plate]:
    """Section of one sample, smaller than a report of its own."""
    inputs = dict(inputs_of(results))
    volumes = {role: open_volume(str(inputs[role].get("path", ""))) for role in ROLES if role in inputs}
    classes = results.get("classes") or []
    lines = "".join(f"<li><strong>{text(role)}</strong>: {summary_of(entry)}</li>" for role, entry in inputs.items())
    parts: list[str | Plate] = [
        f"<ul>{lines}</ul>" if lines else "",
        caveats_box(results.get("caveats") or []),
        *checks_list(results.get("checks") or []),
        *scene_plates(volumes.get("labels"), classes, compact=True),
        *slice_plates(Scan(**volumes), classes, compact=True),
        *interface_plates(results),
        *agreement_plates(results),
        *histogram_plates(results.get("histogram"), classes),
        run_table(results.get("runs") or []),
    ]
    return prefixed(under(f"Sample {name}", parts), f"{number:02d}_{file_stem(name)}".strip("_"))


def _tables(table: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Parts:
    """Table over samples, a few samples at a time so that it fits a page; mean, deviation and pooled stand in each."""
    if not table:
        return []
    note = (
        "Every quantity of every sample; below a value, that of the truth and the relative error, (value − truth) / truth, with a dash "
        "(–) for less than 1 % either way. SD: standard deviation over samples (n − 1). Pooled: from the summed counts of all samples."
    )
    parts = []
    for first in range(0, max(len(names), 1), SAMPLES_PER_TABLE):
        shown = names[first : first + SAMPLES_PER_TABLE]
        head = ["Quantity", *map(text, shown), "Mean ± SD", "Pooled"]
        rows = [
            [
                f'{name_of(q)}<span class="soft">{text(q.get("unit") or "no unit")}</span>',
                *(_cell((q.get("samples") or {}).get(name) or {}) for name in shown),
                _mean(q),
                page.number(q.get("pooled")),
            ]
            for q in table
        ]
        parts.append(page.table(note, head, rows, "samples", numbers=range(1, len(head))))
    return parts


def _cell(row: Mapping[str, Any]) -> str:
    value = page.number(row.get("value"), "not defined" if row else "")
    if row.get("truth") is None:
        return value
    error = page.relative_error(row.get("relative_error"))
    behind = f'<span class="soft">{error}</span>' if error else ""
    return f'{value}<span class="soft">truth {page.number(row["truth"])}</span>{behind}'


def _mean(quantity: Mapping[str, Any]) -> str:
    mean, deviation = page.number(quantity.get("mean")), page.number(quantity.get("deviation"))
    return f'{mean}<span class="soft">± {deviation}</span>' if mean and deviation else mean


def _charts(
    table: Sequence[Mapping[str, Any]], names: Sequence[str], classes: Sequence[Mapping[str, Any]]
) -> list[str | Plate]:
    """IoU of each class, and every quantity that has a truth; where none has, all that are not IoU or Dice."""
    palette = Palette.of(classes)
    overlaps = [q for q in table if is_iou(_title(q))]
    compared = [q for q in table if any(r.get("truth") is not None for r in (q.get("samples") or {}).values())]
    others = compared or [q for q in table if "iou" not in _title(q).lower() and "dice" not in _title(q).lower()]
    plates: list[str | Plate] = []
    together = COLUMNS * max(1, min(ROWS_PER_CHART, BARS_PER_COLUMN // max(len(names), 1)))
    for stem, what, quantities in (
        ("iou", "Intersection over union (IoU) of each class", overlaps),
        ("quantities", "Quantities", others),
    ):
        for first in range(0, len(quantities), together):
            panels = [_bars(q, names, palette) for q in quantities[first : first + together]]
            number = f"_{first // together + 1}" if len(quantities) > together else ""
            caption = f"{what} by sample. Dashed line and band: mean and one standard deviation over samples. Diamond: truth, where there is one."
            alt = f"{what} by sample: " + "; ".join(_in_words(p, names) for p in panels)
            plates.append(chart_plate(f"{stem}_by_sample{number}", sample_bars_chart(panels, names), alt, caption))
    return plates


def _title(quantity: Mapping[str, Any]) -> str:
    return f"{quantity.get('name', '')} {quantity.get('symbol') or ''}"


def _bars(quantity: Mapping[str, Any], names: Sequence[str], palette: Palette) -> SampleBars:
    rows = [(quantity.get("samples") or {}).get(name) or {} for name in names]
    rank = class_of(str(quantity.get("name", "")), palette.names)
    return SampleBars(
        str(quantity.get("name", "")),
        str(quantity.get("unit") or ""),
        BLUE if rank is None else palette.hex(rank),
        [_number(r.get("value")) for r in rows],
        [_number(r.get("truth")) for r in rows],
        _number(quantity.get("mean")),
        _number(quantity.get("deviation")),
    )


def _number(value: Any) -> float:
    """Finite number, or NaN."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if good else math.nan


def _in_words(panel: SampleBars, names: Sequence[str]) -> str:
    known = ((name, v) for name, v in zip(names, panel.values, strict=True) if v == v)
    unit = f" {panel.unit}" if panel.unit else ""
    return f"{panel.title}: " + ", ".join(f"{name} {page.plain_number(v)}{unit}" for name, v in known)


def _statistics(rows: Sequence[Mapping[str, Any]]) -> Parts:
    if not rows:
        return []
    cells = [
        [
            text(r.get("test", "")),
            text(r.get("quantity", "")),
            *(page.number(r.get(key), "not defined") for key in ("n", "statistic", "p")),
        ]
        for r in rows
    ]
    note = "Tests over samples; two-sided, not corrected for how many there are."
    return [page.table(note, ["Test", "Quantity", "n", "Statistic", "p"], cells, numbers=(2, 3, 4))]


def _published(printed: Mapping[str, Any]) -> str:
    """Table as it was printed, with its source and how to read it."""
    title, source, note = (str(printed.get(key) or "") for key in ("title", "source", "note"))
    caption = ". ".join(part.rstrip(".") for part in (text(title), text(source), text(note)) if part) + "."
    columns = [text(c) for c in printed.get("columns") or []]
    rows = [[text(cell) for cell in row] for row in printed.get("rows") or [] if row]
    return page.table(caption, columns, rows, "samples", numbers=range(1, len(columns))) if rows else ""
