"""What an implant study measures of a labelled scan, in one pass over the volumes it shares.

IoU and Dice against truth, the degradation rate by both definitions of the initial surface, bone-implant contact by
faces and by voxels, the bone fraction around the screw as implanted, and signal and contrast to noise (Lopes Marinho et
al. 2024, equations 1 to 6; Baltruschat et al. 2021, equations 1 to 6; their misprints are named in the definitions).
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

import tomoscale
from tomoscale.commands import CLASSES, Source, opened
from tomoscale.errors import InputError
from tomoscale.geometry import Spacing
from tomoscale.kernels.distance import within_distance
from tomoscale.ledger import replace_text
from tomoscale.measures import contact, fraction, overlap
from tomoscale.measures.intensity import Moments, Population, cnr, label_moments, moments, snr
from tomoscale.measures.pairs import label_counts
from tomoscale.measures.topology import configurations, object_volume, surface_area
from tomoscale.refusals import check_agreement
from tomoscale.step import Counts, Measure
from tomoscale.volume import Volume
from tomoscale.work import Work

METAL, LAYER, BONE = 1, 2, 3
IMPLANT = (METAL, LAYER)
MEANS: dict[Literal["s1_all4", "s2_foreground3"], str] = {
    "s1_all4": "four classes, background included",
    "s2_foreground3": "three classes without background",
}
SIDES = ("z low", "z high", "y low", "y high", "x low", "x high")
N_CLASSES = 4


def measure(  # noqa: PLR0913 -- each volume is optional and brings its own numbers
    labels: Source,
    results: str | Path,
    *,
    truth: Source | None = None,
    reference: Source | None = None,
    grey: Source | None = None,
    healing_days: float | None = None,
    roi_distance_um: float = 1000.0,
    work: Work | None = None,
) -> dict[str, Any] | None:
    """Measure labels 0 background, 1 residual metal, 2 degradation layer, 3 bone.

    Parameters
    ----------
    labels : Volume or path
    results : path
        Folder for ``results.json``, the region of interest and the record of the run.
    truth : Volume or path, optional
        Labels to compare with: brings IoU, Dice, and every other number of the truth beside that of the labels.
    reference : Volume or path, optional
        Mask of the screw as implanted, cut to the same section: brings degradation rate and bone fraction.
    grey : Volume or path, optional
        Grey values: brings signal and contrast to noise.
    healing_days : float, optional
        Needed for the degradation rate.
    roi_distance_um : float
        The region around the reference in which bone counts; 1 mm in the papers.
    work : Work, optional

    Returns
    -------
    dict
        The content of ``results.json``; None where only plans are shown.

    Raises
    ------
    InputError
        If shapes or voxel sizes disagree, the voxel size is not known, or labels are out of range.
    """
    work, folder = work or Work(), Path(results)
    given = {"labels": labels, "truth": truth, "reference": reference, "grey": grey}
    volumes = {name: opened(source) for name, source in given.items() if source is not None}
    check_agreement(volumes)
    voxel_size = next((v.voxel_size_um for v in volumes.values() if v.voxel_size_um), None)
    if voxel_size is None:
        raise InputError(f"{volumes['labels'].name} does not say how large a voxel is: convert it with --voxel-size")
    if healing_days is not None and healing_days <= 0:
        raise InputError(f"the healing time must be positive, got {healing_days} days")
    if "reference" in volumes:
        roi_kernel = within_distance(roi_distance_um, voxel_size)
        volumes["roi"] = work.map(roi_kernel, volumes["reference"], folder / "roi.zarr", kind="mask")
    counts = work.measure(measures_of(volumes, voxel_size), volumes, folder / "measure")
    if counts is None:
        return None
    isotropic = len(set(voxel_size)) == 1
    quantities = quantities_of(counts, voxel_size, healing_days, isotropic)
    caveats = caveats_of(counts, isotropic)
    if "grey" in volumes and "grey" not in counts:
        caveats.append("Grey values are not integers: signal and contrast to noise were not measured.")
    if "grey" in counts:
        quantities += grey_quantities(moments(grey_population(volumes["grey"]), counts["grey"]))
    content = {
        "program": f"tomoscale {tomoscale.__version__}",
        "inputs": {name: described(v) for name, v in volumes.items()},
        "classes": [
            {"id": c.value, "name": c.name, "color": "#{:02x}{:02x}{:02x}".format(*c.rgba[:3])} for c in CLASSES
        ],
        "parameters": {
            "healing_days": healing_days,
            "roi_distance_um": roi_distance_um,
            "voxel_size_um": list(voxel_size),
        },
        "quantities": quantities,
        **({"confusion": {"counts": counts["labels"]["confusion"].tolist()}} if "truth" in volumes else {}),
        "caveats": caveats,
        "runs": work.runs,
    }
    replace_text(folder / "results.json", json.dumps(content, indent=1))
    return content


def measures_of(volumes: dict[str, Volume], voxel_size: Spacing) -> tuple[Measure, ...]:
    """Everything that can be counted of the volumes given, in one pass."""
    regions = 2 if "roi" in volumes else None
    wanted = []
    for name, other in (("labels", "truth"), ("truth", "labels")):
        if name not in volumes:
            continue
        # A label volume without a truth is compared with itself, which costs nothing: its words are already at hand.
        pair = (other if other in volumes else name, name)
        counted = label_counts(N_CLASSES, regions)
        wanted.append(replace(counted, name=name, inputs=(*pair, "roi") if regions else pair))
        touching = contact.touching_voxels(IMPLANT, BONE)
        wanted.append(replace(touching, name=f"{name} touching", inputs=(name,)))
    if "reference" in volumes:
        wanted.append(replace(configurations(), name="reference", inputs=("reference",)))
        wanted.append(replace(contact.surface_voxels(), name="reference surface", inputs=("reference",)))
        wanted.append(replace(fraction.cut_by_edge(), name="reference cut", inputs=("reference",)))
        wanted.append(replace(fraction.cut_by_edge(), name="roi cut"))
    if "grey" in volumes and volumes["grey"].dtype.kind in "iu":
        wanted.append(replace(label_moments(grey_population(volumes["grey"])), name="grey"))
    return tuple(wanted)


def grey_population(grey: Volume) -> Population:
    """Interior voxels of each class: partial-volume voxels would inflate the deviation."""
    return Population(grey.dtype.name, n_classes=N_CLASSES, interior_voxels=2)


def quantities_of(
    counts: dict[str, Counts], voxel_size: Spacing, healing_days: float | None, isotropic: bool
) -> list[dict[str, Any]]:
    """Every number the counts allow, beside that of the truth where there is one."""
    quantities = overlap_quantities(counts["labels"]["confusion"]) if "truth" in counts else []
    mine = numbers_of(counts, "labels", voxel_size, healing_days, isotropic)
    true = numbers_of(counts, "truth", voxel_size, healing_days, isotropic) if "truth" in counts else {}
    for name, (symbol, value, unit, definition) in mine.items():
        reference = true[name][1] if name in true else None
        quantities.append(quantity(name, symbol, value, unit, definition, reference))
    return quantities


def quantity(
    name: str, symbol: str, value: float, unit: str, definition: str, truth: float | None = None
) -> dict[str, Any]:
    """One row of the table; numbers that do not exist are null."""
    error = None if truth is None else overlap.relative_error(value, truth)
    row = {"name": name, "symbol": symbol, "value": value, "truth": truth, "relative_error": error}
    finite = {k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in row.items()}
    return {**finite, "unit": unit, "definition": definition}


def overlap_quantities(confusion: np.ndarray) -> list[dict[str, Any]]:
    """IoU and Dice of each class, and the two means that the papers call mIoU."""
    iou, dice = overlap.iou(confusion), overlap.dice(confusion)
    rows = [
        quantity(f"IoU {c.name}", f"IoU_{c.value}", float(iou[c.value]), "", "TP / (TP + FP + FN)") for c in CLASSES
    ]
    rows += [
        quantity(f"Dice {c.name}", f"Dice_{c.value}", float(dice[c.value]), "", "2 TP / (2 TP + FP + FN)")
        for c in CLASSES
    ]
    for preset, text in MEANS.items():
        rows.append(quantity(f"mean IoU, {text}", "mIoU", overlap.mean_iou(confusion, preset), "", f"mean over {text}"))
    return rows


def numbers_of(
    counts: dict[str, Counts], name: str, voxel_size: Spacing, healing_days: float | None, isotropic: bool
) -> dict[str, tuple[str, float, str, str]]:
    """Numbers of one label volume: (symbol, value, unit, definition) by name."""
    faces, touching = counts[name]["faces"], counts[f"{name} touching"]
    confusion = counts[name]["confusion"]
    n_voxels = confusion.sum(axis=0)
    voxel_mm3 = float(np.prod(voxel_size)) * 1e-9
    numbers = {
        "bone-implant contact, faces": (
            "BIC",
            contact.bic_faces(faces, voxel_size, implant=IMPLANT, bone=BONE),
            "",
            "voxel faces between implant and bone over those between implant and bone or background; cut faces are none",
        ),
        "bone-implant contact, voxels": (
            "BIC_v",
            contact.bic_voxels(touching),
            "",
            "implant voxels with a bone neighbour over those with a bone or background neighbour",
        ),
    }
    for c in CLASSES[1:]:
        numbers[f"volume of {c.name}"] = (
            f"V_{c.value}",
            float(n_voxels[c.value]) * voxel_mm3,
            "mm³",
            "voxels times their volume",
        )
    if "roi" in counts[name]:
        numbers["bone fraction around the reference"] = (
            "BV/TV",
            fraction.bone_fraction(counts[name]["roi"][1], bone=BONE, background=0),
            "",
            "bone over bone and background within the distance of the screw as implanted, its inside included",
        )
    if "reference" in counts and healing_days is not None:
        numbers |= degradation(counts, int(n_voxels[METAL]), voxel_size, healing_days, isotropic)
    return numbers


def degradation(
    counts: dict[str, Counts], n_metal: int, voxel_size: Spacing, healing_days: float, isotropic: bool
) -> dict[str, tuple[str, float, str, str]]:
    """Degradation rate by both definitions of the initial surface."""
    cells = counts["reference"]["configurations"]
    initial = object_volume(cells, voxel_size)
    residual = n_metal * float(np.prod(voxel_size))
    if not surface_area(cells, voxel_size) > 0:
        raise InputError(
            "the reference has no surface inside the volume, so there is no degradation rate: give the mask of the screw as "
            "implanted, or leave out the healing time"
        )
    areas = {"dr": ("degradation rate", surface_area(cells, voxel_size), "Crofton surface in 13 directions")}
    if isotropic:
        area = contact.surface_area_of_voxels(counts["reference surface"], voxel_size)
        areas["dr_surface_voxels"] = ("degradation rate, surface voxels", area, "surface voxels times their face")
    return {
        name: (
            symbol,
            contact.degradation_rate(initial, residual, area, healing_days),
            "mm/year",
            f"(initial minus residual metal volume) / (initial surface x time); surface: {text}",
        )
        for symbol, (name, area, text) in areas.items()
    }


def grey_quantities(found: Moments) -> list[dict[str, Any]]:
    """Signal and contrast to noise of the interiors of the classes."""
    rows = [
        quantity(
            f"signal to noise, {c.name}",
            f"SNR_{c.value}",
            snr(found, c.value),
            "",
            "mean over deviation, 2 voxels inside",
        )
        for c in CLASSES
    ]
    for one, other in ((BONE, LAYER), (METAL, LAYER), (BONE, 0)):
        names = f"{CLASSES[one].name} and {CLASSES[other].name}"
        definition = "difference of means over the root of the summed variances"
        rows.append(quantity(f"contrast to noise, {names}", "CNR", cnr(found, one, other), "", definition))
    return rows


def described(volume: Volume) -> dict[str, Any]:
    """What a report says of a volume."""
    return {
        "name": Path(volume.name).name,
        "path": volume.name,
        "shape": list(volume.shape),
        "dtype": volume.dtype.name,
        "voxel_size_um": None if volume.voxel_size_um is None else list(volume.voxel_size_um),
    }


def caveats_of(counts: dict[str, Counts], isotropic: bool) -> list[str]:
    """What a reader of the numbers must know."""
    caveats = ["Faces on the edge of the volume are not counted as surface: there the implant is cut, not exposed."]
    if "reference cut" in counts:
        cut = counts["reference cut"]["cut"]
        sides = [f"{side} ({n} voxels)" for side, n in zip(SIDES, cut.tolist(), strict=True) if n]
        if sides:
            caveats.append(
                f"The reference screw is cut by the field of view at {', '.join(sides)}: its surface there is not counted."
            )
        cut = counts["roi cut"]["cut"]
        sides = [side for side, n in zip(SIDES, cut.tolist(), strict=True) if n]
        if sides:
            caveats.append(
                f"The region around the reference is cut by the field of view at {', '.join(sides)}: bone beyond is unknown."
            )
    if not isotropic:
        caveats.append("Voxels are not cubes: the degradation rate by surface voxels is not defined and left out.")
    caveats.append(
        "One voxel of background between implant and bone ends contact there: compare only scans of one voxel size."
    )
    return caveats


def table(results: dict[str, Any]) -> dict[str, str]:
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
