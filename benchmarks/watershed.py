"""Watershed by blocks beside scikit-image with the whole in memory, and beside tiles that only read a margin.

Two reliefs: the distance inside balls that touch, and, where it lies at `--bone`, the gradient of real trabecular bone
with markers from two grey ranges. Of each are told the share of voxels that differ from the whole volume flooded at
once, and the share of labels whose voxels are not the same: by blocks as the program does it (the rounds until borders
agree are counted), by tiles with margins, which is what a watershed in one pass would be, and by scikit-image, which
cuts ties on plateaus its own way.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import scipy.ndimage
import skimage.segmentation
from record import publish, rounded

from tomoscale.geometry import Grid
from tomoscale.kernels.flood import flood
from tomoscale.kernels.gradient import steepness
from tomoscale.measures.greys import keys_of
from tomoscale.objects.components import components
from tomoscale.objects.distance import distance
from tomoscale.objects.rounds import nothing
from tomoscale.objects.splitting import split_touching
from tomoscale.objects.watershed import watershed, watershed_figures
from tomoscale.resources import Resources
from tomoscale.volume import Volume, create_volume, open_zarr
from tomoscale.work import Work

BONE = Path(__file__).resolve().parents[2] / "shared" / "data" / "lhdl_trabecular_bone"
BONE_VOXEL_UM = 19.5
CONNECTIVITY = 26
MARGINS = (0, 8, 16, 32)


def store(path: Path, values: np.ndarray, kind: str, voxel_um: float = 1.0) -> Volume:
    volume = create_volume(path, shape=values.shape, dtype=values.dtype, voxel_size_um=voxel_um, kind=kind)
    volume.create()
    volume.write(tuple(slice(0, n) for n in values.shape), values)
    volume.finish({})
    return open_zarr(path)


def balls(size: int, seed: int = 0) -> np.ndarray:
    """Balls of radii 8 to 16 voxels at random places, a third of the volume: many of them touch."""
    random = np.random.default_rng(seed)
    mask = np.zeros((size,) * 3, bool)
    while mask.mean() < 0.33:
        radius, centre = random.uniform(8, 16), random.uniform(0, size, 3)
        box = tuple(slice(max(0, int(c - radius)), min(size, int(c + radius) + 2)) for c in centre)
        z, y, x = (np.arange(b.start, b.stop) - c for b, c in zip(box, centre, strict=True))
        mask[box] |= z[:, None, None] ** 2 + y[:, None] ** 2 + x**2 <= radius**2
    return mask


def by_tiles(relief: np.ndarray, markers: np.ndarray, mask: np.ndarray, tile: int, margin: int) -> np.ndarray:
    """One pass: each tile flooded on its window, from the markers that lie in that."""
    grid, result = Grid(relief.shape, (tile,) * 3), np.zeros_like(markers)
    keys, empty = keys_of(relief), nothing(markers.dtype)
    for region in grid:
        window = tuple(
            slice(max(0, r.start - margin), min(n, r.stop + margin)) for r, n in zip(region, relief.shape, strict=True)
        )
        core = tuple(slice(r.start - w.start, r.stop - w.start) for r, w in zip(region, window, strict=True))
        result[region] = flood(keys[window], mask[window], markers[window], empty, CONNECTIVITY)[1][core]
    return result


def differences(found: np.ndarray, whole: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """Share of the mask's voxels that differ, and of the labels that lost or gained a voxel."""
    wrong = (found != whole) & mask
    changed = np.union1d(found[wrong], whole[wrong])
    n = np.count_nonzero(np.unique(whole))
    return {"voxels": rounded(wrong.sum() / mask.sum()), "labels": rounded(np.count_nonzero(changed) / max(1, n))}


def compare(folder: Path, relief: np.ndarray, markers: Volume, mask: Volume | None, block: int) -> dict[str, Any]:
    """Figures of one relief, flooded upwards."""
    work = Work(None, Resources(slots=2, io_slots=1), (block,) * 3, progress=False)
    inside = np.ones(relief.shape, bool) if mask is None else mask.read()
    seeds = markers.read().astype(np.uint32)
    source = store(folder / "relief.zarr", relief, "grey", markers.voxel_size_um[0])
    keys, empty = keys_of(relief), nothing(seeds.dtype)
    flood(keys[:2], inside[:2], seeds[:2], empty, CONNECTIVITY)  # compiles
    start = time.perf_counter()
    whole = flood(keys, inside, seeds, empty, CONNECTIVITY)[1]
    seconds = {"whole_in_memory_s": rounded(time.perf_counter() - start)}
    start = time.perf_counter()
    peer = skimage.segmentation.watershed(relief, seeds.astype(np.int32), connectivity=3, mask=inside)
    seconds["scikit_image_in_memory_s"] = rounded(time.perf_counter() - start)
    start = time.perf_counter()
    found = watershed(source, markers, folder / "found.zarr", mask=mask, connectivity=CONNECTIVITY, work=work)
    seconds["by_blocks_from_disk_s"] = rounded(time.perf_counter() - start)
    result = {
        "shape": list(relief.shape),
        "labels": int(np.count_nonzero(np.unique(seeds))),
        **watershed_figures(folder / "found.zarr"),
        **seconds,
        "by_blocks": differences(found.read(), whole, inside),
        "scikit_image": differences(peer, whole, inside),
    }
    for margin in MARGINS:
        result[f"tiles_margin_{margin}"] = differences(by_tiles(relief, seeds, inside, block, margin), whole, inside)
    return result


def touching_balls(folder: Path, size: int, block: int) -> dict[str, Any]:
    """Split by the program; its distance and markers, made again, are flooded the other ways too."""
    mask = store(folder / "balls.zarr", balls(size), "mask")
    work = Work(None, Resources(slots=2, io_slots=1), (block,) * 3, progress=False)
    start = time.perf_counter()
    parts = split_touching(mask, folder / "parts.zarr", connectivity=CONNECTIVITY, work=work)
    split = {"split_s": rounded(time.perf_counter() - start), **watershed_figures(folder / "parts.zarr")}
    far = distance(mask, folder / "far.zarr", inside=True, work=work).read()
    # The middle of each part: markers as good as those that were split from, known without them.
    objects = parts.read()
    tops = scipy.ndimage.maximum(far, objects, np.arange(1, int(objects.max()) + 1))
    middle = (objects > 0) & (far == np.concatenate([[np.inf], np.asarray(tops, np.float32)])[objects])
    markers = store(folder / "markers.zarr", np.where(middle, objects, 0).astype(np.uint32), "labels")
    return {"split": split, **compare(folder, -far, markers, mask, block)}


def trabecular_bone(folder: Path, bone: Path, size: int, block: int) -> dict[str, Any]:
    """Gradient of real bone, flooded from every piece of surely bone and surely marrow."""
    import tifffile

    paths = sorted(bone.glob("*.tif"))[:size]
    grey = np.stack([tifffile.imread(path) for path in paths])[:, :size, :size]
    sure = np.where(grey > 100, 2, np.where(grey < 30, 1, 0)).astype(np.uint8)
    work = Work(None, Resources(slots=2, io_slots=1), (block,) * 3, progress=False)
    markers = components(
        store(folder / "sure.zarr", sure, "labels", BONE_VOXEL_UM), folder / "pieces.zarr", multilabel=True, work=work
    )
    relief = steepness(grey, BONE_VOXEL_UM, (BONE_VOXEL_UM,) * 3)
    return compare(folder, relief, markers, None, block)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--block", type=int, default=48)
    parser.add_argument("--bone", type=Path, default=BONE, help="folder of TIFF slices; skipped where it is not there")
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    figures: dict[str, Any] = {"block": [options.block] * 3, "connectivity": CONNECTIVITY}
    for name in ("touching_balls", "trabecular_bone"):
        folder = Path(tempfile.mkdtemp())
        if name == "touching_balls":
            figures[name] = touching_balls(folder, options.size, options.block)
        elif options.bone.is_dir():
            figures[name] = trabecular_bone(folder, options.bone, options.size, options.block)
        shutil.rmtree(folder)
    publish("watershed", figures, options.keep)


if __name__ == "__main__":
    main()
