"""How numbers came to be: plans and times of the runs, inputs with their digests, the model, and every parameter."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tomoscale.report import page
from tomoscale.report.block_map import block_plates
from tomoscale.report.charts import seconds_chart
from tomoscale.report.page import text
from tomoscale.report.plates import Plate, chart_plate
from tomoscale.report.wording import run_title, settings, step_words

DRAWN_RUNS = 30

_DIGEST = re.compile(r"(?:[a-z0-9]+[:-])?[0-9a-f]{32,128}")


def run_plates(runs: Sequence[Mapping[str, Any]]) -> list[str | Plate]:
    """Times of the runs as table and chart, maps of their blocks, and their plans."""
    parts: list[str | Plate] = [run_table(runs)]
    timed = [(run_title(r), r["seconds"]) for r in runs if r.get("seconds")]
    if timed:
        alt = "Seconds by run: " + "; ".join(
            f"{name}: " + ", ".join(f"{k} {page.duration(s[k])}" for k in s) for name, s in timed
        )
        caption = "Where the time of each run went, summed over its blocks."
        if len(timed) > DRAWN_RUNS:
            caption += f" Shown are the first {DRAWN_RUNS} of {len(timed)} runs."
        parts.append(chart_plate("seconds", seconds_chart(timed[:DRAWN_RUNS]), alt, caption))
    parts += block_plates(runs)
    plans = "".join(_plan(run) for run in runs if run.get("rows"))
    return [*parts, f'<h3>Plans</h3><div class="plans">{plans}</div>'] if plans else parts


def run_table(runs: Sequence[Mapping[str, Any]]) -> str:
    """Seconds, blocks and retries of each run, or nothing where no run was timed."""
    if not any(r.get("seconds") for r in runs):
        return ""
    rows = [[text(run_title(r)), *_timing(r)] for r in runs]
    head = ["Run", "Read (s)", "Compute (s)", "Write (s)", "Wall (s)", "Blocks", "Retries"]
    note = (
        "Seconds of each run. Read, compute and write are summed over all blocks, so on several workers they exceed the wall "
        "time, which is that of the last call: it skips what earlier calls have done."
    )
    return page.table(note, head, rows, numbers=range(1, 7))


def provenance_parts(results: Mapping[str, Any]) -> list[str | Plate]:
    """Program, inputs, model and parameters, as tables."""
    program = f"<p>Computed with {text(results['program'])}.</p>" if results.get("program") else ""
    rows = [_input_row(role, entry) for role, entry in inputs_of(results)]
    head = ["Input", "Name", "Voxels (z × y × x)", "Voxel size", ""]
    return [
        program,
        page.table("Inputs.", head, rows, "inputs") if rows else "",
        _flat_table("Model.", results.get("model")),
        _flat_table("Parameters.", results.get("parameters")),
        _flat_table("Versions.", results.get("versions")),
    ]


def inputs_of(results: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Role and description of every input."""
    return ((role, entry) for role, entry in (results.get("inputs") or {}).items() if isinstance(entry, Mapping))


def summary_of(entry: Mapping[str, Any]) -> str:
    """Name of an input and how large it is in the sample."""
    shape, size = entry.get("shape"), entry.get("voxel_size_um")
    if shape and size:
        extent = " × ".join(f"{n * v / 1000:.3g}" for n, v in zip(shape, size, strict=True))
        return f"{text(entry.get('name', ''))}, {extent} mm (z × y × x) in voxels of {_voxel_size(entry)}"
    return text(entry.get("name", "")) + (f", {_voxels(entry)} voxels (z × y × x)" if shape else "")


def _flat_table(caption: str, values: Any) -> str:
    if not isinstance(values, Mapping) or not values:
        return ""
    return page.table(caption, [], [[text(name), _value(value)] for name, value in settings(values)])


def _value(value: str) -> str:
    """Text of a value; a digest in small even letters that break anywhere."""
    return f'<span class="digest">{text(value)}</span>' if _DIGEST.fullmatch(value) else text(value)


def _input_row(role: str, entry: Mapping[str, Any]) -> list[str]:
    rest = {k: v for k, v in entry.items() if k not in ("name", "shape", "voxel_size_um")}
    others = ", ".join(f"{text(name)} {_value(value)}" for name, value in settings(rest))
    return [text(role), text(entry.get("name", "")), _voxels(entry), _voxel_size(entry), others]


def _voxels(entry: Mapping[str, Any]) -> str:
    return " × ".join(page.integer(int(n)) for n in entry.get("shape") or ())


def _voxel_size(entry: Mapping[str, Any]) -> str:
    size = entry.get("voxel_size_um")
    return " × ".join(f"{float(v):g}" for v in size) + " µm" if size else "not known"


def _plan(run: Mapping[str, Any]) -> str:
    rows = [
        [text(name), *(text(step_words(str(cell)) if name == "step" else cell) for cell in rest)]
        for name, *rest in run["rows"]
    ]
    return page.table(f"Plan of the run “{text(run_title(run))}”.", [], rows)


def _timing(run: Mapping[str, Any]) -> list[str]:
    seconds = run.get("seconds") or {}
    times = [page.duration(seconds.get(part)) for part in ("read", "compute", "write", "wall")]
    return times + ["" if run.get(key) is None else page.integer(int(run[key])) for key in ("blocks", "retries")]
