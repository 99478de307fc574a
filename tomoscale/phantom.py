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
import importlib.util
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import scipy.ndimage
import tifffile

from tomoscale import phantom_voxels as voxels
from tomoscale.errors import InputError
from tomoscale.geometry import Grid, Region, Shape, Spacing, region_shape

BACKGROUND, METAL, LAYER, BONE = 0, 1, 2, 3

Part = Literal["scan", "truth", "screw"]


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


@lru_cache(maxsize=1)
def bone_texture() -> np.ndarray:
    """Real bone for the phantom: the example scan that the public package qim3d carries (MIT licence).

    Returns
    -------
    (128, 128, 128) uint8 array
        Cortical shell and trabecular network in X-ray computed tomography; read only.

    Raises
    ------
    InputError
        If qim3d is not installed. Its dependencies are not needed: the package is never imported.
    """
    spec = importlib.util.find_spec("qim3d")
    folders = [Path(p) for p in (spec.submodule_search_locations or [])] if spec else []
    for folder in folders:
        path = folder / "examples" / "bone_128x128x128.tif"
        if path.is_file():
            texture = np.asarray(tifffile.imread(path))
            texture.flags.writeable = False
            return texture
    raise InputError(
        "the phantom's bone comes from the public package qim3d, which is not installed here: "
        "run `pip install --no-deps qim3d`, or give your own (z, y, x) uint8 array as `texture`"
    )


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
        voxels.whitened(self._key("noise"), (low[0] - 1, low[1] - 1, low[2] - 1), noise)
        middle = (self.shape[1] / 2, self.shape[2] / 2)
        first, rings = self._rings(region, middle)
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
        target = Path(folder)
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
        return _laid(self.texture_digest, _Held(self._texture), int(self._key("bone")))

    @cached_property
    def _model(self) -> voxels.Model:
        s, c, d = self._screw, self.corrosion, self.detector
        voxel = self._voxel_um
        lengths = (s.radius_um, s.thread_depth_um, s.pitch_um, s.start_um, s.end_um, s.head_um)
        front = (c.depth * s.radius_um, c.roughness * s.radius_um, c.growth * s.radius_um)
        cracks = (max(2 * voxel, c.crack_width * s.radius_um), self._scales_um["cracks"], c.contact)
        levels = (d.tissue, d.metal, d.layer, d.bone, d.layer_variation, d.fringe, d.blur_voxels)
        numbers = (*self.voxel_size_um, voxel, *lengths, *s.centre_um, *s.tilt, *front, *cracks, *levels)
        return voxels.Model(*(float(n) for n in numbers))

    @cached_property
    def _voxel_um(self) -> float:
        return sum(self.voxel_size_um) / 3

    @cached_property
    def _scales_um(self) -> dict[str, float]:
        """Lattice spacing of each field, in the order of the rows of `phantom_voxels`.

        They go with the screw, so that a finer scan shows the same sample, but never below what the voxels resolve.
        """
        radius, voxel = self._screw.radius_um, self._voxel_um
        return {
            "front": max(0.22 * radius, 6 * voxel),
            "pits": max(0.1 * radius, 4 * voxel),
            "growth": max(0.12 * radius, 5 * voxel),
            "cracks": max(0.17 * radius, 7 * voxel),
            "opening": max(0.25 * radius, 8 * voxel),
            "grain": max(0.025 * radius, 2.5 * voxel),
            "cover": max(0.4 * radius, 8 * voxel),
            **dict.fromkeys(("warp z", "warp y", "warp x"), 60 * voxel),
        }

    def _fields(self, region: Region) -> tuple[voxels.Field, ...]:
        return tuple(self._field(region, name, scale) for name, scale in self._scales_um.items())

    def _field(self, region: Region, name: str, scale_um: float) -> voxels.Field:
        spacing = tuple(scale_um / h for h in self.voxel_size_um)
        low = tuple(math.floor(r.start / s) - 1 for r, s in zip(region, spacing, strict=True))
        high = tuple(math.floor((r.stop - 1) / s) + 3 for r, s in zip(region, spacing, strict=True))
        values = np.empty([h - n for h, n in zip(high, low, strict=True)], np.float32)
        # Uniform values have variance 1/3 and a cubic B-spline keeps 0.479 of it per axis: scaled to variance 1.
        voxels.hashed(self._key(name), low, values, math.sqrt(3 / 0.479**3))
        return voxels.Field(values, *low, *spacing)

    def _rings(self, region: Region, middle: tuple[float, float]) -> tuple[int, np.ndarray]:
        """First radius, and (z, radius) amplitudes: each detector pixel errs by its own, slowly changing amount."""
        far = [max(abs(r.start - m), abs(r.stop - m)) for r, m in zip(region[1:], middle, strict=True)]
        near = [max(0.0, r.start - m, m - r.stop) for r, m in zip(region[1:], middle, strict=True)]
        first, last = int(math.hypot(*near)), int(math.hypot(*far)) + 2
        z = np.arange(region[0].start, region[0].stop) / 24.0
        low = int(z[0]) if z.size else 0
        knots = np.empty(((int(z[-1]) if z.size else 0) - low + 2, 1, last - first + 1), np.float32)
        voxels.hashed(self._key("rings"), (low, 0, first), knots, 1.0)
        knots = knots[:, 0]
        # To the fifth: few pixels err much. Multiplied out because machines differ in powers.
        knots = knots * knots * knots * knots * knots * np.float32(self.detector.rings)
        n = z.astype(np.int64) - low
        t = (z - np.floor(z)).astype(np.float32)[:, None]
        return first, knots[n] * (1 - t) + knots[n + 1] * t


@dataclass(frozen=True)
class _Held:
    """An array that a cache passes through without looking at it."""

    values: np.ndarray = field(compare=False)


@lru_cache(maxsize=4)
def _laid(digest: str, texture: _Held, key: int) -> voxels.Bone:
    """Texture with its threshold and the mean levels on both sides, laid from a place that the seed draws."""
    values = texture.values.astype(np.float32)
    threshold = otsu_threshold(texture.values)
    above = values > threshold
    if above.all() or not above.any():
        raise InputError(
            f"the texture (sha256 {digest}...) has one grey level only, so it shows no bone against marrow"
        )
    z, y, x = ((key >> (16 * n) & 0xFFFF) / 0xFFFF * 2 * size for n, size in enumerate(values.shape))
    # Smoothed a little: single dark voxels (lacunae, noise) would make salt and pepper of the truth.
    soft = scipy.ndimage.gaussian_filter(values, 0.7, mode="mirror")
    soft = np.rint(soft).astype(np.uint8)
    return voxels.Bone(soft, z, y, x, 1.6, threshold, float(values[~above].mean()), float(values[above].mean()))


def otsu_threshold(values: np.ndarray) -> float:
    """Grey level of a uint8 array that best parts it in two (Otsu 1979, equation 18): above is the brighter part."""
    counts = np.bincount(values.ravel(), minlength=256).astype(np.float64)
    weight = np.cumsum(counts)
    moment = np.cumsum(counts * np.arange(256))
    total, mean = weight[-1], moment[-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (mean * weight - total * moment) ** 2 / (weight * (total - weight))
    return float(np.nanargmax(np.where(np.isfinite(between), between, -1.0))) + 0.5


def _low(region: Region) -> tuple[int, int, int]:
    z, y, x = (int(r.start) for r in region)
    return z, y, x
