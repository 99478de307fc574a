"""Planes through a scan as pictures, one pixel per voxel shown.

A plane is read in strips and thinned as it comes, so that a plane of 20000 x 20000 voxels is never held. Equal data give
equal bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from tomoscale.errors import InputError

if TYPE_CHECKING:
    from tomoscale.geometry import Shape, Spacing
    from tomoscale.volume import Volume

STRIP_VOXELS = 1 << 22
CHUNK_VOXELS = 64  # strips of whole chunks: no chunk is decoded twice
MAX_CLASSES = 31
TINT = 0.5  # share of the class colour over grey values
FAINT = 0.8  # of white: how dark the darkest voxel that is right appears in an error map
FAINT_LEVELS = 32
# Okabe and Ito's colours, which readers with any common colour vision tell apart; the first is for the background.
COLOURS = ("#999999", "#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7")
UNLISTED = "#ff00ff"


@dataclass(frozen=True)
class Palette:
    """The classes of a label volume as they are drawn; rank `n` stands for values that no class names.

    Attributes
    ----------
    ids : (n,) int64 array
    names : tuple of str
    colours : (n + 1, 3) uint8 array
        Red, green, blue by rank.
    """

    ids: np.ndarray
    names: tuple[str, ...]
    colours: np.ndarray

    @classmethod
    def of(cls, classes: Sequence[Mapping[str, Any]]) -> Palette:
        """Palette of ``{"id", "name", "color"}``; a colour that is missing or is not ``#rrggbb`` is replaced.

        Raises
        ------
        ValueError
            If there are more classes than can be told apart, or two with one id.
        """
        ids = [int(c["id"]) for c in classes]
        if len(ids) > MAX_CLASSES:
            raise ValueError(
                f"results name {len(ids)} classes: a report draws at most {MAX_CLASSES}; merge classes first"
            )
        if len(set(ids)) < len(ids):
            raise ValueError(f"results name a class twice: the ids are {ids}, and a voxel can have one colour only")
        colours = [_colour(c.get("color"), rank) for rank, c in enumerate(classes)]
        rgb = np.array([bytes.fromhex(c[1:]) for c in (*colours, UNLISTED)], "V3").view(np.uint8).reshape(-1, 3)
        return cls(np.array(ids, np.int64), tuple(str(c.get("name", c["id"])) for c in classes), rgb)

    def hex(self, rank: int, *, paper: bool = False) -> str:
        """Colour of a rank as ``#rrggbb``, in the labels or `on_paper`."""
        return "#" + bytes((self.on_paper() if paper else self.colours)[rank]).hex()

    def on_paper(self) -> np.ndarray:
        """Colours that stand out on the faint grey of an error map: (n + 1, 3) uint8; greys and light ones are darkened."""
        luminance = self.colours @ np.array([0.2126, 0.7152, 0.0722])
        grey = np.ptp(self.colours, axis=1) < 40
        limit, target = np.where(grey, 80, 205), np.where(grey, 80, 140)
        scale = np.where(luminance > limit, target / np.maximum(luminance, 1), 1.0)
        return np.asarray((self.colours * scale[:, None]).round().astype(np.uint8))

    def ranks(self, values: np.ndarray) -> np.ndarray:
        """Rank of the class of every value: uint8 array of the same shape."""
        out = np.full(values.shape, len(self.ids), np.uint8)
        for rank, value in enumerate(self.ids):
            out[values == value] = rank
        return out


@dataclass(frozen=True)
class Scan:
    """The volumes a report shows, on one grid.

    Raises
    ------
    InputError
        If shapes or voxel sizes differ, or labels are not whole numbers.
    """

    grey: Volume | None = None
    labels: Volume | None = None
    truth: Volume | None = None

    def __post_init__(self) -> None:
        first, *others = self.volumes or (None,)
        for volume in others:
            a, b = first.voxel_size_um, volume.voxel_size_um
            if volume.shape != first.shape:
                raise InputError(
                    f"{volume.name} has shape {volume.shape} but {first.name} has {first.shape}: one picture needs one grid; "
                    "resample one of them"
                )
            if a is not None and b is not None and not np.allclose(a, b, rtol=1e-3):
                raise InputError(
                    f"{volume.name} has voxels of {b} µm but {first.name} of {a} µm: the scale bar would be wrong for one; "
                    "correct the voxel size"
                )
        for volume in (self.labels, self.truth):
            if volume is not None and volume.dtype.kind not in "biu":
                raise InputError(f"{volume.name} is {volume.dtype}: labels must be whole numbers; convert it first")

    @property
    def volumes(self) -> tuple[Any, ...]:
        """Those that are there."""
        return tuple(v for v in (self.grey, self.labels, self.truth) if v is not None)

    @property
    def shape(self) -> Shape:
        """Voxels along (z, y, x)."""
        shape: Shape = self.volumes[0].shape
        return shape

    @property
    def voxel_size_um(self) -> Spacing | None:
        """The first that is known."""
        return next((v.voxel_size_um for v in self.volumes if v.voxel_size_um is not None), None)


@dataclass(frozen=True)
class Plane:
    """One plane of a scan, every ``steps``-th voxel of it; the arrays are (rows, columns) or None.

    Attributes
    ----------
    axis, index : int
        The plane is where the coordinate `axis` is `index`.
    steps : (int, int)
        Along rows and columns.
    pixel : (float, float)
        Height and width of a pixel, in micrometres, or in voxels if the voxel size is not known.
    """

    axis: int
    index: int
    steps: tuple[int, int]
    pixel: tuple[float, float]
    grey: np.ndarray | None
    labels: np.ndarray | None
    truth: np.ndarray | None

    @property
    def arrays(self) -> list[np.ndarray]:
        """Those that are there."""
        return [a for a in (self.grey, self.labels, self.truth) if a is not None]

    @property
    def extent(self) -> tuple[float, float]:
        """Height and width in the unit of `pixel`."""
        rows, columns = self.arrays[0].shape
        return rows * self.pixel[0], columns * self.pixel[1]

    @property
    def wrong(self) -> float | None:
        """Part of the voxels shown where labels and truth differ."""
        if self.labels is None or self.truth is None:
            return None
        return float(np.mean(self.labels != self.truth))


def cut(scan: Scan, axis: int, index: int, max_side: int) -> Plane:
    """Read one plane of a scan, thinned to at most `max_side` pixels on a side."""
    rows, columns = (a for a in range(3) if a != axis)
    steps = -(-scan.shape[rows] // max_side), -(-scan.shape[columns] // max_side)
    size = scan.voxel_size_um or (1.0, 1.0, 1.0)
    grey, labels, truth = (
        None if v is None else read_plane(v, axis, index, steps) for v in (scan.grey, scan.labels, scan.truth)
    )
    return Plane(axis, index, steps, (steps[0] * size[rows], steps[1] * size[columns]), grey, labels, truth)


def read_plane(volume: Volume, axis: int, index: int, steps: tuple[int, int]) -> np.ndarray:
    """Every ``steps``-th voxel of one plane: (rows, columns) array of the dtype of `volume`, read in strips of rows."""
    rows, columns = (a for a in range(3) if a != axis)
    length, width = volume.shape[rows], volume.shape[columns]
    height = max(CHUNK_VOXELS, STRIP_VOXELS // width // CHUNK_VOXELS * CHUNK_VOXELS)
    parts = []
    for start in range(0, length, height):
        region = {
            axis: slice(index, index + 1),
            rows: slice(start, min(start + height, length)),
            columns: slice(0, width),
        }
        strip = volume.read((region[0], region[1], region[2])).squeeze(axis)
        parts.append(strip[-start % steps[0] :: steps[0], :: steps[1]].copy())  # a view would hold the whole strip
    return np.concatenate(parts)


def grey_window(planes: Sequence[Plane]) -> tuple[float, float]:
    """Grey values drawn black and white: the 0.2nd and 99.8th percentile of all finite values of `planes`."""
    values = [p.grey[np.isfinite(p.grey)].ravel() for p in planes if p.grey is not None]
    merged = np.concatenate(values) if values else np.zeros(0)
    if not merged.size:
        return 0.0, 1.0
    low, high = np.percentile(merged, (0.2, 99.8))
    return float(low), float(high)


def to_levels(values: np.ndarray, window: tuple[float, float], count: int) -> np.ndarray:
    """Grey values as uint8 levels 0 to ``count - 1``; what is not finite is drawn black, a constant in the middle."""
    low, high = window
    if high <= low:
        return np.full(values.shape, count // 2, np.uint8)
    scaled = (values.astype(np.float32) - np.float32(low)) * np.float32(count / (high - low))
    return np.asarray(np.nan_to_num(scaled, posinf=count, neginf=0).clip(0, count - 1).astype(np.uint8))


def grey_picture(plane: Plane, window: tuple[float, float]) -> bytes:
    """Grey values of a plane."""
    assert plane.grey is not None
    return png(to_levels(plane.grey, window, 256))


def label_picture(plane: Plane, window: tuple[float, float], palette: Palette) -> bytes:
    """Classes of a plane as a tint over its grey values; class 0 is not tinted. Without grey values, plain colours."""
    assert plane.labels is not None
    ranks = palette.ranks(plane.labels)
    if plane.grey is None:
        return png(ranks, palette.colours)
    count = 256 // len(palette.colours)
    tint = np.where(np.append(palette.ids, -1) == 0, 0.0, TINT)[:, None, None]
    grey = np.linspace(0, 255, count)[None, :, None]
    colours = grey * (1 - tint) + palette.colours[:, None, :] * tint
    return png(ranks * np.uint8(count) + to_levels(plane.grey, window, count), colours.round().astype(np.uint8))


def error_picture(plane: Plane, window: tuple[float, float], palette: Palette) -> bytes:
    """Voxels that differ from the truth in the colour of the class they were given, over faint grey values."""
    assert plane.labels is not None
    assert plane.truth is not None
    if plane.grey is None:
        context = palette.ranks(plane.truth)  # without grey values, shades of the true classes give the context
        context = (context.astype(np.uint16) * FAINT_LEVELS // len(palette.colours)).astype(np.uint8)
    else:
        context = to_levels(plane.grey, window, FAINT_LEVELS)
    shades = np.linspace(255 * FAINT, 255, FAINT_LEVELS).round()[:, None].repeat(3, axis=1)
    colours = np.concatenate([shades.astype(np.uint8), palette.on_paper()])
    return png(
        np.where(plane.labels != plane.truth, palette.ranks(plane.labels) + np.uint8(FAINT_LEVELS), context), colours
    )


def png(pixels: np.ndarray, colours: np.ndarray | None = None) -> bytes:
    """PNG of uint8 pixels: (rows, columns, 3), or (rows, columns) grey values or indices into `colours`, (n, ..., 3) uint8."""
    rows, columns = pixels.shape[:2]
    mode = "RGB" if pixels.ndim == 3 else "L" if colours is None else "P"
    image = Image.frombytes(mode, (columns, rows), np.ascontiguousarray(pixels).tobytes())
    if colours is not None:
        image.putpalette(colours.tobytes())
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def middle_planes(scan: Scan, max_side: int) -> Iterator[Plane]:
    """Return the planes through the middle across z, y and x."""
    return (cut(scan, axis, scan.shape[axis] // 2, max_side) for axis in range(3))


def strip_indices(length: int, count: int) -> list[int]:
    """Up to `count` different indices, evenly spread over `length` planes, none at the ends of a long one."""
    return sorted({(2 * n + 1) * length // (2 * count) for n in range(count)})


def found_classes(planes: Sequence[Plane]) -> list[dict[str, Any]]:
    """Classes named after the values seen, for labels that come without names."""
    seen = {int(v) for p in planes for a in (p.labels, p.truth) if a is not None for v in np.unique(a)}
    return [{"id": value, "name": f"value {value}"} for value in sorted(seen)]


def _colour(value: Any, rank: int) -> str:
    good = isinstance(value, str) and re.fullmatch(r"#[0-9a-fA-F]{6}", value)
    return value.lower() if good else COLOURS[rank if rank < len(COLOURS) else 1 + rank % (len(COLOURS) - 1)]
