"""Sample a volume at another voxel size: what a network that was trained on other voxels needs, and its labels after it."""

from __future__ import annotations

from typing import Literal

import numpy as np

from tomoscale.errors import InputError
from tomoscale.formats import Source, opened
from tomoscale.geometry import Spacing
from tomoscale.kernels.resample import resample as resampling
from tomoscale.kernels.resample import scale_factor
from tomoscale.places import Place
from tomoscale.step import Kernel
from tomoscale.volume import Volume
from tomoscale.work import Work

METHODS = ("nearest", "linear", "cubic")
Method = Literal["nearest", "linear", "cubic"]


def resample(
    source: Source,
    target: str | Place,
    *,
    voxel_size_um: Spacing,
    method: Method | None = None,
    work: Work | None = None,
) -> Volume:
    """Sample a volume at the centres of voxels of another size; its outer border stays where it is.

    Parameters
    ----------
    source : Volume or path
    target : path
    voxel_size_um : (z, y, x)
        Of the result.
    method : "nearest", "linear", "cubic" or None
        Labels and masks take the nearest voxel, which is the default for them. Grey values are linear by default, with the
        mean over the new voxel along axes that become coarser, in their own type if it has at most 16 bits, else float32;
        or cubic splines without that mean, as nnU-Net samples, in float32.
    work : Work or None

    Returns
    -------
    Volume
        Of the kind and classes of the source.

    Raises
    ------
    InputError
        If the source's voxel size is not known, or it holds labels and another method than the nearest is asked for.
    ValueError
        If the method is unknown.
    """
    work = work or Work()
    volume = opened(source)
    if volume.voxel_size_um is None:
        raise InputError(
            f"{volume.name} does not say how large a voxel is, so no other size can be made of it: convert it with "
            "its size first, such as voxel_size_um=5.0"
        )
    factor = scale_factor(volume.voxel_size_um, voxel_size_um)
    return work.map(_kernel(volume, factor, method), volume, target, kind=volume.kind, classes=volume.classes)


def _kernel(volume: Volume, factor: Spacing, method: Method | None) -> Kernel:
    if method not in (None, *METHODS):
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if volume.kind != "grey":
        if method not in (None, "nearest"):
            raise InputError(
                f"{volume.name} holds {volume.kind}, between which there is nothing: use the method nearest"
            )
        return resampling(factor, 0, volume.dtype)
    if method == "nearest":
        return resampling(factor, 0, volume.dtype)
    if method == "cubic":
        return resampling(factor, 3)
    narrow = volume.dtype.kind in "iu" and volume.dtype.itemsize <= 2
    return resampling(factor, 1, volume.dtype if narrow else np.float32, "area")
