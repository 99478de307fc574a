"""What a study measures of one labelled scan, in one pass over the volumes it shares."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

import tomoscale
from tomoscale.commands import CLASSES
from tomoscale.errors import InputError
from tomoscale.formats import Source, opened
from tomoscale.geometry import Spacing
from tomoscale.measures.class_histogram import centres
from tomoscale.measures.cylinder import cylinder_around
from tomoscale.measures.grey_figures import moments
from tomoscale.measures.inertia import Axis, axis_of, inertia
from tomoscale.objects.filters import fill_holes
from tomoscale.places import local_path, replace_text
from tomoscale.refusals import check_agreement
from tomoscale.step import Counts
from tomoscale.studies import quantities as rows
from tomoscale.studies.checks import checks_of, clipped_fraction, clipped_fractions, sides_with
from tomoscale.studies.counting import BONE, IMPLANT, LAYER, Layout, grey_population, measures_of
from tomoscale.studies.inputs import voxel_size_of
from tomoscale.studies.quantities import NOISES, Denominator, Roi, regions_asked
from tomoscale.studies.regions import shell_edges, shells_around, surroundings
from tomoscale.studies.tables import results_csv
from tomoscale.volume import Volume
from tomoscale.work import Work

PACKAGES = ("numpy", "scipy", "numba", "zarr", "tensorstore", "dask", "torch")


def measure(  # noqa: PLR0913 -- each volume is optional and brings its own numbers
    labels: Source,
    results: str | Path,
    *,
    truth: Source | None = None,
    reference: Source | None = None,
    grey: Source | None = None,
    healing_days: float | None = None,
    roi_distance_um: float = 1000.0,
    roi: Roi | Sequence[Roi] = ("reference_dilated",),
    cnr_denominator: Denominator = "root_sum_square",
    outer_contact: bool = False,
    model: Mapping[str, Any] | None = None,
    work: Work | None = None,
) -> dict[str, Any] | None:
    """Measure labels 0 background, 1 residual metal, 2 degradation layer, 3 bone.

    Parameters
    ----------
    labels : Volume or path
    results : path
        Folder for ``results.json``, ``results.csv``, the regions of interest and the record of the run.
    truth : Volume or path, optional
        Labels to compare with: brings IoU, Dice, and every other number of the truth beside that of the labels.
    reference : Volume or path, optional
        Mask of the screw as implanted, cut to the same section: brings degradation rate, bone fraction and profile.
    grey : Volume or path, optional
        Grey values: brings signal and contrast to noise, and a histogram.
    healing_days : float, optional
        Needed for the degradation rate.
    roi_distance_um : float
        The region around the reference in which bone counts; 1 mm in the papers.
    roi : str or sequence of str
        Regions of the bone fraction in the table: "reference_dilated" (Lopes Marinho et al. 2024), "reference_shell"
        (without the inside of the reference), "implant_shell" (around the degraded implant, Baltruschat et al. 2021; takes
        another pass).
    cnr_denominator : str
        Noise of the contrast to noise: "root_sum_square", "pooled" or "background".
    outer_contact : bool
        Also the contact of the outer surface, without cracks that the implant encloses; takes two more passes.
    model : mapping, optional
        What made the labels, as JSON values, for the record.
    work : Work, optional

    Returns
    -------
    dict
        The content of ``results.json``; None where only plans are shown.

    Raises
    ------
    ValueError
        If a region or a denominator is not known.
    InputError
        If shapes or voxel sizes disagree, the voxel size is not known, or labels are out of range.
    """
    work, folder = work or Work(), local_path(results)
    rois = regions_asked(roi)
    if cnr_denominator not in NOISES:
        raise ValueError(f"cnr_denominator must be one of {', '.join(NOISES)}, got {cnr_denominator!r}")
    given = {"labels": labels, "truth": truth, "reference": reference, "grey": grey}
    volumes = {name: opened(source) for name, source in given.items() if source is not None}
    check_agreement(volumes)
    size = voxel_size_of(volumes)
    volumes = {name: replace(volume, voxel_size_um=size) for name, volume in volumes.items()}
    if healing_days is not None and healing_days <= 0:
        raise InputError(f"the healing time must be positive, got {healing_days} days")
    layout = _laid_out(volumes, size, roi_distance_um, folder, work)
    measured = {**volumes, **_regions(volumes, layout, roi_distance_um, rois, folder, work)}
    if outer_contact:
        measured |= _without_holes(volumes, folder, work)
    counts = work.measure(measures_of(measured, layout), measured, folder / "measure")
    if counts is None:
        return None
    parameters = {
        "healing_days": healing_days,
        "roi_distance_um": roi_distance_um,
        "voxel_size_um": list(size),
        "roi": list(rois),
        "cnr_denominator": cnr_denominator,
        "outer_contact": outer_contact,
    }
    content = {
        "program": f"tomoscale {tomoscale.__version__}",
        "versions": versions(),
        "inputs": {name: described(v) for name, v in volumes.items()},
        "model": dict(model or {}),
        "classes": [
            {"id": c.value, "name": c.name, "color": "#{:02x}{:02x}{:02x}".format(*c.rgba[:3])} for c in CLASSES
        ],
        "parameters": parameters,
        **_found(counts, volumes, layout, healing_days, rois),
        "runs": work.runs,
    }
    if "grey" in counts:
        found = moments(grey_population(volumes["grey"]), counts["grey"])
        content["quantities"] += rows.grey_quantities(found, cnr_denominator)
    replace_text(folder / "results.json", json.dumps(content, indent=1, allow_nan=False))
    replace_text(folder / "results.csv", results_csv(content["quantities"]))
    return content


def described(volume: Volume) -> dict[str, Any]:
    """What a report says of a volume; the digest changes when its voxels do."""
    identity = json.dumps(volume.identity(), sort_keys=True)
    return {
        "name": Path(volume.name).name,
        "path": volume.name,
        "shape": list(volume.shape),
        "dtype": volume.dtype.name,
        "voxel_size_um": None if volume.voxel_size_um is None else list(volume.voxel_size_um),
        "digest": f"sha256:{hashlib.sha256(identity.encode()).hexdigest()}",
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the packages whose arithmetic the numbers rest on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _laid_out(volumes: dict[str, Volume], size: Spacing, distance_um: float, folder: Path, work: Work) -> Layout:
    """Shells, and the axis of the reference, or of the implant where there is none; its moments take a pass of their own."""
    name, classes = ("reference", None) if "reference" in volumes else ("labels", IMPLANT)
    found = work.measure((inertia(classes, name=name),), {name: volumes[name]}, folder / "axis")
    # Where only plans are shown, any axis will do.
    axis = Axis((0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (1.0, 1.0, 1.0), True) if found is None else axis_of(found, size)
    cylinder = None if axis is None else cylinder_around(axis, volumes["labels"].shape, size)
    return Layout(size, shell_edges(distance_um, size) if "reference" in volumes else (), cylinder)


def _regions(
    volumes: dict[str, Volume], layout: Layout, distance_um: float, rois: tuple[Roi, ...], folder: Path, work: Work
) -> dict[str, Volume]:
    """Volumes that say where bone counts."""
    regions = {}
    if "reference" in volumes:
        regions["shells"] = shells_around(volumes["reference"], layout.edges_um, folder / "shells.zarr", work)
    if "implant_shell" in rois:
        for name in ("labels", "truth"):
            if name in volumes:
                target = folder / f"{name}_region.zarr"
                regions[f"{name} region"] = surroundings(volumes[name], IMPLANT, distance_um, target, work)
    return regions


def _without_holes(volumes: dict[str, Volume], folder: Path, work: Work) -> dict[str, Volume]:
    """Labels and truth with the holes of the implant filled; where only plans are shown, the labels in their place."""
    filled = {}
    for name in ("labels", "truth"):
        if name in volumes:
            # What is around a 6-connected object is joined by corners too.
            how: dict[str, Any] = {"connectivity": 6, "classes": IMPLANT, "value": LAYER}
            made = fill_holes(volumes[name], folder / f"{name}_outer.zarr", work=work, **how)
            filled[f"{name} outer"] = made if made.finished else volumes[name]
    return filled


def _found(
    counts: dict[str, Counts],
    volumes: dict[str, Volume],
    layout: Layout,
    healing_days: float | None,
    rois: tuple[Roi, ...],
) -> dict[str, Any]:
    """Everything in the results that follows from the counts."""
    found: dict[str, Any] = {"quantities": rows.quantities_of(counts, layout, healing_days, rois)}
    if "truth" in counts:
        found["confusion"] = {"counts": counts["labels"]["confusion"].tolist()}
    fractions = rows.bone_fractions(counts, clipped_fractions(counts, layout))
    if fractions:
        found["bone_fractions"] = fractions
    if "reference" in counts:
        found["profile"] = _profile(counts, layout)
    if layout.cylinder is not None:
        found["contact_map"] = _contact_map(counts, layout)
    found["gap_tolerance"] = rows.gap_tolerance(counts, layout)
    if "grey histogram" in counts:
        found["histogram"] = _histogram(counts["grey histogram"]["histogram"], volumes["grey"].dtype.name)
    found["checks"] = checks_of(counts, layout)
    found["caveats"] = _caveats(counts, volumes, layout)
    return found


def _profile(counts: dict[str, Counts], layout: Layout) -> dict[str, Any]:
    """Voxels by distance from the reference, shell by shell."""
    profile: dict[str, Any] = {"edges_um": [0.0, *layout.edges_um]}
    for name in ("labels", "truth"):
        if name in counts:
            table = counts[name]["roi"][1:-1]
            profile[name] = {
                "bone": table[:, BONE].tolist(),
                "background": table[:, 0].tolist(),
                "implant": table[:, list(IMPLANT)].sum(axis=1).tolist(),
            }
    return profile


def _contact_map(counts: dict[str, Counts], layout: Layout) -> dict[str, Any]:
    """Faces of the implant to bone and to background, unrolled; steps beyond both ends of the implant are left out."""
    assert layout.cylinder is not None
    maps = {name: counts[f"{name} surface"]["map"] for name in ("labels", "truth") if name in counts}
    filled = np.flatnonzero(sum(table.sum(axis=(1, 2)) for table in maps.values()))
    kept = slice(int(filled[0]), int(filled[-1]) + 1) if filled.size else slice(0, 1)
    axis = layout.cylinder.axis
    return {
        "along_um": layout.cylinder.along_um[kept.start : kept.stop + 1],
        "angle_deg": layout.cylinder.angle_deg,
        "centre_um": list(axis.centre_um),
        "direction": list(axis.direction),
        **{name: {"bone": t[kept, :, 0].tolist(), "free": t[kept, :, 1].tolist()} for name, t in maps.items()},
    }


def _histogram(table: np.ndarray, dtype: str) -> dict[str, Any]:
    """Grey values by class, from the first to the last bin that is filled."""
    counts = table.sum(axis=0)
    filled = np.flatnonzero(counts)
    kept = slice(int(filled[0]), int(filled[-1]) + 1) if filled.size else slice(0, 1)
    return {
        "centres": centres(dtype)[kept].tolist(),
        "counts": counts[kept].tolist(),
        "classes": {c.name: table[c.value, kept].tolist() for c in CLASSES},
        "unit": "grey value",
    }


def _caveats(counts: dict[str, Counts], volumes: dict[str, Volume], layout: Layout) -> list[str]:
    """What a reader of the numbers must know."""
    caveats = ["Faces on the edge of the volume are not counted as surface: there the implant is cut, not exposed."]
    if "shells cut" in counts:
        on_faces = counts["shells cut"]["on_faces"]
        if on_faces[:, 0].any():
            sides = sides_with(on_faces[:, 0])
            caveats.append(
                f"The reference screw is cut by the field of view at {sides}: its surface there is not counted."
            )
        sides = sides_with(on_faces[:, :-1].any(axis=1))
        if sides:
            clipped = clipped_fraction(counts, layout)
            share = f", in at least about {clipped:.1%} of the region" if clipped else ""
            caveats.append(
                f"The region around the reference is cut by the field of view at {sides}: bone beyond is unknown{share}."
            )
    if not layout.is_isotropic:
        caveats.append("Voxels are not cubes: the degradation rate by surface voxels is not defined and left out.")
    caveats.append(
        "One voxel of background between implant and bone ends contact there: compare only scans of one voxel size, and "
        "see how contact depends on the gap tolerated."
    )
    if "grey" in volumes and "grey" not in counts:
        caveats.append("Grey values are not integers: signal and contrast to noise were not measured.")
    return caveats
