"""What commands found in a volume, beside the volume that they made: numbers, and a warning where nothing was there."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from tomoscale.cli.results import of_volume

if TYPE_CHECKING:
    from tomoscale.thresholding import Thresholded
    from tomoscale.volume import Volume

NAMED = "check the labels, or name those of the object (--classes)"

Found = Callable[..., dict[str, Any]]
"""``found(volume, target, **how)`` gives the numbers, by name, and the warnings."""


def finding(run: Callable[..., Volume], found: Found) -> Callable[..., Any]:
    """Command of a function that makes a volume, whose result also says what was found."""
    return partial(_run, run, found)


def _run(run: Callable[..., Volume], found: Found, *, target: Any, work: Any, **how: Any) -> Any:
    volume = run(target=target, work=work, **how)
    # Steps that are only planned need the volume itself.
    return volume if work.plan_only else {**of_volume(volume), **found(volume, target, **how)}


def with_warnings(result: dict[str, Any]) -> dict[str, Any]:
    """Result for people: a line for each warning, none where there is none, and nothing of what does not apply."""
    rows = {name: value for name, value in result.items() if name != "warnings" and value is not None}
    return {**rows, **{f"warning {n}": text for n, text in enumerate(result["warnings"], 1)}}


def in_mask(found: Thresholded, source: Any) -> dict[str, Any]:
    """Limits of a mask, and how many voxels lie between them."""
    texts, limits = [], ((found.low, "above"), (found.high, "not above"))
    between = " and ".join(f"{word} {value:g}" for value, word in limits if value is not None)
    if found.voxels in (0, math.prod(found.mask.shape)):
        how, what = ("no", "empty") if found.voxels == 0 else ("every", "full")
        texts.append(
            f"{how} voxel of {source} is {between}, so the mask is {what}: `tomoscale info` shows its grey values"
        )
    return {"above": found.low, "up_to": found.high, "mask_voxels": found.voxels, "warnings": texts}


def of_distance(volume: Volume, target: Any, *, inside: bool, **how: Any) -> dict[str, Any]:
    """How many voxels the object has, and what that means for distances to it."""
    from tomoscale.objects.distance import object_voxels

    n, whole = object_voxels(volume, inside=inside), math.prod(volume.shape)
    texts = []
    if n == 0:
        texts.append(f"there is no voxel of the object, so every distance is {'0' if inside else 'infinite'}: {NAMED}")
    elif n == whole:
        texts.append(f"the object fills the volume, so every distance is {'infinite' if inside else '0'}: {NAMED}")
    return {"object_voxels": n, "warnings": texts}


def of_thickness(volume: Volume, target: Any, *, outside: bool, **how: Any) -> dict[str, Any]:
    """How many voxels have a thickness."""
    from tomoscale.objects.distance import object_voxels

    n, what = object_voxels(volume, inside=True), "outside of the object" if outside else "of the object"
    empty = f"there is no voxel {what}, so the thickness is 0 everywhere: {NAMED}"
    return {"object_voxels": n, "warnings": [empty] * (n == 0)}


def of_components(volume: Volume, target: Any, **how: Any) -> dict[str, Any]:
    """How many objects there are."""
    from tomoscale.objects.components import count_components

    n = count_components(target)
    return {"objects": n, "warnings": [f"there is no voxel of the object, so nothing is numbered: {NAMED}"] * (n == 0)}


def of_filter(volume: Volume, target: Any, **how: Any) -> dict[str, Any]:
    """How many objects stayed as they were and how many did not."""
    from tomoscale.objects.filters import filter_figures

    found = filter_figures(target)
    empty = f"there is no voxel of the object, so nothing is changed: {NAMED}"
    return {**found, "warnings": [empty] * (not any(found.values()))}


def of_holes(volume: Volume, target: Any, **how: Any) -> dict[str, Any]:
    """How many holes were filled."""
    from tomoscale.objects.filters import filter_figures

    # What is around the object, up to the border of the volume, is looked at as holes are, and stays.
    return {"holes_filled": filter_figures(target)["objects_changed"], "warnings": []}
