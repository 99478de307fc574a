"""Patches in new positions, shapes and greys, drawn from a generator of random numbers: the same seed, the same patch.

.. code-block:: text

    patch  --(matrix, displacement)-->  positions in the volume  --read, interpolate-->  grey linear, labels nearest
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from tomoscale.training.recipe import IGNORED, Augmentation, Chance

Random = np.random.Generator


@dataclass(frozen=True)
class Placement:
    """Where the voxels of a patch lie, relative to its centre.

    Attributes
    ----------
    shape : tuple of int
        Of the patch.
    matrix : (D, D) float64 array or None
        Offsets in the volume of offsets in the patch; None where it does not change them.
    displacement : (D, *shape) float64 array or None
        Added to them.
    flips : tuple of int
        Axes that are mirrored after.
    turns : int
        Turns by 90 degrees after, in the last two axes.
    """

    shape: tuple[int, ...]
    matrix: np.ndarray | None
    displacement: np.ndarray | None
    flips: tuple[int, ...]
    turns: int

    @property
    def exact(self) -> bool:
        """Whether voxels stay voxels: no interpolation is needed."""
        return self.matrix is None and self.displacement is None

    def offsets(self) -> np.ndarray:
        """Offsets in the volume from the patch's centre: (D, *shape) float64, before flips and turns."""
        axes = [np.arange(n) - (n - 1) / 2 for n in self.shape]
        grid = np.stack(np.meshgrid(*axes, indexing="ij"))
        moved = grid if self.matrix is None else np.tensordot(self.matrix, grid, 1)
        return np.asarray(moved if self.displacement is None else moved + self.displacement)

    def reorder(self, values: np.ndarray) -> np.ndarray:
        """Mirror and turn an array whose last axes are those of the patch."""
        skip = values.ndim - len(self.shape)
        values = np.flip(values, tuple(skip + a for a in self.flips))
        return np.ascontiguousarray(np.rot90(values, self.turns, (-2, -1)))


def place(how: Augmentation, shape: tuple[int, ...], random: Random) -> Placement:
    """Draw the position and shape of a patch."""
    degrees, size, aspect = (drawn(c, random, none) for c, none in ((how.rotation, 0), (how.scale, 1), (how.aspect, 0)))
    matrix = None
    if degrees or size != 1 or aspect:
        matrix = np.eye(len(shape)) / size
        angle = math.radians(degrees)
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        matrix[-2:, -2:] = turn @ np.diag([2 ** (-aspect / 2), 2 ** (aspect / 2)]) / size
    amplitude = drawn(how.elastic, random, 0)
    displacement = smooth_field(shape, amplitude, how.elastic_voxels, random) if amplitude else None
    flips = tuple(a for a in how.flip_axes if random.random() < how.flip)
    turns = int(random.integers(1, 4)) if random.random() < how.turn else 0
    return Placement(shape, matrix, displacement, flips, turns)


def drawn(chance: Chance, random: Random, none: float) -> float:
    """Amount of something, or `none` where it does not happen; takes two numbers either way."""
    happens, amount = random.random() < chance.probability, random.uniform(chance.low, chance.high)
    return float(amount) if happens else none


def smooth_field(shape: tuple[int, ...], amplitude: float, smooth_voxels: float, random: Random) -> np.ndarray:
    """Random displacement whose largest component is `amplitude`: (D, *shape) float64, smooth over `smooth_voxels`."""
    nodes = tuple(math.ceil(n / smooth_voxels) + 3 for n in shape)
    coarse = random.standard_normal((len(shape), *nodes))
    where = np.meshgrid(*(1 + np.arange(n) / smooth_voxels for n in shape), indexing="ij")
    field = np.stack([ndimage.map_coordinates(c, where, order=3, mode="nearest") for c in coarse])
    return np.asarray(field * (amplitude / np.abs(field).max()))


def interpolate(grey: np.ndarray, labels: np.ndarray, where: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Grey values between voxels, and the labels of the nearest ones.

    Parameters
    ----------
    grey : (C, ...) float32 array
        Mirrored beyond its end, so nothing outside the volume is made up.
    labels : (...) uint8 array
        Not labelled beyond its end.
    where : (D, ...) float64 array
        Positions in them.
    """
    values = np.stack([ndimage.map_coordinates(g, where, order=1, mode="mirror") for g in grey])
    near = ndimage.map_coordinates(labels, where, order=0, mode="constant", cval=IGNORED)
    return values.astype(np.float32), near


def change_greys(values: np.ndarray, how: Augmentation, random: Random) -> np.ndarray:
    """Draw what becomes of the grey values of a patch: (C, ...) float32, a new array or the same."""
    values = values * np.float32(drawn(how.brightness, random, 1)) + np.float32(drawn(how.shift, random, 0))
    contrast = drawn(how.contrast, random, 1)
    if contrast != 1:
        mean = values.mean(dtype=np.float64).astype(np.float32)
        values = (values - mean) * np.float32(contrast) + mean
    values = _gamma(values, drawn(how.gamma, random, 1))
    values = -_gamma(-values, drawn(how.inverted_gamma, random, 1))
    sigma = drawn(how.blur, random, 0)
    if sigma:
        values = ndimage.gaussian_filter(values, (0, *[sigma] * (values.ndim - 1)))
    values = _coarsen(values, drawn(how.low_resolution, random, 1))
    sigma = drawn(how.noise, random, 0)
    if sigma:
        values = values + random.standard_normal(values.shape, np.float32) * np.float32(sigma)
    return np.asarray(values, np.float32)


def _gamma(values: np.ndarray, exponent: float) -> np.ndarray:
    """Bend the range of a patch: its smallest and largest value stay."""
    low, high = values.min(), values.max()
    if exponent == 1 or not low < high:
        return values
    return np.asarray(((values - low) / (high - low)) ** np.float32(exponent) * (high - low) + low)


def _coarsen(values: np.ndarray, zoom: float) -> np.ndarray:
    """Take the nearest voxels of a coarser grid and enlarge them smoothly."""
    if zoom == 1:
        return values
    shape = values.shape[1:]
    mode: Any = "bicubic" if len(shape) == 2 else "trilinear"
    coarse = [max(1, round(n * zoom)) for n in shape]
    tensor = torch.from_numpy(np.ascontiguousarray(values))[None]
    small = torch.nn.functional.interpolate(tensor, coarse, mode="nearest-exact")
    return np.asarray(torch.nn.functional.interpolate(small, shape, mode=mode, align_corners=False)[0].numpy())
