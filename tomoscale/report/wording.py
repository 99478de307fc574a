"""Names of the program in the words of a page: runs, settings with their units, symbols of quantities."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from tomoscale.report.page import plain_number, text

_UNITS = (("_um", "µm"), ("_days", "days"), ("_voxels", "voxels"), ("_percent", "%"))
_NAMES = {
    "voxel_size": "voxel size (z, y, x)",
    "healing": "healing time",
    "roi": "region of the bone fraction",
    "roi_distance": "reach of the region of the bone fraction",
    "voi": "volume of interest",
    "cnr_denominator": "noise in contrast to noise",
    "outer_contact": "contact of the outer surface",
    "iou_preset": "mean IoU",
    "exclude_zeros": "zeros left out of the percentiles",
    "clean_radius": "radius of cleaning",
    "any_voxel_size": "any voxel size taken",
    "statistics": "tests over samples",
    "void": "labels of voids",
    "bone": "labels of bone",
    "island": "smallest island kept",
    "min_cell": "smallest cell",
    "max_radius": "largest radius of a ball",
    "correction": "correction of thickness",
    "cleanup": "cleanup of thickness",
    "purify": "connectivity of the largest piece alone, its cavities filled",
    "mid_axes": "distance between mid-axes",
    "model": "network",
    "nan_policy": "values that are not finite",
    "dtype": "type of a voxel",
    "weights_sha256": "SHA-256 of the weights",
    "card_sha256": "SHA-256 of the card",
}
_VALUES = {
    "reference_dilated": "around the reference, its inside included",
    "reference_shell": "around the reference",
    "implant_shell": "around the implant",
    "root_sum_square": "root of the summed variances",
    "s1_all4": "of four classes",
    "s2_foreground3": "of three classes without background",
    "half_voxel": "a voxel off each diameter",
}
_SUBSCRIPT = re.compile(r"\b([^\W_]+(?:\.[^\W_]+)*)_([^\W_]+)\b")


def run_title(run: Mapping[str, Any]) -> str:
    """What a run did and the volume it made: several runs of a chain may do the same."""
    step = step_words(str(run.get("name", "")))
    return f"{step} → {run['target']}" if run.get("target") else step


def step_words(name: str) -> str:
    """Name of a step in words."""
    return name.replace("_", " ")


def settings(values: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """Nested settings as (name in words, value with its unit), in their order."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from settings(value, (*above, _words(str(name))))
            continue
        own, unit = _unit_of(str(name))
        shown = _shown(value, " × " if own == "voxel_size" else ", ")
        if own == "voxel_size" and value is None:
            shown = "not known"
        yield (
            ", ".join((*above, _words(own))),
            shown if value is None or not unit else f"{shown} {unit.rstrip('s') if shown == '1' else unit}",
        )


def symbol(name: str) -> str:
    """Symbol as HTML, what follows a low line in it as a subscript; also those within a text."""
    return _SUBSCRIPT.sub(r"\1<sub>\2</sub>", text(name))


def _words(name: str) -> str:
    return _NAMES.get(name, name.replace("_", " "))


def _unit_of(name: str) -> tuple[str, str]:
    for end, unit in _UNITS:
        if name.endswith(end):
            return name.removesuffix(end), unit
    return name, ""


def _shown(value: Any, between: str) -> str:
    if value is None or value == [] or value == {}:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return f"{value:g}" if isinstance(value, float) else plain_number(value)
    if isinstance(value, str):
        return _VALUES.get(value, value)
    if isinstance(value, list | tuple) and not any(isinstance(v, Mapping | list | tuple) for v in value):
        return between.join(_shown(v, between) for v in value)
    return json.dumps(value, ensure_ascii=False, default=str)
