"""Rows of the table of an implant study: each number with its unit and definition, beside that of the truth.

Lopes Marinho et al. 2024 ("S1"), equations 1 to 6; Baltruschat et al. 2021 ("S2"), equations 1 to 6; their misprints
are named in the definitions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tomoscale.commands import CLASSES
from tomoscale.errors import InputError
from tomoscale.measures import contact, fraction, overlap
from tomoscale.measures.grey_figures import Moments, cnr, snr
from tomoscale.measures.topology import object_volume, surface_area
from tomoscale.step import Counts
from tomoscale.studies.counting import BONE, GAPS_VOXELS, IMPLANT, LAYER, METAL, Layout

Roi = Literal["reference_dilated", "reference_shell", "implant_shell"]
Denominator = Literal["root_sum_square", "pooled", "background"]

MEANS: dict[Literal["s1_all4", "s2_foreground3"], str] = {
    "s1_all4": "four classes, background included",
    "s2_foreground3": "three classes without background",
}
ROIS: dict[Roi, tuple[str, str, str]] = {
    "reference_dilated": (
        "bone fraction around the reference",
        "BV/TV",
        "bone over bone and background within the distance of the screw as implanted, its inside included (S1 eq. 6)",
    ),
    "reference_shell": (
        "bone fraction outside the reference",
        "BV/TV_shell",
        "bone over bone and background within the distance of the screw as implanted, its inside left out",
    ),
    "implant_shell": (
        "bone fraction around the degraded implant",
        "BV/TV_implant",
        "bone over all voxels within the distance of residual metal and degradation layer, these left out (S2 eq. 3)",
    ),
}
NOISES: dict[Denominator, str] = {
    "root_sum_square": "the root of the summed variances",
    "pooled": "the root of the mean variance",
    "background": "the standard deviation of the background",
}


@dataclass(frozen=True)
class Number:
    """A number of one label volume.

    Attributes
    ----------
    symbol : str
    value : float
        NaN where it is not defined.
    unit, definition : str
    above, below : float or None
        Sums whose quotient it is; `above` alone for a sum. Over several samples these add, where that has a meaning.
    """

    symbol: str
    value: float
    unit: str
    definition: str
    above: float | None = None
    below: float | None = None


def regions_asked(roi: Roi | Sequence[Roi]) -> tuple[Roi, ...]:
    """Regions of interest as a tuple; raises ValueError at one that is not known."""
    rois: tuple[Roi, ...] = (roi,) if isinstance(roi, str) else tuple(roi)
    for r in rois:
        if r not in ROIS:
            raise ValueError(f"roi must be of {', '.join(ROIS)}, got {r!r}")
    return rois


def quantities_of(
    counts: dict[str, Counts], layout: Layout, healing_days: float | None, rois: Sequence[Roi]
) -> list[dict[str, Any]]:
    """Every number the counts allow, beside that of the truth where there is one."""
    rows = overlap_quantities(counts["labels"]["confusion"]) if "truth" in counts else []
    mine = numbers_of(counts, "labels", layout, healing_days, rois)
    true = numbers_of(counts, "truth", layout, healing_days, rois) if "truth" in counts else {}
    return rows + [quantity(name, number, true[name].value if name in true else None) for name, number in mine.items()]


def quantity(name: str, number: Number, truth: float | None = None) -> dict[str, Any]:
    """One row of the table; numbers that do not exist are null."""
    error = None if truth is None else overlap.relative_error(number.value, truth)
    row = {
        "name": name,
        "symbol": number.symbol,
        "value": number.value,
        "truth": truth,
        "relative_error": error,
        "unit": number.unit,
        "definition": number.definition,
        "sums": None if number.above is None else [number.above, number.below],
    }
    return {k: finite(v) for k, v in row.items()}


def finite(value: Any) -> Any:
    """Null instead of what JSON has no number for."""
    return None if isinstance(value, float) and not np.isfinite(value) else value


def overlap_quantities(confusion: np.ndarray) -> list[dict[str, Any]]:
    """IoU and Dice of each class, and the two means that the papers call mIoU."""
    hits = np.diag(confusion)
    both = confusion.sum(axis=0) + confusion.sum(axis=1)
    rows = []
    for text, values, above, below, formula in (
        ("IoU", overlap.iou(confusion), hits, both - hits, "TP / (TP + FP + FN)"),
        ("Dice", overlap.dice(confusion), 2 * hits, both, "2 TP / (2 TP + FP + FN)"),
    ):
        for c in CLASSES:
            k = c.value
            number = Number(f"{text}_{k}", float(values[k]), "", formula, int(above[k]), int(below[k]))
            rows.append(quantity(f"{text} {c.name}", number))
    for preset, text in MEANS.items():
        symbol = "mIoU" if preset == "s1_all4" else "mIoU_foreground"
        rows.append(
            quantity(
                f"mean IoU, {text}", Number(symbol, overlap.mean_iou(confusion, preset), "", f"mean IoU over {text}")
            )
        )
    return rows


def numbers_of(
    counts: dict[str, Counts], name: str, layout: Layout, healing_days: float | None, rois: Sequence[Roi]
) -> dict[str, Number]:
    """Numbers of one label volume by name."""
    numbers = contact_numbers(counts, name, layout)
    n_voxels = counts[name]["confusion"].sum(axis=0)
    voxel_mm3 = float(np.prod(layout.voxel_size_um)) * 1e-9
    for c in CLASSES[1:]:
        volume = float(n_voxels[c.value]) * voxel_mm3
        numbers[f"volume of {c.name}"] = Number(f"V_{c.value}", volume, "mm³", "voxels times their volume", volume)
    for roi in rois:
        row = region_counts(counts, name, roi)
        if row is not None:
            title, symbol, definition = ROIS[roi]
            if layout.edges_um:
                definition = definition.replace(
                    "within the distance of", f"within {layout.edges_um[-1] / 1000:g} mm of"
                )
            bone, void = int(row[BONE]) * voxel_mm3, int(row[0]) * voxel_mm3
            value = fraction.bone_fraction(row, bone=BONE, background=0)
            numbers[title] = Number(symbol, value, "", definition, bone, bone + void)
    if "reference" in counts and healing_days is not None:
        numbers |= degradation(counts, int(n_voxels[METAL]), layout, healing_days)
    return numbers


def contact_numbers(counts: dict[str, Counts], name: str, layout: Layout) -> dict[str, Number]:
    """Bone-implant contact by faces and by voxels, and of the outer surface where it was counted."""
    area = contact.contact_area(counts[name]["faces"], layout.voxel_size_um)[list(IMPLANT)].sum(axis=0)
    voxels = counts[f"{name} surface"]["touching_voxels"][0]
    outer = _outer_contact(counts[f"{name} outer"]["faces"], layout) if f"{name} outer" in counts else {}
    return {
        "bone-implant contact, faces": Number(
            "BIC",
            contact.bic_faces(counts[name]["faces"], layout.voxel_size_um, implant=IMPLANT, bone=BONE),
            "",
            "voxel faces between implant and bone over those between implant and bone or background; cut faces are none "
            "(S1 eq. 5)",
            float(area[BONE]),
            float(area[BONE] + area[0]),
        ),
        "bone-implant contact, voxels": Number(
            "BIC_v",
            contact.bic_voxels({"touching_voxels": voxels}),
            "",
            "implant voxels with a bone neighbour over those with a bone or background neighbour (S2 eq. 2)",
            int(voxels[0]),
            int(voxels[1]),
        ),
        **outer,
    }


def _outer_contact(faces: np.ndarray, layout: Layout) -> dict[str, Number]:
    """Contact by faces of an implant whose holes were filled."""
    area = contact.contact_area(faces, layout.voxel_size_um)[list(IMPLANT)].sum(axis=0)
    value = contact.bic_faces(faces, layout.voxel_size_um, implant=IMPLANT, bone=BONE)
    definition = (
        "as by faces, of the implant with its holes filled: cracks and pores that it encloses, from which no chain of other "
        "voxels, joined by corners too, leads to the border of the volume, are no surface"
    )
    bone, both = float(area[BONE]), float(area[BONE] + area[0])
    return {"bone-implant contact, outer surface": Number("BIC_outer", value, "", definition, bone, both)}


def region_counts(counts: dict[str, Counts], name: str, roi: Roi) -> np.ndarray | None:
    """Voxels of each class in a region of interest: (n_classes,); None where it was not counted."""
    if roi == "implant_shell":
        region = counts.get(f"{name} region")
        return None if region is None else np.asarray(region["roi"][1])
    table = counts[name].get("roi")
    if table is None:
        return None
    return np.asarray(table[1 if roi == "reference_shell" else 0 : -1].sum(axis=0))


def degradation(counts: dict[str, Counts], n_metal: int, layout: Layout, healing_days: float) -> dict[str, Number]:
    """Degradation rate by both definitions of the initial surface."""
    cells, size = counts["reference"]["configurations"], layout.voxel_size_um
    initial, residual = object_volume(cells, size), n_metal * float(np.prod(size))
    crofton = surface_area(cells, size)
    if not crofton > 0:
        raise InputError(
            "the reference has no surface inside the volume, so there is no degradation rate: give the mask of the screw as "
            "implanted, or leave out the healing time"
        )
    areas = {"degradation rate": ("DR", crofton, "Crofton surface in 13 directions")}
    if layout.is_isotropic:
        found = {"surface_voxels": counts["reference surface"]["touching_voxels"][0, 1:]}
        area = contact.surface_area_of_voxels(found, size)
        areas["degradation rate, surface voxels"] = ("DR_v", area, "surface voxels times their face, as S1 has it")
    return {
        name: Number(
            symbol,
            contact.degradation_rate(initial, residual, area, healing_days),
            "mm/year",
            f"(initial minus residual metal volume) / (initial surface x {healing_days:g} days), S1 eq. 4 (S2 eq. 1 prints a "
            f"product with time); initial surface: {text}",
        )
        for name, (symbol, area, text) in areas.items()
    }


def grey_quantities(found: Moments, denominator: Denominator = "root_sum_square") -> list[dict[str, Any]]:
    """Signal and contrast to noise of the interiors of the classes."""
    inside = "2 voxels inside"
    rows = [
        quantity(
            f"signal to noise, {c.name}",
            Number(f"SNR_{c.value}", snr(found, c.value), "", f"mean over standard deviation, {inside}"),
        )
        for c in CLASSES
    ]
    for one, other in ((BONE, LAYER), (METAL, LAYER), (BONE, 0)):
        names = f"{CLASSES[one].name} and {CLASSES[other].name}"
        definition = f"difference of means over {NOISES[denominator]}, {inside}"
        number = Number(f"CNR_{one}{other}", cnr(found, one, other, denominator), "", definition)
        rows.append(quantity(f"contrast to noise, {names}", number))
    return rows


def bone_fractions(counts: dict[str, Counts], clipped: dict[Roi, float | None]) -> list[dict[str, Any]]:
    """Bone fraction by every region that was counted, with the voxels it is made of."""
    rows = []
    for roi, (name, symbol, definition) in ROIS.items():
        if region_counts(counts, "labels", roi) is None:
            continue
        row: dict[str, Any] = {"roi": roi, "name": name, "symbol": symbol, "definition": definition}
        row |= {"value": None, "truth": None, "clipped_fraction": clipped.get(roi)}
        row["voxels"] = {}
        for column, volume in (("value", "labels"), ("truth", "truth")):
            n = region_counts(counts, volume, roi) if volume in counts else None
            if n is not None:
                row[column] = finite(fraction.bone_fraction(n, bone=BONE, background=0))
                row["voxels"][volume] = {
                    "n_bone": int(n[BONE]),
                    "n_background": int(n[0]),
                    "n_excluded": int(n[list(IMPLANT)].sum()),
                }
        rows.append(row)
    return rows


def gap_tolerance(counts: dict[str, Counts], layout: Layout) -> list[dict[str, Any]]:
    """Bone-implant contact by faces where background up to so many voxels from bone counts as bone."""
    rows = []
    for g, gap in enumerate(GAPS_VOXELS):
        row: dict[str, Any] = {"gap_voxels": gap, "value": None, "truth": None}
        for column, name in (("value", "labels"), ("truth", "truth")):
            if name in counts:
                faces = {"touching_faces": counts[f"{name} surface"]["touching_faces"][g]}
                row[column] = finite(contact.bic_touching_faces(faces, layout.voxel_size_um))
        rows.append(row)
    return rows
