"""How well labels agree with truth: confusion counts, IoU, Dice and relative errors.

Equation numbers are those of Lopes Marinho et al. 2024 ("S1" in presets) and Baltruschat et al. 2021 ("S2").
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Literal

import numpy as np

from tomoscale.arrays import Array
from tomoscale.geometry import Block, Halo
from tomoscale.measures.ids import Ids, masked, origin_of
from tomoscale.measures.pairs import fused_label_counts, label_counts
from tomoscale.step import Counts, Measure

Classes = Literal["s1_all4", "s2_foreground3"] | tuple[int, ...]

PRESETS: dict[str, tuple[int, ...]] = {"s1_all4": (0, 1, 2, 3), "s2_foreground3": (1, 2, 3)}
"""Classes averaged in the papers' mIoU; 0.906 in one and 94.4 % in the other are not comparable."""


def confusion(n_classes: int, *, ignore: int | None = None, valid: bool = False) -> Measure:
    """Measure of `count_confusion`: inputs ("truth", "labels"), with `valid` "valid" too; count "confusion"."""
    return replace(
        label_counts(n_classes),
        name="confusion",
        function=partial(count_confusion, n_classes=n_classes, ignore=ignore),
        inputs=("truth", "labels", "valid") if valid else ("truth", "labels"),
        halo=Halo(),
        bytes_per_voxel=16.0 if valid else 2.0,
        counts_bytes=8 * n_classes**2,
        parameters={"n_classes": n_classes, "ignore": ignore, "valid": valid},
    )


def count_confusion(
    truth: Array, labels: Array, valid: Array | None = None, *, block: Block, n_classes: int, ignore: int | None = None
) -> Counts:
    """Count the core's voxels by (truth, label): "confusion" (n_classes, n_classes) int64.

    Voxels where `valid` is 0, or whose truth is `ignore`, are in no count.

    Raises
    ------
    InputError
        If an id is not below `n_classes`; the message has its place in the volume.
    """
    origin = origin_of(block)
    known, found = Ids("truth", truth, n_classes, ignore), Ids("labels", labels, n_classes)
    if valid is not None:
        known, found = masked(known, valid, origin), masked(found, valid, origin)
    table = fused_label_counts(found, block.core, truth=known, origin=origin)["confusion"]
    return {"confusion": table[:n_classes, :n_classes]}


def iou(confusion: np.ndarray, absent: Literal["nan", "zero"] = "nan") -> np.ndarray:
    """Intersection over union of each class, ``TP / (TP + FP + FN)`` (S1 and S2, equations 1 and 6): (n_classes,) float64.

    A class that is in neither volume has no IoU: NaN, or 0 with ``absent="zero"`` as TomoSeg counts it.
    """
    hits, either = _hits(confusion), _either(confusion)
    return _ratio(hits, either, absent)


def dice(confusion: np.ndarray, absent: Literal["nan", "zero"] = "nan") -> np.ndarray:
    """Dice coefficient of each class, ``2 TP / (2 TP + FP + FN)``: (n_classes,) float64; absent classes as for `iou`."""
    hits, either = _hits(confusion), _either(confusion)
    return _ratio(2 * hits, hits + either, absent)


def mean_iou(confusion: np.ndarray, classes: Classes, absent: Literal["nan", "zero"] = "nan") -> float:
    """Mean IoU over `classes`: a tuple of ids, or the choice of a paper; classes in neither volume do not count.

    Raises
    ------
    ValueError
        If a class is not in the confusion matrix.
    """
    chosen = PRESETS[classes] if isinstance(classes, str) else classes
    if not chosen or max(chosen) >= len(confusion):
        raise ValueError(f"classes {chosen} are not all among the {len(confusion)} of the confusion matrix")
    values = iou(confusion, absent)[list(chosen)]
    return float(np.nanmean(values)) if not np.isnan(values).all() else math.nan


def pooled(confusions: list[np.ndarray]) -> np.ndarray:
    """Confusion of several samples as if they were one volume; the mean over samples is another number."""
    return np.asarray(np.sum(np.stack(confusions), axis=0))


def relative_error(value: float, reference: float) -> float:
    """``(value - reference) / reference`` (S1 equation 3); NaN where the reference is 0."""
    return (value - reference) / reference if reference else math.nan


def _hits(confusion: np.ndarray) -> np.ndarray:
    return np.asarray(np.diag(confusion))


def _either(confusion: np.ndarray) -> np.ndarray:
    return np.asarray(confusion.sum(axis=0) + confusion.sum(axis=1) - np.diag(confusion))


def _ratio(above: np.ndarray, below: np.ndarray, absent: str) -> np.ndarray:
    result = np.full(len(below), math.nan if absent == "nan" else 0.0)
    np.divide(above, below, out=result, where=below > 0)
    return result
