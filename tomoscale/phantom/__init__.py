"""A scan with known truth: real bone texture around a threaded magnesium screw with a corroded front.

Every voxel is a pure function of its global index, the seed and the parameters: any region, read by any worker in any
order, has the same bits. Randomness is a hash of lattice points, never a sequence; the arithmetic per voxel uses only
+ - * / and sqrt, which all machines round alike.

.. code-block:: text

    metal (1)  | degradation layer (2)     | gap or contact | bone (3), marrow and air (0)
    -----------|--- crack (0) ---|---------|----------------|-----------------------------
             front          old surface   outer surface          distance from the screw's surface ->
"""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tifffile

from tomoscale.errors import InputError
from tomoscale.geometry import Grid, Region, Shape, Spacing, region_shape
from tomoscale.phantom import voxels
from tomoscale.phantom.bone import Held, bone_texture, laid
from tomoscale.phantom.model import Model
from tomoscale.phantom.random_fields import Field, field_around, ring_amplitudes, whitened
from tomoscale.phantom.sample import Corrosion, Detector, Screw
from tomoscale.places import local_path

__all__ = [
    "BACKGROUND",
    "BONE",
    "LAYER",
    "METAL",
    "Corrosion",
    "Detector",
    "Phantom",
    "PhantomArray",
    "Screw",
    "bone_texture",
]
BACKGROUND, METAL, LAYER, BONE = 0, 1, 2, 3
Part = Literal["scan", "truth", "screw"]


@dataclass(frozen=True)
class PhantomArray:
    """One array of a phantom, computed where it is read, with the face of a stored array.

    Attributes
    ----------
    phantom : Phantom
    part : "scan", "truth" or "screw"
    """

    phantom: Phantom
    part: Part

    @property
    def shape(self) -> Shape:
        """Voxels along (z, y, x)."""
        return self.phantom.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """uint16 for the scan, uint8 for the two others."""
        return np.dtype(np.uint16 if self.part == "scan" else np.uint8)

    @property
    def kind(self) -> str:
        """What the values mean, for storage: "grey", "labels" or "mask"."""
        return {"scan": "grey", "truth": "labels", "screw": "mask"}[self.part]

    @property
    def chunk_shape(self) -> Shape:
        """Any region costs the same per voxel; this is a convenient unit."""
        z, y, x = (min(64, n) for n in self.shape)
        return z, y, x

    @property
    def name(self) -> str:
        """What it is, for messages."""
        return f"phantom {self.part}, seed {self.phantom.seed}"

    def read(self, region: Region) -> np.ndarray:
        """Compute the voxels of `region`."""
        read = {"scan": self.phantom.grey, "truth": self.phantom.labels, "screw": self.phantom.reference}[self.part]
        return read(region)

    def identity(self) -> dict[str, Any]:
        """JSON values that say which voxels these are: equal identities have equal bits."""
        return {"phantom": self.part, **self.phantom.parameters()}


@dataclass(frozen=True)
class Phantom:
    """A digital scan of a corroded screw in bone, of any size, with its truth.

    Attributes
    ----------
    shape : (Z, Y, X)
    seed : int
        Another seed is another sample: other bone around the screw, other front, cracks and noise.
    voxel_size_um : (z, y, x)
    texture : (Z, Y, X) uint8 array or None
        Bone to repeat, mirrored, through the volume; None for `bone_texture`.
    implant : Screw or None
        None for `Screw.fitting`.
    corrosion : Corrosion
    detector : Detector

    Examples
    --------
    >>> bone = np.zeros((8, 8, 8), np.uint8)
    >>> bone[:, 3:] = 200
    >>> phantom = Phantom((64, 64, 64), seed=1, texture=bone)
    >>> phantom.labels((slice(30, 31), slice(32, 33), slice(32, 34)))
    array([[[1, 1]]], dtype=uint8)
    """

    shape: Shape
    seed: int = 0
    voxel_size_um: Spacing = (5.0, 5.0, 5.0)
    texture: np.ndarray | None = field(default=None, repr=False, compare=False)
    implant: Screw | None = None
    corrosion: Corrosion = field(default_factory=Corrosion)
    detector: Detector = field(default_factory=Detector)
    texture_digest: str = field(init=False, default="")

    def __post_init__(self) -> None:
        Grid(self.shape, (1, 1, 1))
        if len(self.voxel_size_um) != 3 or min(self.voxel_size_um) <= 0:
            raise ValueError(f"voxel_size_um must be three positive lengths (z, y, x), got {self.voxel_size_um}")
        if self.texture is not None and (self.texture.ndim != 3 or self.texture.dtype != np.uint8):
            raise InputError(
                f"texture must be a (z, y, x) uint8 array, got {self.texture.ndim} axes of {self.texture.dtype}"
            )
        object.__setattr__(self, "texture_digest", hashlib.sha256(self._texture.tobytes()).hexdigest()[:16])

    @property
    def scan(self) -> PhantomArray:
        """The grey scan as an array that can be read by regions."""
        return PhantomArray(self, "scan")

    @property
    def truth(self) -> PhantomArray:
        """The true labels as an array that can be read by regions."""
        return PhantomArray(self, "truth")

    @property
    def screw(self) -> PhantomArray:
        """The screw as implanted, the reference, as an array that can be read by regions."""
        return PhantomArray(self, "screw")

    def parameters(self) -> dict[str, Any]:
        """JSON values that determine every voxel."""
        names = ("shape", "seed", "voxel_size_um", "texture_digest")
        parts = {"implant": asdict(self._screw), "corrosion": asdict(self.corrosion), "detector": asdict(self.detector)}
        return {**{n: getattr(self, n) for n in names}, **parts}

    def __getstate__(self) -> dict[str, Any]:
        # What is computed once per process stays there: a task carries the parameters only.
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def reference(self, region: Region) -> np.ndarray:
        """Screw as implanted, in a region: (z, y, x) uint8, 1 inside."""
        out = np.empty(self._checked(region), np.uint8)
        voxels.fill_reference(self._model, _low(region), out)
        return out

    def labels(self, region: Region) -> np.ndarray:
        """Truth in a region: (z, y, x) uint8, 0 background, 1 residual metal, 2 degradation layer, 3 bone."""
        return self._filled(region, want_grey=False)[0]

    def grey(self, region: Region) -> np.ndarray:
        """Scan in a region: (z, y, x) uint16."""
        clean = self._filled(region, want_grey=True)[1]
        low = _low(region)
        noise = np.empty(tuple(n + 2 for n in clean.shape), np.int32)
        whitened(self._key("noise"), (low[0] - 1, low[1] - 1, low[2] - 1), noise)
        middle = (self.shape[1] / 2, self.shape[2] / 2)
        first, rings = ring_amplitudes(self._key("rings"), region, middle, self.detector.rings)
        circle = 0.13 * min(self.shape[1:])
        numbers = (first, self.detector.noise, self.detector.shading, circle)
        return np.asarray(voxels.expose(clean, noise, rings, low, middle, numbers))

    def write_slices(self, folder: str | Path, slab: int = 16, threads: int = 1) -> Path:
        """Write the scan as a folder of TIFF slices, ``scan_00000.tif`` on, `slab` slices at a time.

        Parameters
        ----------
        folder : path
            Made if absent.
        slab : int
            Slices computed together by each thread: 11 bytes per voxel of a slab are held.
        threads : int
            Slabs in work at the same time.

        Raises
        ------
        InputError
            If the folder holds TIFF files already.
        """
        target = local_path(folder)
        if slab < 1 or threads < 1:
            raise ValueError(f"slab and threads must be at least 1, got {slab} and {threads}")
        target.mkdir(parents=True, exist_ok=True)
        if any(target.glob("*.tif*")):
            raise InputError(
                f"{target} holds TIFF files already, which would mix with the new scan: name an empty folder"
            )
        starts = range(0, self.shape[0], slab)
        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(lambda start: self._write_slab(target, start, min(start + slab, self.shape[0])), starts):
                pass
        return target

    def _write_slab(self, folder: Path, start: int, stop: int) -> None:
        values = self.grey((slice(start, stop), slice(0, self.shape[1]), slice(0, self.shape[2])))
        per_cm = (1e4 / self.voxel_size_um[2], 1e4 / self.voxel_size_um[1])
        for z, values_of_slice in enumerate(values, start):
            path = folder / f"scan_{z:05d}.tif"
            tifffile.imwrite(path, values_of_slice, resolution=per_cm, resolutionunit="CENTIMETER")

    def _checked(self, region: Region) -> Shape:
        inside = all(0 <= r.start <= r.stop <= n for r, n in zip(region, self.shape, strict=True))
        if not inside:
            raise ValueError(f"region {region} does not lie in the phantom's shape {self.shape}")
        return region_shape(region)

    def _filled(self, region: Region, want_grey: bool) -> tuple[np.ndarray, np.ndarray]:
        labels = np.empty(self._checked(region), np.uint8)
        grey = np.empty(labels.shape if want_grey else (0, 0, 0), np.float32)
        if labels.size:
            voxels.fill(self._model, self._bone, self._fields(region), _low(region), labels, grey)
        return labels, grey

    def _key(self, name: str) -> np.uint64:
        digest = hashlib.sha256(f"{self.seed} {name}".encode()).digest()
        return np.uint64(int.from_bytes(digest[:8], "little"))

    @cached_property
    def _texture(self) -> np.ndarray:
        return bone_texture() if self.texture is None else self.texture

    @cached_property
    def _screw(self) -> Screw:
        return self.implant or Screw.fitting(self.shape, self.voxel_size_um)

    @cached_property
    def _bone(self) -> voxels.Bone:
        return laid(self.texture_digest, Held(self._texture), int(self._key("bone")))

    @cached_property
    def _model(self) -> Model:
        s, c, d = self._screw, self.corrosion, self.detector
        voxel = self._voxel_um
        lengths = (s.radius_um, s.thread_depth_um, s.pitch_um, s.start_um, s.end_um, s.head_um)
        front = (c.depth * s.radius_um, c.roughness * s.radius_um, c.growth * s.radius_um)
        cracks = (max(2 * voxel, c.crack_width * s.radius_um), self._scales_um["cracks"], c.contact)
        levels = (d.tissue, d.metal, d.layer, d.bone, d.layer_variation, d.fringe, d.blur_voxels)
        numbers = (*self.voxel_size_um, voxel, *lengths, *s.centre_um, *s.tilt, *front, *cracks, *levels)
        return Model(*(float(n) for n in numbers))

    @cached_property
    def _voxel_um(self) -> float:
        return sum(self.voxel_size_um) / 3

    @cached_property
    def _scales_um(self) -> dict[str, float]:
        return voxels.spacings_um(self._screw.radius_um, self._voxel_um)

    def _fields(self, region: Region) -> tuple[Field, ...]:
        z, y, x = self.voxel_size_um
        return tuple(
            field_around(self._key(name), region, (scale / z, scale / y, scale / x))
            for name, scale in self._scales_um.items()
        )


def _low(region: Region) -> tuple[int, int, int]:
    z, y, x = (int(r.start) for r in region)
    return z, y, x
