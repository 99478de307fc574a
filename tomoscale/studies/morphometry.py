"""Bone morphometry: the numbers of a trabecular or cortical region, with the settings that must stand beside them.

Symbols and units are those of Bouxsein et al., J. Bone Miner. Res. 25 (2010) 1468.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import tomoscale
from tomoscale.errors import InputError
from tomoscale.formats import Source, opened
from tomoscale.geometry import Grid, Spacing
from tomoscale.measures.intercepts import intercepts
from tomoscale.measures.thickness_histogram import filled, thickness_histogram
from tomoscale.measures.topology import configurations
from tomoscale.objects.components import components, count_components
from tomoscale.objects.distance import known_voxel_size
from tomoscale.objects.filters import fill_holes, keep_largest
from tomoscale.objects.object_values import OUTER, VOXELS, ObjectValues, joined, object_values
from tomoscale.objects.thickness import Cleanup, Correction, check_conventions, mid_axes, thickness
from tomoscale.places import local_path, replace_text
from tomoscale.plan import begun_block, ledger_folder
from tomoscale.plan_record import read_plan
from tomoscale.refusals import check_agreement
from tomoscale.step import Measure
from tomoscale.studies.bone_numbers import MAPS, Found, axes_of, caveats, conventions, numbers_of
from tomoscale.studies.phases import ABSENT, AXES, BONE, SPACE, Phases, write_phases
from tomoscale.studies.quantities import quantity
from tomoscale.studies.sample import described, versions
from tomoscale.studies.tables import csv_text
from tomoscale.volume import Volume
from tomoscale.work import Work

SCHEMA = "tomoscale-morphometry/1"
COLUMNS = ("symbol", "name", "value", "unit", "definition")
_OVER = {"thickness": "phases", "separation": "phases", "spacing": "between"}
"""Labels over which the mean of a map is taken."""
_AT_ONCE = 2**16


@dataclass(frozen=True)
class Settings:
    """What is measured and how; a paper states all of it."""

    bone: tuple[int, ...] | None
    correction: Correction
    cleanup: Cleanup
    max_radius_um: float | None
    purify: bool
    mid_axes: bool


def morphometry(  # noqa: PLR0913 -- what is bone, where, and the conventions a paper must state
    labels: Source,
    folder: str | Path,
    *,
    bone: tuple[int, ...] | None = None,
    voi: Source | None = None,
    correction: Correction = "none",
    cleanup: Cleanup = "none",
    max_radius_um: float | None = None,
    purify: bool = True,
    mid_axes: bool = True,
    work: Work | None = None,
) -> dict[str, Any] | None:
    """Measure the bone of a label volume, or of a mask, in a volume of interest.

    Parameters
    ----------
    labels : Volume or path
        Labels or a mask.
    folder : path
        For ``results.json``, ``morphometry.csv``, the maps of thickness and separation, and the records of the passes.
    bone : tuple of int or None
        Labels of bone; None for label 3, and for all but 0 of a mask.
    voi : Volume or path, optional
        Not 0 in the volume of interest, on the grid of the labels; else all of the volume is.
    correction : "none" or "half_voxel"
        Of thickness and separation, see `tomoscale.objects.thickness`.
    cleanup : "none" or "fiji"
        Of thickness and separation, see there.
    max_radius_um : float, optional
        Larger balls are cut to this radius: for wide spaces that memory cannot take.
    purify : bool
        Connectivity of the largest piece of bone, its closed cavities filled; else of all bone as it is.
    mid_axes : bool
        Find the mid-axes of bone and the distance between them, for the direct trabecular number; this takes as long as
        thickness and separation together.
    work : Work, optional

    Returns
    -------
    dict
        The content of ``results.json``; None where only plans are shown.

    Raises
    ------
    InputError
        If the voxel size is not known, the volumes are no labels or disagree, or there is no bone or no space; for grey
        values of which none is named as bone.
    ValueError
        If `bone` names no label, or half a voxel or Fiji's clean-up is asked for on voxels that are no cubes.
    PlanError
        If the largest ball needs larger blocks than memory holds.
    """
    work, folder = work or Work(), local_path(folder)
    given = {"labels": opened(labels), **({} if voi is None else {"voi": opened(voi)})}
    check_agreement(given)
    size = known_voxel_size(given["labels"])
    check_conventions(size, correction, cleanup)
    is_mask = given["labels"].kind == "mask" or given["labels"].dtype.kind == "b"
    if bone is None and given["labels"].kind == "grey" and given["labels"].dtype.kind != "f":
        raise InputError(
            f"{given['labels'].name} holds grey values, of which none is known to be bone: make a mask with `tomoscale "
            "threshold`, or name the labels of bone, such as bone=(3,)"
        )
    chosen = bone if bone is not None or is_mask else (3,)
    if chosen is not None and (not chosen or 0 in chosen or len(set(chosen)) != len(chosen)):
        raise ValueError(f"bone must name at least one label, none twice and not 0, got {chosen}")
    settings = Settings(chosen, correction, cleanup, max_radius_um, purify, mid_axes)
    volumes = _written(given, settings, folder, work)
    maps = tuple(name for name in MAPS if name in volumes)
    counts = work.measure(_measures(size, folder, maps), volumes, folder / "measure")
    if counts is None:
        return None
    phases = volumes["phases"]
    over = {name: ObjectValues.of(_rows(folder, name, phases, BONE), min(size)) for name in maps}
    found = Found(counts, size, over, _closed_voxels(folder, phases))
    content = _content(given, settings, found, work)
    replace_text(folder / "results.json", json.dumps(content, indent=1, allow_nan=False))
    table = [COLUMNS, *([row[c] for c in COLUMNS] for row in content["quantities"])]
    replace_text(folder / "morphometry.csv", csv_text(table))
    return content


def table(content: Mapping[str, Any]) -> dict[str, str]:
    """Numbers in words, by symbol, for the command line."""
    words = {}
    for row in content["quantities"]:
        value = "not defined" if row["value"] is None else f"{row['value']:.4g}"
        words[row["symbol"]] = f"{value}{' ' * bool(row['unit'])}{row['unit']}   {row['name']}"
    return words


def _written(given: Mapping[str, Volume], settings: Settings, folder: Path, work: Work) -> dict[str, Volume]:
    """Volumes that one pass then measures, by the names of its inputs."""
    source = Phases(given["labels"], given.get("voi"), settings.bone)
    written = write_phases(source, folder / "phases.zarr", work)
    phases = _standing(written, Volume(source, source.labels.voxel_size_um))
    maps = {
        name: _map(phases, folder / f"{name}.zarr", phase, settings, work)
        for name, phase in (("thickness", BONE), ("separation", SPACE))
    }
    if settings.mid_axes:
        maps |= _spacing(phases, folder, settings, work)
    # Bone is connected by corners, so what is around it is connected by faces.
    pores = components(phases, folder / "pores.zarr", connectivity=6, classes=(SPACE,), work=work)
    pure = phases
    if settings.purify:
        largest = keep_largest(phases, folder / "largest.zarr", connectivity=26, classes=(BONE,), work=work)
        largest = _standing(largest, phases)
        pure = fill_holes(largest, folder / "purified.zarr", connectivity=26, classes=(BONE,), value=BONE, work=work)
    return {"phases": phases, **maps, "pores": pores, "purified": pure}


def _map(phases: Volume, target: Path, phase: int, settings: Settings, work: Work) -> Volume:
    """Thickness of one phase."""
    how: dict[str, Any] = {"correction": settings.correction, "cleanup": settings.cleanup}
    try:
        return thickness(phases, target, classes=(phase,), max_radius_um=settings.max_radius_um, **how, work=work)
    except InputError as error:
        # The voxel size is known, so that the phase must fill the volume.
        only, none = ("bone", "space") if phase == BONE else ("space", "bone")
        chosen = "all but 0" if settings.bone is None else settings.bone
        raise InputError(
            f"every voxel of the labels is {only} and none is {none}, where bone is {chosen}: give the labels of bone, or a "
            "volume that holds both"
        ) from error


def _spacing(phases: Volume, folder: Path, settings: Settings, work: Work) -> dict[str, Volume]:
    """What lies between the mid-axes of bone, and its thickness: the distance between them."""
    cut = settings.max_radius_um
    axes = mid_axes(phases, folder / "mid_axes.zarr", classes=(BONE,), max_radius_um=cut, work=work)
    # The mid-axes take the place of bone, in the same region.
    source = Phases(_standing(axes, phases), phases, None)
    between = write_phases(source, folder / "between.zarr", work, AXES)
    between = _standing(between, phases)
    # Nothing is taken off: a mid-axis has no thickness.
    spacing = thickness(between, folder / "spacing.zarr", classes=(SPACE,), max_radius_um=cut, work=work)
    return {"between": between, "spacing": spacing}


def _standing(volume: Volume, instead: Volume) -> Volume:
    """Volume that a plan can ask what it is: where only plans are shown it was not made, and another of its kind answers."""
    return volume if volume.finished else instead


def _measures(size: Spacing, folder: Path, maps: tuple[str, ...]) -> tuple[Measure, ...]:
    """Everything that is counted, in one pass."""
    edge, parts = min(size), folder / "measure" / "parts"
    return (
        *(
            replace(configurations(classes), name=name, inputs=("phases",))
            for name, classes in (("bone", (BONE,)), ("space", (SPACE,)), ("region", (SPACE, BONE)))
        ),
        replace(configurations((BONE,)), name="purified", inputs=("purified",)),
        intercepts((BONE,), ABSENT, name="phases"),
        *(replace(thickness_histogram(edge, name=name), name=f"{name} histogram") for name in maps),
        *(
            replace(object_values(parts / name, edge, objects=_OVER[name], values=name), name=f"{name} values")
            for name in maps
        ),
        replace(object_values(parts / "pores", edge, objects="pores", absent="phases"), name="pores"),
    )


def _grid(folder: Path, volume: Volume) -> Grid:
    """Blocks of the pass that measured."""
    return Grid(volume.shape, begun_block(folder / "measure") or volume.shape)


def _rows(folder: Path, name: str, phases: Volume, n: int) -> np.ndarray:
    with joined(folder / "measure" / "parts" / name, _grid(folder, phases), n) as rows:
        return np.array(rows)


def _closed_voxels(folder: Path, phases: Volume) -> int:
    """Voxels of the space that bone closes off from the border of the volume and from the outside of the region."""
    closed = 0
    with joined(
        folder / "measure" / "parts" / "pores", _grid(folder, phases), count_components(folder / "pores.zarr")
    ) as rows:
        for start in range(0, len(rows), _AT_ONCE):
            part = np.array(rows[start : start + _AT_ONCE])
            closed += int(part[part[:, OUTER] == 0, VOXELS].sum())
    return closed


def _made_by(volume: Volume) -> dict[str, Any] | None:
    """Steps that made a volume of ours, with their parameters, such as the threshold; None of others."""
    folder = ledger_folder(volume)
    made = folder is not None and (folder / "plan.json").exists()
    return dict(read_plan(folder)["step"]) if folder is not None and made else None


def _content(given: Mapping[str, Volume], settings: Settings, found: Found, work: Work) -> dict[str, Any]:
    edge = min(found.voxel_size_um)
    return {
        "schema": SCHEMA,
        "program": f"tomoscale {tomoscale.__version__}",
        "versions": versions(),
        "inputs": {name: {**described(v), "made_by": _made_by(v)} for name, v in given.items()},
        "parameters": {
            "voxel_size_um": list(found.voxel_size_um),
            "voi": "voi" if "voi" in given else "whole volume",
            "bone": "all but 0" if settings.bone is None else list(settings.bone),
            "correction": settings.correction,
            "cleanup": settings.cleanup,
            "max_radius_um": settings.max_radius_um,
            "purify": settings.purify,
            "mid_axes": settings.mid_axes,
        },
        "conventions": conventions(settings.correction, settings.cleanup),
        "quantities": [quantity(name, number) for name, number in numbers_of(found, "voi" in given).items()],
        "histograms": {name: filled(found.counts[f"{name} histogram"], edge) for name in found.over},
        "anisotropy": axes_of(found),
        "caveats": caveats(found, "voi" in given, settings.max_radius_um),
        "runs": work.runs,
    }
