"""The command that samples a volume at another voxel size."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tomoscale.cli import values
from tomoscale.cli.command import SOURCE, TARGET, Command, option, pyramid_option
from tomoscale.cli.volume_options import with_pyramid

if TYPE_CHECKING:
    from tomoscale.volume import Volume
    from tomoscale.work import Work


def _resample(source: Any, target: Path, *, work: Work, pyramid: bool, **how: Any) -> Volume:
    from tomoscale.resampling import resample

    return with_pyramid(resample(source, target, work=work, **how), pyramid, work)


COMMANDS = (
    Command(
        "resample",
        "sample a volume at another voxel size, such as that a network was trained on",
        "tomoscale resample scan.zarr coarse.zarr --voxel-size 10um",
        _resample,
        (
            SOURCE,
            TARGET,
            option(
                "--voxel-size",
                dest="voxel_size_um",
                type=values.lengths,
                required=True,
                metavar="LENGTH",
                help="of the result: such as 10um, or three lengths z,y,x",
            ),
            option(
                "--method",
                choices=("nearest", "linear", "cubic"),
                help="nearest for labels and masks; cubic splines as nnU-Net has them (default nearest or linear)",
            ),
            pyramid_option(False),
        ),
        works=True,
        step=True,
    ),
)
