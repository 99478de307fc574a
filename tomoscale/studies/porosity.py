"""Porosity of bone: lacunae, canaliculi and canals as voids in labels, each of them measured (Silveira et al. 2023).

.. code-block:: text

    scan -> normalise -> segment -> labels -> 0 other, 1 void, 2 bone -> islands replaced -> voids closed
                                                   voids -> cells (26-connected) and their thickness -> numbers, report
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import tomoscale
from tomoscale.commands import normalise
from tomoscale.errors import InputError
from tomoscale.formats import Source, opened
from tomoscale.geometry import Grid, Spacing
from tomoscale.kernels.row_runs import Connectivity
from tomoscale.measures import fraction
from tomoscale.measures.thickness_histogram import filled, thickness_histogram
from tomoscale.objects.components import count_components
from tomoscale.objects.object_values import VOXELS, ObjectValues, joined, object_values
from tomoscale.objects.table import object_table
from tomoscale.objects.thickness import thickness
from tomoscale.places import local_path, replace_text
from tomoscale.plan import begun_block
from tomoscale.segmentation.segment import segment
from tomoscale.step import Measure
from tomoscale.studies.cell_list import Cells, write_cells
from tomoscale.studies.porosity_report import write_porosity_report
from tomoscale.studies.quantities import Number, quantity
from tomoscale.studies.sample import described, versions
from tomoscale.studies.tables import csv_text
from tomoscale.studies.voids import BONE, VOID, Settings, write_voids
from tomoscale.volume import Volume
from tomoscale.work import Work

SCHEMA = "tomoscale-porosity/1"
COLUMNS = ("symbol", "name", "value", "unit", "definition")
Labels = int | tuple[int, ...]


def porosity(  # noqa: PLR0913 -- what is void, and the sizes a paper must state
    source: Source,
    folder: str | Path,
    *,
    model: str | Path | None = None,
    any_voxel_size: bool = False,
    void: Labels = 0,
    bone: Labels = 3,
    island_voxels: int = 100,
    closing_radius_voxels: int = 1,
    min_cell_voxels: int = 100,
    connectivity: Connectivity = 26,
    work: Work | None = None,
) -> dict[str, Any] | None:
    """Measure the voids of bone: their part of it, each cell, and how thick they are.

    Islands of void or bone are replaced first and gaps of the voids closed then. A cell is a connected component of the
    voids of at least `min_cell_voxels` voxels: a lacuna with the canaliculi that reach it. Where the voxel size is not
    known all lengths are voxels, and results, tables and report say so.

    Parameters
    ----------
    source : Volume or path
        Labels; with `model` a scan, which is normalised and segmented first.
    folder : path
        For ``results.json``, ``porosity.csv``, ``cells.csv``, ``report.html``, the volumes made on the way, and records.
    model : path, optional
        Folder of a bundle.
    any_voxel_size : bool
        Go on where voxels are not of the size that the network was trained on.
    void, bone : int or tuple of int
        Labels of either; all others are left out.
    island_voxels : int
        Components of void or of bone with fewer voxels get the label around them; 0 replaces none.
    closing_radius_voxels : int
        Of the ball by which the voids are closed; only bone becomes void. 0 closes nothing.
    min_cell_voxels : int
        Smaller cells are left out of the table, not of the porosity.
    connectivity : 6, 18 or 26
        Of the voids and, for islands, of bone.
    work : Work, optional

    Returns
    -------
    dict
        The content of ``results.json``; None where only plans are shown.

    Raises
    ------
    ValueError
        If labels are missing or both void and bone, or a size is negative.
    InputError
        If the source holds no labels, or no voxel is void or bone.
    PlanError
        If the largest ball needs larger blocks than memory holds.
    """
    work, folder, given = work or Work(), local_path(folder), opened(source)
    settings = Settings(
        _labels(void), _labels(bone), island_voxels, closing_radius_voxels, min_cell_voxels, connectivity
    )
    labels = given if model is None else _segmented(given, folder, model, any_voxel_size, work)
    size = labels.voxel_size_um or (1.0, 1.0, 1.0)
    volumes = write_voids(labels, settings, folder, work)
    in_units = {name: replace(volume, voxel_size_um=size) for name, volume in volumes.items()}
    try:
        in_units["thickness"] = thickness(in_units["phases"], folder / "thickness.zarr", classes=(VOID,), work=work)
    except InputError as error:
        # The voxel size is known here, so that the void must fill the volume.
        raise InputError(
            f"every voxel of {labels.name} is void {settings.void} and none is bone {settings.bone}: give the labels of both"
        ) from error
    counts = work.measure(_measures(size, folder), in_units, folder / "measure")
    # Where only plans are shown no cells were made, and the phases or the labels answer in their place.
    numbered = next(v for v in (in_units["cells"], in_units["phases"]) if v.finished)
    objects = object_table(numbered, folder / "objects.csv", work=work)
    if counts is None:
        return None
    place, grid = folder / "measure" / "parts", Grid(given.shape, begun_block(folder / "measure") or given.shape)
    with joined(place / "cells", grid, count_components(folder / "cells.zarr")) as rows:
        cells = write_cells(objects, rows, folder / "cells.csv", min(size), labels.voxel_size_um is not None)
    phases = {name: _phases(place / name, grid) for name in ("raw", "phases")}
    if not phases["raw"][BONE - 1, VOXELS]:
        raise InputError(f"no voxel of {labels.name} is bone {settings.bone}, so there is no porosity: give its labels")
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "program": f"tomoscale {tomoscale.__version__}",
        "versions": versions(),
        "inputs": {"labels" if model is None else "grey": described(given)},
        "model": None if model is None else str(model),
        "parameters": {
            "voxel_size_um": None if labels.voxel_size_um is None else list(size),
            "void": list(settings.void),
            "bone": list(settings.bone),
            "island_voxels": island_voxels,
            "closing_radius_voxels": closing_radius_voxels,
            "min_cell_voxels": min_cell_voxels,
            "connectivity": connectivity,
        },
        "unit": "voxel" if labels.voxel_size_um is None else "µm",
        "quantities": _quantities(phases, cells, labels.voxel_size_um),
        "histograms": {
            "thickness": filled(counts["thickness histogram"], min(size)),
            "cell_volume": cells.histogram(float(np.prod(size))),
        },
        "largest_cells": cells.rows(),
        "caveats": _caveats(cells, labels.voxel_size_um),
        "runs": work.runs,
    }
    replace_text(folder / "results.json", json.dumps(content, indent=1, allow_nan=False))
    table = [COLUMNS, *([row[c] for c in COLUMNS] for row in content["quantities"])]
    replace_text(folder / "porosity.csv", csv_text(table))
    write_porosity_report(folder / "report.html", content, volumes["cells"])
    return content


def _labels(labels: Labels) -> tuple[int, ...]:
    return (labels,) if isinstance(labels, int) else tuple(labels)


def _segmented(scan: Volume, folder: Path, model: str | Path, any_voxel_size: bool, work: Work) -> Volume:
    normal = normalise(scan, folder / "normal.zarr", work=work)
    return segment(normal, folder / "labels.zarr", model=model, any_voxel_size=any_voxel_size, work=work)


def _measures(size: Spacing, folder: Path) -> tuple[Measure, ...]:
    edge, parts = min(size), folder / "measure" / "parts"
    return (
        thickness_histogram(edge),
        replace(object_values(parts / "raw", edge, objects="raw"), name="raw"),
        replace(object_values(parts / "phases", edge, objects="phases", values="thickness"), name="phases"),
        replace(object_values(parts / "cells", edge, objects="cells", values="thickness"), name="cells"),
    )


def _phases(folder: Path, grid: Grid) -> np.ndarray:
    """Rows of void and bone: (2, 6) int64."""
    with joined(folder, grid, BONE) as rows:
        return np.array(rows)


def _quantities(phases: Mapping[str, np.ndarray], cells: Cells, voxel_size_um: Spacing | None) -> list[dict[str, Any]]:
    known, size = voxel_size_um is not None, voxel_size_um or (1.0, 1.0, 1.0)
    unit, voxel = "µm" if known else "voxel", float(np.prod(size))
    after, before = (np.array([0, *phases[name][:, VOXELS]]) for name in ("phases", "raw"))
    void, bone = int(after[VOID]), int(after[BONE])
    thick = ObjectValues.of(phases["phases"], min(size))
    # Numbers per mm³ are what papers give; without a voxel size there is only the number per voxel.
    space = (void + bone) * voxel * (1e-9 if known else 1.0)
    rows = {
        "porosity": Number(
            "Po", fraction.porosity(after, void=VOID, bone=BONE), "", "void over void and bone", void, void + bone
        ),
        "void to bone": Number(
            "V/B",
            fraction.void_to_bone(after, void=VOID, bone=BONE),
            "",
            "void over bone, as Silveira et al. 2023 print",
            void,
            bone,
        ),
        "porosity before cleaning": Number(
            "Po_raw",
            fraction.porosity(before, void=VOID, bone=BONE),
            "",
            "the same of the labels as given",
            int(before[VOID]),
            int(before[VOID] + before[BONE]),
        ),
        "void volume": Number("V", void * voxel, f"{unit}³", "voxels of void times their volume", void * voxel),
        "bone volume": Number("BV", bone * voxel, f"{unit}³", "voxels of bone times their volume", bone * voxel),
        "cells": Number("N", cells.n, "", "connected components of the void, small ones left out", cells.n),
        "cells cut by the border": Number(
            "N_cut", cells.cut, "", "cells that touch the border of the volume", cells.cut
        ),
        "cell density": Number(
            "N.Dn",
            cells.n / space if space else np.nan,
            "1/mm³" if known else "1/voxel³",
            "cells over void and bone",
            cells.n,
            space,
        ),
        "cell volume, mean": Number("Lc.V", cells.mean_voxels * voxel, f"{unit}³", "mean over cells"),
        "cell volume, standard deviation": Number("Lc.V.SD", cells.deviation_voxels * voxel, f"{unit}³", "over cells"),
    }
    for name, symbol, value in (
        ("mean", "Th", thick.mean),
        ("standard deviation", "Th.SD", thick.deviation),
        ("maximum", "Th.max", thick.largest),
    ):
        definition = "over the voxels of void, of the diameter of the largest ball in it"
        rows[f"void thickness, {name}"] = Number(symbol, float(value[VOID - 1]), unit, definition)
    return [quantity(name, number) for name, number in rows.items()]


def _caveats(cells: Cells, voxel_size_um: Spacing | None) -> list[str]:
    texts = []
    if voxel_size_um is None:
        texts.append(
            "The voxel size is not known: all lengths are in voxels, also where thickness.zarr says micrometres."
        )
    elif len(set(voxel_size_um)) > 1:
        texts.append(
            "Voxels are not cubes, and closing takes balls of voxels: it reaches farther along the longer edge."
        )
    if cells.cut:
        texts.append(
            f"{cells.cut} of {cells.n} cells are cut by the border of the volume: their volumes are too small."
        )
    return texts
