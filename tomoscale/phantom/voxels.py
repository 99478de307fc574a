"""Voxel by voxel: what the phantom holds at a global index; compiled, on one thread, without the interpreter's lock.

Nothing here depends on where a region starts, and every sum has a fixed order, so all tilings give the same bits.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from tomoscale.phantom.model import REACH, Model, clamped, deep_um, far_um, screw_distance
from tomoscale.phantom.random_fields import compiled, contract, inlined, interpolate, tabulate

# Rows of the working set of a line: first the random fields, then what is computed from them.
DEPTH, PITS, GROWTH, CRACKS, OPENING, GRAIN, COVER, WARP_Z, WARP_Y, WARP_X = range(10)
N_FIELDS = 10
OLD, FRONT, OUTER, CRACK, VALUE = range(10, 15)
N_ROWS = 15
WARP = 9.0
"""Standard deviation of the texture's warp, in voxels."""
FAR = 1e9

# Four uniforms on 0..65535 have variance 4 * (65536**2 - 1) / 12; the weights 4 and six times 1 add in squares.
NOISE_SCALE = 1.0 / math.sqrt(22.0 * 4.0 * (65536.0**2 - 1.0) / 12.0)


def spacings_um(radius_um: float, voxel_um: float) -> dict[str, float]:
    """Lattice spacing of each random field, in the order of the rows.

    They go with the screw, so that a finer scan shows the same sample, but never below what the voxels resolve.
    """
    return {
        "front": max(0.22 * radius_um, 6 * voxel_um),
        "pits": max(0.1 * radius_um, 4 * voxel_um),
        "growth": max(0.12 * radius_um, 5 * voxel_um),
        "cracks": max(0.17 * radius_um, 7 * voxel_um),
        "opening": max(0.25 * radius_um, 8 * voxel_um),
        "grain": max(0.025 * radius_um, 2.5 * voxel_um),
        "cover": max(0.4 * radius_um, 8 * voxel_um),
        **dict.fromkeys(("warp z", "warp y", "warp x"), 60 * voxel_um),
    }


class Bone(NamedTuple):
    """The texture and how to lay it through the volume."""

    values: Any  # (z, y, x) float32
    offset_z: float
    offset_y: float
    offset_x: float
    zoom: float
    threshold: float
    dark: float
    bright: float


@inlined
def _mirrored(u: float, n: int) -> tuple[int, int, float]:
    """Texture voxels on both sides of a place, mirrored into 0..n-1 without end, and the weight of the second."""
    v = u - math.floor(u * (0.5 / n)) * (2.0 * n)
    i = int(v)
    t = v - i
    j = i + 1
    i = i if i < n else max(0, 2 * n - 1 - i)
    j = j if j < n else (2 * n - 1 - j if j < 2 * n else 0)
    return i, j, t


@compiled
def _lay(b: Bone, z: int, y: int, low: int, rows: np.ndarray, deep: float) -> None:
    """Texture along one line of voxels, warped so that no mirror shows, linearly between its voxels."""
    t = b.values
    nz, ny, nx = t.shape
    for x in range(rows.shape[1]):
        if rows[OLD, x] < deep:
            continue
        z0, z1, wz = _mirrored((z + WARP * rows[WARP_Z, x]) / b.zoom + b.offset_z, nz)
        y0, y1, wy = _mirrored((y + WARP * rows[WARP_Y, x]) / b.zoom + b.offset_y, ny)
        x0, x1, wx = _mirrored((x + low + WARP * rows[WARP_X, x]) / b.zoom + b.offset_x, nx)
        c00 = t[z0, y0, x0] * (1.0 - wx) + t[z0, y0, x1] * wx
        c01 = t[z0, y1, x0] * (1.0 - wx) + t[z0, y1, x1] * wx
        c10 = t[z1, y0, x0] * (1.0 - wx) + t[z1, y0, x1] * wx
        c11 = t[z1, y1, x0] * (1.0 - wx) + t[z1, y1, x1] * wx
        rows[VALUE, x] = (c00 * (1.0 - wy) + c01 * wy) * (1.0 - wz) + (c10 * (1.0 - wy) + c11 * wy) * wz


@inlined
def _fringe(s: float) -> float:
    """Phase-contrast overshoot over the distance to an interface, in voxels: dark outside, bright inside."""
    q = 1.0 + s * s / 6.0
    return -s / (q * q * q)


@compiled
def fill_reference(m: Model, low: tuple[int, int, int], out: np.ndarray) -> None:
    """Write 1 inside the screw as implanted and 0 elsewhere."""
    for k in range(out.shape[0]):
        for j in range(out.shape[1]):
            for i in range(out.shape[2]):
                z, y, x = (k + low[0] + 0.5) * m.size_z, (j + low[1] + 0.5) * m.size_y, (i + low[2] + 0.5) * m.size_x
                out[k, j, i] = 1 if screw_distance(m, z, y, x) < 0.0 else 0


@compiled
def _draw(fields: Any, place: Any, tables: Any, span: Any, rows: np.ndarray) -> None:
    """Evaluate the random fields on one line: the bone's warp everywhere, the others where the implant is in reach."""
    index, weights, line = tables
    for n in range(N_FIELDS):
        part = (0, rows.shape[1]) if n >= WARP_Z else span
        if part[0] < part[1]:
            contract(fields[n], place[0], place[1], line)
            interpolate(line, index[n], weights[n], part, rows[n])


@compiled
def _grow(m: Model, b: Bone, rows: np.ndarray, span: Any) -> None:
    """Distances to the front, to the implant's outer surface and to a crack's wall; new bone and gaps on the layer."""
    near = 0.16 * m.radius
    for x in range(span[0], span[1]):
        old = rows[OLD, x]
        depth = m.depth + m.roughness * (rows[DEPTH, x] + 2.5 * max(0.0, rows[PITS, x] - 1.0))
        front = old + min(max(0.0, depth), m.depth + REACH * m.roughness)
        outer = min(front, old - m.growth * min(REACH, 1.0 + 1.5 * rows[GROWTH, x]))
        # Sheets where a field crosses zero (its slope there is about 1.2 per spacing), open where another one lets
        # them; near the metal they close: the youngest corrosion product is still whole.
        width = 0.5 * m.crack_width * clamped(0.75 + 0.6 * rows[OPENING, x]) * clamped(front / (1.5 * m.voxel))
        rows[CRACK, x] = abs(rows[CRACKS, x]) * m.crack_spacing / 1.2 - width
        rows[FRONT, x], rows[OUTER, x] = front, outer
        # New bone is a sheet whose thickness follows the cover; where the cover is negative a gap opens instead.
        cover = rows[COVER, x] + m.cover
        new = (b.bright - b.dark) * (0.94 + 0.035 * rows[GRAIN, x])
        value = max(rows[VALUE, x] - b.dark, new * clamped(0.5 + (near * min(1.5, cover) - outer) / (2.5 * m.voxel)))
        gap = clamped(0.5 + (near * min(0.5, -0.6 * cover) - outer) / (2.0 * m.voxel))
        rows[VALUE, x] = b.dark + value * (1.0 - gap)


@compiled
def _bury(m: Model, b: Bone, z: float, rows: np.ndarray) -> None:
    """Cut the bone at a rough plane just under the top of the head, which stands out of it."""
    depth = (z - m.start - 0.8 * m.head) / (2.5 * m.voxel) + 0.5
    for x in range(rows.shape[1]):
        rows[VALUE, x] = b.dark + (rows[VALUE, x] - b.dark) * clamped(depth + 2.0 * rows[WARP_Y, x])


@compiled
def _name(b: Bone, rows: np.ndarray, deep: float, labels: np.ndarray) -> None:
    """Labels of one line of voxels."""
    for x in range(labels.size):
        if rows[OLD, x] < deep or rows[FRONT, x] < 0.0:
            labels[x] = 1
        elif rows[OUTER, x] < 0.0:
            labels[x] = 0 if rows[CRACK, x] < 0.0 else 2
        else:
            labels[x] = 3 if rows[VALUE, x] > b.threshold else 0


@compiled
def _shine(m: Model, b: Bone, rows: np.ndarray, deep: float, grey: np.ndarray) -> None:
    """Grey levels of one line: mixtures where a voxel holds two materials, fringes at interfaces."""
    step, width, contrast = m.bone - m.tissue, m.blur * m.voxel, b.bright - b.dark
    for x in range(grey.size):
        if rows[OLD, x] < deep:
            grey[x] = m.metal
            continue
        front, outer, value = rows[FRONT, x], rows[OUTER, x], rows[VALUE, x]
        level = m.tissue + (value - b.dark) * (step / contrast)
        level += 0.3 * m.fringe * step * _fringe(4.0 * (b.threshold - value) / contrast)
        implant = clamped(0.5 - outer / width)
        if implant > 0.0:
            # Young product near the metal has metal's level; outwards it takes up calcium and nears bone's.
            age = clamped(front / (m.depth + m.growth + m.voxel)) - 0.5
            grain = 0.8 * rows[GRAIN, x] + 0.6 * rows[OPENING, x] + 0.8 * age
            layer = m.layer + m.layer_variation * grain
            layer += (m.tissue - layer) * clamped(0.5 - rows[CRACK, x] / width)
            metal = clamped(0.5 - front / width)
            level = level * (1.0 - implant) + implant * (m.metal * metal + layer * (1.0 - metal))
        level += 0.3 * m.fringe * (m.layer - m.tissue) * _fringe(outer / m.voxel) * (1.0 - value / b.bright)
        grey[x] = level - 0.5 * m.fringe * (m.layer - m.metal) * _fringe(front / m.voxel)


@compiled
def _measure(m: Model, place: Any, rows: np.ndarray) -> tuple[int, int]:
    """Distance to the old surface along one line; return the span of voxels with the implant in reach."""
    z, y, low = place
    first, last = rows.shape[1], 0
    for x in range(rows.shape[1]):
        old = screw_distance(m, (z + 0.5) * m.size_z, (y + 0.5) * m.size_y, (x + low + 0.5) * m.size_x)
        rows[OLD, x] = rows[FRONT, x] = rows[OUTER, x] = old
        rows[CRACK, x] = FAR
        if old < far_um(m):
            first, last = min(first, x), x + 1
    return first, max(first, last)


@compiled
def fill(m: Model, b: Bone, fields: Any, low: tuple[int, int, int], labels: np.ndarray, grey: np.ndarray) -> None:
    """Write labels, and grey levels without noise where `grey` is not empty, of the region that starts at `low`.

    Line by line along x, so that the compiler keeps a line's working set in the first cache.
    """
    length, longest = labels.shape[2], 0
    for f in fields:
        longest = max(longest, f.values.shape[2])
    index = np.empty((N_FIELDS, length), np.int64)
    weights = np.empty((N_FIELDS, 4, length), np.float32)
    for n in range(N_FIELDS):
        tabulate(fields[n], low[2], index[n], weights[n])
    line = np.empty(longest, np.float32)
    rows = np.zeros((N_ROWS, length), np.float32)
    deep = deep_um(m)
    for k in range(labels.shape[0]):
        for j in range(labels.shape[1]):
            z, y = k + low[0], j + low[1]
            span = _measure(m, (z, y, low[2]), rows)
            _draw(fields, (z, y), (index, weights, line), span, rows)
            _lay(b, z, y, low[2], rows, deep)
            _grow(m, b, rows, span)
            if m.head > 0.0:
                _bury(m, b, (z + 0.5) * m.size_z, rows)
            _name(b, rows, deep, labels[k, j])
            if grey.size > 0:
                _shine(m, b, rows, deep, grey[k, j])


@compiled
def expose(
    grey: np.ndarray, noise: np.ndarray, rings: np.ndarray, low: tuple[int, int, int], middle: Any, numbers: Any
) -> np.ndarray:
    """Shading, rings and noise on grey levels, rounded to uint16; a detector saturates at both ends.

    `noise` has one voxel more on every side; `rings` is (z, radius) from radius `numbers[0]` on, in voxels.
    """
    first, sigma, shading, circle = numbers
    out = np.empty(grey.shape, np.uint16)
    corner = middle[0] * middle[0] + middle[1] * middle[1]
    for k in range(grey.shape[0]):
        for j in range(grey.shape[1]):
            for i in range(grey.shape[2]):
                dy, dx = j + low[1] + 0.5 - middle[0], i + low[2] + 0.5 - middle[1]
                square = dy * dy + dx * dx
                r = math.sqrt(square)
                n = int(r)
                t = r - n
                ring = rings[k, n - first] * (1.0 - t) + rings[k, n + 1 - first] * t
                near = noise[k, j + 1, i + 1] + noise[k + 2, j + 1, i + 1] + noise[k + 1, j, i + 1]
                near += noise[k + 1, j + 2, i + 1] + noise[k + 1, j + 1, i] + noise[k + 1, j + 1, i + 2]
                grain = 4 * noise[k + 1, j + 1, i + 1] + near - 10 * 131070
                seam = (r - circle) * (r - circle)
                ring += 1.5 * sigma / ((1.0 + seam) * (1.0 + seam))
                level = grey[k, j, i] * (1.0 - shading * square / corner) + ring + sigma * grain * NOISE_SCALE
                out[k, j, i] = np.uint16(min(65535.0, max(0.0, level + 0.5)))
    return out
