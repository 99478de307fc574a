"""Linear map of grey values to what a network takes; its numbers are of the whole volume, never of a block."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from tomoscale.arrays import Array, namespace_for
from tomoscale.errors import InputError
from tomoscale.geometry import AXES, Block, Halo, Region
from tomoscale.step import Kernel

STANDARDISED = "standardise"
"""Name of the kernel that `normalise` runs for z-scores: by it volumes tell that they are normalised."""


@dataclass(frozen=True)
class Scaling:
    """``(clip(x, low, high) - offset) / divisor``, in float32.

    Attributes
    ----------
    offset, divisor : float
        Grey values.
    low, high : float or None
        Grey values that values beyond become first; None does not clip.
    """

    offset: float
    divisor: float
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        limits = [v for v in (self.low, self.high) if v is not None]
        if not all(map(math.isfinite, (self.offset, self.divisor, *limits))) or np.float32(self.divisor) <= 0:
            raise ValueError(f"a scaling has finite numbers and a divisor > 0, got {self}")
        if len(limits) == 1 or (limits and not np.float32(limits[0]) < np.float32(limits[1])):
            raise ValueError(f"low and high must be two finite increasing grey values (low, high), got {limits}")

    @classmethod
    def between(cls, low: float, high: float) -> Scaling:
        """`low` becomes 0 and `high` 1, values beyond are clipped.

        Raises
        ------
        ValueError
            If they are not finite and increasing in float32.
        """
        if not (np.isfinite([low, high]).all() and np.float32(low) < np.float32(high)):
            raise ValueError(f"low and high must be two finite increasing grey values (low, high), got {low}, {high}")
        return cls(low, float(np.float32(high) - np.float32(low)), low, high)

    def apply(self, values: Array) -> None:
        """Scale float32 values where they are."""
        xp = namespace_for(values)
        if self.low is not None and self.high is not None:
            xp.clip(values, np.float32(self.low), np.float32(self.high), out=values)
        values -= np.float32(self.offset)
        values /= np.float32(self.divisor)

    def scaled(self, values: Array) -> Array:
        """Scaled float32 copy of grey values of any type."""
        result = values.astype(np.float32)
        self.apply(result)
        return result

    def describe(self) -> dict[str, Any]:
        """JSON values that say what is computed."""
        return asdict(self)


AS_IT_IS = Scaling(0.0, 1.0)
"""Changes no bit of float32 values."""


def standardise(scaling: Scaling) -> Kernel:
    """Kernel of `scale_block`; pointwise, so no halo."""
    return Kernel(
        STANDARDISED,
        partial(scale_block, scaling=scaling),
        Halo(),
        np.dtype(np.float32),
        bytes_per_voxel=4 + 1,
        parameters=scaling.describe(),
        located=True,
    )


def scale_block(values: Array, block: Block, scaling: Scaling) -> Array:
    """Scale grey values of at most 32 bits: float32.

    Raises
    ------
    InputError
        If a value is not finite.
    """
    return scale_region(values[block.core], block.write, scaling)


def scale_region(values: Array, region: Region, scaling: Scaling) -> Array:
    """Scale grey values that were read from a region: float32, as `scale_block`."""
    scaled = values.astype(np.float32)
    refuse_not_finite(scaled, region, values.dtype)
    scaling.apply(scaled)
    return scaled


def refuse_not_finite(values: Array, region: Region, dtype: np.dtype[Any]) -> None:
    """Raise `InputError` if values that were read from a region as `dtype` hold NaN or infinity."""
    if dtype.kind == "f" and not bool(namespace_for(values).isfinite(values).all()):
        place = ", ".join(f"{axis} {r.start}:{r.stop}" for axis, r in zip(AXES, region, strict=True))
        raise InputError(f"the grey values in {place} hold NaN or infinity, which no network can label")
