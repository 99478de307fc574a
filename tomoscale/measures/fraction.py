"""What regions are made of: class counts by region, bone fraction, porosity, volumes.

Equation numbers are those of Lopes Marinho et al. 2024 ("S1") and Baltruschat et al. 2021 ("S2").
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import numpy as np

from tomoscale.arrays import Array, namespace_for
from tomoscale.geometry import Block, Halo, Spacing
from tomoscale.measures.ids import Ids, masked, origin_of
from tomoscale.measures.pairs import fused_label_counts, label_counts
from tomoscale.step import Counts, Measure


def roi_fractions(n_classes: int, n_regions: int = 2, *, valid: bool = False) -> Measure:
    """Measure of `count_regions`: inputs ("labels", "roi"), with `valid` "valid" too; count "roi"."""
    return replace(
        label_counts(n_classes, n_regions),
        name="regions",
        function=partial(count_regions, n_classes=n_classes, n_regions=n_regions),
        inputs=("labels", "roi", "valid") if valid else ("labels", "roi"),
        halo=Halo(),
        bytes_per_voxel=12.0 if valid else 2.0,
        counts_bytes=8 * n_classes * n_regions,
        parameters={"n_classes": n_classes, "n_regions": n_regions, "valid": valid},
    )


def count_regions(
    labels: Array, roi: Array, valid: Array | None = None, *, block: Block, n_classes: int, n_regions: int
) -> Counts:
    """Count the core's voxels by (region, class): "roi" (n_regions, n_classes) int64; where `valid` is 0 none count."""
    origin = origin_of(block)
    ids = Ids("labels", labels, n_classes)
    ids = ids if valid is None else masked(ids, valid, origin)
    table = fused_label_counts(ids, block.core, roi=Ids("roi", roi, n_regions), origin=origin)["roi"]
    return {"roi": table[:, :n_classes]}


def bone_fraction(counts: np.ndarray, *, bone: int = 3, background: int = 0) -> float:
    """BV/TV of one region, ``bone / (bone + background)`` (S1 equation 6): other classes are in no volume.

    Parameters
    ----------
    counts : (n_classes,) integers
        A row of `roi_fractions`.
    bone, background : int
        Classes.
    """
    total = int(counts[bone]) + int(counts[background])
    return int(counts[bone]) / total if total else math.nan


def porosity(counts: np.ndarray, *, void: int = 0, bone: int = 3) -> float:
    """Void over void and bone; S4's text divides by bone alone, which is `void_to_bone`."""
    return bone_fraction(counts, bone=void, background=bone)


def void_to_bone(counts: np.ndarray, *, void: int = 0, bone: int = 3) -> float:
    """Void over bone, as Silveira et al. 2023 print it."""
    return int(counts[void]) / int(counts[bone]) if int(counts[bone]) else math.nan


def class_volumes(counts: np.ndarray, voxel_size_um: Spacing) -> np.ndarray:
    """Volume of each class in cubic micrometres."""
    return np.asarray(counts, np.float64) * float(np.prod(voxel_size_um))


def cut_by_edge() -> Measure:
    """Measure of `count_cut`: input ("roi",), count "cut" (6,) int64; a region cut by the field of view biases its fractions."""
    return Measure(name="cut by edge", function=count_cut, inputs=("roi",), bytes_per_voxel=0.5, counts_bytes=48)


def count_cut(roi: Array, *, block: Block) -> Counts:
    """Voxels of the region on the volume's six faces: z low, z high, y low, y high, x low, x high."""
    xp = namespace_for(roi)
    counts = []
    for axis, (read, length) in enumerate(zip(block.read, block.source_shape, strict=True)):
        for at_edge, index in ((read.start == 0, 0), (read.stop == length, -1)):
            face = [slice(None)] * 3
            face[axis] = slice(index, None) if index else slice(0, 1)
            counts.append((roi[tuple(face)] != 0).sum(dtype=np.int64) if at_edge else xp.zeros((), np.int64))
    return {"cut": xp.stack(counts)}
