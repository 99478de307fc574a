"""Which voxels a count of grey values looks at, and what it refuses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tomoscale.errors import InputError
from tomoscale.measures.choice import Found, Voxels, interior_of, spans_of
from tomoscale.measures.fixed_point import FixedPoint
from tomoscale.measures.greys import COUNTED_TYPES

if TYPE_CHECKING:
    from tomoscale.arrays import Array
    from tomoscale.geometry import Block


@dataclass(frozen=True)
class Population:
    """Which voxels count, and for what class.

    Attributes
    ----------
    dtype : str
        Type of the grey values: uint8, int8, uint16, int16, uint32, int32 or float32. 64 bits are refused: they would
        take four passes, and no detector fills them.
    n_classes : int or None
        Count by label, 0 to ``n_classes - 1``, from a second volume; None counts all voxels together.
    interior_voxels : int
        Only voxels with no other label within this many voxels (a Euclidean ball), so that voxels that are partly of
        another material do not widen the distribution.
    exclude_zeros : bool
        Leave out values that are exactly zero, with which reconstructions are filled outside the field of view.
    disc : bool
        Leave out what lies outside the disc inscribed in the (y, x) section.
    non_finite : str
        ``"refuse"`` raises at NaN and infinity, ``"exclude"`` leaves them out and counts them.
    """

    dtype: str
    n_classes: int | None = None
    interior_voxels: int = 0
    exclude_zeros: bool = False
    disc: bool = False
    non_finite: Literal["refuse", "exclude"] = "refuse"

    def __post_init__(self) -> None:
        if self.dtype not in COUNTED_TYPES:
            raise ValueError(
                f"dtype must be one of {', '.join(COUNTED_TYPES)}, got {self.dtype!r}: exact percentiles of 64-bit values "
                "would take four passes; store the volume as float32 first"
            )
        if self.n_classes is not None and self.n_classes < 1:
            raise ValueError(f"n_classes must be at least 1, got {self.n_classes}")
        if self.interior_voxels < 0 or (self.interior_voxels and self.n_classes is None):
            raise ValueError(
                f"interior_voxels must be 0 or more and needs n_classes, got {self.interior_voxels} with "
                f"n_classes {self.n_classes}: only a label has an interior"
            )
        if self.non_finite not in ("refuse", "exclude"):
            raise ValueError(f"non_finite must be 'refuse' or 'exclude', got {self.non_finite!r}")

    @property
    def n_rows(self) -> int:
        """Rows of every table of counts."""
        return self.n_classes or 1


def voxels_of(grey: Array, labels: Array | None, block: Block, population: Population) -> Voxels:
    """Core voxels that are counted; raise InputError for values or labels of another type, or another grid."""
    if grey.dtype.name != population.dtype or not grey.dtype.isnative:
        raise InputError(
            f"grey values are {grey.dtype} but the population is {population.dtype}: they would be read as other numbers; "
            f"give Population(dtype={grey.dtype.name!r})"
        )
    inside = None
    if labels is not None:
        if labels.dtype.kind not in "biu":
            raise InputError(f"labels are {labels.dtype}, but a class is a whole number: store them as uint8 or uint16")
        if labels.shape != grey.shape:
            raise InputError(
                f"labels have shape {labels.shape} but grey values have {grey.shape} (z, y, x): voxels are compared one "
                "by one, so both must lie on one grid"
            )
        if population.interior_voxels:
            inside = interior_of(labels, block.core, population.interior_voxels)
        labels = labels[block.core]
    return Voxels(
        grey[block.core], spans_of(block, population.disc), labels, inside, population.n_rows, population.exclude_zeros
    )


def refuse_found(found: Found, block: Block, population: Population, fixed_point: FixedPoint | None = None) -> None:
    """Raise InputError, with its place, for a voxel that cannot be counted."""
    if found.non_finite is not None and population.non_finite == "refuse":
        raise InputError(
            f"{found.n_nan} NaN and {found.n_inf} infinite grey values in one block, the first at voxel "
            f"{_place(found.non_finite, block)} (z, y, x): they have no rank and no mean; mend the volume, or leave them "
            "out with non_finite='exclude'"
        )
    if found.foreign is not None:
        raise InputError(
            f"the label at voxel {_place(found.foreign, block)} (z, y, x) is not one of the {population.n_rows} classes "
            f"0 to {population.n_rows - 1}: give n_classes as the largest label plus one"
        )
    if found.outside is not None and fixed_point is not None:
        raise InputError(
            f"the grey value at voxel {_place(found.outside, block)} (z, y, x) is outside the range {fixed_point.low} to "
            f"{fixed_point.high}, which must hold every value: take it from percentiles 0 and 100 of the same population"
        )


def _place(place: tuple[int, ...], block: Block) -> tuple[int, ...]:
    return tuple(p + w.start for p, w in zip(place, block.write, strict=True))
