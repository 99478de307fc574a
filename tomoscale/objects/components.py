"""Connected components of a whole volume: exact, out of core, the same numbers however the volume is cut."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tomoscale.formats import Source, opened
from tomoscale.kernels.row_runs import Connectivity
from tomoscale.objects.joining import Joined, Tables
from tomoscale.objects.passes import Operation, Output, remembered, run_passes
from tomoscale.objects.pieces import Selection
from tomoscale.objects.ranking import rank
from tomoscale.places import Place, place
from tomoscale.volume import Volume
from tomoscale.work import Work


def components(
    source: Source,
    target: str | Place,
    *,
    connectivity: Connectivity = 26,
    classes: tuple[int, ...] | None = None,
    multilabel: bool = False,
    work: Work | None = None,
) -> Volume:
    """Number the connected components of labels or of a mask.

    Components are numbered 1 .. n in the order of their first voxels (z, then y, then x); all other voxels are 0. The
    numbers depend on the voxels alone.

    Parameters
    ----------
    source : Volume or path
        Integers or bool.
    target : path
    connectivity : 6, 18 or 26
        Voxels that share a face, an edge, or a corner belong together.
    classes : tuple of int or None
        Labels of the object; None for all but 0.
    multilabel : bool
        Only neighbours of equal label belong together; else all `classes` are one object.
    work : Work or None

    Returns
    -------
    Volume
        Labels: uint32, or uint64 from 2^32 components on. `count_components` tells how many there are.

    Raises
    ------
    InputError
        If the source holds no labels.
    PlanError
        If memory or disk do not allow it, or the output was begun by another command.
    """
    volume = opened(source)
    selection = Selection(connectivity, classes, multilabel)
    operation = Operation("components", selection, _number, on_source=False)
    return run_passes(operation, volume, Output(place(target), "labels", np.dtype(np.uint32)), work or Work())


def count_components(target: str | Place) -> int:
    """How many components a finished output of `components` has."""
    return int(remembered(Output(place(target), "labels", np.dtype(np.uint32)))["components"])


def _number(tables: Tables, joined: Joined, folder: Path) -> Mapping[str, Any]:
    n, dtype = rank(tables, joined, folder)
    return {"components": n, "dtype": dtype.str}
