"""A table of all objects of a label volume, one row each, written row by row however many there are."""

from __future__ import annotations

import csv
import importlib
import importlib.util
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tomoscale.arrays import Array, to_host
from tomoscale.block_log import LOG
from tomoscale.drafts import draft_of
from tomoscale.errors import InputError, IntegrityError, PlanError
from tomoscale.formats import opened
from tomoscale.geometry import Block, Grid
from tomoscale.json_files import read_json
from tomoscale.measures.object_sums import COLUMNS, HALO, sum_objects
from tomoscale.objects.figures import Objects, figures
from tomoscale.objects.pieces import file_of
from tomoscale.objects.stored import StoredArrays, save_arrays
from tomoscale.places import local_path, replace_text
from tomoscale.plan import begun_block, plan_measure
from tomoscale.step import Counts, Measure
from tomoscale.volume import Volume
from tomoscale.work import Work

PARTS_AT_ONCE = 2**18
"""Rows of blocks' tables that are summed at once: 240 bytes each, some four times over."""
_SAMPLE = 256
_FINISHED = "finished.json"


def object_table(source: Volume | str | Path, target: str | Path, *, work: Work | None = None) -> Path:
    """Measure every object of a label volume and write a table with a row for each, in the order of their labels.

    The labels are read once. The sums behind the figures are integers, so the table does not depend on how the volume
    is cut; and it is written in parts, so that 10^8 objects need no more memory than 10^5.

    ===========================  ======================================================================================
    ``label``
    ``voxels``
    ``volume_um3``
    ``z_start_voxels`` ...       box: first voxel, and the one after the last, for z, y, x
    ``centroid_z_um`` ...        the centre of the first voxel of the volume is 0
    ``axis_1_um`` ...            lengths of the axes of the ellipsoid with the same volume moments, the longest first;
                                 voxels count as boxes
    ``axis_1_z`` ...             directions, of length 1, the largest component positive
    ``surface_faces_um2``        sum of the voxel faces; 1.5 times the surface of a ball, however fine the voxels
    ``surface_crofton_um2``      from intersections with lines in 13 directions: within about a percent from ten voxels on
    ``border_faces``             voxel faces on the border of the volume, which are not surface
    ``touches_border``           0 or 1
    ===========================  ======================================================================================

    Parameters
    ----------
    source : Volume or path
        Labels, as of `components`; 0 is no object.
    target : path
        ``.csv``, or ``.parquet`` where pyarrow is installed.
    work : Work or None

    Returns
    -------
    Path
        The table.

    Raises
    ------
    ValueError
        If the target is of another type, or pyarrow is missing.
    InputError
        If the source holds no labels, or does not say how large a voxel is.
    PlanError
        If the target exists and was not made by this command, or memory does not allow it.
    """
    volume, target, work = opened(source), local_path(target), work or Work()
    _check(volume, target)
    assert volume.voxel_size_um is not None
    folder = target.with_name(f"{target.name}.parts")
    measure = _object_sums(volume, folder / "parts")
    block = work.block_shape or (None if work.overwrite else begun_block(folder))
    plan = plan_measure(measure, volume, record=folder, block_shape=block, resources=work.resources)
    wanted = json.loads(json.dumps(plan.describe()))
    if target.exists() and not work.overwrite:
        if _finished(folder) == wanted:
            work.tell_finished(target)
            return target
        raise PlanError(f"{target} exists and was not made by this command: give another name, or overwrite=True")
    work.measure((measure,), {"labels": volume}, folder)
    if work.plan_only:
        return target
    # The run may have gone on with another block than was planned here.
    grid = Grid(volume.shape, begun_block(folder) or plan.grid.block_shape)
    label = np.dtype(np.uint8) if volume.dtype.kind == "b" else volume.dtype
    with _writer(target, label) as write:
        for part in summed(folder / "parts", grid):
            write(figures(part, volume.voxel_size_um))
    replace_text(folder / _FINISHED, json.dumps(wanted))
    for name in ("sealed.json", LOG):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "parts", ignore_errors=True)
    return target


def write_sums(labels: Array, *, block: Block, folder: str) -> Counts:
    """Write the sums of a block's objects to its file: ``label`` (k,), ``sums`` (k, 30)."""
    label, sums = sum_objects(to_host(labels), block)
    save_arrays(file_of(Path(folder), block.number), {"label": label, "sums": sums})
    return {"parts": np.array([label.size], np.int64)}


def summed(folder: Path, grid: Grid) -> Iterator[Objects]:
    """Objects in the order of their labels, some at a time, summed over the blocks they lie in."""
    cuts, least, greatest = _cut(folder, len(grid))
    for i in range(len(cuts) + 1):
        labels, sums, origins = [], [], []
        inside = np.ones(len(grid), bool)
        if i > 0:
            inside &= greatest >= cuts[i - 1]
        if i < len(cuts):
            inside &= least < cuts[i]
        for number in np.flatnonzero(inside):
            stored = StoredArrays.open(file_of(folder, int(number)))
            label = stored.view("label")
            start = np.searchsorted(label, cuts[i - 1]) if i > 0 else 0
            stop = np.searchsorted(label, cuts[i]) if i < len(cuts) else label.size
            labels.append(np.array(label[start:stop]))
            sums.append(np.array(stored.view("sums")[start:stop]))
            origin = [r.start for r in grid.region(int(number))]
            origins.append(np.broadcast_to(np.array(origin, np.int64), (labels[-1].size, 3)))
        if sum(part.size for part in labels):
            parts = (np.concatenate(labels), np.concatenate(sums), np.concatenate(origins))
            yield Objects.joined(*parts, max(grid.block_shape))


def _cut(folder: Path, n_blocks: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels at which to cut the table into parts, and the least and the greatest label of every block.

    Every 256th label of a block is taken to stand for those up to the next: a part holds `PARTS_AT_ONCE` rows and at
    most 256 more for each block.
    """
    samples, least, greatest = [], [], []
    for number in range(n_blocks):
        label = StoredArrays.open(file_of(folder, number)).read("label")
        samples.append(label[::_SAMPLE])
        # A block without objects lies after all labels and before all.
        greatest.append(label[-1] if label.size else np.iinfo(label.dtype).min)
        least.append(label[0] if label.size else np.iinfo(label.dtype).max)
    every = np.sort(np.concatenate(samples))
    step = max(1, PARTS_AT_ONCE // _SAMPLE)
    return np.unique(every[step::step]), np.array(least), np.array(greatest)


@contextmanager
def _writer(target: Path, label: np.dtype[Any]) -> Iterator[Callable[[Mapping[str, np.ndarray]], None]]:
    """Writer of parts of a table that appears when all are written; without parts it has only names."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = draft_of(target)
    try:
        with _csv_writer(partial) if target.suffix == ".csv" else _parquet_writer(partial, label) as write:
            write(_no_objects(label))
            yield write
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _no_objects(label: np.dtype[Any]) -> Mapping[str, np.ndarray]:
    empty = np.zeros((0, COLUMNS), np.int64)
    return figures(Objects.joined(np.zeros(0, label), empty, empty[:, :3], 1), (1.0, 1.0, 1.0))


@contextmanager
def _csv_writer(path: Path) -> Iterator[Callable[[Mapping[str, np.ndarray]], None]]:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")

        def write(columns: Mapping[str, np.ndarray]) -> None:
            if not file.tell():
                writer.writerow(columns)
            # Nine digits: more than any of the figures means, fewer than differ between machines.
            texts = [[f"{v:.9g}" for v in c.tolist()] if c.dtype.kind == "f" else c.tolist() for c in columns.values()]
            writer.writerows(zip(*texts, strict=True))

        yield write


@contextmanager
def _parquet_writer(path: Path, label: np.dtype[Any]) -> Iterator[Callable[[Mapping[str, np.ndarray]], None]]:
    arrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    with parquet.ParquetWriter(path, arrow.table(dict(_no_objects(label))).schema) as file:
        yield lambda columns: file.write_table(arrow.table(dict(columns)))


def _object_sums(volume: Volume, folder: Path) -> Measure:
    """Measure of `write_sums`."""
    return Measure(
        "object sums",
        partial(write_sums, folder=str(folder)),
        ("labels",),
        HALO,
        # Runs of every voxel, their labels sorted, and the sums of objects of eight voxels; those of a scan take a tenth.
        bytes_per_voxel=30.0 + 2 * volume.dtype.itemsize + 60.0,
        counts_bytes=8,
    )


def _finished(folder: Path) -> object:
    """Plan of the table that was written; None if there is none."""
    path = folder / _FINISHED
    if not path.exists():
        return None
    return read_json(path, "plan of a finished table", f"remove {folder} and run again", IntegrityError)


def _check(volume: Volume, target: Path) -> None:
    if target.suffix not in (".csv", ".parquet"):
        raise ValueError(f"{target} must end in .csv or .parquet")
    if target.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise ValueError(f"{target}: Parquet needs pyarrow, which is not installed; install it, or give a .csv")
    if volume.dtype.kind not in "biu":
        raise InputError(f"{volume.name} holds {volume.dtype}, but objects are told apart by integer labels")
    if volume.voxel_size_um is None:
        raise InputError(
            f"{volume.name} does not say how large a voxel is, and it is never guessed: convert it with its size, such as voxel_size_um=5.0"
        )
