"""Where classes touch: faces, contact areas, bone-to-implant contact and the degradation rate.

A face lies between two voxels that are neighbours along an axis. What has no neighbour, at the border of the volume or
of its valid part, is a cut and no surface.
"""

from __future__ import annotations

import math
import re
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np

from tomoscale.arrays import namespace_for
from tomoscale.geometry import Halo
from tomoscale.measures.ids import Ids, check_number_of_ids, masked, origin_of
from tomoscale.measures.pairs import fused_label_counts
from tomoscale.step import Counts, Measure

if TYPE_CHECKING:
    from tomoscale.arrays import Array
    from tomoscale.geometry import Block, Spacing

EdgeFaces = Literal["exclude", "background"]

DAYS_PER_YEAR = 365.25
UM_PER_MM = 1000.0
_DAYS = {"day": 1.0, "week": 7.0, "year": DAYS_PER_YEAR}


def faces(n_classes: int, *, edge_faces: EdgeFaces = "exclude", valid: bool = False) -> Measure:
    """Measure of the voxel faces across z, y, x by (lower, upper) class.

    A face belongs to the block that holds its lower voxel, so a block reads one voxel past its end and none before
    its start.

    Parameters
    ----------
    n_classes : int
        Classes 0 to ``n_classes - 1``.
    edge_faces : {"exclude", "background"}
        Faces on the border of the volume, and to voxels that are not valid, are left out or are faces to class 0.
    valid : bool
        A second input says where there is data.

    Returns
    -------
    Measure
        Inputs ``("labels",)`` and ``"valid"``; counts ``"faces"``, (3, n_classes, n_classes) int64.

    Raises
    ------
    ValueError
        If an argument is not usable.
    InputError
        When it runs: if the volume holds another id, with its place.
    """
    check_number_of_ids("n_classes", n_classes)
    if edge_faces not in ("exclude", "background"):
        raise ValueError(f'edge_faces must be "exclude" or "background", got {edge_faces!r}')
    return Measure(
        "faces",
        partial(_faces, n_classes=n_classes, edge_faces=edge_faces),
        ("labels", "valid") if valid else ("labels",),
        Halo(after=(1, 1, 1)),
        bytes_per_voxel=12.0 if valid else 2.0,
        counts_bytes=24 * n_classes**2,
        parameters={"n_classes": n_classes, "edge_faces": edge_faces, "valid": valid},
    )


def contact_area(face_counts: np.ndarray, voxel_size_um: Spacing) -> np.ndarray:
    """Contact area between classes in square micrometres: (n_classes, n_classes), symmetric, 0 on the diagonal.

    Parameters
    ----------
    face_counts : (3, n_classes, n_classes) integer array
        Counts of `faces`.
    voxel_size_um : (z, y, x)
    """
    both_ways = face_counts + face_counts.transpose(0, 2, 1)
    area = np.tensordot(_face_areas_um2(voxel_size_um), both_ways, axes=1)
    np.fill_diagonal(area, 0.0)
    return area


def bic_faces(
    face_counts: np.ndarray,
    voxel_size_um: Spacing,
    *,
    implant: tuple[int, ...] = (1, 2),
    bone: int = 3,
    background: int = 0,
) -> float:
    """Bone-to-implant contact by area: implant faces to bone over those to bone or background; NaN without surface.

    Notes
    -----
    Lopes Marinho et al. 2024, eq. 5. Faces within the implant, between its classes, are never counted.
    """
    area = contact_area(face_counts, voxel_size_um)[list(implant)].sum(axis=0)
    return _over(float(area[bone]), float(area[bone] + area[background]))


def bic_touching_faces(counts: Counts, voxel_size_um: Spacing) -> float:
    """As `bic_faces`, from the counts of `touching_voxels`, and so with its gap tolerance."""
    bone, background = _face_areas_um2(voxel_size_um) @ counts["touching_faces"]
    return _over(float(bone), float(bone + background))


def bic_voxels(counts: Counts) -> float:
    """Bone-to-implant contact by voxels: implant voxels touching bone over surface voxels; NaN without surface.

    Notes
    -----
    Baltruschat et al. 2021, eq. 2. A voxel that touches bone and background is in both numbers.
    """
    bone, surface = (int(n) for n in counts["touching_voxels"])
    return _over(bone, surface)


def surface_area_of_voxels(counts: Counts, voxel_size_um: Spacing) -> float:
    """Surface voxels times the face of a voxel, in square micrometres: the initial area of Lopes Marinho et al. 2024.

    It is 0.83 of the true area of a sphere, and 1 of a wall along an axis.

    Raises
    ------
    ValueError
        If the voxels are no cubes: it is then unclear which face a surface voxel stands for.
    """
    if not all(math.isclose(h, voxel_size_um[0], rel_tol=1e-6) for h in voxel_size_um):
        raise ValueError(
            f"voxel_size_um {voxel_size_um} is not the same along z, y, x, so a surface voxel stands for no certain "
            "area: resample to cubes, or use an area that is defined for all voxels (Crofton)"
        )
    return int(counts["surface_voxels"].sum()) * float(voxel_size_um[0]) ** 2


def healing_days(time: str | float) -> float:
    """Healing time in days, from days or from text in days, weeks or years of 365.25 days; months have no certain length.

    Examples
    --------
    >>> healing_days("6 weeks")
    42.0
    """
    days = float(time) if not isinstance(time, str) else _days_of(time)
    if not 0 < days < math.inf:
        raise ValueError(f"healing time must be above 0, got {time!r}: a rate is a loss over time")
    return days


def degradation_rate(
    initial_volume_um3: float, residual_volume_um3: float, surface_area_um2: float, healing_time: str | float
) -> float:
    """Mean loss of thickness per year, (initial - residual) / (area * time), in millimetres per year.

    The residual volume is that of the metal alone, without its degradation layer, in the same section as the initial.
    The result is negative if there is more metal than there was: an error of the segmentation that must be seen.

    Parameters
    ----------
    initial_volume_um3, residual_volume_um3 : float
    surface_area_um2 : float
        Of the reference. With that of `surface_area_of_voxels` the rate is the published one, about 1.2 times the rate
        with a true area (Crofton).
    healing_time : float or str
        Days, or text as for `healing_days`.

    Notes
    -----
    Lopes Marinho et al. 2024, eq. 4. Baltruschat et al. 2021, eq. 1, prints a product with time where the dimension
    asks for a quotient.
    """
    if not surface_area_um2 > 0:
        raise ValueError(f"surface_area_um2 must be above 0, got {surface_area_um2}: there is no surface to corrode")
    years = healing_days(healing_time) / DAYS_PER_YEAR
    return (initial_volume_um3 - residual_volume_um3) / surface_area_um2 / UM_PER_MM / years


def _days_of(text: str) -> float:
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*(day|week|year)s?\s*", text)
    if found is None:
        raise ValueError(
            f'healing time {text!r} is not understood: write a number of days, weeks or years (months have no certain length), as in "6 weeks"'
        )
    return float(found[1]) * _DAYS[found[2]]


def _faces(labels: Array, valid: Array | None = None, *, block: Block, n_classes: int, edge_faces: EdgeFaces) -> Counts:
    ids = Ids("labels", labels, n_classes)
    if valid is not None:
        ids = masked(ids, valid, origin_of(block))
    found = fused_label_counts(ids, block.core, faces=True, origin=origin_of(block))["faces"]
    counts = found[:, :n_classes, :n_classes].copy()
    if edge_faces == "background":
        if valid is not None:  # what is not valid has the id n_classes
            counts[:, :, 0] += found[:, :n_classes, n_classes]
            counts[:, 0] += found[:, n_classes, :n_classes]
        _add_border(counts, ids.values[block.core], block)
    return {"faces": counts}


def _add_border(counts: Array, core: Array, block: Block) -> None:
    """Count the faces on the true border of the volume as faces to class 0."""
    xp = namespace_for(core)
    for axis, (owned, length) in enumerate(zip(block.write, block.source_shape, strict=True)):
        if owned.start == 0:
            counts[axis, 0] += _bins(xp.take(core, 0, axis=axis), counts.shape[1])
        if owned.stop == length:
            counts[axis, :, 0] += _bins(xp.take(core, -1, axis=axis), counts.shape[1])


def _bins(plane: Array, n_ids: int) -> Array:
    """Count the ids of a plane; those beyond `n_ids` are not valid."""
    xp = namespace_for(plane)
    return xp.bincount(plane.ravel().astype(xp.int32), minlength=n_ids)[:n_ids]


def _face_areas_um2(voxel_size_um: Spacing) -> np.ndarray:
    """Area of a voxel's face across z, y and x."""
    z, y, x = (float(h) for h in voxel_size_um)
    return np.array([y * x, z * x, z * y])


def _over(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
