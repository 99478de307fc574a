"""Label a volume by a network on slices in three or nine planes, whose predictions are fused (Baltruschat et al. 2021).

Two ways lead to the same bits; `plan_planes` shows what both cost, and the cheaper one runs:

.. code-block:: text

    slabs     for each plane in turn: whole slices through the network, their probabilities added to the tally of the
              planes before. On disk: the tally of this plane and of the one before; for a diagonal plane also the turned
              volume (once per axis) and the probabilities on its grid.
    blocks    one pass: a block turns, predicts and turns back whatever its voxels need. Nothing on disk, more windows.

Every pass has a ledger, so a run goes on from the block of the plane where it was cut off.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from tomoscale.formats import Source, opened
from tomoscale.geometry import Shape
from tomoscale.kernels.scaling import AS_IT_IS
from tomoscale.networks.bundle import load_bundle
from tomoscale.parts import parts_of
from tomoscale.places import Place, local_path, place
from tomoscale.segmentation.fusion import Fusing, Fusion, Outputs
from tomoscale.segmentation.planes_plan import plan_planes
from tomoscale.segmentation.prepare import check_volume, scaling_by_card
from tomoscale.segmentation.segment import SHIPPED_MODEL
from tomoscale.segmentation.slabs import Running, tally_by_slabs
from tomoscale.segmentation.stacked import stacked
from tomoscale.volume import LabelClass, Volume, open_zarr
from tomoscale.work import Work


def segment_planes(  # noqa: PLR0913 -- what is fused and how, and the four volumes it can make
    source: Source,
    target: str | Place,
    *,
    model: str | Path | None = None,
    planes: int = 9,
    method: str = "auto",
    keep_probabilities: str | Path | None = None,
    disagreement: str | Path | None = None,
    entropy: str | Path | None = None,
    as_is: bool = False,
    any_voxel_size: bool = False,
    work: Work | None = None,
    **fusing: Any,
) -> Volume:
    """Label every voxel of a volume by a network on slices in several planes.

    Grey values are scaled as the network's card says, as by `tomoscale.segmentation.segment.segment`.

    Parameters
    ----------
    source : Volume or path
        Grey values; what lies beyond is 0 after they are scaled.
    target : path
    model : path or None
        Folder of a bundle of a network on single slices; None takes the small model that ships.
    planes : 1, 3, 9
        Nine planes need voxels that are cubes.
    method : "auto", "slabs" or "blocks"
        How it is computed, with the same bits; "auto" takes what `plan_planes` finds cheaper.
    keep_probabilities : path or None
        Folder for the mean probabilities, a volume per class.
    disagreement : path or None
        Volume of how many planes chose another label than that elected, uint8.
    entropy : path or None
        Volume of the entropy of the mean probabilities, 0 to 1, float32.
    as_is : bool
        Take grey values as they are, whatever they are.
    any_voxel_size : bool
        Go on where voxels are not of the size that the network was trained on.
    work : Work or None
    **fusing
        Further fields of `Fusing`: voting, tie, space, storage, tile, backend, precision.

    Returns
    -------
    Volume
        Labels, uint8.

    Raises
    ------
    InputError
        If volume and bundle do not fit each other, its voxels are not cubes for nine planes, or the network is not one on
        single slices.
    ValueError
        If an argument is out of its range.
    PlanError
        If neither way fits memory and disk.

    Notes
    -----
    Planes count alike, however well their probabilities are calibrated.
    """
    work, target = work or Work(), place(target)
    outputs = Outputs(
        target, *(None if p is None else local_path(p) for p in (keep_probabilities, disagreement, entropy))
    )
    bundle, options = load_bundle(model or SHIPPED_MODEL), Fusing(planes, **fusing)
    volume = opened(source)
    check_volume(volume, bundle, any_voxel_size=any_voxel_size)
    fusion = Fusion.of(volume, bundle, options, votes=disagreement is not None)
    if not as_is:
        fusion = replace(fusion, scaling=scaling_by_card(volume, bundle, target.with_suffix(".histogram"), work))
    elif volume.dtype.kind != "f":
        fusion = replace(fusion, scaling=AS_IT_IS)
    kernels, running = outputs.kernels(fusion), Running(work)
    if all(running.finished(kernel, path) for path, kernel in kernels.items()):
        running.drop(parts_of(target))
        return open_zarr(target)
    plan = plan_planes(fusion, outputs, work, method=method)
    if work.plan_only:
        print(plan, end="\n\n")
    return _run(fusion, outputs, plan.method, plan.block_shape, work)


def _run(fusion: Fusion, outputs: Outputs, method: str, block_shape: Shape, work: Work) -> Volume:
    running, parts = Running(work), parts_of(outputs.labels)
    kernels = outputs.kernels(fusion)
    classes = tuple(LabelClass(c.id, c.name, c.rgba) for c in fusion.bundle.classes)
    if method == "blocks" and outputs.labels_only:
        kernel = fusion.of_blocks(block_shape, labels=True)
        one_pass = replace(work, block_shape=block_shape)
        return one_pass.map(kernel, fusion.volume, outputs.labels, kind="labels", classes=classes)
    if method == "blocks":
        z, y, x = block_shape
        path, k = parts / "tally.zarr", fusion.ballot.numbers
        stored = replace(work, block_shape=(z * k, y, x)).map(
            fusion.of_blocks(block_shape, labels=False), fusion.volume, path
        )
        tally = stacked(stored, k, fusion.volume)
    else:
        tally = tally_by_slabs(fusion, parts, running)
    *others, labels = kernels
    for other in others:
        if not running.finished(kernels[other], other):
            work.map(kernels[other], tally, other)
    # They may be there when something else is asked for later: the tally behind that need not be the same.
    if not running.finished(kernels[labels], labels):
        tally = work.map(kernels[labels], tally, labels, kind="labels", classes=classes)
    running.drop(parts)
    return tally if work.plan_only else open_zarr(labels)
