"""Bone around an implant: its share by distance, where it touches the surface, and how much a gap would change that."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tomoscale.errors import InputError
from tomoscale.report import page
from tomoscale.report.charts import SEQUENTIAL, line_chart
from tomoscale.report.figures import Chart, drawing, figure, plain
from tomoscale.report.plates import Plate, chart_plate

OWNERS = ("labels", "truth")


def interface_plates(results: Mapping[str, Any]) -> list[str | Plate]:
    """What results hold of ``profile``, ``contact_map`` and ``gap_tolerance``, as figures.

    Raises
    ------
    InputError
        If counts do not fit their edges.
    """
    for name in ("contact_map", "profile"):
        if results.get(name) and not any(results[name].get(owner) for owner in OWNERS):
            raise InputError(f"{name} of the results holds counts of neither {' nor '.join(OWNERS)}")
    plates: list[str | Plate] = []
    if results.get("contact_map"):
        plates.append(_contact_plate(results["contact_map"]))
    if results.get("profile"):
        plates.append(_profile_plate(results["profile"]))
    if results.get("gap_tolerance"):
        plates.append(_gap_plate(results["gap_tolerance"]))
    return plates


def _profile_plate(profile: Mapping[str, Any]) -> Plate:
    edges = _edges(profile.get("edges_um"), "profile.edges_um")
    centres = (edges[:-1] + edges[1:]) / 2
    lines = []
    for owner in OWNERS:
        if profile.get(owner):
            counts = [
                _counts(profile[owner], name, (centres.size,), f"profile.{owner}") for name in ("bone", "background")
            ]
            lines.append((owner, centres, _share(counts[0], counts[1])))
    limits = {"xlim": (edges[0], edges[-1]), "ylim": (0, 1)}
    chart = line_chart(lines, "distance from the implant as it was placed (µm)", "bone / (bone + background)", limits)
    alt = "Bone fraction by distance: " + "; ".join(
        f"{owner}: " + ", ".join(f"{share:.3f} at {x:g} µm" for x, share in zip(x, y, strict=True) if share == share)
        for owner, x, y in lines
    )
    caption = (
        f"Bone fraction in {centres.size} shells around the implant as it was placed; a mark stands at the middle of its shell. "
        "Voxels of the implant count in neither. A shell without bone and background has no mark."
    )
    return chart_plate("bone_by_distance", chart, alt, caption)


def _contact_plate(found: Mapping[str, Any]) -> Plate:
    along = _edges(found.get("along_um"), "contact_map.along_um")
    angle = _edges(found.get("angle_deg"), "contact_map.angle_deg")
    shape = along.size - 1, angle.size - 1
    maps, sums = [], []
    for owner in OWNERS:
        if found.get(owner):
            bone, free = (_counts(found[owner], name, shape, f"contact_map.{owner}") for name in ("bone", "free"))
            maps.append((owner, _share(bone, free)))
            touching, all_ = int(bone.sum()), int(bone.sum() + free.sum())
            sums.append(
                f"{owner}: {page.integer(touching)} of {page.integer(all_)} faces ({page.percent(touching / max(all_, 1))})"
            )
    caption = (
        "Contact on the surface of the implant, unrolled: share of the voxel faces in each field that touch bone, of all that touch "
        f"bone or background. {'; '.join(sums)}. Grey: no such face."
    )
    alt = f"Map of the contact with bone by position along the axis and angle around it. {'; '.join(sums)}"
    return chart_plate("contact_map", contact_chart(along, angle, maps), alt, caption)


def contact_chart(along_um: np.ndarray, angle_deg: np.ndarray, maps: Sequence[tuple[str, np.ndarray]]) -> Chart:
    """Unrolled surfaces one below the other: angle over position along the axis.

    Parameters
    ----------
    along_um, angle_deg : (m + 1,), (k + 1,) float arrays
        Edges of the fields.
    maps : sequence of (name, (m, k) float array)
        Shares from 0 to 1, NaN where there is no surface.
    """
    scale, unit = (1000.0, "mm") if along_um[-1] - along_um[0] >= 2000 else (1.0, "µm")
    with drawing():
        made, axes = figure(0.7 + 1.9 * len(maps), len(maps), 1, sharex=True)
        for (name, shares), axis in zip(maps, axes[:, 0], strict=True):
            axis.set_facecolor("#c8c8c8")
            shown = axis.pcolorfast(along_um / scale, angle_deg, shares.T, vmin=0, vmax=1, cmap=SEQUENTIAL)
            axis.set(ylabel="angle (°)", ylim=(angle_deg[0], angle_deg[-1]))
            axis.set_yticks(np.arange(math.ceil(angle_deg[0] / 90) * 90, angle_deg[-1] + 1, 90))
            axis.set_title(plain(name), fontsize=9, loc="left")
        axes[-1, 0].set_xlabel(f"position along the axis ({unit})")
        made.colorbar(shown, ax=list(axes[:, 0]), label="share that touches bone", aspect=12 * len(maps))
        return Chart(made)


def _gap_plate(rows: Sequence[Mapping[str, Any]]) -> Plate:
    gaps = [_number(row.get("gap_voxels"), "gap_tolerance.gap_voxels") for row in rows]
    lines = []
    for owner, key in (("labels", "value"), ("truth", "truth")):
        if any(row.get(key) is not None for row in rows):
            y = [math.nan if row.get(key) is None else _number(row[key], f"gap_tolerance.{key}") for row in rows]
            lines.append((owner, gaps, y))
    limits = {"ylim": (0, 1), "xticks": gaps} if len(gaps) <= 12 else {"ylim": (0, 1)}
    chart = line_chart(lines, "gap still counted as contact (voxels)", "bone-implant contact", limits)
    alt = "Bone-implant contact by the gap that is bridged: " + "; ".join(
        f"{owner}: "
        + ", ".join(f"{value:.3f} at {gap:g} voxels" for gap, value in zip(x, y, strict=True) if value == value)
        for owner, x, y in lines
    )
    caption = (
        "Bone-implant contact (a share from 0 to 1) if background between implant and bone is bridged up to a gap. A steep start "
        "means that the number hangs on single voxels at the interface."
    )
    return chart_plate("gap_tolerance", chart, alt, caption)


def _share(part: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """Part of part and rest; NaN where both are 0."""
    total = part + rest
    return np.where(total > 0, part / np.maximum(total, 1), np.nan)


def _edges(values: Any, name: str) -> np.ndarray:
    try:
        edges = np.array(values, np.float64)
    except (TypeError, ValueError):
        edges = np.zeros(0)
    if edges.ndim != 1 or edges.size < 2 or not np.isfinite(edges).all() or not (np.diff(edges) > 0).all():
        raise InputError(f"{name} of the results must be two or more rising numbers, got {str(values)[:60]}")
    return edges


def _counts(found: Mapping[str, Any], key: str, shape: tuple[int, ...], name: str) -> np.ndarray:
    try:
        counts = np.array(found[key], np.float64)
    except (KeyError, TypeError, ValueError):
        counts = np.zeros(0)
    if counts.shape != shape or not (counts >= 0).all() or not np.isfinite(counts).all():
        wanted = " x ".join(map(str, shape))
        raise InputError(f"{name}.{key} of the results must hold {wanted} counts, one for each field between the edges")
    return counts


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"{name} of the results must be a number, got {value!r:.60}")
    return float(value)
