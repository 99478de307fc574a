"""The numbers of bone morphometry from counts: each with symbol, unit and definition, and what to mind.

Symbols after Bouxsein et al. 2010, in mm; those of porosity, Euler number and structure model index are the usual ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tomoscale.geometry import Spacing
from tomoscale.measures.intercepts import anisotropy
from tomoscale.measures.topology import (
    connectivity_density,
    euler_number,
    mean_curvature_integral,
    object_volume,
    surface_area,
)
from tomoscale.objects.object_values import ObjectValues
from tomoscale.step import Counts
from tomoscale.studies.phases import BONE, SPACE
from tomoscale.studies.quantities import Number, finite

MAPS = ("thickness", "separation", "spacing")
_CONVENTIONS = {
    "border": "what lies beyond the volume or the region is neither bone nor space: faces to it are no surface, and lines "
    "that leave it are not counted",
    "surface": "Crofton's formula in 13 directions",
    "thickness": "diameter of the largest ball of voxel centres in the phase (Hildebrand and Rüegsegger 1997); balls end "
    "at the edge of a region, but not at the border of the volume",
    "trabecular number": "from the distance between mid-axes, the voxels of bone that no larger ball covers than their own; "
    "where plates are an even number of voxels thick these are two voxels wide, so that the distance is up to two voxels "
    "short, and where bone tapers they have gaps of up to its radius",
    "connectivity": "bone 26-connected, space 6-connected",
    "anisotropy": "intercepts in all 145 primitive lattice directions up to 3 voxels, ellipsoid by weighted least squares",
}
_CORRECTIONS = {"none": "nothing is taken off", "half_voxel": "a voxel is taken off each diameter"}
_CLEANUPS = {
    "none": "the map is not cleaned up",
    "fiji": "voxels at the surface of the map get the mean of their inner neighbours, as in Fiji and BoneJ",
}
_MID_AXES = "distance between mid-axes (voxels that no larger ball covers than the one around themselves)"
THIN_VOXELS = 3.0
"""A mean thickness of fewer voxels says more about the voxels than about the bone."""


def conventions(correction: str, cleanup: str) -> dict[str, str]:
    """Conventions under which the numbers hold, in words."""
    how = f"{_CONVENTIONS['thickness']}; {_CORRECTIONS[correction]}; {_CLEANUPS[cleanup]}"
    return {**_CONVENTIONS, "thickness": how}


@dataclass(frozen=True)
class Found:
    """What the passes of a morphometry found.

    Attributes
    ----------
    counts : mapping of str to Counts
        By the names of the measures.
    voxel_size_um : (z, y, x)
    over : mapping of str to ObjectValues
        By the names of `MAPS`, of the phases 1 and 2: over space, over bone; of the spacing, where mid-axes were found,
        over what lies between them and over them.
    closed_voxels : int
        Of the space.
    """

    counts: Mapping[str, Counts]
    voxel_size_um: Spacing
    over: Mapping[str, ObjectValues]
    closed_voxels: int

    def cells(self, name: str) -> np.ndarray:
        """Configurations of "bone", "space", "region" or "purified"."""
        return np.asarray(self.counts[name]["configurations"])


def numbers_of(found: Found, has_region: bool) -> dict[str, Number]:
    """Every number by its name."""
    size = found.voxel_size_um
    volume = object_volume(found.cells("bone"), size) * 1e-9
    total = object_volume(found.cells("region"), size) * 1e-9
    surface = _surface(found) * 1e-6
    return {
        "bone volume": Number("BV", volume, "mm³", "voxels of bone times their volume", volume),
        "total volume": Number("TV", total, "mm³", "voxels of the region times their volume", total),
        "bone volume fraction": Number("BV/TV", _ratio(volume, total), "", "BV over TV", volume, total),
        "bone surface": Number(
            "BS", surface, "mm²", "between bone and space, Crofton's formula in 13 directions", surface
        ),
        "specific bone surface": Number("BS/BV", _ratio(surface, volume), "1/mm", "BS over BV", surface, volume),
        "bone surface density": Number("BS/TV", _ratio(surface, total), "1/mm", "BS over TV", surface, total),
        **_direct(found),
        **_spacing(found),
        **_plates(volume, total, surface),
        **_topology(found, total, has_region),
        "degree of anisotropy, lattice": Number(
            "DA_lattice",
            anisotropy(found.counts["intercepts"], size).degree,
            "",
            "1 - (shortest / longest radius)² of the ellipsoid of mean intercept lengths in 145 lattice directions; 0 isotropic",
        ),
        "structure model index": Number("SMI", _smi(found, volume, surface, has_region), "", _SMI),
        **_porosity(found, volume, total),
    }


_SMI = (
    "12 BV M / BS² with M the integral of the mean curvature: plate 0, rod 3, ball 4; negative for concave surfaces, where "
    "it means nothing (discouraged)"
)


def axes_of(found: Found) -> dict[str, Any]:
    """Radii and directions of the ellipsoid of mean intercept lengths; null where there is none."""
    fitted = anisotropy(found.counts["intercepts"], found.voxel_size_um)
    return {
        "radii_um": [finite(r) for r in fitted.radii_um],
        "directions_zyx": [[finite(c) for c in axis] for axis in fitted.directions],
    }


def caveats(found: Found, has_region: bool, max_radius_um: float | None) -> list[str]:
    """What a reader of the numbers must know."""
    texts = [
        "Surface where the volume or the region cuts bone is not counted; a cut object looks thicker, not thinner, there."
    ]
    edge = min(found.voxel_size_um)
    structures = {
        "thickness": ("bone", BONE),
        "separation": ("space", SPACE),
        "spacing": ("the space between mid-axes", SPACE),
    }
    for map_name, values in found.over.items():
        name, phase = structures[map_name]
        mean, largest = float(values.mean[phase - 1]), float(values.largest[phase - 1])
        if mean < THIN_VOXELS * edge:
            texts.append(
                f"The mean thickness of {name} is {mean / edge:.2g} voxels: scan with smaller voxels to resolve it."
            )
        if max_radius_um is not None and largest >= 2 * max_radius_um - edge:
            texts.append(
                f"Balls in {name} are cut to a radius of {max_radius_um:g} µm: mean, deviation and maximum are too small."
            )
    if has_region:
        texts.append(
            "Balls end at the edge of the region, connectivity takes nothing to be outside of it, and the structure model "
            "index is left out, since its curvature at the edge would be that of the region."
        )
    if len(set(found.voxel_size_um)) > 1:
        texts.append(
            "Voxels are not cubes: lattice directions are not evenly spread, and thickness is known to the longest edge."
        )
    if connections_of(found, has_region) < 0:
        texts.append(
            "The connectivity is negative, so it means nothing: bone is in several pieces, or pores lie in it that are closed but "
            "for the border that cuts them."
        )
    return texts


def connections_of(found: Found, has_region: bool) -> float:
    """Connections of the purified bone: 1 - Δχ in a box, 1 - χ in a region of another form."""
    cells = found.cells("purified")
    if has_region:
        return 1.0 - euler_number(cells, 26)
    # The density is per cubic micrometre of the volume, which is the region.
    return connectivity_density(cells, found.voxel_size_um) * object_volume(found.cells("region"), found.voxel_size_um)


def _surface(found: Found) -> float:
    """Surface between bone and space, in square micrometres.

    Pairs of voxels that differ in bone, in space and in the region are those of bone and space twice, and those of each
    of the two with the outside once more than is taken off.
    """
    return surface_area(found.cells("bone") + found.cells("space") - found.cells("region"), found.voxel_size_um) / 2


def _direct(found: Found) -> dict[str, Number]:
    numbers = {}
    for name, symbol, values, phase, where in (
        ("trabecular thickness", "Tb.Th", found.over["thickness"], BONE, "bone"),
        ("trabecular separation", "Tb.Sp", found.over["separation"], SPACE, "the region without bone"),
    ):
        for title, mark, value, what in (
            ("", "", values.mean, "mean"),
            (", standard deviation", ".SD", values.deviation, "standard deviation"),
            (", maximum", ".max", values.largest, "maximum"),
        ):
            definition = f"{what} over the voxels of {where} of the diameter of the largest ball in it, direct"
            numbers[f"{name}{title}"] = Number(f"{symbol}{mark}", float(value[phase - 1]) * 1e-3, "mm", definition)
    return numbers


def _spacing(found: Found) -> dict[str, Number]:
    """Direct trabecular number; without bone there are no mid-axes."""
    if "spacing" not in found.over:
        return {}
    values, has_bone = found.over["spacing"], bool(found.over["thickness"].voxels[BONE - 1])
    mean, deviation = (float(v[SPACE - 1]) * 1e-3 if has_bone else math.nan for v in (values.mean, values.deviation))
    what = "over all voxels of the region but the mid-axes of bone of the diameter of the largest ball between them"
    return {
        "trabecular number": Number("Tb.N", _ratio(1, mean), "1/mm", f"1 over Tb.1/N: direct, {_MID_AXES}"),
        "distance between mid-axes": Number("Tb.1/N", mean, "mm", f"mean {what}, direct"),
        "distance between mid-axes, standard deviation": Number(
            "Tb.1/N.SD", deviation, "mm", f"standard deviation {what}"
        ),
    }


def _plates(volume: float, total: float, surface: float) -> dict[str, Number]:
    """Plate model: what these numbers would be if all bone were parallel plates."""
    thick = _ratio(2 * volume, surface)
    number = _ratio(_ratio(volume, total), thick)
    return {
        "trabecular thickness, plate model": Number(
            "Tb.Th_plate", thick, "mm", "2 BV over BS: plate model, assumes plates"
        ),
        "trabecular number, plate model": Number("Tb.N_plate", number, "1/mm", "(BV/TV) over Tb.Th_plate: plate model"),
        "trabecular separation, plate model": Number(
            "Tb.Sp_plate", _ratio(1, number) - thick, "mm", "1 / Tb.N_plate - Tb.Th_plate: plate model"
        ),
    }


def _topology(found: Found, total: float, has_region: bool) -> dict[str, Number]:
    cells = found.cells("bone")
    connections = connections_of(found, has_region)
    rim = (
        "χ of bone with nothing outside of the region"
        if has_region
        else "Δχ, faces, edges and corners of the box shared"
    )
    return {
        "Euler number, 26-connected": Number(
            "χ_26", euler_number(cells, 26), "", "pieces - tunnels + cavities of all bone, voxels joined by corners"
        ),
        "Euler number, 6-connected": Number(
            "χ_6", euler_number(cells, 6), "", "the same, voxels joined by faces alone"
        ),
        "connectivity": Number(
            "Conn", connections, "", f"1 - {rim}; of the purified bone (Odgaard and Gundersen 1993)"
        ),
        "connectivity density": Number(
            "Conn.D", _ratio(connections, total), "1/mm³", "connectivity over TV", connections, total
        ),
    }


def _porosity(found: Found, volume: float, total: float) -> dict[str, Number]:
    closed = found.closed_voxels * float(np.prod(found.voxel_size_um)) * 1e-9
    space = total - volume
    rows = (
        ("porosity", "Po(tot)", space, "space over TV"),
        (
            "porosity, open",
            "Po(op)",
            space - closed,
            "space 6-connected with the border or the outside of the region, over TV",
        ),
        ("porosity, closed", "Po(cl)", closed, "space that bone encloses wholly, over TV"),
    )
    return {name: Number(symbol, _ratio(part, total), "", text, part, total) for name, symbol, part, text in rows}


def _smi(found: Found, volume: float, surface: float, has_region: bool) -> float:
    if has_region:
        return math.nan
    curvature = mean_curvature_integral(found.cells("bone"), found.voxel_size_um, "exclude") * 1e-3
    return _ratio(12 * volume * curvature, surface**2)


def _ratio(above: float, below: float) -> float:
    return above / below if below else math.nan
