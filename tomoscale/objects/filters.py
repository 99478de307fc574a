"""Filters that look at whole components: remove small ones, keep large ones, fill holes, replace islands.

All take two reads of the source and one write. They act after the pieces of all blocks are joined, so that nothing is
taken for small because a block cuts it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from tomoscale.formats import Source, opened
from tomoscale.kernels.row_runs import Connectivity
from tomoscale.objects.decisions import fill, from_size, inside, keep, keep_n_largest, outside, paint_outer, surround
from tomoscale.objects.passes import Decide, Operation, Output, remembered, run_passes
from tomoscale.objects.pieces import Selection
from tomoscale.places import Place, place
from tomoscale.volume import Kind, Volume
from tomoscale.work import Work


def remove_small(  # noqa: PLR0913 -- what an object is, and from which size on it stays
    source: Source,
    target: str | Place,
    *,
    min_voxels: int,
    connectivity: Connectivity = 26,
    classes: tuple[int, ...] | None = None,
    multilabel: bool = False,
    work: Work | None = None,
) -> Volume:
    """Set components of fewer than `min_voxels` voxels to 0; one of just so many stays.

    Parameters
    ----------
    source : Volume or path
        Labels or a mask. Of a volume of `components`, give ``multilabel=True``; the numbers that stay are not changed.
    target : path
    min_voxels : int
    connectivity, classes, multilabel
        As for `components`. Voxels of other labels are left as they are.
    work : Work or None

    Returns
    -------
    Volume
        Of the source's type and labels.

    Raises
    ------
    ValueError
        If `min_voxels` is not positive.
    InputError
        If the source holds no labels.
    """
    _check_size(min_voxels)
    selection = Selection(connectivity, classes, multilabel)
    volume = _opened(source, selection)
    decide = partial(keep, dtype=volume.dtype, stays=partial(from_size, min_voxels=min_voxels))
    return _filter("remove small", volume, target, selection, decide, work, {"min_voxels": min_voxels})


def keep_largest(  # noqa: PLR0913 -- what an object is, and how many stay
    source: Source,
    target: str | Place,
    *,
    n: int = 1,
    connectivity: Connectivity = 26,
    classes: tuple[int, ...] | None = None,
    multilabel: bool = False,
    work: Work | None = None,
) -> Volume:
    """Set all but the `n` largest components to 0; of equally large ones those stay whose first voxel comes first.

    Parameters
    ----------
    source, target, connectivity, classes, multilabel, work
        As for `remove_small`.
    n : int

    Raises
    ------
    ValueError
        If `n` is not positive.
    InputError
        If the source holds no labels.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1 component, got {n}")
    selection = Selection(connectivity, classes, multilabel)
    volume = _opened(source, selection)
    decide = partial(keep_n_largest, dtype=volume.dtype, n=n)
    return _filter("keep largest", volume, target, selection, decide, work, {"n": n})


def erase_border_objects(
    source: Source,
    target: str | Place,
    *,
    connectivity: Connectivity = 26,
    classes: tuple[int, ...] | None = None,
    multilabel: bool = False,
    work: Work | None = None,
) -> Volume:
    """Set components that touch the border of the volume, which cuts them, to 0.

    Parameters
    ----------
    source, target, connectivity, classes, multilabel, work
        As for `remove_small`.

    Raises
    ------
    InputError
        If the source holds no labels.
    """
    selection = Selection(connectivity, classes, multilabel)
    volume = _opened(source, selection)
    decide = partial(keep, dtype=volume.dtype, stays=inside)
    return _filter("erase border objects", volume, target, selection, decide, work, {})


def fill_holes(
    source: Source,
    target: str | Place,
    *,
    connectivity: Connectivity = 26,
    classes: tuple[int, ...] | None = None,
    value: int | None = None,
    work: Work | None = None,
) -> Volume:
    """Fill what an object encloses: components of all other voxels that do not touch the border of the volume.

    Parameters
    ----------
    source, target, work
        As for `remove_small`.
    connectivity : 6, 18 or 26
        Of the object. The voxels around a 6-connected object are 26-connected; around the others they are 6-connected.
    classes : tuple of int or None
        Labels of the object; None for all but 0. Other labels inside a hole are filled too.
    value : int or None
        Label for the holes; None takes the label of the object that most faces of the hole touch, the smallest of equal
        ones.

    Raises
    ------
    ValueError
        If the source's type cannot hold `value`.
    InputError
        If the source holds no labels.
    """
    Selection(connectivity, classes)
    selection = Selection(26 if connectivity == 6 else 6, classes, inverted=True)
    volume = _opened(source, selection)
    if volume.dtype.kind == "b" and value is None:
        # The object of a mask has one label.
        value = 1
    if value is None:
        decide = partial(surround, dtype=volume.dtype, stays=outside)
        return _filter("fill holes", volume, target, selection, decide, work, {"value": None}, voting=0)
    greatest = 1 if volume.dtype.kind == "b" else np.iinfo(volume.dtype).max
    if not 0 <= value <= greatest:
        raise ValueError(f"value {value} cannot fill a volume of {volume.dtype}: give a label of 0 .. {greatest}")
    decide = partial(fill, dtype=volume.dtype, value=value)
    return _filter("fill holes", volume, target, selection, decide, work, {"value": value})


def replace_islands(
    source: Source,
    target: str | Place,
    *,
    min_voxels: int = 100,
    connectivity: Connectivity = 26,
    classes: tuple[int, ...] | None = None,
    work: Work | None = None,
) -> Volume:
    """Give components of one label with fewer than `min_voxels` voxels the label that surrounds them.

    A component votes by its faces: every pair of a voxel of the component and a 6-neighbour in the volume that is not
    of it counts one for the neighbour's label in the source, 0 included. The label with most votes replaces the
    component's; of equal ones the smallest. All are replaced at once, so that the order does not matter: of two islands
    that touch, each counts the other as it was. What nothing surrounds stays.

    Parameters
    ----------
    source, target, work
        As for `remove_small`.
    min_voxels : int
    connectivity : 6, 18 or 26
    classes : tuple of int or None
        Labels whose islands are replaced; None for all but 0. Name 0 too to replace islands of background.

    Raises
    ------
    ValueError
        If `min_voxels` is not positive.
    InputError
        If the source holds no labels.
    """
    _check_size(min_voxels)
    selection = Selection(connectivity, classes, multilabel=True)
    volume = _opened(source, selection)
    decide = partial(surround, dtype=volume.dtype, stays=partial(from_size, min_voxels=min_voxels))
    parameters = {"min_voxels": min_voxels}
    return _filter("replace islands", volume, target, selection, decide, work, parameters, voting=min_voxels)


def outer_background(
    source: Source,
    target: str | Place,
    *,
    background: tuple[int, ...] = (0,),
    connectivity: Connectivity = 26,
    work: Work | None = None,
) -> Volume:
    """Mask of the background that is connected to the outside of the volume.

    Background that is not (cracks and pores closed all around) may then be taken for the interior of an implant, as
    the outer bone-to-implant contact wants. A crack that the border of the volume cuts counts as outside.

    Parameters
    ----------
    source : Volume or path
        Labels.
    target : path
    background : tuple of int
        Labels of the background.
    connectivity : 6, 18 or 26
        Of the background.
    work : Work or None

    Returns
    -------
    Volume
        Mask, bool.

    Raises
    ------
    InputError
        If the source holds no labels.
    """
    selection = Selection(connectivity, background)
    operation = Operation("outer background", selection, paint_outer, on_source=False)
    volume = _opened(source, selection)
    return run_passes(operation, volume, Output(place(target), "mask", np.dtype(bool)), work or Work())


def filter_figures(target: str | Place) -> dict[str, int]:
    """How many objects a finished filter has left as they were, and how many not, by name.

    Raises
    ------
    InputError
        If `target` was not made by one.
    """
    found = remembered(Output(place(target), "labels", np.dtype(np.uint32)))
    return {"objects_kept": int(found["kept"]), "objects_changed": int(found["changed"])}


def _filter(  # noqa: PLR0913 -- an operation, taken apart
    name: str,
    volume: Volume,
    target: str | Place,
    selection: Selection,
    decide: Decide,
    work: Work | None,
    parameters: Mapping[str, Any],
    voting: int | None = None,
) -> Volume:
    """Run an operation that changes some components of a volume and leaves all other voxels as they are."""
    operation = Operation(name, selection, decide, on_source=True, voting=voting, parameters=parameters)
    kind: Kind = "mask" if volume.dtype.kind == "b" else "labels"
    return run_passes(operation, volume, Output(place(target), kind, volume.dtype, volume.classes), work or Work())


def _opened(source: Source, selection: Selection) -> Volume:
    volume = opened(source)
    selection.check(volume)
    return volume


def _check_size(min_voxels: int) -> None:
    if min_voxels < 1:
        raise ValueError(f"min_voxels must be at least 1, got {min_voxels}")
