"""The two passes of a network that depends on its window.

.. code-block:: text

    pass 1    every block: its own windows -> labels where they are final, sums where they are not, in files
    pass 2    every block: sums of its own and of its neighbours' files -> labels

Every window is computed once. Both passes are runs with a ledger, so that each goes on where it was cut off; what lies
between is in a folder beside the target and removed in the end. Where no window crosses from one block into another
(slices that are blocks as a whole) there is one pass.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial

from tomoscale.geometry import Grid, Shape
from tomoscale.ledger import Ledger
from tomoscale.parts import finished_before, made_of, parts_of
from tomoscale.places import Place
from tomoscale.plan import begun_block, ledger_folder, plan_map
from tomoscale.segmentation.probabilities import ClassVolumes
from tomoscale.segmentation.seams import Seams, joining, seam_bytes
from tomoscale.segmentation.task import Task
from tomoscale.step import Kernel
from tomoscale.volume import Kind, Volume, open_zarr
from tomoscale.work import Work, refuse_own_source

PROVISIONAL = "labels.zarr"
"""Labels of the first pass, in the folder of what lies between."""


def block_of(task: Task, target: Place, work: Work, *, whole: bool) -> Shape:
    """Block of all passes: what was asked for or begun, else what suits the first, which computes."""
    if not work.overwrite:
        for begun in (target, parts_of(target) / PROVISIONAL):
            shape = begun_block(ledger_folder(begun))
            if shape is not None:
                return work.block_shape or shape
    if work.block_shape:
        return work.block_shape
    kernel = _first(task, target, Grid(task.volume.shape, task.volume.shape), whole) if task.windowed else task.kernel()
    return plan_map(kernel, task.volume, target, resources=work.available()).grid.block_shape


def run_windows(task: Task, target: Place, work: Work, volumes: ClassVolumes | None) -> Volume:
    """Label a volume by the windows of the network's card, or go on with it.

    Parameters
    ----------
    task : Task
    target : Path
    work : Work
        With a block shape.
    volumes : ClassVolumes or None
        Where the probabilities are kept.

    Raises
    ------
    PlanError, BlocksFailed, Interrupted
        As for `run`.
    """
    assert work.block_shape is not None
    refuse_own_source(target, (task.volume,))
    blocks = Grid(task.volume.shape, work.block_shape)
    kind: Kind = "labels" if task.output == "labels" else "grey"
    whole = kind == "grey" or volumes is not None
    if seam_bytes(task.windows, task.bundle.card.outputs, False, blocks) == 0:
        return work.map(task.kernel(sink=volumes), task.volume, target, kind=kind, classes=task.classes)
    parts = parts_of(target)
    first = _first(task, target, blocks, whole)
    seams = Seams(str(parts / "seams"), task.windows, blocks, whole)
    second = made_of(joining(seams, task.bundle, task.output, volumes, dict(task.kernel().parameters)), task.volume)
    afresh = work.overwrite or work.plan_only
    if not afresh and finished_before(target, second, ("computed",)):
        return open_zarr(target)
    labels = work.map(first, task.volume, parts / PROVISIONAL, kind="labels")
    if not work.plan_only:
        second = replace(second, parameters={**second.parameters, "computed": _counted(parts / PROVISIONAL)})
    result = work.map(second, labels, target, kind=kind, classes=task.classes)
    if not work.plan_only:
        shutil.rmtree(parts, ignore_errors=True)
    return result


def _first(task: Task, target: Place, blocks: Grid, whole: bool) -> Kernel:
    """Kernel of the first pass: labels whatever the output is, which comes from the files."""
    seams = Seams(str(parts_of(target) / "seams"), task.windows, blocks, whole)
    kernel = replace(task, output="labels").kernel(hand_over=seams)
    beside = partial(seam_bytes, task.windows, task.bundle.card.outputs, whole)
    return replace(kernel, beside_bytes=beside, parameters={**kernel.parameters, "all sums are kept": whole})


def _counted(target: Place) -> dict[str, int]:
    folder = ledger_folder(target)
    assert folder is not None
    return {name: int(values[0]) for name, values in sorted(Ledger.load(folder).counts.items())}
