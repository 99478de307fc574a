"""Steepness of grey values: the relief whose ridges are the borders between materials."""

from __future__ import annotations

from functools import partial

import numpy as np

from tomoscale.arrays import Array, namespace_for, ndimage_for
from tomoscale.geometry import Halo, Spacing, three
from tomoscale.step import Kernel


def steepness(values: Array, sigma_um: float, voxel_size_um: Spacing, truncate: float = 4.0) -> Array:
    """Magnitude of the gradient of smoothed grey values, in grey values per micrometre.

    Each component is the grey values convolved with the derivative of a Gaussian (Canny, IEEE Transactions on Pattern
    Analysis and Machine Intelligence 8 (1986) 679); values beyond the border are those at the border.

    Parameters
    ----------
    values : (Z, Y, X) array, NumPy or CuPy
    sigma_um : float
        Standard deviation of the Gaussian.
    voxel_size_um : (z, y, x)
    truncate : float
        Standard deviations at which the Gaussian is cut off.

    Returns
    -------
    (Z, Y, X) float32 array; NaN and infinities spread over the reach of the filter.
    """
    xp, ndimage = namespace_for(values), ndimage_for(values)
    sigma = [sigma_um / h for h in voxel_size_um]
    total = None
    for axis, edge in enumerate(voxel_size_um):
        order = [int(a == axis) for a in range(3)]
        part = ndimage.gaussian_filter(values, sigma, order, np.float32, mode="nearest", truncate=truncate)
        part /= np.float32(edge)
        part *= part
        total = part if total is None else xp.add(total, part, out=total)
        del part  # before the next one is made
    return xp.sqrt(total, out=total)


def gradient_magnitude(sigma_um: float, voxel_size_um: Spacing, truncate: float = 4.0) -> Kernel:
    """Kernel of `steepness`; the halo is the reach of SciPy's filter, ``int(truncate * sigma + 0.5)`` voxels.

    Raises
    ------
    ValueError
        If a length is not positive.
    """
    if not (sigma_um > 0 and min(voxel_size_um) > 0 and truncate > 0):
        raise ValueError(
            f"sigma_um, voxel_size_um and truncate must be positive, got {sigma_um}, {voxel_size_um} and {truncate}"
        )
    return Kernel(
        "gradient",
        partial(steepness, sigma_um=float(sigma_um), voxel_size_um=voxel_size_um, truncate=truncate),
        Halo.symmetric(three(int(truncate * sigma_um / h + 0.5) for h in voxel_size_um)),
        np.dtype(np.float32),
        bytes_per_voxel=8,
        parameters={"sigma_um": float(sigma_um), "voxel_size_um": list(voxel_size_um), "truncate": truncate},
    )
