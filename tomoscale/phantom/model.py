"""Distance to the surface of a threaded screw; compiled."""

from __future__ import annotations

import math
from typing import NamedTuple

from tomoscale.phantom.random_fields import inlined

REACH = 5.0
"""Standard deviations after which pits and growth are cut, so that their reach is known."""


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


@inlined
def clamped(value: float) -> float:
    """Clamp to 0..1."""
    return min(1.0, max(0.0, value))


@inlined
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


@inlined
def _thread_distance(m: Model, z: float, rho: float, turn: float) -> float:
    """Distance to an endless thread: flat crest, straight flank, flat root, in the plane through the axis."""
    phase = z * (1.0 / m.pitch) - turn
    s = abs(phase - math.floor(phase) - 0.5) * m.pitch
    crest, root, low = 0.08 * m.pitch, 0.36 * m.pitch, m.radius - m.thread_depth
    a, b = s - crest, m.radius - rho
    along = 1.0 / ((root - crest) * (root - crest) + m.thread_depth * m.thread_depth)
    t = clamped((a * (root - crest) + b * m.thread_depth) * along)
    da, db = a - t * (root - crest), b - t * m.thread_depth
    on_crest, on_root = max(0.0, a), max(0.0, root - s)
    square = min(on_crest * on_crest + b * b, on_root * on_root + (rho - low) * (rho - low))
    distance = math.sqrt(min(square, da * da + db * db))
    surface = m.radius - m.thread_depth * clamped(a * (1.0 / (root - crest)))
    return distance if rho > surface else -distance


@inlined
def deep_um(m: Model) -> float:
    """Distance under which corrosion and blur never reach: nothing but metal."""
    return -(m.depth + REACH * m.roughness) - 8.0 * m.voxel


@inlined
def far_um(m: Model) -> float:
    """Distance over which neither the layer nor new bone nor a fringe reaches."""
    return max((1.0 + REACH) * m.growth, 0.3 * m.radius) + 8.0 * m.voxel


@inlined
def screw_distance(m: Model, z: float, y: float, x: float) -> float:
    """Distance to the surface of the screw as implanted, negative inside; exact near the surface, a bound far off."""
    dy, dx = y - m.centre_y - m.tilt_y * z, x - m.centre_x - m.tilt_x * z
    rho = math.sqrt(dy * dy + dx * dx)
    if rho - m.radius > far_um(m):
        shaft = rho - m.radius
    elif rho - m.radius + m.thread_depth < deep_um(m):
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
