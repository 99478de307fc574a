"""Tables of a study: CSV files, the table over samples, and the statistics asked for."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tomoscale.commands import CLASSES
from tomoscale.measures import overlap
from tomoscale.studies.quantities import MEANS, ROIS, finite

COLUMNS = ("name", "symbol", "value", "truth", "relative_error", "unit", "definition")
HEALING = "healing time"
TESTS = ("wilcoxon", "spearman")
LEAST = {"wilcoxon": 6, "spearman": 5}
"""With fewer samples not even a perfect result reaches p < 0.05 (two-sided, exact)."""


def results_csv(quantities: Sequence[Mapping[str, Any]]) -> str:
    """Table of one sample; numbers that are not defined are empty, relative errors are fractions."""
    return csv_text([COLUMNS, *([q[c] for c in COLUMNS] for q in quantities)])


def csv_text(table: Sequence[Sequence[Any]]) -> str:
    """Rows as CSV; null is empty. Floats are written so that reading them gives the same bits."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerows([["" if cell is None else cell for cell in row] for row in table])
    return buffer.getvalue()


def over_samples(results: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every quantity over all samples: (value, truth, error) by sample, mean, deviation (ddof 1), pooled.

    Parameters
    ----------
    results : mapping of sample name to the content of ``results.json``
    """
    names = list(dict.fromkeys((q["name"], q["unit"]) for r in results.values() for q in r["quantities"]))
    pooled_means = _pooled_means(results)
    table = []
    for name, unit in names:
        found = {s: q for s, r in results.items() for q in r["quantities"] if (q["name"], q["unit"]) == (name, unit)}
        values = [q["value"] for q in found.values() if q["value"] is not None]
        first = next(iter(found.values()))
        table.append(
            {
                "name": name,
                "symbol": first["symbol"],
                "unit": unit,
                "samples": {s: {k: q[k] for k in ("value", "truth", "relative_error")} for s, q in found.items()},
                "n": len(values),
                "mean": float(np.mean(values)) if values else None,
                "deviation": float(np.std(values, ddof=1)) if len(values) > 1 else None,
                "pooled": pooled_means.get(name, pooled([q["sums"] for q in found.values()])),
            }
        )
    return table


def pooled(sums: Sequence[Sequence[float | None] | None]) -> float | None:
    """Quotient of the summed counts, as if all samples were one; None where that has no meaning."""
    if not sums or any(s is None for s in sums):
        return None
    above = sum(s[0] for s in sums if s is not None and s[0] is not None)
    whole_sums = [s[1] for s in sums if s is not None]
    if all(b is None for b in whole_sums):
        return float(above)
    below = sum(b for b in whole_sums if b is not None)
    return above / below if below else None


def _pooled_means(results: Mapping[str, Mapping[str, Any]]) -> dict[str, float | None]:
    matrices = [np.array(r["confusion"]["counts"]) for r in results.values() if "confusion" in r]
    if not matrices:
        return {}
    total = overlap.pooled(matrices)
    return {f"mean IoU, {text}": finite(overlap.mean_iou(total, preset)) for preset, text in MEANS.items()}


@dataclass(frozen=True)
class Comparison:
    """A test over samples that was asked for: ``"wilcoxon"`` or ``"spearman"`` of all that suits, or of one quantity, or against another.

    Attributes
    ----------
    name : str
    quantity, other : str or None
        Names or symbols of quantities, or "healing time" as the other.
    """

    name: str
    quantity: str | None = None
    other: str | None = None


def parse_comparison(text: str) -> Comparison:
    """Read ``"wilcoxon"``, ``"wilcoxon: BIC"``, ``"spearman"``, ``"spearman: DR"`` or ``"spearman: DR ~ BV/TV"``.

    Wilcoxon compares values with truths, Spearman a quantity with the healing time or with another quantity.

    Raises
    ------
    ValueError
        If the text is not one of these.
    """
    found = re.fullmatch(r"\s*(\w+)\s*(?::\s*([^~]+?)\s*(?:~\s*([^~]+?)\s*)?)?", text)
    if found is None or found[1] not in TESTS or (found[1] == "wilcoxon" and found[3]):
        raise ValueError(
            f'statistics are "wilcoxon", "wilcoxon: QUANTITY", "spearman", "spearman: QUANTITY" or "spearman: QUANTITY ~ '
            f'QUANTITY", got {text!r}'
        )
    return Comparison(found[1], found[2], found[3])


def statistics_of(
    tests: Sequence[Comparison], table: Sequence[Mapping[str, Any]], healing_days: Mapping[str, float | None]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Results of the tests, and a sentence for each that could not be made."""
    rows, caveats = [], []
    for test in tests:
        if test.quantity is None:
            chosen = [q for q in table if test.name == "spearman" or _pairs_with_truth(q)]
        else:
            chosen = [q for q in table if test.quantity in (q["name"], q["symbol"])]
            if not chosen:
                caveats.append(f"{test.name}: no sample has the quantity {test.quantity!r}.")
        for q in chosen:
            outcome = _tested(test, q, table, healing_days)
            if isinstance(outcome, str):
                caveats.append(outcome)
            else:
                rows.append(outcome)
    # The same reason for many quantities is said once.
    return rows, list(dict.fromkeys(caveats))


def _tested(
    test: Comparison, q: Mapping[str, Any], table: Sequence[Mapping[str, Any]], healing_days: Mapping[str, float | None]
) -> dict[str, Any] | str:
    """One result, or why there is none."""
    from scipy import stats  # takes half a second to import

    if test.name == "wilcoxon":
        pairs, title = _pairs_with_truth(q), str(q["name"])
        n = sum(a != b for a, b in pairs)
    else:
        other = test.other or HEALING
        partner = next((o for o in table if other in (o["name"], o["symbol"])), None)
        if partner is None and other != HEALING:
            return f"spearman: no sample has the quantity {other!r}."
        pairs = _pairs(q, healing_days if partner is None else _values(partner))
        title = f"{q['name']} ~ {other if partner is None else partner['name']}"
        n = len(pairs)
    if n < LEAST[test.name]:
        what = "samples whose value differs from the truth" if test.name == "wilcoxon" else "samples"
        return f"{test.name}: {n} {what} are too few, {LEAST[test.name]} are needed for any p below 0.05."
    first, second = np.array(pairs, np.float64).T
    if test.name == "spearman" and (np.ptp(first) == 0 or np.ptp(second) == 0):
        return f"spearman of {title}: one of the two is the same in all samples, so there is no rank."
    done = stats.wilcoxon(first, second) if test.name == "wilcoxon" else stats.spearmanr(first, second)
    return {
        "test": test.name,
        "quantity": title,
        "n": n,
        "statistic": finite(float(done.statistic)),
        "p": finite(float(done.pvalue)),
    }


def _values(q: Mapping[str, Any]) -> dict[str, float | None]:
    return {s: row["value"] for s, row in q["samples"].items()}


def _pairs(q: Mapping[str, Any], others: Mapping[str, float | None]) -> list[tuple[float, float]]:
    both = [(v, others.get(s)) for s, v in _values(q).items()]
    return [(a, b) for a, b in both if a is not None and b is not None]


def _pairs_with_truth(q: Mapping[str, Any]) -> list[tuple[float, float]]:
    rows = q["samples"].values()
    return [(r["value"], r["truth"]) for r in rows if r["value"] is not None and r["truth"] is not None]


def paper_table(
    table: Sequence[Mapping[str, Any]], samples: Sequence[str], iou_preset: str = "both"
) -> list[list[str | None]]:
    """Table as the papers print it: a row for each sample, then mean, deviation and pooled.

    IoU, contact and bone fraction are in per cent; where there is a truth it has a column of its own, and the relative
    error stands behind the value.
    """
    by_name = {q["name"]: q for q in table}
    columns: list[list[str | None]] = [["sample", *samples, "mean", "deviation", "pooled"]]
    for name, title, scale, digits in _paper_columns(iou_preset):
        q = by_name.get(name)
        if q is None:
            continue
        found = [q["samples"].get(s) or {"value": None, "truth": None, "relative_error": None} for s in samples]
        if any(row["truth"] is not None for row in found):
            truths = [_printed(row["truth"], scale, digits) for row in found]
            columns.append([f"{title}, ground truth", *truths, None, None, None])
        values = [
            " ".join(filter(None, (_printed(row["value"], scale, digits), printed_error(row["relative_error"]))))
            or None
            for row in found
        ]
        over_all = [_printed(q[k], scale, digits) for k in ("mean", "deviation", "pooled")]
        columns.append([title, *values, *over_all])
    return [list(row) for row in zip(*columns, strict=True)]


def _paper_columns(iou_preset: str) -> list[tuple[str, str, float, int]]:
    """Name of the quantity, head of the column with unit, factor to that unit, digits after the point."""
    columns = [(f"IoU {c.name}", f"IoU {c.name} (%)", 100.0, 2) for c in CLASSES]
    for preset, text in MEANS.items():
        if iou_preset in ("both", preset):
            columns.append((f"mean IoU, {text}", f"mIoU, {text} (%)", 100.0, 2))
    return [
        *columns,
        ("degradation rate, surface voxels", "DR by surface voxels (mm/a)", 1.0, 3),
        ("degradation rate", "DR by Crofton surface (mm/a)", 1.0, 3),
        ("bone-implant contact, faces", "BIC by faces (%)", 100.0, 2),
        ("bone-implant contact, voxels", "BIC by voxels (%)", 100.0, 2),
        ("bone-implant contact, outer surface", "BIC of the outer surface (%)", 100.0, 2),
        *((name, f"{symbol}, {name} (%)", 100.0, 2) for name, symbol, _ in ROIS.values()),
    ]


def _printed(value: float | None, scale: float, digits: int) -> str | None:
    return None if value is None else f"{value * scale:.{digits}f}"


def in_words(results: Mapping[str, Any]) -> dict[str, str]:
    """Numbers in words, by name: value with unit, and truth and relative error where there is one."""
    lines = {}
    for q in results["quantities"]:
        unit = f" {q['unit']}" if q["unit"] else ""
        known = "" if q["truth"] is None else f"   truth {_number(q['truth'])}{unit}"
        error = "" if q["relative_error"] is None else f" ({q['relative_error']:+.1%})"
        lines[q["name"]] = f"{_number(q['value'])}{unit}{known}{error}"
    return lines


def _number(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.4g}"


def printed_error(error: float | None) -> str:
    """Relative error as the papers print it: signed, in whole per cent, "(–)" below 1 %.

    Rounded, as in Baltruschat et al. 2021; Lopes Marinho et al. 2024 cut towards zero, which makes errors look smaller.

    Examples
    --------
    >>> printed_error(0.7181), printed_error(-0.0298), printed_error(0.0099)
    ('(+72 %)', '(-3 %)', '(–)')
    """
    if error is None or not math.isfinite(error):
        return ""
    return "(–)" if abs(error) < 0.01 else f"({error * 100:+.0f} %)"
