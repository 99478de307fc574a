"""What can be told from the counts of a study about pitfalls that its numbers do not show."""

from __future__ import annotations

from typing import Literal

import numpy as np

from tomoscale.commands import CLASSES
from tomoscale.measures.profile import SIDES
from tomoscale.step import Counts
from tomoscale.studies.counting import IMPLANT, METAL, Layout
from tomoscale.studies.quantities import Roi, gap_tolerance

State = Literal["ok", "warning", "failed"]

LENGTHS_AGREE = 0.05
"""Share by which implant and reference may differ in length before they are taken for different sections."""
FILMS_MATTER = 1.25
"""Contact at a gap of one voxel over that at none, beyond which one-voxel films of background decide the number."""
LOW_PERCENT = 0.5
"""The low percentile of Baltruschat et al. 2021: more exact zeros than that, and it is zero."""
CLIPPED_MATTERS = 0.01
SPECKS = 0.01
"""Of the section of a cube as large as the reference: what covers less of a face of the volume does not end there."""


def check(name: str, state: State, text: str) -> dict[str, str]:
    """One row of the checks."""
    return {"name": name, "state": state, "text": text}


def checks_of(counts: dict[str, Counts], layout: Layout) -> list[dict[str, str]]:
    """Everything that was looked at, in the order of the pitfalls: what is well, what to mind, what is wrong."""
    rows = [_absent(counts, name) for name in ("labels", "truth") if name in counts]
    rows += [_border(counts), _films(counts, layout)]
    if "reference" in counts:
        rows += [_section(counts), _metal(counts), _clipped(counts, layout)]
        if layout.cylinder is not None:
            rows.append(_lengths(counts, layout.cylinder.step_um))
    if "grey zeros" in counts:
        rows.append(_zeros(counts))
    rows.append(_cubes(layout))
    if layout.cylinder is not None:
        rows.append(_axis(layout))
    return rows


def clipped_fraction(counts: dict[str, Counts], layout: Layout) -> float | None:
    """Share of the region around the reference that lies beyond the field of view, at least; None without a reference.

    Every voxel of the region on a face of the volume stands for what lies straight behind it: as its distance from the
    reference grows by one per unit of length at most, the region goes on for the rest of the distance or more. Faces that
    cut the reference itself end the section, and the region with it.
    """
    if "shells cut" not in counts:
        return None
    on_faces = counts["shells cut"]["on_faces"]
    edges = np.array([0.0, *layout.edges_um])
    rest = np.append(0.0, edges[-1] - (edges[1:] + edges[:-1]) / 2)
    clipped = 0.0
    for side, numbers in enumerate(on_faces[:, : len(edges)]):
        if numbers[0] == 0:
            # Of voxels that lie straight behind each other, a length holds half a one less than fits in it, on average.
            voxels = rest / layout.voxel_size_um[side // 2] - 0.5
            clipped += float(numbers @ np.maximum(voxels, 0.0))
    inside = float(counts["labels"]["roi"][: len(edges)].sum())
    return clipped / (clipped + inside) if inside else None


def clipped_fractions(counts: dict[str, Counts], layout: Layout) -> dict[Roi, float | None]:
    """As `clipped_fraction`, of each region around the reference."""
    solid = clipped_fraction(counts, layout)
    if solid is None:
        return {}
    table = counts["labels"]["roi"]
    inside, without = float(table[:-1].sum()), float(table[1:-1].sum())
    clipped = solid / (1 - solid) * inside
    shell = clipped / (clipped + without) if without else None
    return {"reference_dilated": solid, "reference_shell": shell}


def sides_with(numbers: np.ndarray) -> str:
    """Names of the sides on which there is something, with the number of voxels where that is given."""
    found = [(side, n) for side, n in zip(SIDES, numbers.tolist(), strict=True) if n]
    return ", ".join(side if isinstance(n, bool) else f"{side} ({n} voxels)" for side, n in found)


def _absent(counts: dict[str, Counts], name: str) -> dict[str, str]:
    n = counts[name]["confusion"].sum(axis=0)
    missing = [c.name for c in CLASSES if not n[c.value]]
    title = f"classes of the {name}"
    if not missing:
        return check(title, "ok", "All four classes occur.")
    state: State = "failed" if not n[list(IMPLANT)].sum() else "warning"
    return check(title, state, f"No voxel is {' or '.join(missing)}: numbers that need it are not defined, or 0.")


def _border(counts: dict[str, Counts]) -> dict[str, str]:
    sides = sides_with(_implant_on_faces(counts))
    if not sides:
        return check("implant and border", "ok", "The implant does not touch the border of the volume.")
    text = f"The implant touches the border at {sides}: it is cut there, and the cut is counted as no surface."
    return check("implant and border", "warning", text)


def _films(counts: dict[str, Counts], layout: Layout) -> dict[str, str]:
    none, one = (row["value"] for row in gap_tolerance(counts, layout)[:2])
    if none is None or one is None:
        return check("films of background", "warning", "The implant has no surface to bone or background.")
    text = f"Contact is {none:.2%} as defined, and {one:.2%} where background within one voxel of bone counts as bone"
    if one > FILMS_MATTER * none and one - none > 0.01:
        return check(
            "films of background", "warning", f"{text}: films of one voxel between implant and bone decide it."
        )
    return check("films of background", "ok", f"{text}.")


def _section(counts: dict[str, Counts]) -> dict[str, str]:
    # A speck on a face is an error of the labels, and no end of the screw.
    least = SPECKS * float(counts["labels"]["roi"][0].sum()) ** (2 / 3)
    reference = counts["shells cut"]["on_faces"][:, 0] > least
    implant = _implant_on_faces(counts) > least
    title = "one section: ends"
    if (reference == implant).all():
        return check(title, "ok", "Implant and reference touch the same faces of the volume.")
    only = [
        f"only the {what} touches {sides}"
        for what, sides in (
            ("reference", sides_with(reference & ~implant)),
            ("implant", sides_with(implant & ~reference)),
        )
        if sides
    ]
    text = f"{'; '.join(only).capitalize()}: if they are not one section of the screw, volumes cannot be compared."
    return check(title, "warning", text)


def _lengths(counts: dict[str, Counts], step: float) -> dict[str, str]:
    lengths = []
    for name in ("labels", "reference"):
        filled = np.flatnonzero(counts[f"{name} along"]["along"])
        lengths.append(float(filled[-1] - filled[0] + 1) * step if filled.size else 0.0)
    text = f"Along the axis the implant is {lengths[0]:.0f} µm long and the reference {lengths[1]:.0f} µm"
    # Each length is known to two steps.
    if abs(lengths[0] - lengths[1]) > max(LENGTHS_AGREE * lengths[1], 2 * step):
        return check("one section: length", "warning", f"{text}: they may not be the same section of the screw.")
    return check("one section: length", "ok", f"{text}, in steps of {step:.3g} µm.")


def _metal(counts: dict[str, Counts]) -> dict[str, str]:
    # Configurations are of cells, so the reference's voxels come from the shells: shell 0 is the reference.
    initial = int(counts["labels"]["roi"][0].sum())
    metal = int(counts["labels"]["confusion"].sum(axis=0)[METAL])
    if metal > initial:
        text = (
            f"There are {metal} voxels of residual metal but {initial} of the screw as implanted, so the degradation rate is "
            "negative: the metal is over-segmented, or the reference is of another section."
        )
        return check("metal and reference", "failed", text)
    return check("metal and reference", "ok", f"Residual metal is {_share(metal, initial)} of the screw as implanted.")


def _clipped(counts: dict[str, Counts], layout: Layout) -> dict[str, str]:
    table = counts["shells cut"]["on_faces"]
    sides = sides_with(table[:, :-1].any(axis=1))
    clipped = clipped_fraction(counts, layout)
    if not sides or not clipped:
        text = "The region around the reference lies in the volume" + (
            f", but for the ends of the section at {sides}." if sides else "."
        )
        return check("region and field of view", "ok", text)
    state: State = "warning" if clipped > CLIPPED_MATTERS else "ok"
    text = f"The region around the reference is cut at {sides}; at least about {clipped:.1%} of it lies outside the volume."
    return check("region and field of view", state, text)


def _zeros(counts: dict[str, Counts]) -> dict[str, str]:
    none, n = (int(v) for v in counts["grey zeros"]["zeros"])
    text = f"{none / n:.2%} of the grey values are exactly 0"
    if 100 * none >= LOW_PERCENT * n:
        text += ": a rim filled with zeros pulls low percentiles to 0, unless normalise is told to exclude zeros."
        return check("zeros in the grey volume", "warning", text)
    return check("zeros in the grey volume", "ok", f"{text}.")


def _cubes(layout: Layout) -> dict[str, str]:
    if layout.is_isotropic:
        return check("voxels", "ok", "Voxels are cubes.")
    text = (
        f"Voxels are {' x '.join(f'{h:g}' for h in layout.voxel_size_um)} µm (z, y, x), no cubes: surface voxels stand for "
        "no certain area, and the gap tolerance counts voxels, not lengths."
    )
    return check("voxels", "warning", text)


def _axis(layout: Layout) -> dict[str, str]:
    assert layout.cylinder is not None
    spread = layout.cylinder.axis.spread_um
    text = f"The spreads along the principal axes are {', '.join(f'{s:.0f}' for s in spread)} µm"
    if layout.cylinder.axis.certain:
        return check("axis", "ok", f"{text}: one stands out.")
    return check("axis", "warning", f"{text}: none stands out, so the map's axis may not be that of the screw.")


def _implant_on_faces(counts: dict[str, Counts]) -> np.ndarray:
    return np.asarray(counts["labels cut"]["on_faces"][:, list(IMPLANT)].sum(axis=1))


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "an unknown share"
