"""A picture of labels in space: rays along one direction, the first surface on each, light, and the frame of the volume.

Rays are orthographic, so one scale bar holds in the whole picture. A few thousand rays are followed at a time, so that memory
is that of the labels and of one field of their size. Equal labels give equal pictures.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from tomoscale.geometry import Spacing

PIXELS = 900
SMOOTHING_CELLS = 0.7
LEVEL = 0.45  # below half, so that a sheet of one cell, which smoothing thins, stays
RAYS_AT_ONCE = 1 << 16
_AZIMUTH_DEGREES, _ELEVATION_DEGREES = 28.0, 22.0
_STEP_CELLS = 0.6
_BRICK = 4
_BISECTIONS = 6
_FRAME_GREY = 120


@dataclass(frozen=True)
class View:
    """Where the reader stands: three unit vectors in (z, y, x), each across the other two.

    Attributes
    ----------
    right, down, forward : (3,) float arrays
        What is to the right and down in the picture, and away from the reader.
    """

    right: np.ndarray
    down: np.ndarray
    forward: np.ndarray


def view_onto(axis: int) -> View:
    """View onto the side where the coordinate `axis` (1 for y, 2 for x) is largest, from a little to the side and above.

    z runs downwards, as in the slices, and the picture is not mirrored.
    """
    azimuth, elevation = np.deg2rad(_AZIMUTH_DEGREES), np.deg2rad(_ELEVATION_DEGREES)
    toward = np.array([0.0, 1.0, 0.0]) if axis == 1 else np.array([0.0, 0.0, 1.0])
    # With z down and y towards the reader, x is to the right; with x towards the reader, y is to the left.
    side = np.array([0.0, 0.0, 1.0]) if axis == 1 else np.array([0.0, -1.0, 0.0])
    down = np.array([1.0, 0.0, 0.0])
    flat = -(np.cos(azimuth) * toward + np.sin(azimuth) * side)
    right = np.cos(azimuth) * side - np.sin(azimuth) * toward
    forward = np.cos(elevation) * flat + np.sin(elevation) * down
    return View(right, np.cos(elevation) * down - np.sin(elevation) * flat, forward)


def render(
    ranks: np.ndarray, cell: Spacing, colours: np.ndarray, shown: np.ndarray, view: View, pixels: int = PIXELS
) -> tuple[np.ndarray, float]:
    """Draw the cells `shown` as solid bodies in the colours of their classes.

    Parameters
    ----------
    ranks : (z, y, x) uint8 array
    cell : (z, y, x)
        Size of a cell.
    colours : (n, 3) uint8 array
        By rank.
    shown : (z, y, x) bool array
    view : View
    pixels : int
        Along the longer side of the picture.

    Returns
    -------
    (rows, columns, 3) uint8 array
    float
        Length of a pixel, in the unit of `cell`.
    """
    box = np.array(ranks.shape) * np.array(cell)
    screen = _Screen.around(box, view, pixels)
    image, depth = _cast(ranks, np.array(cell), colours, shown, screen)
    shaded = _shaded(image.reshape(screen.rows, screen.columns, 3), depth.reshape(screen.rows, screen.columns))
    _draw_frame(shaded, depth.reshape(screen.rows, screen.columns), screen, box)
    return shaded, screen.pixel


def _cast(
    ranks: np.ndarray, size: np.ndarray, colours: np.ndarray, shown: np.ndarray, screen: _Screen
) -> tuple[np.ndarray, np.ndarray]:
    """Lit colour (n, 3) uint8 and depth (n,) float32 of every pixel; white and infinite where nothing is."""
    field = np.pad(shown, 1).astype(np.float32)  # closed at the faces of the volume
    ndimage.gaussian_filter(field, SMOOTHING_CELLS, output=field, mode="constant", truncate=2.5)
    free = _free_bricks(field)
    depth = np.full(screen.rows * screen.columns, np.inf, np.float32)
    image = np.full((depth.size, 3), 255, np.uint8)
    for part in screen.parts():
        # A cell's centre is half a cell into the volume, and at its index plus one in the padded field.
        start, direction = screen.starts(part) / size + 0.5, screen.view.forward / size
        hit, distance = _first_hits(field, free, start, direction)
        points = start[hit] + distance[hit, None] * direction
        normals = _normals(field, points, size)
        found = _colours_at(ranks, shown, points, normals * size, colours)
        image[part][hit] = _lit(found, normals, screen.view).round()
        depth[part][hit] = distance[hit]
    return image, depth


@dataclass(frozen=True)
class _Screen:
    """Pixels in front of a box, all of which lies behind them."""

    view: View
    corner: np.ndarray  # of the first pixel's centre, in the unit of the cells
    rows: int
    columns: int
    pixel: float

    @classmethod
    def around(cls, box: np.ndarray, view: View, pixels: int) -> _Screen:
        corners = np.array(list(np.ndindex(2, 2, 2))) * box
        axes = np.stack([view.down, view.right, view.forward])
        low, high = (corners @ axes.T).min(axis=0), (corners @ axes.T).max(axis=0)
        margin = 0.02 * float((high - low)[:2].max())
        extent = (high - low)[:2] + 2 * margin
        pixel = float(extent.max()) / pixels
        rows, columns = (int(n) for n in np.ceil(extent / pixel))
        first = low - np.array([margin - pixel / 2, margin - pixel / 2, pixel])
        return cls(view, first @ axes, rows, columns, pixel)

    def parts(self) -> Iterator[slice]:
        """Slices of the pixels in reading order."""
        total = self.rows * self.columns
        return (slice(n, min(n + RAYS_AT_ONCE, total)) for n in range(0, total, RAYS_AT_ONCE))

    def starts(self, part: slice) -> np.ndarray:
        """Where the rays of some pixels begin: (n, 3)."""
        row, column = np.divmod(np.arange(part.start, part.stop), self.columns)
        return np.asarray(
            self.corner
            + row[:, None] * (self.pixel * self.view.down)
            + column[:, None] * (self.pixel * self.view.right)
        )

    def place(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Row, column and depth of points in the unit of the cells."""
        away = points - self.corner
        row = np.rint(away @ self.view.down / self.pixel).astype(np.intp)
        column = np.rint(away @ self.view.right / self.pixel).astype(np.intp)
        return row.clip(0, self.rows - 1), column.clip(0, self.columns - 1), away @ self.view.forward


def _first_hits(
    field: np.ndarray, free: np.ndarray, start: np.ndarray, direction: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Where rays first meet the surface of the field: numbers of those that do, and the distance of every ray."""
    top = np.array(field.shape) - 1.0
    with np.errstate(divide="ignore", invalid="ignore"):
        crossings = np.stack([(0.0 - start) / direction, (top - start) / direction])
    crossings[:, :, direction == 0] = np.array([-np.inf, np.inf])[:, None, None]
    near, far = crossings.min(axis=0).max(axis=1), crossings.max(axis=0).min(axis=1)
    fine = _STEP_CELLS / float(np.abs(direction).max())
    distance, found = near.copy(), [np.zeros(0, np.intp)]
    active = np.flatnonzero(near < far)
    while active.size:
        place = (start[active] + distance[active, None] * direction + 0.5).astype(np.int32)
        z, y, x = np.clip(place, 0, top.astype(np.int32), out=place).T
        steps = free[z // _BRICK, y // _BRICK, x // _BRICK]
        close = np.flatnonzero(steps == 0)
        hits = close[field[z[close], y[close], x[close]] > LEVEL]
        found.append(active[hits])
        distance[active] += np.maximum(steps * (_BRICK / _STEP_CELLS), 1) * fine
        going = distance[active] < far[active]
        going[hits] = False
        distance[active[hits]] -= fine
        active = active[going]
    hit = np.sort(np.concatenate(found))
    distance[hit] = _refined(field, start[hit], direction, distance[hit], fine)
    return hit, distance


def _free_bricks(field: np.ndarray) -> np.ndarray:
    """How many bricks a ray may pass at once from each brick of the field without missing a surface: small int array."""
    padding = [(0, -n % _BRICK) for n in field.shape]
    solid = np.pad(field > LEVEL, padding)
    z, y, x = (n // _BRICK for n in solid.shape)
    filled = solid.reshape(z, _BRICK, y, _BRICK, x, _BRICK).any(axis=(1, 3, 5))
    if not filled.any():
        return np.full(filled.shape, max(filled.shape), np.int32)
    # A brick d bricks away, diagonals counted as one, is d - 1 whole bricks away along any axis.
    bricks_away = np.asarray(ndimage.distance_transform_cdt(np.logical_not(filled), "chessboard"))
    return np.asarray(np.maximum(bricks_away - 1, 0))


def _refined(
    field: np.ndarray, start: np.ndarray, direction: np.ndarray, distance: np.ndarray, step: float
) -> np.ndarray:
    """Distance at which the field rises through the level, within a step and a half before `distance`."""
    low, high = distance - 1.5 * step, distance + 0.5 * step
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        inside = _sampled(field, start + middle[:, None] * direction) > LEVEL
        low, high = np.where(inside, low, middle), np.where(inside, middle, high)
    return (low + high) / 2


def _sampled(field: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Value between cells, linear; 0 outside."""
    return np.asarray(ndimage.map_coordinates(field, points.T, order=1, mode="constant", output=np.float32))


def _normals(field: np.ndarray, points: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Unit vectors out of the body, in the space of the sample: (n, 3)."""
    slopes = np.empty(points.shape, np.float32)
    for axis in range(3):
        away = np.zeros(3)
        away[axis] = 1.0
        slopes[:, axis] = (_sampled(field, points - away) - _sampled(field, points + away)) / size[axis]
    length = np.sqrt((slopes**2).sum(axis=1, keepdims=True))
    return np.asarray(slopes / np.maximum(length, 1e-12))


def _colours_at(
    ranks: np.ndarray, shown: np.ndarray, points: np.ndarray, normals: np.ndarray, colours: np.ndarray
) -> np.ndarray:
    """Colour of the class just under the surface, mixed over the cells around so that borders are not stairs: (n, 3)."""
    under = points - 1.0 - 0.8 * normals / np.maximum(np.abs(normals).max(axis=1, keepdims=True), 1e-12)
    base = np.floor(under).astype(np.intp)
    part = (under - base).astype(np.float32)
    mixed, weights = np.zeros((len(points), 3), np.float32), np.zeros(len(points), np.float32)
    top = np.array(ranks.shape) - 1
    for corner in np.ndindex(2, 2, 2):
        weight = np.prod(np.where(corner, part, 1 - part), axis=1)
        z, y, x = np.clip(base + corner, 0, top).T
        weight = np.where(shown[z, y, x], weight, 0)  # what is not drawn lends no colour
        mixed += weight[:, None] * colours[ranks[z, y, x]]
        weights += weight
    return np.asarray(mixed / np.maximum(weights, 1e-12)[:, None])


def _lit(colours: np.ndarray, normals: np.ndarray, view: View) -> np.ndarray:
    """Colours under a lamp above the reader's left shoulder, and a weaker one at the eye: (n, 3)."""
    lamp = -0.5 * view.right - 0.7 * view.down - 0.8 * view.forward
    lamp /= np.sqrt(lamp @ lamp)
    light = 0.4 + 0.5 * (normals @ lamp).clip(0) + 0.24 * (normals @ -view.forward).clip(0)
    return np.asarray(colours * light[:, None].clip(0, 1))


def _shaded(image: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Darken what lies deeper than its surroundings, and the outlines, where depth jumps: (rows, columns, 3)."""
    hit = np.isfinite(depth)
    if not hit.any():
        return image
    near, far = float(depth[hit].min()), float(depth[hit].max())
    span = max(far - near, 1e-12)
    filled = np.where(hit, depth, np.float32(far))
    width = max(depth.shape) / 80
    weight = ndimage.gaussian_filter(hit.astype(np.float32), width)
    around = ndimage.gaussian_filter(np.where(hit, depth, np.float32(0)), width) / np.maximum(weight, 1e-6)
    hollow = ((filled - around) / (0.12 * span)).clip(0, 1)
    outline = ndimage.maximum_filter(np.where(hit, depth, np.float32(far + span)), 3) - filled > 0.05 * span
    dark = ((1 - 0.4 * hollow) * np.where(outline, 0.6, 1.0)).astype(np.float32)
    image[hit] = (image[hit] * dark[hit, None]).round()
    return image


def _draw_frame(image: np.ndarray, depth: np.ndarray, screen: _Screen, box: np.ndarray) -> None:
    """Draw the twelve edges of the volume where no body is before them."""
    corners = list(np.ndindex(2, 2, 2))
    along = np.linspace(0, 1, 4 * max(screen.rows, screen.columns))[:, None]
    for one in corners:
        for axis in np.flatnonzero(np.array(one) == 0):
            start = np.array(one) * box
            end = start.copy()
            end[axis] = box[axis]
            row, column, away = screen.place(start + along * (end - start))
            seen = away <= depth[row, column] + 1.5 * screen.pixel
            image[row[seen], column[seen]] = _FRAME_GREY
