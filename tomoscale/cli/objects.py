"""Commands on what needs the whole volume: components, islands, holes, distances, thickness."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tomoscale.cli import values
from tomoscale.cli.command import SOURCE, TARGET, Command, flag, option

if TYPE_CHECKING:
    from tomoscale.volume import Volume
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
    help="voxels that share a face, an edge or a corner hang together (default 26)",
)
MULTILABEL = flag("--multilabel", "only neighbours of equal label hang together; else all classes are one object")


def _components(source: Any, target: Path, *, work: Work, **how: Any) -> Volume:
    from tomoscale.objects.components import components

    return components(source, target, work=work, **how)


def _remove_small(source: Any, target: Path, *, work: Work, **how: Any) -> Volume:
    from tomoscale.objects.filters import remove_small

    return remove_small(source, target, work=work, **how)


def _keep_largest(source: Any, target: Path, *, work: Work, **how: Any) -> Volume:
    from tomoscale.objects.filters import keep_largest

    return keep_largest(source, target, work=work, **how)


def _replace_islands(source: Any, target: Path, *, work: Work, **how: Any) -> Volume:
    from tomoscale.objects.filters import replace_islands

    return replace_islands(source, target, work=work, **how)


def _fill_holes(source: Any, target: Path, *, work: Work, **how: Any) -> Volume:
    from tomoscale.objects.filters import fill_holes

    return fill_holes(source, target, work=work, **how)


def _distance(source: Any, target: Path, *, work: Work, **how: Any) -> Volume:
    from tomoscale.objects.distance import distance

    return distance(source, target, work=work, **how)


def _thickness(source: Any, target: Path, *, work: Work, **how: Any) -> Volume:
    from tomoscale.objects.thickness import thickness

    return thickness(source, target, work=work, **how)


def _command(name: str, text: str, example: str, run: Any, *options: Any) -> Command:
    return Command(name, text, f"tomoscale {example}", run, (SOURCE, TARGET, *options), works=True, step=True)


COMMANDS = (
    _command(
        "components",
        "number the connected components of labels or a mask",
        "components clean.zarr objects.zarr --classes 3",
        _components,
        CLASSES,
        CONNECTIVITY,
        MULTILABEL,
    ),
    _command(
        "remove-small",
        "remove objects that are smaller than a number of voxels",
        "remove-small clean.zarr large.zarr --min-voxels 100",
        _remove_small,
        option("--min-voxels", type=values.positive, required=True, metavar="N", help="size from which on they stay"),
        CLASSES,
        CONNECTIVITY,
        MULTILABEL,
    ),
    _command(
        "keep-largest",
        "keep the largest objects alone",
        "keep-largest clean.zarr bone.zarr --classes 3",
        _keep_largest,
        option("--number", dest="n", type=values.positive, default=1, metavar="N", help="how many stay (default 1)"),
        CLASSES,
        CONNECTIVITY,
        MULTILABEL,
    ),
    _command(
        "replace-islands",
        "give small islands of labels the label that surrounds them most",
        "replace-islands labels.zarr clean.zarr --min-voxels 100",
        _replace_islands,
        option(
            "--min-voxels",
            type=values.positive,
            default=100,
            metavar="N",
            help="size from which on they stay (default 100)",
        ),
        CLASSES,
        CONNECTIVITY,
    ),
    _command(
        "fill-holes",
        "fill the holes of an object that do not reach the border",
        "fill-holes clean.zarr filled.zarr --classes 3",
        _fill_holes,
        CLASSES,
        CONNECTIVITY,
    ),
    _command(
        "distance",
        "write the exact distance of every voxel to an object, in micrometres",
        "distance clean.zarr far.zarr --classes 1,2",
        _distance,
        CLASSES,
        flag("--inside", "the distance of the object's voxels to what lies outside it instead"),
    ),
    _command(
        "thickness",
        "write the local thickness of an object, in micrometres",
        "thickness clean.zarr thickness.zarr --classes 3",
        _thickness,
        CLASSES,
        flag("--outside", "the thickness of all that is not of the object (separation)"),
        option(
            "--correction",
            choices=("none", "half_voxel"),
            default="none",
            help="half_voxel takes a voxel off each diameter (default none)",
        ),
        option(
            "--max-radius",
            dest="max_radius_um",
            type=values.length,
            metavar="LENGTH",
            help="cut larger balls to this radius, such as 200um",
        ),
    ),
)
