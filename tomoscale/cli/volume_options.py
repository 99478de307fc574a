"""Options that several commands on volumes share, and what is made of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from tomoscale.cli import values
from tomoscale.cli.command import flag, option

if TYPE_CHECKING:
    from tomoscale.formats.raw_layout import RawLayout
    from tomoscale.volume import Volume
    from tomoscale.work import Work

VOXEL_SIZE = option(
    "--voxel-size",
    dest="voxel_size_um",
    type=values.lengths,
    metavar="LENGTH",
    help="such as 5um, or three lengths z,y,x; needed where the file does not say",
)
DATASET = option(
    "--dataset", type=values.word, metavar="PATH", help="dataset of an HDF5 file, or array of a Zarr group"
)
PERCENTILES = option(
    "--percentiles",
    dest="percentiles_percent",
    type=values.number,
    nargs=2,
    default=(0.5, 99.9),
    metavar=("LOW", "HIGH"),
    help="what becomes 0 and 1 (default 0.5 99.9)",
)
SCHEME = option(
    "--scheme",
    choices=("percentiles", "zscore"),
    default="percentiles",
    help="clip at percentiles and scale to 0..1, or subtract the mean and divide by the standard deviation (default percentiles)",
)
BACKEND = option("--backend", choices=("torch", "openvino"), default="torch", help="what runs it (default torch)")
PRECISION = option("--precision", choices=("float32", "bfloat16"), default="float32", help="default float32")
AS_IS = flag("--as-is", "take the grey values as they are, scaled or not")
ANY_VOXEL_SIZE = flag("--any-voxel-size", "go on where voxels differ from those the network was trained on")
EXCLUDE_ZEROS = flag("--exclude-zeros", "leave exact zeros out of the percentiles (a zero rim)")
MODEL = option(
    "--model", type=values.input_path, metavar="FOLDER", help="a model bundle (default: the small model that ships)"
)
RAW = (
    option("--shape", type=values.shape, metavar="Z,Y,X", help="voxels of a raw file"),
    option("--dtype", choices=values.DTYPES, metavar="TYPE", help=f"voxels of a raw file: {', '.join(values.DTYPES)}"),
    option("--byte-order", choices=("little", "big"), help="of a raw file (default little)"),
    option("--offset", type=values.natural, metavar="BYTES", help="bytes before the voxels of a raw file (default 0)"),
)


def raw_layout(
    shape: Any, dtype: str | None, byte_order: Literal["little", "big"] | None, offset: int | None
) -> RawLayout | None:
    """Layout of a raw file from what was said of it; None if nothing was.

    Raises
    ------
    ValueError
        If shape or dtype is missing.
    """
    if (shape, dtype, byte_order, offset) == (None, None, None, None):
        return None
    if shape is None or dtype is None:
        missing = "--shape" if shape is None else "--dtype"
        raise ValueError(
            f"{missing} is missing: a raw file says nothing of itself, so --shape Z,Y,X and --dtype must both be given"
        )
    from tomoscale.formats.raw_layout import RawLayout

    return RawLayout(shape, dtype, byte_order or "little", offset or 0)


def with_pyramid(volume: Volume, wanted: bool, work: Work) -> Volume:
    """Make the coarser levels of a volume where they are wanted; they are planned once the volume is there."""
    if wanted and not (work.plan_only and not volume.finished):
        from tomoscale.pyramid import pyramid

        pyramid(volume, work=work)
    return volume
