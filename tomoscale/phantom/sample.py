"""What a phantom is made of: the geometry of its screw, what the body did to it, and how it shows in a scan."""

from __future__ import annotations

from dataclasses import dataclass

from tomoscale.geometry import Shape, Spacing


@dataclass(frozen=True)
class Screw:
    """Geometry of the screw as implanted; lengths in micrometres, its axis along z.

    Attributes
    ----------
    radius_um : float
        Over the crests of the thread.
    thread_depth_um, pitch_um : float
        Crest to root, and crest to crest along z.
    start_um, end_um : float
        z of the top of the head and of the tip.
    head_um : float
        Height of the head, 1.3 radii wide and slotted; 0 for a headless screw.
    centre_um : (y, x)
        Where the axis crosses z = 0.
    tilt : (dy/dz, dx/dz)
        Small slope of the axis.
    """

    radius_um: float
    thread_depth_um: float
    pitch_um: float
    start_um: float
    end_um: float
    head_um: float
    centre_um: tuple[float, float]
    tilt: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        if not 0 <= self.thread_depth_um < self.radius_um or self.pitch_um <= 0:
            raise ValueError(
                f"a screw needs 0 <= thread_depth_um < radius_um and pitch_um > 0, got thread_depth_um "
                f"{self.thread_depth_um}, radius_um {self.radius_um}, pitch_um {self.pitch_um}"
            )
        if not self.start_um + self.head_um < self.end_um:
            raise ValueError(
                f"a screw needs start_um + head_um < end_um, got {self.start_um} + {self.head_um} and {self.end_um}"
            )

    @classmethod
    def fitting(cls, shape: Shape, voxel_size_um: Spacing) -> Screw:
        """Return a slightly tilted screw that fills a good half of the field of view, with the proportions of an M2."""
        z, y, x = (n * h for n, h in zip(shape, voxel_size_um, strict=True))
        radius = 0.27 * min(y, x)
        return cls(
            radius_um=radius,
            thread_depth_um=0.2 * radius,
            pitch_um=0.45 * radius,
            start_um=0.05 * z,
            end_um=0.94 * z,
            head_um=0.1 * z,
            centre_um=(0.5 * y - 0.01 * z, 0.49 * x + 0.01 * z),
            tilt=(0.02, -0.02),
        )


@dataclass(frozen=True)
class Corrosion:
    """What the body did to the screw; lengths as fractions of its radius.

    Attributes
    ----------
    depth : float
        Mean depth of the corrosion front under the old surface.
    roughness : float
        Standard deviation of that depth; pits reach several times deeper.
    growth : float
        Mean height of the degradation layer over the old surface.
    crack_width : float
        Widest opening of the cracks in the layer (at least 2 voxels, so that some are resolved).
    contact : float
        Mean cover of the layer by new bone, in standard deviations of a smooth field: 0 covers about half, -1 little.
    """

    depth: float = 0.09
    roughness: float = 0.04
    growth: float = 0.02
    crack_width: float = 0.045
    contact: float = 0.0


@dataclass(frozen=True)
class Detector:
    """How the sample shows in the scan, in uint16 grey levels.

    The levels follow the linear attenuation at 50 keV relative to cortical bone (mass attenuation coefficients of
    NIST times density: bone 0.81/cm, magnesium 0.57/cm, water 0.23/cm) on an offset of 8000: magnesium is darker than
    bone, and the layer, magnesium hydroxide that takes up calcium phosphate, goes from metal's level to bone's.

    Attributes
    ----------
    tissue, metal, layer, bone : float
        Mean levels of marrow or fluid, residual metal, degradation layer and bone.
    layer_variation : float
        Standard deviation within the layer.
    noise : float
        Standard deviation of the noise, slightly correlated between neighbours.
    rings : float
        Amplitude of the ring artefacts around the rotation axis, the volume's middle.
    fringe : float
        Phase-contrast overshoot at interfaces, as a fraction of the step of the grey level.
    blur_voxels : float
        Width over which an interface's partial volume spreads.
    shading : float
        Loss of the level towards the corners of a slice, as a fraction.
    """

    tissue: float = 17000.0
    metal: float = 30500.0
    layer: float = 35000.0
    bone: float = 40000.0
    layer_variation: float = 2500.0
    noise: float = 2000.0
    rings: float = 1500.0
    fringe: float = 0.35
    blur_voxels: float = 1.5
    shading: float = 0.03
