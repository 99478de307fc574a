"""Commands that flood: watershed, splitting of objects that touch, semi-automatic labels, and what they are prepared with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tomoscale.cli import values
from tomoscale.cli.command import SOURCE, TARGET, Command, flag, lazily, option
from tomoscale.cli.objects import CLASSES, CONNECTIVITY
from tomoscale.cli.results import of_volume

if TYPE_CHECKING:
    from tomoscale.volume import Volume
    from tomoscale.work import Work

SIGMA = option(
    "--sigma",
    dest="sigma_um",
    type=values.length,
    metavar="LENGTH",
    help="of the Gaussian whose derivative is the gradient, such as 10um (default: the longest edge of a voxel)",
)


def _watershed(source: Any, markers: Any, target: Path, *, work: Work, **how: Any) -> Any:
    from tomoscale.objects.watershed import watershed

    return _with_figures(watershed(source, markers, target, work=work, **how), target, work)


def _split(source: Any, target: Path, *, work: Work, **how: Any) -> Any:
    from tomoscale.objects.splitting import split_touching

    return _with_figures(split_touching(source, target, work=work, **how), target, work)


def _with_figures(volume: Volume, target: Path, work: Work) -> Any:
    """Describe the volume, and what its flooding found; steps that are only planned need the volume itself."""
    from tomoscale.objects.watershed import watershed_figures

    return volume if work.plan_only else {**of_volume(volume), **watershed_figures(target)}


def _semi_automatic(  # noqa: PLR0913 -- markers are painted, or made of ranges
    source: Any,
    target: Path,
    *,
    work: Work,
    markers: Any,
    metal: Any,
    layer: Any,
    rest: Any,
    min_marker_voxels: int,
    **how: Any,
) -> Any:
    from tomoscale.objects.semi_automatic import Seeds, semi_automatic, threshold_used

    given = {"--metal": metal, "--layer": layer, "--rest": rest}
    missing = [name for name, value in given.items() if value is None]
    if markers is None and missing:
        raise ValueError(f"{', '.join(missing)} missing: give grey ranges of all three, or painted --markers")
    if markers is not None and len(missing) < len(given):
        raise ValueError("--markers are painted already, so grey ranges of markers say nothing: give one or the other")
    seeds = Seeds(metal, layer, rest, min_marker_voxels) if markers is None else markers
    volume = semi_automatic(source, target, markers=seeds, work=work, **how)
    return volume if work.plan_only else {**of_volume(volume), "bone_above": threshold_used(target)}


def _thresholds(source: Any, record: Path, *, work: Work, **how: Any) -> Any:
    from tomoscale.objects.semi_automatic import grey_thresholds

    return {"thresholds": list(grey_thresholds(source, record, work=work, **how))}


def _command(name: str, text: str, example: str, run: Any, *options: Any) -> Command:
    return Command(name, text, f"tomoscale {example}", run, options, works=True, step=True)


COMMANDS = (
    _command(
        "watershed",
        "flood a relief from markers; the result is that of the whole volume, whatever the blocks",
        "watershed steep.zarr objects.zarr basins.zarr --mask clean.zarr",
        _watershed,
        option("source", type=values.input_path, help="the relief: a gradient, or with --descending a distance"),
        option("markers", type=values.input_path, help="labels to flood from, 0 where there is none"),
        TARGET,
        option("--mask", type=values.input_path, metavar="PATH", help="labels or a mask: where water may flow"),
        option(
            "--mask-classes",
            type=values.numbers,
            metavar="N,N,...",
            help="labels of the mask (default: all but 0)",
        ),
        flag("--descending", "flood from the highest values down"),
        CONNECTIVITY,
    ),
    _command(
        "split",
        "split objects that touch where they are narrowest, and number the parts",
        "split clean.zarr parts.zarr --classes 3 --min-depth 10um",
        _split,
        SOURCE,
        TARGET,
        CLASSES,
        option(
            "--min-depth",
            dest="min_depth_um",
            type=values.length,
            metavar="LENGTH",
            help="how much narrower than both parts a neck is, as a radius (default: the longest edge of a voxel)",
        ),
        CONNECTIVITY,
    ),
    _command(
        "semi-automatic",
        "label metal and degradation layer by watershed from grey ranges, and bone by a threshold",
        "semi-automatic scan.zarr truth.zarr --metal 30000:34000 --layer 40000:44000 --rest :20000,60000:",
        _semi_automatic,
        SOURCE,
        TARGET,
        option(
            "--metal",
            type=values.ranges,
            metavar="LOW:HIGH,...",
            help="grey values that are residual metal for sure: above LOW and not above HIGH",
        ),
        option(
            "--layer",
            type=values.ranges,
            metavar="LOW:HIGH,...",
            help="grey values that are degradation layer for sure",
        ),
        option(
            "--rest", type=values.ranges, metavar="LOW:HIGH,...", help="grey values that are neither: bone, background"
        ),
        option(
            "--min-marker-voxels",
            type=values.positive,
            default=1,
            metavar="N",
            help="size from which on a piece of such voxels is a marker (default 1)",
        ),
        option(
            "--markers",
            type=values.input_path,
            metavar="PATH",
            help="markers as painted instead: 1 metal, 2 layer, 3 neither, 0 not known",
        ),
        SIGMA,
        option(
            "--bone-above",
            type=values.number,
            metavar="GREY",
            help="threshold of bone (default: Otsu's, of all voxels that are neither metal nor layer)",
        ),
    ),
    _command(
        "gradient",
        "write how steep the grey values of a scan are: a relief to flood",
        "gradient scan.zarr steep.zarr --sigma 10um",
        lazily("objects.semi_automatic", "gradient"),
        SOURCE,
        TARGET,
        SIGMA,
    ),
    _command(
        "thresholds",
        "find thresholds between two or more classes of grey values (Otsu), from all voxels",
        "thresholds scan.zarr scan.thresholds --number 3",
        _thresholds,
        SOURCE,
        option("record", type=values.output_path, help="folder for the histogram"),
        option("--number", dest="n_classes", type=values.positive, default=2, metavar="N", help="classes (default 2)"),
    ),
)
