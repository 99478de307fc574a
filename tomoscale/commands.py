"""The commands as functions: each plans its passes and runs them in order; volumes on disk are the state between.

A path is Python code like any other::

    with working("processes") as work:
        scan = convert("slices/", "scan.zarr", voxel_size_um=5.0, work=work)
        normal = normalise(scan, "normal.zarr", work=work)
        labels = segment(normal, "labels.zarr", work=work)
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tomoscale.errors import InputError, PlanError
from tomoscale.formats import Source, open_volume, opened
from tomoscale.formats.raw_layout import RawLayout
from tomoscale.geometry import Spacing
from tomoscale.json_files import read_json
from tomoscale.kernels.filters import cast, clip_and_scale
from tomoscale.kernels.majority import majority
from tomoscale.kernels.scaling import standardise
from tomoscale.measures.population import Population
from tomoscale.networks.card import Normalisation
from tomoscale.normalisation import scaling_of
from tomoscale.places import Place, local_path, place
from tomoscale.volume import Kind, LabelClass, Volume
from tomoscale.work import Work

if TYPE_CHECKING:
    from tomoscale.report.written import Report


CLASSES = (
    LabelClass(0, "background", (0, 0, 0, 0)),
    LabelClass(1, "residual metal", (74, 144, 217, 255)),
    LabelClass(2, "degradation layer", (245, 166, 61, 255)),
    LabelClass(3, "bone", (238, 238, 238, 255)),
)
"""The label code of the papers: implant = residual metal and degradation layer."""
MOST_LABELS = 256
"""Labels among which a vote is held, named or not."""


def convert(  # noqa: PLR0913 -- what a foreign file does not say must be said
    source: Source,
    target: str | Place,
    *,
    voxel_size_um: float | Spacing | None = None,
    dataset: str | None = None,
    raw: RawLayout | None = None,
    kind: Kind | None = None,
    nan_policy: Literal["refuse", "zero"] = "refuse",
    work: Work | None = None,
) -> Volume:
    """Turn a file of any format that `open_volume` reads, or a phantom, into a chunked OME-Zarr volume.

    Parameters
    ----------
    source : Volume or path
    target : path
    voxel_size_um : (z, y, x) or one length
        Needed where the source does not say; it must agree where it does.
    dataset : str
        Inside an HDF5 or MATLAB file.
    raw : RawLayout
        Shape and type of a file that holds nothing but voxels.
    kind : "grey", "labels" or "mask"
        What the voxels are; None takes what the source says, which is "grey" for foreign files. Labels have the names
        that the source gives them, and no others.
    nan_policy : "refuse" or "zero"
        What becomes of NaN and infinite values.
    work : Work or None

    Returns
    -------
    Volume
        Of the source's shape and dtype.

    Raises
    ------
    InputError
        If the source cannot be read, its voxel size is not known, or it holds values that are refused.
    """
    work = work or Work()
    volume = (
        source
        if isinstance(source, Volume)
        else open_volume(source, voxel_size_um=voxel_size_um, dataset=dataset, raw=raw)
    )
    if volume.voxel_size_um is None:
        raise InputError(
            f"{volume.name} does not say how large a voxel is, and it is never guessed: give it, such as voxel_size_um=5.0"
        )
    return work.map(cast(volume.dtype, nan_policy), volume, target, kind=kind or volume.kind, classes=volume.classes)


def normalise(  # noqa: PLR0913 -- what is scaled, how, and which voxels say how
    source: Source,
    target: str | Place,
    *,
    scheme: Literal["percentiles", "zscore"] = "percentiles",
    percentiles_percent: tuple[float, float] = (0.5, 99.9),
    exclude_zeros: bool = False,
    disc: bool = False,
    work: Work | None = None,
) -> Volume:
    """Scale the grey values of a volume by exact numbers of all its voxels, in float32.

    Percentiles and moments are those of the whole volume, never of a block: blocks would differ in grey. They are kept
    beside the target (``NAME.histogram``).

    Parameters
    ----------
    source : Volume or path
    target : path
    scheme : "percentiles" or "zscore"
        Clip at two percentiles and scale to 0..1 (Baltruschat et al. 2021); or take the mean off and divide by the
        standard deviation, as nnU-Net does.
    percentiles_percent : (low, high)
        For "percentiles".
    exclude_zeros : bool
        Leave exact zeros out of the numbers; a rim filled with zeros otherwise pulls the low percentile to 0.
    disc : bool
        Only voxels inside the disc inscribed in a slice count.
    work : Work or None

    Returns
    -------
    Volume
        float32.

    Raises
    ------
    ValueError
        If the percentiles are not ordered within 0..100.
    InputError
        If both percentiles are one value, or no voxel counts: there is nothing to scale.
    """
    work = work or Work()
    how = Normalisation(scheme, percentiles_percent)
    volume = opened(source)
    population = Population(volume.dtype.name, exclude_zeros=exclude_zeros, disc=disc)
    scaling = scaling_of(volume, how, place(target).with_suffix(".histogram"), work, population)
    if scheme == "zscore":
        kernel = standardise(scaling)
    else:
        assert scaling.low is not None
        assert scaling.high is not None
        kernel = clip_and_scale(scaling.low, scaling.high)
    return work.map(kernel, volume, target, kind="grey")


def clean(source: Source, target: str | Place, *, radius_voxels: int = 1, work: Work | None = None) -> Volume:
    """Give every voxel the most frequent label of its surroundings, which removes specks and smooths fronts.

    Parameters
    ----------
    source : Volume or path
        Labels or a mask.
    target : path
    radius_voxels : int
        Half width of the cube that votes.
    work : Work or None

    Returns
    -------
    Volume
        Of the source's type and labels; a mask stays one.

    Raises
    ------
    InputError
        If the volume holds no labels, one above 255 that has no name, or one above 3 where nothing says that they are
        labels.
    """
    work = work or Work()
    volume = opened(source)
    if volume.dtype.kind not in "iub":
        raise InputError(
            f"{volume.name} holds {volume.dtype}, but labels are whole numbers: give what `tomoscale segment` made"
        )
    # What is not known to hold labels may be grey values, of which nearly all are larger than the labels of the papers.
    most = len(CLASSES) if volume.kind == "grey" else MOST_LABELS
    named = max((c.value for c in volume.classes), default=0) + 1
    kernel = majority(radius_voxels, 2 if volume.dtype == bool else max(most, named), volume.dtype)
    kind: Kind = "mask" if volume.kind == "mask" else "labels"
    return work.map(kernel, volume, target, kind=kind, classes=volume.classes)


def report(
    results: str | Path, target: str | Path, *, figures: str | Path | None = None, overwrite: bool = False
) -> Report:
    """Write the numbers and pictures of `tomoscale measure`, or of a study, as one HTML file that opens offline.

    Parameters
    ----------
    results : path
        Folder that `tomoscale.studies.implant.measure` or `tomoscale.studies.implant.study` wrote.
    target : path
        Of the HTML file.
    figures : path, optional
        Folder that gets every figure as SVG and as PNG of 300 dots an inch, with their captions.
    overwrite : bool
        Replace what is there: the HTML file, and figures of the same names.

    Returns
    -------
    Report
        Its ``path`` is the file; in a notebook it shows a link to it and its first pictures.

    Raises
    ------
    InputError
        If the folder holds no results, or a volume they name is gone.
    PlanError
        If the target exists, or the folder for figures holds something.
    """
    from tomoscale.report.sample import write_report
    from tomoscale.report.study import write_study_report
    from tomoscale.report.written import Report

    folder, target, figures = local_path(results), local_path(target), None if figures is None else local_path(figures)
    is_study = (folder / "study.json").exists()
    file = folder / ("study.json" if is_study else "results.json")
    if not file.is_file():
        raise InputError(f"{folder} holds no results: give the folder that `tomoscale measure` or a study wrote")
    content = read_json(file, "results", "measure again")
    if target.exists() and not overwrite:
        raise PlanError(f"{target} exists: give another name, or overwrite=True")
    if figures is not None and not overwrite and figures.exists() and (not figures.is_dir() or any(figures.iterdir())):
        raise PlanError(f"{figures} is there and not empty: give another folder for the figures, or overwrite=True")
    try:
        if is_study:
            return Report(write_study_report(target, content, folder, figures=figures))
        grey, labels, truth = (_input_of(content, name) for name in ("grey", "labels", "truth"))
        runs = content["runs"]
        return Report(
            write_report(target, results=content, grey=grey, labels=labels, truth=truth, runs=runs, figures=figures)
        )
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        # What a measure writes has every part; it is looked at where it is shown, and nowhere else.
        raise InputError(
            f"{folder}: the results are not as a measure or a study writes them ({type(error).__name__}: {str(error)[:200]}): "
            "measure again"
        ) from error


def _input_of(results: dict[str, Any], name: str) -> Volume | None:
    """Volume that results were measured from."""
    given = results["inputs"].get(name)
    return None if given is None else open_volume(given["path"])
