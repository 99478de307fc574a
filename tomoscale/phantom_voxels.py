"""Voxel by voxel: what the phantom holds at a global index; compiled, on one thread, without the interpreter's lock.

Smooth random fields are cubic B-splines over a lattice of hashed values. Nothing here depends on where a region starts:
lattice values are hashed from their global index and every sum has a fixed order, so all tilings give the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import numba
import numpy as np

F = TypeVar("F", bound=Callable[..., Any])


def _compiled(function: F) -> F:
    """Compile a function; division by zero as in NumPy, because Python's check keeps the compiler from vectors."""
    return cast("F", numba.njit(cache=True, nogil=True, error_model="numpy")(function))


def _inlined(function: F) -> F:
    """Compile a function into its callers."""
    return cast("F", numba.njit(cache=True, nogil=True, error_model="numpy", inline="always")(function))


# Rows of the working set of a line: first the random fields, then what is computed from them.
DEPTH, PITS, GROWTH, CRACKS, OPENING, GRAIN, COVER, WARP_Z, WARP_Y, WARP_X = range(10)
N_FIELDS = 10
OLD, FRONT, OUTER, CRACK, VALUE = range(10, 15)
N_ROWS = 15

REACH = 5.0
"""Standard deviations after which pits and growth are cut, so that their reach is known."""

WARP = 9.0
"""Standard deviation of the texture's warp, in voxels."""

FAR = 1e9

# Four uniforms on 0..65535 have variance 4 * (65536**2 - 1) / 12; the weights 4 and six times 1 add in squares.
NOISE_SCALE = 1.0 / math.sqrt(22.0 * 4.0 * (65536.0**2 - 1.0) / 12.0)


class Field(NamedTuple):
    """A smooth random field, mean 0 and standard deviation about 1, by its lattice around one region."""

    values: Any  # (z, y, x) float32
    low_z: int
    low_y: int
    low_x: int
    spacing_z: float
    spacing_y: float
    spacing_x: float


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


class Model(NamedTuple):
    """All numbers of a phantom; lengths in micrometres unless they say otherwise."""

    size_z: float
    size_y: float
    size_x: float
    voxel: float
    radius: float
    thread_depth: float
    pitch: float
    start: float
    end: float
    head: float
    centre_y: float
    centre_x: float
    tilt_y: float
    tilt_x: float
    depth: float
    roughness: float
    growth: float
    crack_width: float
    crack_spacing: float
    cover: float
    tissue: float
    metal: float
    layer: float
    bone: float
    layer_variation: float
    fringe: float
    blur: float


@_inlined
def _mixed(key: np.uint64, z: int, y: int, x: int) -> np.uint64:
    """64 random bits for a lattice point (finaliser of SplitMix64: Steele, Lea, Flood 2014)."""
    h = key + np.uint64(z) * np.uint64(0x9E3779B97F4A7C15)
    h = h + np.uint64(y) * np.uint64(0xC2B2AE3D27D4EB4F) + np.uint64(x) * np.uint64(0x165667B19E3779F9)
    h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return h ^ (h >> np.uint64(31))


@_compiled
def hashed(key: np.uint64, low: tuple[int, int, int], values: np.ndarray, scale: float) -> None:
    """Fill a (z, y, x) float32 array with uniform values in [-scale, scale) for the lattice points from `low` on."""
    for z in range(values.shape[0]):
        for y in range(values.shape[1]):
            for x in range(values.shape[2]):
                bits = _mixed(key, z + low[0], y + low[1], x + low[2]) >> np.uint64(40)
                values[z, y, x] = scale * (np.float64(bits) * (2.0 / 16777216.0) - 1.0)


@_compiled
def whitened(key: np.uint64, low: tuple[int, int, int], values: np.ndarray) -> None:
    """Fill a (z, y, x) int32 array with the sum of four 16-bit uniforms: nearly Gaussian, mean 131070."""
    mask = np.uint64(0xFFFF)
    for z in range(values.shape[0]):
        for y in range(values.shape[1]):
            for x in range(values.shape[2]):
                h = _mixed(key, z + low[0], y + low[1], x + low[2])
                total = (h & mask) + ((h >> np.uint64(16)) & mask) + ((h >> np.uint64(32)) & mask)
                values[z, y, x] = np.int32(total + (h >> np.uint64(48)))


@_inlined
def _spline(t: float) -> tuple[float, float, float, float]:
    """Weights of the four lattice points around a place, for the uniform cubic B-spline."""
    s = 1.0 - t
    return (
        s * s * s / 6.0,
        (4.0 - 6.0 * t * t + 3.0 * t * t * t) / 6.0,
        (4.0 - 6.0 * s * s + 3.0 * s * s * s) / 6.0,
        t * t * t / 6.0,
    )


@_compiled
def _tabulate(f: Field, low: int, index: np.ndarray, weights: np.ndarray) -> None:
    """Place on the lattice and spline weights of each voxel along x."""
    for x in range(index.size):
        u = (x + low) / f.spacing_x
        i = math.floor(u)
        index[x] = int(i) - 1 - f.low_x
        weights[0, x], weights[1, x], weights[2, x], weights[3, x] = _spline(u - i)


@_compiled
def _contract(f: Field, z: int, y: int, line: np.ndarray) -> None:
    """Contract a field's lattice over z and y, for one line of voxels along x."""
    u, v = z / f.spacing_z, y / f.spacing_y
    iz, iy = math.floor(u), math.floor(v)
    wz, wy = _spline(u - iz), _spline(v - iy)
    jz, jy = int(iz) - 1 - f.low_z, int(iy) - 1 - f.low_y
    n = f.values.shape[2]
    line[:n] = 0.0
    for a in range(4):
        for b in range(4):
            w = np.float32(wz[a] * wy[b])
            part = f.values[jz + a, jy + b]
            for x in range(n):
                line[x] += w * part[x]


@_compiled
def _interpolate(line: np.ndarray, index: np.ndarray, weights: np.ndarray, span: Any, row: np.ndarray) -> None:
    """Evaluate a contracted field at the voxels `span` of a line along x."""
    for x in range(span[0], span[1]):
        j = index[x]
        left = weights[0, x] * line[j] + weights[1, x] * line[j + 1]
        row[x] = left + (weights[2, x] * line[j + 2] + weights[3, x] * line[j + 3])


@_inlined
def _part(value: float) -> float:
    """Clamp to 0..1."""
    return min(1.0, max(0.0, value))


@_inlined
def _turn(y: float, x: float) -> float:
    """Angle of (y, x) in turns, to 0.0002: Padé form of the arc tangent, because libraries round atan2 differently."""
    big, small = max(abs(y), abs(x)) + 1e-12, min(abs(y), abs(x))
    p, q = big * big, small * small
    a = small * (0.159155 * p + 0.0371 * q) / (big * (p + 0.5705 * q))
    if abs(y) > abs(x):
        a = 0.25 - a
    if x < 0:
        a = 0.5 - a
    return -a if y < 0 else a


@_inlined
def _thread_distance(m: Model, z: float, rho: float, turn: float) -> float:
    """Distance to an endless thread: flat crest, straight flank, flat root, in the plane through the axis."""
    phase = z * (1.0 / m.pitch) - turn
    s = abs(phase - math.floor(phase) - 0.5) * m.pitch
    crest, root, low = 0.08 * m.pitch, 0.36 * m.pitch, m.radius - m.thread_depth
    a, b = s - crest, m.radius - rho
    along = 1.0 / ((root - crest) * (root - crest) + m.thread_depth * m.thread_depth)
    t = _part((a * (root - crest) + b * m.thread_depth) * along)
    da, db = a - t * (root - crest), b - t * m.thread_depth
    on_crest, on_root = max(0.0, a), max(0.0, root - s)
    square = min(on_crest * on_crest + b * b, on_root * on_root + (rho - low) * (rho - low))
    distance = math.sqrt(min(square, da * da + db * db))
    surface = m.radius - m.thread_depth * _part(a * (1.0 / (root - crest)))
    return distance if rho > surface else -distance


@_inlined
def _deep(m: Model) -> float:
    """Distance under which corrosion and blur never reach: nothing but metal."""
    return -(m.depth + REACH * m.roughness) - 8.0 * m.voxel


@_inlined
def _far(m: Model) -> float:
    """Distance over which neither the layer nor new bone nor a fringe reaches."""
    return max((1.0 + REACH) * m.growth, 0.3 * m.radius) + 8.0 * m.voxel


@_inlined
def screw_distance(m: Model, z: float, y: float, x: float) -> float:
    """Distance to the surface of the screw as implanted, negative inside; exact near the surface, a bound far off."""
    dy, dx = y - m.centre_y - m.tilt_y * z, x - m.centre_x - m.tilt_x * z
    rho = math.sqrt(dy * dy + dx * dx)
    if rho - m.radius > _far(m):
        shaft = rho - m.radius
    elif rho - m.radius + m.thread_depth < _deep(m):
        shaft = rho - m.radius + m.thread_depth
    else:
        shaft = _thread_distance(m, z, rho, _turn(dy, dx))
    cone = 0.7071 * (rho - 0.25 * m.radius + (z - m.end))
    distance = max(shaft, max(z - m.end, cone))
    if m.head > 0.0:
        rim = 0.7071 * (rho - 1.15 * m.radius - (z - m.start))
        seat = 0.7071 * (rho - 1.3 * m.radius + (z - m.start - 0.6 * m.head))
        head = max(max(rho - 1.3 * m.radius, rim), max(seat, z - m.start - m.head))
        slot = max(abs(dy) - 0.18 * m.radius, z - m.start - 0.55 * m.head)
        distance = max(min(distance, head), -slot)
    return max(distance, m.start - z)


@_inlined
def _mirrored(u: float, n: int) -> tuple[int, int, float]:
    """Texture voxels on both sides of a place, mirrored into 0..n-1 without end, and the weight of the second."""
    v = u - math.floor(u * (0.5 / n)) * (2.0 * n)
    i = int(v)
    t = v - i
    j = i + 1
    i = i if i < n else max(0, 2 * n - 1 - i)
    j = j if j < n else (2 * n - 1 - j if j < 2 * n else 0)
    return i, j, t


@_compiled
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


@_inlined
def _fringe(s: float) -> float:
    """Phase-contrast overshoot over the distance to an interface, in voxels: dark outside, bright inside."""
    q = 1.0 + s * s / 6.0
    return -s / (q * q * q)


@_compiled
def fill_reference(m: Model, low: tuple[int, int, int], out: np.ndarray) -> None:
    """Write 1 inside the screw as implanted and 0 elsewhere."""
    for k in range(out.shape[0]):
        for j in range(out.shape[1]):
            for i in range(out.shape[2]):
                z, y, x = (k + low[0] + 0.5) * m.size_z, (j + low[1] + 0.5) * m.size_y, (i + low[2] + 0.5) * m.size_x
                out[k, j, i] = 1 if screw_distance(m, z, y, x) < 0.0 else 0


@_compiled
def _draw(fields: Any, place: Any, tables: Any, span: Any, rows: np.ndarray) -> None:
    """Evaluate the random fields on one line: the bone's warp everywhere, the others where the implant is in reach."""
    index, weights, line = tables
    for n in range(N_FIELDS):
        part = (0, rows.shape[1]) if n >= WARP_Z else span
        if part[0] < part[1]:
            _contract(fields[n], place[0], place[1], line)
            _interpolate(line, index[n], weights[n], part, rows[n])


@_compiled
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
        width = 0.5 * m.crack_width * _part(0.75 + 0.6 * rows[OPENING, x]) * _part(front / (1.5 * m.voxel))
        rows[CRACK, x] = abs(rows[CRACKS, x]) * m.crack_spacing / 1.2 - width
        rows[FRONT, x], rows[OUTER, x] = front, outer
        # New bone is a sheet whose thickness follows the cover; where the cover is negative a gap opens instead.
        cover = rows[COVER, x] + m.cover
        new = (b.bright - b.dark) * (0.94 + 0.035 * rows[GRAIN, x])
        value = max(rows[VALUE, x] - b.dark, new * _part(0.5 + (near * min(1.5, cover) - outer) / (2.5 * m.voxel)))
        gap = _part(0.5 + (near * min(0.5, -0.6 * cover) - outer) / (2.0 * m.voxel))
        rows[VALUE, x] = b.dark + value * (1.0 - gap)


@_compiled
def _bury(m: Model, b: Bone, z: float, rows: np.ndarray) -> None:
    """Cut the bone at a rough plane just under the top of the head, which stands out of it."""
    depth = (z - m.start - 0.8 * m.head) / (2.5 * m.voxel) + 0.5
    for x in range(rows.shape[1]):
        rows[VALUE, x] = b.dark + (rows[VALUE, x] - b.dark) * _part(depth + 2.0 * rows[WARP_Y, x])


@_compiled
def _name(b: Bone, rows: np.ndarray, deep: float, labels: np.ndarray) -> None:
    """Labels of one line of voxels."""
    for x in range(labels.size):
        if rows[OLD, x] < deep or rows[FRONT, x] < 0.0:
            labels[x] = 1
        elif rows[OUTER, x] < 0.0:
            labels[x] = 0 if rows[CRACK, x] < 0.0 else 2
        else:
            labels[x] = 3 if rows[VALUE, x] > b.threshold else 0


@_compiled
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
        implant = _part(0.5 - outer / width)
        if implant > 0.0:
            # Young product near the metal has metal's level; outwards it takes up calcium and nears bone's.
            age = _part(front / (m.depth + m.growth + m.voxel)) - 0.5
            grain = 0.8 * rows[GRAIN, x] + 0.6 * rows[OPENING, x] + 0.8 * age
            layer = m.layer + m.layer_variation * grain
            layer += (m.tissue - layer) * _part(0.5 - rows[CRACK, x] / width)
            metal = _part(0.5 - front / width)
            level = level * (1.0 - implant) + implant * (m.metal * metal + layer * (1.0 - metal))
        level += 0.3 * m.fringe * (m.layer - m.tissue) * _fringe(outer / m.voxel) * (1.0 - value / b.bright)
        grey[x] = level - 0.5 * m.fringe * (m.layer - m.metal) * _fringe(front / m.voxel)


@_compiled
def _measure(m: Model, place: Any, rows: np.ndarray) -> tuple[int, int]:
    """Distance to the old surface along one line; return the span of voxels with the implant in reach."""
    z, y, low = place
    first, last = rows.shape[1], 0
    for x in range(rows.shape[1]):
        old = screw_distance(m, (z + 0.5) * m.size_z, (y + 0.5) * m.size_y, (x + low + 0.5) * m.size_x)
        rows[OLD, x] = rows[FRONT, x] = rows[OUTER, x] = old
        rows[CRACK, x] = FAR
        if old < _far(m):
            first, last = min(first, x), x + 1
    return first, max(first, last)


@_compiled
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
        _tabulate(fields[n], low[2], index[n], weights[n])
    line = np.empty(longest, np.float32)
    rows = np.zeros((N_ROWS, length), np.float32)
    deep = _deep(m)
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


@_compiled
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
