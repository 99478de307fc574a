"""Commands that make volumes: convert, normalise, threshold, segment, clean, pyramid, export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tomoscale.cli import values
from tomoscale.cli.command import ARCHITECTURE_MODULE, SOURCE, TARGET, Command, flag, option, pyramid_option
from tomoscale.cli.found import in_mask, with_warnings
from tomoscale.cli.fusing import PLANES
from tomoscale.cli.results import of_volume, plain
from tomoscale.cli.volume_options import (
    ANY_VOXEL_SIZE,
    AS_IS,
    BACKEND,
    DATASET,
    EXCLUDE_ZEROS,
    MODEL,
    PERCENTILES,
    PRECISION,
    RAW,
    SCHEME,
    VOXEL_SIZE,
    raw_layout,
    with_pyramid,
)

if TYPE_CHECKING:
    from tomoscale.volume import Volume
    from tomoscale.work import Work

OME_04 = "ome-zarr-0.4"
FORMATS = ("tiff", "bigtiff", "nifti", "metaimage", OME_04)


def _convert(  # noqa: PLR0913 -- voxels without a header must be described
    source: Any,
    target: Path,
    *,
    work: Work,
    pyramid: bool,
    shape: Any,
    dtype: Any,
    byte_order: Any,
    offset: Any,
    **how: Any,
) -> Volume:
    from tomoscale import commands

    raw = raw_layout(shape, dtype, byte_order, offset)
    return with_pyramid(commands.convert(source, target, raw=raw, work=work, **how), pyramid, work)


def _normalise(source: Any, target: Path, *, work: Work, pyramid: bool, percentiles_percent: Any, **how: Any) -> Volume:
    from tomoscale import commands

    low, high = percentiles_percent
    return with_pyramid(
        commands.normalise(source, target, percentiles_percent=(low, high), work=work, **how), pyramid, work
    )


def _threshold(  # noqa: PLR0913 -- three ways to say what the mask is
    source: Any, target: Path, *, work: Work, above: Any, range: Any, otsu: bool, pyramid: bool
) -> Any:
    from tomoscale.thresholding import threshold

    if [above is not None, range is not None, otsu].count(True) != 1:
        raise ValueError("give one of --above VALUE, --range LOW HIGH and --otsu: they say what the mask is")
    low, high = range or (above, None)
    found = threshold(source, target, low=low, high=high, otsu=otsu, work=work)
    if work.plan_only:
        return None
    return {**of_volume(with_pyramid(found.mask, pyramid, work)), **in_mask(found, source)}


def _segment(source: Any, target: Path, *, work: Work, pyramid: bool, planes: str, **how: Any) -> Any:
    from tomoscale.segmentation.segment import segment, summary

    volume = with_pyramid(segment(source, target, planes=int(planes), work=work, **how), pyramid, work)
    return volume if work.plan_only else {**of_volume(volume), **summary(volume)}


def _segmented(result: Any) -> dict[str, Any]:
    found: dict[str, Any] = plain(result)
    as_they_are = "none: normalised already, or to be taken as they are"
    return {**found, "scaling": found["scaling"] or as_they_are} if "scaling" in found else found


def _clean(source: Any, target: Path, *, work: Work, pyramid: bool, **how: Any) -> Volume:
    from tomoscale import commands

    return with_pyramid(commands.clean(source, target, work=work, **how), pyramid, work)


def _pyramid(volume: Any, *, work: Work) -> Volume:
    from tomoscale.pyramid import pyramid

    return pyramid(volume, work=work)


def _export(source: Any, target: Path, *, work: Work, level: int | None, region: Any, format: str | None) -> Any:
    from tomoscale.formats import open_volume

    volume = (
        source if hasattr(source, "storage") else open_volume(source, dataset=None if level is None else str(level))
    )
    if format == OME_04:
        from tomoscale.ome_export import export_ome_zarr

        if region is not None:
            raise ValueError(f"--region and --format {OME_04} do not go together: export the whole, or another format")
        export_ome_zarr(volume, target, version="0.4", work=work)
        return {"written": target}
    from tomoscale.formats.export import export_volume

    if work.plan_only:
        part = "all" if region is None else ", ".join(f"{r.start or 0}:{r.stop or ''}" for r in region)
        print(f"      step  export\n    source  {volume.name}\n    target  {target}\n    region  {part} (z, y, x)\n")
        return None
    return {"written": export_volume(volume, target, region=region, format=format, overwrite=work.overwrite)}


COMMANDS = (
    Command(
        "convert",
        "turn TIFF slices, HDF5, DICOM, NIfTI, raw voxels or others into a chunked volume",
        "tomoscale convert slices/ scan.zarr --voxel-size 5um",
        _convert,
        (
            option(
                "source",
                type=values.input_path,
                help="folder of TIFF slices or DICOM, TIFF stack, HDF5 file or file.h5::/dataset, NIfTI, MetaImage, NRRD, "
                "Scanco AIM or ISQ, MATLAB 5, raw file, Zarr or OME-Zarr",
            ),
            TARGET,
            VOXEL_SIZE,
            DATASET,
            option(
                "--kind",
                choices=("grey", "labels", "mask"),
                help="what the voxels are (default: what the source says, else grey)",
            ),
            option(
                "--not-finite",
                dest="nan_policy",
                choices=("refuse", "zero"),
                default="refuse",
                help="what becomes of NaN and infinite values (default refuse)",
            ),
            *RAW,
            pyramid_option(True),
        ),
        works=True,
        step=True,
    ),
    Command(
        "normalise",
        "scale the grey values of a volume by exact percentiles or moments of all its voxels",
        "tomoscale normalise scan.zarr normal.zarr",
        _normalise,
        (SOURCE, TARGET, SCHEME, PERCENTILES, EXCLUDE_ZEROS, pyramid_option(False)),
        works=True,
        step=True,
    ),
    Command(
        "threshold",
        "make a mask of what is brighter than a grey value, or between two",
        "tomoscale threshold scan.zarr bone.zarr --above 63",
        _threshold,
        (
            SOURCE,
            TARGET,
            option("--above", type=values.number, metavar="VALUE", help="what is brighter than this grey value"),
            option(
                "--range",
                type=values.number,
                nargs=2,
                metavar=("LOW", "HIGH"),
                help="what is brighter than LOW and not brighter than HIGH",
            ),
            flag("--otsu", "what is brighter than the value that best separates the whole histogram in two"),
            pyramid_option(True),
        ),
        works=True,
        step=True,
        show=with_warnings,
    ),
    Command(
        "segment",
        "label every voxel of a volume by a network",
        "tomoscale segment scan.zarr labels.zarr --model my_model/",
        _segment,
        (
            SOURCE,
            TARGET,
            MODEL,
            ARCHITECTURE_MODULE,
            BACKEND,
            PRECISION,
            option(
                "--tolerance",
                type=values.number,
                metavar="SHARE",
                help="share of labels that may differ, such as 0.001, for a smaller margin, measured on samples (default: none)",
            ),
            option(
                "--output",
                type=values.word,
                default="labels",
                metavar="WHAT",
                help="labels, or the name of a class for its probability (default labels)",
            ),
            option(
                "--probabilities",
                type=values.output_path,
                metavar="FOLDER",
                help="keep the probability of each class, a volume each",
            ),
            option(
                "--quantisation",
                choices=("float32", "float16", "uint16"),
                default="float32",
                help="of the probabilities; uint16 is round(65535 p) (default float32)",
            ),
            AS_IS,
            ANY_VOXEL_SIZE,
            *PLANES,
            pyramid_option(True),
        ),
        works=True,
        step=True,
        show=_segmented,
    ),
    Command(
        "clean",
        "smooth labels by the majority of their neighbours",
        "tomoscale clean labels.zarr clean.zarr",
        _clean,
        (
            SOURCE,
            TARGET,
            option(
                "--radius",
                dest="radius_voxels",
                type=values.positive,
                default=1,
                metavar="VOXELS",
                help="half width of the cube that votes (default 1)",
            ),
            pyramid_option(True),
        ),
        works=True,
        step=True,
    ),
    Command(
        "pyramid",
        "make the coarser levels of a volume, which viewers need",
        "tomoscale pyramid scan.zarr",
        _pyramid,
        (option("volume", type=values.input_path, help="a finished volume of tomoscale; levels are added to it"),),
        works=True,
        step=True,
    ),
    Command(
        "export",
        "write a volume, a coarser level or a part of it in a format of other programs",
        "tomoscale export clean.zarr part.tif --region 0:64,:,:",
        _export,
        (
            SOURCE,
            option("target", type=values.output_path, help="file or folder to make; its name tells the format"),
            option("--level", type=values.natural, metavar="N", help="level of the pyramid, 0 the finest (default 0)"),
            option(
                "--region",
                type=values.region,
                metavar="Z0:Z1,Y0:Y1,X0:X1",
                help="part of it in voxels of that level, the end excluded; : is a whole axis",
            ),
            option(
                "--format",
                choices=FORMATS,
                metavar="FORMAT",
                help=f"one of {', '.join(FORMATS)} (default: by the name)",
            ),
        ),
        works=True,
        step=True,
    ),
)
