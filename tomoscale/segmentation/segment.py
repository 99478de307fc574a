"""Label every voxel of a volume by a network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tomoscale.errors import InputError
from tomoscale.formats import Source, opened
from tomoscale.places import Place, local_path, place
from tomoscale.volume import Kind, Volume, ZarrArray
from tomoscale.work import Work

if TYPE_CHECKING:
    from tomoscale.segmentation.task import Task

SHIPPED_MODEL = Path(__file__).parents[1] / "models" / "demo"


def segment(  # noqa: PLR0913 -- what, by which network, and what may be traded for speed or kept
    source: Source,
    target: str | Place,
    *,
    model: str | Path | None = None,
    backend: str = "torch",
    precision: str = "float32",
    tolerance: float | None = None,
    output: str = "labels",
    probabilities: str | Path | None = None,
    quantisation: str = "float32",
    as_is: bool = False,
    any_voxel_size: bool = False,
    planes: int = 1,
    work: Work | None = None,
    **fusing: Any,
) -> Volume:
    """Label every voxel of a volume by a network.

    Grey values are scaled as the network's card says, by exact numbers of the whole volume (kept beside the target as
    ``NAME.histogram``), unless `normalise` has done it.

    Parameters
    ----------
    source : Volume or path
        Grey values.
    target : path
    model : path or None
        Folder of a bundle; None takes the small model that ships, trained on phantoms.
    backend, precision : str
        "torch" or "openvino"; "float32" or "bfloat16". What other than the first changes is measured on samples of the
        volume and recorded with the result.
    tolerance : float or None
        Share of labels that may differ, 0 to 1: a margin smaller than the network's reach is chosen by what it costs on
        samples of the volume. None is exact.
    output : str
        "labels", or the name of a class for its probability, float32.
    probabilities : path or None
        Folder that gets a volume with the probability of each class.
    quantisation : "float32", "float16" or "uint16"
        Of those volumes; uint16 holds ``round(65535 * p)``.
    as_is : bool
        Take grey values as they are, whatever they are.
    any_voxel_size : bool
        Go on where voxels are not of the size that the network was trained on.
    planes : 1, 3, 9
        Slices across z; or slices in three or nine planes whose predictions are fused.
    work : Work or None
    **fusing
        How planes are fused and what else is made of them, see `tomoscale.segmentation.planes.segment_planes`: voting,
        tie, space, tile, method, disagreement, entropy.

    Returns
    -------
    Volume
        Labels, with the classes of the network; or probabilities, as `output` says.

    Raises
    ------
    InputError
        If the bundle is damaged, the volume holds no grey values, or voxels differ by more than 10 % from those that
        the network was trained on.
    ValueError
        If an argument is out of its range.
    """
    # torch takes two seconds to import, which no other command should pay.
    from tomoscale.segmentation.prepare import measured, prepared
    from tomoscale.segmentation.probabilities import QUANTISATIONS

    if quantisation not in QUANTISATIONS:
        raise ValueError(f"quantisation must be one of {', '.join(QUANTISATIONS)}, got {quantisation!r}")
    if tolerance is not None and not 0 < tolerance < 1:
        raise ValueError(f"tolerance must be a share of labels between 0 and 1, got {tolerance}")
    work, target = work or Work(), place(target)
    fused = {name: value for name, value in fusing.items() if value is not None}
    if planes != 1 or fused:
        if tolerance is not None or output != "labels":
            raise ValueError("tolerance and output are for slices across z: planes are fused exactly, and into labels")
        from tomoscale.segmentation.planes import segment_planes

        fused |= {"backend": backend, "precision": precision, "storage": quantisation}
        fused |= {"keep_probabilities": probabilities, "as_is": as_is, "any_voxel_size": any_voxel_size}
        return segment_planes(source, target, model=model, planes=planes, work=work, **fused)
    task = prepared(
        opened(source),
        model or SHIPPED_MODEL,
        target.with_suffix(".histogram"),
        work,
        output=output,
        runtime=(backend, precision),
        as_is=as_is,
        any_voxel_size=any_voxel_size,
    )
    _refuse_probabilities_of_regions(task, probabilities)
    task = measured(task, target, tolerance, work)
    return _run(task, target, work, None if probabilities is None else (local_path(probabilities), quantisation))


def _refuse_probabilities_of_regions(task: Task, probabilities: str | Path | None) -> None:
    if task.bundle.card.regions and (task.output != "labels" or probabilities is not None):
        raise InputError(
            f"{task.bundle.card.name!r} labels regions that may overlap, whose probabilities do not add to 1: it gives labels "
            "alone, leave output and probabilities out"
        )


def summary(volume: Volume) -> dict[str, Any]:
    """Say how a segmented volume was made: what was scaled, traded and counted, as JSON values."""
    state = volume.storage.state() if isinstance(volume.storage, ZarrArray) else None
    record = (state or {}).get("record") or {}
    steps = [dict(p) for p in record.get("run", {}).get("step", {}).values()]
    if not steps:
        return {}
    said = steps[0]
    if "fused planes" in said:
        names = ("scaling", "backend", "precision")
        return {"fused_planes": said["fused planes"]} | {name: said[name] for name in names}
    counts = said.get("computed") or {name: values[0] for name, values in record.get("counts", {}).items()}
    total = said.get("windows", said.get("tiles"))
    windows = {"in_grid": total, "computed": counts.get("windows"), "of_one_value": counts.get("constant_windows")}
    if total and counts.get("windows"):
        windows["redundancy"] = counts["windows"] / total
    kept = ("scaling", "backend", "precision", "agreement", "tolerance", "probabilities")
    return {name: said[name] for name in kept if name in said} | {"windows": windows}


def _run(task: Task, target: Place, work: Work, kept: tuple[Path, str] | None) -> Volume:
    """Run one pass, or two, keeping probabilities in a folder where asked."""
    from dataclasses import replace

    from tomoscale.segmentation.probabilities import class_volumes, remove
    from tomoscale.segmentation.windowed import block_of, run_windows

    if kept is None and not task.windowed:
        kind: Kind = "labels" if task.output == "labels" else "grey"
        return work.map(task.kernel(), task.volume, target, kind=kind, classes=task.classes)
    block = block_of(task, target, work, whole=kept is not None or task.output != "labels")
    work = replace(work, block_shape=block)
    volumes = None
    if kept is not None:
        task = replace(
            task, notes={**task.notes, "probabilities": {"folder": str(kept[0].absolute()), "quantisation": kept[1]}}
        )
        volumes = class_volumes(kept[0], task.bundle.classes, task.volume, block, kept[1])
        if not work.plan_only:
            if work.overwrite:
                remove(volumes)
            volumes.create()
    if task.windowed:
        result = run_windows(task, target, work, volumes)
    else:
        what: Kind = "labels" if task.output == "labels" else "grey"
        result = work.map(task.kernel(sink=volumes), task.volume, target, kind=what, classes=task.classes)
    if volumes is not None and not work.plan_only:
        volumes.finish({"labels": str(target)})
    return result
