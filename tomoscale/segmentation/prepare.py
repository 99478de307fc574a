"""What is decided before a volume is segmented: whether the network fits it, how grey values are scaled, what speed costs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from tomoscale.errors import InputError
from tomoscale.geometry import AXES
from tomoscale.kernels.network import Runtime
from tomoscale.kernels.scaling import Scaling
from tomoscale.networks.bundle import Bundle, load_bundle
from tomoscale.normalisation import scaling_unless_done
from tomoscale.parts import parts_of
from tomoscale.places import Place
from tomoscale.plan import ledger_folder
from tomoscale.plan_record import read_plan
from tomoscale.segmentation.agreement import measured_agreement
from tomoscale.segmentation.task import Task
from tomoscale.segmentation.tolerance import with_tolerance
from tomoscale.segmentation.windowed import PROVISIONAL
from tomoscale.volume import Volume
from tomoscale.voxel_size import in_micrometres
from tomoscale.work import Work

VOXEL_SIZE_TOLERANCE = 0.1
"""Voxels that differ by more from those of the training show another scale to a network."""


def prepared(  # noqa: PLR0913 -- what `segment` is asked
    volume: Volume,
    model: str | Path,
    record: Place,
    work: Work,
    *,
    output: str = "labels",
    runtime: tuple[str, str] = ("torch", "float32"),
    as_is: bool = False,
    any_voxel_size: bool = False,
) -> Task:
    """Open a bundle, hold it against a volume, and find how its grey values are scaled.

    Parameters
    ----------
    volume : Volume
    model : path
    record : Path
        Folder for the counts of the passes over the grey values.
    work : Work
    output, runtime, as_is, any_voxel_size
        As for `tomoscale.segmentation.segment.segment`; `runtime` is backend and precision.

    Raises
    ------
    InputError
        If they do not fit each other.
    """
    how = Runtime(*runtime)
    bundle = load_bundle(model)
    check_volume(volume, bundle, any_voxel_size=any_voxel_size)
    task = Task(bundle, volume, None, output, how)
    # Arguments are refused before the grey values are read.
    task.kernel()
    return task if as_is else replace(task, scaling=scaling_by_card(volume, bundle, record, work))


def measured(task: Task, target: Place, tolerance: float | None, work: Work) -> Task:
    """Task with a margin by a tolerance, and with what a reduced backend costs; measured once, then taken from the record.

    Raises
    ------
    ValueError
        If a tolerance is given for a network that is not local.
    """
    if tolerance is not None and task.windowed:
        raise ValueError(
            "a tolerance makes the margin of tiles smaller, but the result of this network is defined by windows, which "
            "have none: leave the tolerance out"
        )
    if work.plan_only:
        return task
    exact = replace(task, runtime=Runtime())
    before = {} if work.overwrite else _noted(target)
    if tolerance is not None:
        note = before.get("tolerance")
        if note is not None and note["asked"] == tolerance:
            margin = note["margin"]
            task = replace(task, margin=None if margin is None else (margin[0], margin[1], margin[2]))
            task = replace(task, notes={**task.notes, "tolerance": note})
        else:
            task = replace(with_tolerance(exact, tolerance, work), runtime=task.runtime)
    if not task.runtime.exact:
        note = before.get("agreement") or measured_agreement(task, exact, work)
        task = replace(task, notes={**task.notes, "agreement": note})
    return task


def agreement(  # noqa: PLR0913 -- what is compared, and on which grey values
    model: str | Path,
    volume: Volume,
    *,
    backend: str = "torch",
    precision: str = "bfloat16",
    as_is: bool = False,
    any_voxel_size: bool = False,
    record: Place,
    work: Work,
) -> dict[str, Any]:
    """Measure how many labels a backend and precision change against torch in float32, on samples of a volume.

    Parameters
    ----------
    model : path
    volume : Volume
    backend, precision, as_is, any_voxel_size
        As for `tomoscale.segmentation.segment.segment`.
    record : Path
        Folder for the counts of the passes over the grey values.
    work : Work

    Returns
    -------
    dict
        Voxels compared and differing, the share that agrees, the largest difference of a probability.
    """
    task = prepared(
        volume, model, record, work, runtime=(backend, precision), as_is=as_is, any_voxel_size=any_voxel_size
    )
    found = measured_agreement(task, replace(task, runtime=Runtime()), work)
    return {"backend": backend, "precision": precision, **found}


def check_volume(volume: Volume, bundle: Bundle, *, any_voxel_size: bool) -> None:
    """Refuse a volume that holds no grey values, or whose voxels are not of the size that the network was trained on.

    Raises
    ------
    InputError
    """
    if volume.kind != "grey" or volume.dtype.kind not in "uif":
        raise InputError(f"{volume.name} holds {volume.kind} ({volume.dtype}), but a network labels grey values")
    if volume.dtype.itemsize > 4:
        raise InputError(
            f"{volume.name} holds {volume.dtype}, but a network takes grey values of at most 32 bits: store it as float32"
        )
    if any_voxel_size:
        return
    trained = bundle.card.voxel_size_um
    if volume.voxel_size_um is None:
        raise InputError(
            f"{volume.name} does not say how large a voxel is, but {bundle.card.name!r} was trained on {in_micrometres(trained)}: "
            "at another scale its labels are wrong; convert it with its size first, such as voxel_size_um=5.0, or go on with any_voxel_size=True"
        )
    for axis, one, other in zip(AXES, volume.voxel_size_um, trained, strict=True):
        if abs(one / other - 1) > VOXEL_SIZE_TOLERANCE:
            sizes = ",".join(f"{v:g}um" for v in trained)
            raise InputError(
                f"{volume.name} has voxels of {one:g} µm along {axis}, but {bundle.card.name!r} was trained on {other:g} µm: it "
                f"would see another scale; run `tomoscale resample {volume.name} OTHER.zarr --voxel-size {sizes}` and segment "
                "that (its labels are sampled back the same way), take another model, or go on with any_voxel_size=True"
            )


def scaling_by_card(volume: Volume, bundle: Bundle, record: Place, work: Work) -> Scaling | None:
    """Scaling of a volume by the card, see `scaling_unless_done`."""
    how = bundle.card.normalisation
    asks = f"{bundle.card.name!r} was trained on {how.scheme}: give the volume before it was normalised, or go on with as_is=True"
    return scaling_unless_done(volume, how, record, work, asks=asks)


def _noted(target: Place) -> dict[str, Any]:
    """What a run that was begun has measured, which need not be measured again."""
    notes: dict[str, Any] = {}
    for begun in (parts_of(target) / PROVISIONAL, target):
        folder = ledger_folder(begun)
        if folder is not None and (folder / "plan.json").exists():
            for parameters in read_plan(folder)["step"].values():
                notes.update({k: parameters[k] for k in ("tolerance", "agreement") if k in parameters})
    return notes
