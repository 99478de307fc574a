"""The order of DICOM slices along the normal of their plane, and what is refused on the way."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from tomoscale.errors import InputError
from tomoscale.formats.dicom_header import DicomFile, Frame

_GAP, _DOUBLE = 1.5, 0.5
_UNEVEN = 0.2
"""Share of the spacing by which a slice may be off a regular grid: exporters round positions to micrometres."""


def ordered(
    folder: Path, files: Sequence[DicomFile], frames: list[tuple[int, int]]
) -> tuple[list[tuple[int, int]], float | None]:
    """Slices in ascending place, and the distance between them in millimetres if it is known.

    Parameters
    ----------
    folder : Path
        For messages.
    files : sequence of DicomFile
    frames : list of (file, frame)
        All of them, in any order.

    Raises
    ------
    InputError
        If slices are missing, double, uneven or slanted; the first such file is named.
    """
    first = files[0].frames[0]
    if first.position is None or first.orientation is None:
        if len(files) > 1:
            _check_numbers(folder, files)
            frames = sorted(frames, key=lambda f: files[f[0]].number or 0)
        step = files[0].slice_step_mm
        return frames, abs(step) if step else None
    positions = np.array([files[number].frames[frame].position for number, frame in frames])
    along = positions @ _normal(folder / files[0].name, first.orientation)
    order = np.argsort(along, kind="stable")
    sorted_frames = [frames[n] for n in order]
    if len(frames) == 1:
        step = files[0].slice_step_mm
        return sorted_frames, abs(step) if step else None

    def name(number: int) -> str:
        file, frame = sorted_frames[number]
        return files[file].name if len(files) > 1 else f"frame {frame + 1}"

    _check_places(folder, along[order], name)
    _check_upright(folder, positions[order], along[order], first)
    return sorted_frames, float(along[order][-1] - along[order][0]) / (len(frames) - 1)


def _normal(path: Path, orientation: Sequence[float]) -> np.ndarray:
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    if not np.allclose([row @ row, column @ column, row @ column], [1, 1, 0], atol=1e-2):
        raise InputError(f"{path} has orientation {tuple(orientation)}, which is not two perpendicular directions")
    return np.cross(row, column)


def _check_numbers(folder: Path, files: Sequence[DicomFile]) -> None:
    """Without positions, instance numbers give the order; they must be one after the other."""
    numbered = sorted(files, key=lambda file: (file.number is not None, file.number or 0))
    if numbered[0].number is None:
        raise InputError(
            f"{folder / numbered[0].name} has neither a position nor an instance number: its place is unknown"
        )
    for a, b in itertools.pairwise(numbered):
        assert a.number is not None
        assert b.number is not None
        if b.number != a.number + 1:
            what = "have the same number" if b.number == a.number else "are not neighbours: slices are missing"
            raise InputError(f"{folder}: {a.name} (instance {a.number}) and {b.name} (instance {b.number}) {what}")


def _check_places(folder: Path, along: np.ndarray, name: Callable[[int], str]) -> None:
    """Refuse slices at one place, gaps, and uneven distances."""
    steps = np.diff(along)
    usual = float(np.median(steps))
    doubles = np.flatnonzero(steps <= _DOUBLE * usual)
    if len(doubles):
        at = int(doubles[0])
        raise InputError(
            f"{folder}: {name(at)} and {name(at + 1)} are both at {along[at]:.6g} mm: keep one volume in a folder"
        )
    gaps = np.flatnonzero(steps > _GAP * usual)
    if len(gaps):
        at = int(gaps[0])
        raise InputError(
            f"{folder}: slices are missing between {name(at)} at {along[at]:.6g} mm and {name(at + 1)} at "
            f"{along[at + 1]:.6g} mm, others are {usual:.6g} mm apart: copy them again"
        )
    regular = np.linspace(along[0], along[-1], len(along))
    off = np.abs(along - regular) > _UNEVEN * (along[-1] - along[0]) / (len(along) - 1)
    if off.any():
        at = int(np.argmax(off))
        raise InputError(
            f"{folder}: {name(at)} is at {along[at]:.6g} mm, but slices at equal distances would have it at "
            f"{regular[at]:.6g} mm: resample the volume"
        )


def _check_upright(folder: Path, positions: np.ndarray, along: np.ndarray, first: Frame) -> None:
    """Refuse slices that move sideways, as those of a tilted gantry do: the volume would be a slanted one."""
    assert first.orientation is not None
    normal = np.cross(first.orientation[:3], first.orientation[3:])
    sideways = np.linalg.norm(positions - positions[0] - np.outer(along - along[0], normal), axis=1).max()
    pixel = min(first.spacing_mm) if first.spacing_mm else float(np.median(np.diff(along)))
    if sideways > pixel / 2:
        raise InputError(
            f"{folder}: its slices are shifted sideways by up to {sideways:.4g} mm (a tilted gantry): resample the volume"
        )
