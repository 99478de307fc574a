"""The nine planes that a volume is cut into slices by."""

from __future__ import annotations

from dataclasses import dataclass

from tomoscale.geometry import Shape, three
from tomoscale.kernels.rotation import Rotation


@dataclass(frozen=True)
class Plane:
    """One way to cut a volume into slices.

    Attributes
    ----------
    name : str
    rotation : 0, 1, 2 or None
        Axis that the volume is turned about by 45 degrees first.
    normal : 0, 1, 2
        Axis of the (turned) volume that slices are cut across.
    """

    name: str
    rotation: int | None
    normal: int

    @property
    def order(self) -> Shape:
        """Axes of the volume as (slice, row, column)."""
        return three((self.normal, *(a for a in range(3) if a != self.normal)))

    def cut_shape(self, volume_shape: Shape) -> Shape:
        """Shape of the volume that is cut: turned if the plane wants that."""
        return volume_shape if self.rotation is None else Rotation(self.rotation, volume_shape).canvas


PLANES = (
    Plane("rc", None, 0),
    Plane("cp", None, 1),
    Plane("pr", None, 2),
    Plane("z1", 0, 2),
    Plane("z2", 0, 1),
    Plane("y1", 1, 2),
    Plane("y2", 1, 0),
    Plane("x1", 2, 1),
    Plane("x2", 2, 0),
)
"""The planes of Baltruschat et al. 2021 in the order they are added: the three faces of a cube, and the six diagonal ones.

Slices across the axis of a rotation are left out: they are those of the volume, turned in themselves.
"""
