"""Mean intercept length in many lattice directions, and the degree of anisotropy from an ellipsoid fitted to it.

Lines in direction d go from voxel to voxel, ``v, v + d, v + 2 d, ...``; where two voxels in turn differ the line meets
the surface. Counted are the steps with both voxels in the region, and those of them that meet the surface, for all
primitive d with no component beyond 3: nothing is drawn at random, and counts add over blocks.

.. code-block:: text

    d = (0, 1, 3)     v . . .       a step belongs to the block that owns its first voxel (z, y, x),
                      . . . v+d     so a block reads 3 voxels around it, none before it along z
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from itertools import product

import numba
import numpy as np

from tomoscale.arrays import Array, to_host
from tomoscale.geometry import Block, Halo, Spacing
from tomoscale.measures.cells import direction_weights
from tomoscale.measures.topology import object_mask
from tomoscale.step import Counts, Measure

REACH = 3
STEPS = np.array(
    [d for d in product(range(-REACH, REACH + 1), repeat=3) if d > (0, 0, 0) and math.gcd(*(abs(c) for c in d)) == 1]
)
"""(145, 3) primitive lattice vectors (z, y, x), one of each opposite pair."""

_WORD = 64
_FEWEST_FOR_FIT = 6
_jit = numba.njit(cache=True, nogil=True)


@dataclass(frozen=True)
class Anisotropy:
    """Ellipsoid fitted to the mean intercept lengths.

    Attributes
    ----------
    degree : float
        ``1 - (shortest / longest radius)²``: 0 where all directions are alike, 1 where one axis never meets a surface;
        NaN where too few lines meet one.
    radii_um : (longest, middle, shortest)
        Infinite along an axis without intercepts.
    directions : three (z, y, x)
        Of the radii, of length 1, the largest component positive.
    """

    degree: float
    radii_um: tuple[float, float, float]
    directions: tuple[Spacing, Spacing, Spacing]


def intercepts(object_classes: tuple[int, ...] | None, absent: int | None = None, *, name: str = "labels") -> Measure:
    """Measure of `count_intercepts`.

    Parameters
    ----------
    object_classes : tuple of int or None
        Labels of the object; None for all but 0.
    absent : int or None
        Label of what lies outside of the region of interest; None where all of the volume is in it.
    name : str
        Of the input.
    """
    if object_classes is not None and (not object_classes or absent in object_classes):
        raise ValueError(f"object_classes must name labels other than {absent}, which is absent, got {object_classes}")
    return Measure(
        "intercepts",
        partial(count_intercepts, object_classes=object_classes, absent=absent),
        (name,),
        Halo(before=(0, REACH, REACH), after=(REACH, REACH, REACH)),
        # A mask of a byte, another while it is compared, and both packed to bits, with a word more for each row.
        bytes_per_voxel=3.0,
        counts_bytes=2 * 8 * len(STEPS),
        parameters={"classes": None if object_classes is None else list(object_classes), "absent": absent},
    )


def count_intercepts(
    labels: Array, *, block: Block, object_classes: tuple[int, ...] | None, absent: int | None
) -> Counts:
    """Count the steps from the core's voxels within the region, and those that meet the surface of the object.

    Parameters
    ----------
    labels : (Z, Y, X) bool or integer array
        Read with 3 voxels around the core, none before it along z, clipped at the volume's edge; more is cut off.
    block : Block
    object_classes : tuple of int or None
    absent : int or None

    Returns
    -------
    dict
        ``"steps"`` and ``"changes"``: (145,) int64, in the order of `STEPS`.
    """
    values = to_host(labels)
    mask = _packed(object_mask(values, object_classes))
    inside = _packed(np.ones(values.shape, bool) if absent is None else values != absent)
    core = np.array([[c.start, c.stop] for c in block.core], np.int64)
    owned = np.zeros(values.shape[2], bool)
    owned[block.core[2]] = True
    counts = np.zeros((2, len(STEPS)), np.int64)
    _count(mask, inside, _packed(owned[None, None])[0, 0], core, STEPS, counts)
    return {"steps": counts[0], "changes": counts[1]}


def anisotropy(counts: Counts, voxel_size_um: Spacing) -> Anisotropy:
    """Degree of anisotropy from the counts of `intercepts` (Harrigan and Mann 1984).

    Directions are weighted by the share of the sphere that is nearest to them, since lattice vectors are not evenly
    spread. The ellipsoid is the symmetric form fitted by least squares to ``1 / length²``, which is linear in it and
    finite where no line meets the surface.

    Notes
    -----
    A step is up to 5.2 voxels long: what is thinner than that is missed by some lines of the long steps.
    """
    steps, changes = (np.asarray(counts[name], np.float64) for name in ("steps", "changes"))
    vectors = STEPS * np.array(voxel_size_um)
    lengths = np.linalg.norm(vectors, axis=1)
    used = steps > 0
    nothing = Anisotropy(math.nan, (math.nan,) * 3, ((math.nan,) * 3,) * 3)
    if not changes.any() or used.sum() < _FEWEST_FOR_FIT:
        return nothing
    # A line enters the object at every second change.
    per_length = changes[used] / (2 * steps[used] * lengths[used])
    z, y, x = (vectors / lengths[:, None])[used].T
    matrix = np.stack([z * z, y * y, x * x, 2 * z * y, 2 * z * x, 2 * y * x], axis=1)
    weight = np.sqrt(direction_weights(vectors))[used]
    (zz, yy, xx, zy, zx, yx), _, rank, _ = np.linalg.lstsq(matrix * weight[:, None], per_length**2 * weight, rcond=None)
    if rank < _FEWEST_FOR_FIT:
        return nothing
    values, axes = np.linalg.eigh(np.array([[zz, zy, zx], [zy, yy, yx], [zx, yx, xx]]))
    # Below the noise of the fit an axis has no intercepts; a fitted form may even be a little negative there.
    values = np.where(values < 1e-12 * values[-1], 0.0, values)
    signs = [np.sign(axis[np.argmax(np.abs(axis).round(6))]) for axis in axes.T]
    with np.errstate(divide="ignore"):
        first, second, third = (1 / np.sqrt(values)).tolist()
    one, two, three = ((float(a[0] * s), float(a[1] * s), float(a[2] * s)) for a, s in zip(axes.T, signs, strict=True))
    return Anisotropy(float(1 - values[0] / values[-1]), (first, second, third), (one, two, three))


def _packed(mask: np.ndarray) -> np.ndarray:
    """Rows of a mask as words of 64 bits, the first voxel in the lowest bit, with a word of zeros at the end."""
    octets = np.packbits(mask, axis=2, bitorder="little")
    words = -(-octets.shape[2] // 8) + 1
    padded = np.zeros((*mask.shape[:2], 8 * words), np.uint8)
    padded[:, :, : octets.shape[2]] = octets
    return np.asarray(padded.view("<u8").astype(np.uint64, copy=False))


@_jit  # type: ignore[untyped-decorator]
def _ones(word: np.uint64) -> np.int64:
    """How many bits of a word are set."""
    word -= (word >> np.uint64(1)) & np.uint64(0x5555555555555555)
    word = (word & np.uint64(0x3333333333333333)) + ((word >> np.uint64(2)) & np.uint64(0x3333333333333333))
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((word * np.uint64(0x0101010101010101)) >> np.uint64(56))


@_jit  # type: ignore[untyped-decorator]
def _count(  # noqa: C901 -- one loop of compiled code over rows, directions and words
    mask: np.ndarray, inside: np.ndarray, owned: np.ndarray, core: np.ndarray, steps: np.ndarray, counts: np.ndarray
) -> None:
    """Add the steps and changes of all words of the core; `owned` says which voxels of a row are of the core."""
    n_words = mask.shape[2]
    for z in range(core[0, 0], core[0, 1]):
        for y in range(core[1, 0], core[1, 1]):
            for d in range(steps.shape[0]):
                to_z, to_y, dx = z + steps[d, 0], y + steps[d, 1], steps[d, 2]
                if to_z >= mask.shape[0] or not 0 <= to_y < mask.shape[1]:
                    continue
                here, there = mask[z, y], mask[to_z, to_y]
                region, region_there = inside[z, y], inside[to_z, to_y]
                n, changed = np.int64(0), np.int64(0)
                up, down = np.uint64(abs(dx)), np.uint64(_WORD - abs(dx))
                for word in range(n_words):
                    both = region[word] & owned[word]
                    if both == 0:
                        continue
                    other, other_in = there[word], region_there[word]
                    if dx > 0:
                        # The last word is zero, so there always is a next one.
                        other = (other >> up) | (there[word + 1] << down)
                        other_in = (other_in >> up) | (region_there[word + 1] << down)
                    elif dx < 0:
                        before = there[word - 1] >> down if word > 0 else np.uint64(0)
                        before_in = region_there[word - 1] >> down if word > 0 else np.uint64(0)
                        other, other_in = (other << up) | before, (other_in << up) | before_in
                    both &= other_in
                    n += _ones(both)
                    changed += _ones((here[word] ^ other) & both)
                counts[0, d] += n
                counts[1, d] += changed
