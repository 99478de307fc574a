"""The main job from slices to report, on real bone texture with a screw of known truth."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from tomoscale.commands import CLASSES, clean, convert, normalise, report
from tomoscale.errors import PlanError
from tomoscale.geometry import Shape
from tomoscale.phantom import Phantom
from tomoscale.places import local_path, replace_text
from tomoscale.progress import duration
from tomoscale.segmentation.segment import segment
from tomoscale.studies import implant
from tomoscale.volume import Volume
from tomoscale.work import Work

HEALING_DAYS = 42.0
ROI_DISTANCE_UM = 250.0
"""The phantom is a screw of some 400 µm: 1 mm around it would be the whole field of view."""


def demo(
    folder: str | Path, *, shape: Shape = (320, 320, 320), seed: int = 1, work: Work | None = None
) -> dict[str, Any] | None:
    """Write a phantom as TIFF slices, then convert, normalise, segment, clean, measure and report it.

    Parameters
    ----------
    folder : path
        Where everything goes; a demo that was stopped goes on where it was.
    shape : (Z, Y, X)
    seed : int
        Which phantom; the shipped model has not seen seeds below 1000.
    work : Work, optional

    Returns
    -------
    dict
        The numbers by name, and the path of the report; None where only plans are shown.
    """
    work, folder, started = work or Work(), local_path(folder), time.perf_counter()
    phantom = Phantom(shape, seed)
    slices = folder / "slices"
    if not work.plan_only:
        write_slices(phantom, slices)
    named = Volume(phantom.truth, phantom.voxel_size_um, classes=CLASSES)
    truth = convert(named, folder / "truth.zarr", kind="labels", work=work)
    screw = convert(Volume(phantom.screw, phantom.voxel_size_um), folder / "reference.zarr", kind="mask", work=work)
    source = Volume(phantom.scan, phantom.voxel_size_um) if work.plan_only else slices
    scan = convert(source, folder / "scan.zarr", voxel_size_um=phantom.voxel_size_um, work=work)
    normal = normalise(scan, folder / "normal.zarr", work=work)
    labels = segment(normal, folder / "labels.zarr", work=work)
    cleaned = clean(labels, folder / "clean.zarr", work=work)
    results = implant.measure(
        cleaned,
        folder / "results",
        truth=truth,
        reference=screw,
        grey=scan,
        healing_days=HEALING_DAYS,
        roi_distance_um=ROI_DISTANCE_UM,
        work=work,
    )
    if results is None:
        return None
    page = report(folder / "results", folder / "report.html", overwrite=True)
    return {**implant.table(results), "report": str(page), "took": duration(time.perf_counter() - started)}


def write_slices(phantom: Phantom, slices: Path) -> None:
    """Write the scan as TIFF slices, unless this very phantom was written before.

    Raises
    ------
    PlanError
        If the folder holds something else.
    """
    done = slices.with_suffix(".json")
    wanted = json.dumps(phantom.parameters(), sort_keys=True)
    if done.exists() and done.read_text().strip() == wanted:
        return
    if done.exists() or (slices.exists() and not slices.with_suffix(".partial").exists()):
        raise PlanError(
            f"{slices} holds other slices than those of this phantom: give another folder, or remove this one"
        )
    slices.parent.mkdir(parents=True, exist_ok=True)
    slices.with_suffix(".partial").touch()
    for old in slices.glob("scan_*.tif"):
        old.unlink()
    print(
        f"writing a phantom of {' x '.join(map(str, phantom.shape))} voxels as TIFF slices", file=sys.stderr, flush=True
    )
    phantom.write_slices(slices, threads=2)
    replace_text(done, wanted)
    slices.with_suffix(".partial").unlink()
