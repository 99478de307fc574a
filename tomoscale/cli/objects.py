"""Commands on what needs the whole volume: components, islands, holes, distances, thickness, tables, studies of bone."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tomoscale.cli import found, values
from tomoscale.cli.command import ARCHITECTURE_MODULE, SOURCE, TARGET, Command, flag, lazily, option
from tomoscale.cli.found import finding
from tomoscale.cli.volume_options import ANY_VOXEL_SIZE, MODEL

if TYPE_CHECKING:
    from tomoscale.work import Work

CLASSES = option(
    "--classes",
    type=values.numbers,
    metavar="N,N,...",
    help="labels of the object (default: all but 0)",
)
CONNECTIVITY = option(
    "--connectivity",
    type=int,
    choices=(6, 18, 26),
    default=26,
    help="voxels are connected if they share a face (6), an edge too (18), or a corner too (26, default)",
)
CORRECTION = option(
    "--correction",
    choices=("none", "half_voxel"),
    default="none",
    help="half_voxel takes a voxel off each diameter (default none)",
)
CLEANUP = option(
    "--cleanup",
    choices=("none", "fiji"),
    default="none",
    help="fiji: surface voxels get the mean of their inner neighbours, as in Fiji and BoneJ (default none)",
)
MAX_RADIUS = option(
    "--max-radius",
    dest="max_radius_um",
    type=values.length,
    metavar="LENGTH",
    help="cut larger balls to this radius, such as 200um",
)
MULTILABEL = flag("--multilabel", "only neighbours of equal label are connected; else all classes are one object")


def _object_table(source: Any, target: Path, *, work: Work) -> dict[str, Path] | None:
    from tomoscale.objects.table import object_table

    table = object_table(source, target, work=work)
    return None if work.plan_only else {"table": table}


def _morphometry_table(content: dict[str, Any]) -> dict[str, str]:
    from tomoscale.studies.morphometry import table

    return table(content)


def _porosity_table(content: dict[str, Any]) -> dict[str, str]:
    rows = content["quantities"]
    return {q["name"]: "not defined" if q["value"] is None else f"{q['value']:.4g} {q['unit']}".rstrip() for q in rows}


def _command(name: str, text: str, example: str, run: Any, *options: Any) -> Command:
    made, show = (SOURCE, TARGET, *options), found.with_warnings
    return Command(name, text, f"tomoscale {example}", run, made, works=True, step=True, show=show)


COMMANDS = (
    _command(
        "components",
        "number the connected components of labels or a mask",
        "components clean.zarr objects.zarr --classes 3",
        finding(lazily("objects.components", "components"), found.of_components),
        CLASSES,
        CONNECTIVITY,
        MULTILABEL,
    ),
    _command(
        "remove-small",
        "remove objects that are smaller than a number of voxels",
        "remove-small clean.zarr large.zarr --min-voxels 100",
        finding(lazily("objects.filters", "remove_small"), found.of_filter),
        option("--min-voxels", type=values.positive, required=True, metavar="N", help="smallest size that is kept"),
        CLASSES,
        CONNECTIVITY,
        MULTILABEL,
    ),
    _command(
        "keep-largest",
        "keep the largest objects alone",
        "keep-largest clean.zarr bone.zarr --classes 3",
        finding(lazily("objects.filters", "keep_largest"), found.of_filter),
        option("--number", dest="n", type=values.positive, default=1, metavar="N", help="how many stay (default 1)"),
        CLASSES,
        CONNECTIVITY,
        MULTILABEL,
    ),
    _command(
        "replace-islands",
        "give small islands of labels the label that surrounds them most",
        "replace-islands labels.zarr clean.zarr --min-voxels 100",
        finding(lazily("objects.filters", "replace_islands"), found.of_filter),
        option(
            "--min-voxels",
            type=values.positive,
            default=100,
            metavar="N",
            help="smallest size that is kept (default 100)",
        ),
        CLASSES,
        CONNECTIVITY,
    ),
    _command(
        "fill-holes",
        "fill the holes of an object that do not reach the border",
        "fill-holes clean.zarr filled.zarr --classes 3",
        finding(lazily("objects.filters", "fill_holes"), found.of_holes),
        CLASSES,
        CONNECTIVITY,
    ),
    _command(
        "distance",
        "write the exact distance of every voxel to an object, in micrometres",
        "distance clean.zarr far.zarr --classes 1,2",
        finding(lazily("objects.distance", "distance"), found.of_distance),
        CLASSES,
        flag("--inside", "the distance of the object's voxels to what lies outside it instead"),
    ),
    _command(
        "thickness",
        "write the local thickness of an object, in micrometres",
        "thickness clean.zarr thickness.zarr --classes 3",
        finding(lazily("objects.thickness", "thickness"), found.of_thickness),
        CLASSES,
        flag("--outside", "the thickness of all that is not of the object (separation)"),
        CORRECTION,
        CLEANUP,
        MAX_RADIUS,
    ),
    Command(
        "object-table",
        "write a table of all objects: size, box, centroid, axes, surface",
        "tomoscale object-table objects.zarr objects.csv",
        _object_table,
        (
            option("source", type=values.input_path, help="labels, such as `tomoscale components` makes"),
            option("target", type=values.output_path, help="the table: .csv, or .parquet (extra `parquet`)"),
        ),
        works=True,
        step=True,
    ),
    Command(
        "study morphometry",
        "measure bone: volume, surface, thickness, separation, connectivity, anisotropy, porosity",
        "tomoscale study morphometry clean.zarr bone/ --max-radius 500um",
        lazily("studies.morphometry", "morphometry"),
        (
            option("labels", type=values.input_path, help="labels or a mask"),
            option("folder", type=values.output_path, help="for the numbers, the maps and the records of the passes"),
            option(
                "--bone",
                type=values.numbers,
                metavar="N,N,...",
                help="labels of bone (default: 3, and of a mask all but 0)",
            ),
            option("--voi", type=values.input_path, metavar="PATH", help="mask of the volume of interest"),
            CORRECTION,
            CLEANUP,
            MAX_RADIUS,
            option(
                "--mid-axes",
                action=argparse.BooleanOptionalAction,
                default=True,
                help="distance between mid-axes, for the direct trabecular number (default yes)",
            ),
            option(
                "--purify",
                action=argparse.BooleanOptionalAction,
                default=True,
                help="connectivity of the largest piece of bone, its cavities filled (default yes)",
            ),
        ),
        works=True,
        step=True,
        show=_morphometry_table,
    ),
    Command(
        "study porosity",
        "measure the voids of bone: porosity, and each cell with its volume and thickness",
        "tomoscale study porosity clean.zarr voids/ --bone 3 --void 0",
        lazily("studies.porosity", "porosity"),
        (
            option("source", type=values.input_path, help="labels, or with --model a scan"),
            option("folder", type=values.output_path, help="for the numbers, the tables and the report"),
            MODEL,
            ANY_VOXEL_SIZE,
            ARCHITECTURE_MODULE,
            option("--void", type=values.numbers, default=(0,), metavar="N,N,...", help="labels of voids (default 0)"),
            option("--bone", type=values.numbers, default=(3,), metavar="N,N,...", help="labels of bone (default 3)"),
            option(
                "--island-voxels",
                type=values.natural,
                default=100,
                metavar="N",
                help="smaller islands get the label around them; 0 keeps all (default 100)",
            ),
            option(
                "--closing-radius",
                dest="closing_radius_voxels",
                type=values.natural,
                default=1,
                metavar="VOXELS",
                help="of the ball by which voids are closed; 0 closes nothing (default 1)",
            ),
            option(
                "--min-cell-voxels",
                type=values.positive,
                default=100,
                metavar="N",
                help="size from which on a void is a cell (default 100)",
            ),
            CONNECTIVITY,
        ),
        works=True,
        step=True,
        show=_porosity_table,
    ),
)
