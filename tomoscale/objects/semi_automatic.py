"""Ground truth of the papers' semi-automatic kind: watershed for the implant, a threshold for the bone around it.

Lopes Marinho et al. 2024, section 2.1.5:

.. code-block:: text

    scan --> gradient ---------------+
      |                              +--> watershed --> residual metal, degradation layer: locked
      +----> markers: grey ranges ---+         |
      |                                        v
      +-----------------------------------> threshold of all other voxels --> bone

Each step is exact for every block shape; what is left to the eye is the choice of ranges.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tomoscale.arrays import Array, to_host
from tomoscale.commands import CLASSES
from tomoscale.errors import InputError
from tomoscale.formats import Source, opened
from tomoscale.geometry import Block, Halo
from tomoscale.kernels.gradient import gradient_magnitude
from tomoscale.kernels.ranges import Range, classes_of_ranges
from tomoscale.measures.greys import HALF, values_of
from tomoscale.measures.intensity import histogram
from tomoscale.measures.otsu import otsu_thresholds
from tomoscale.measures.population import Population
from tomoscale.objects.distance import known_voxel_size
from tomoscale.objects.filters import remove_small
from tomoscale.objects.watershed import identity, watershed
from tomoscale.parts import finished_before, made_of, parts_of
from tomoscale.places import Place, place
from tomoscale.plan import ledger_folder
from tomoscale.plan_record import read_plan
from tomoscale.refusals import check_agreement
from tomoscale.step import Counts, Kernel
from tomoscale.volume import Volume, open_zarr
from tomoscale.work import Work, refuse_own_source

METAL, LAYER, REST = 1, 2, 3
"""Labels of markers: residual metal, degradation layer, and what is neither."""
BONE = 3
FOUND = "bone_above"


@dataclass(frozen=True)
class Seeds:
    """Grey values that tell for sure what a voxel is.

    Attributes
    ----------
    metal, layer, rest : sequence of (low, high)
        Grey values above the first and not above the second; None is no limit. Bone and background are the `rest`. What
        is in no range is decided by flooding.
    min_voxels : int
        Smaller pieces of markers, which noise makes, are left out.
    """

    metal: Sequence[Range]
    layer: Sequence[Range]
    rest: Sequence[Range]
    min_voxels: int = 1

    @property
    def kernel(self) -> Kernel:
        """Kernel that makes markers of grey values."""
        return classes_of_ranges({METAL: self.metal, LAYER: self.layer, REST: self.rest})


def semi_automatic(
    source: Source,
    target: str | Place,
    *,
    markers: Source | Seeds,
    sigma_um: float | None = None,
    bone_above: float | None = None,
    work: Work | None = None,
) -> Volume:
    """Label residual metal, degradation layer, bone and background of a scan.

    The gradient of the scan is flooded from the markers; metal and layer are then locked, and of the other voxels bone
    is what is brighter than a threshold.

    Parameters
    ----------
    source : Volume or path
        Grey values.
    target : path
    markers : Seeds, or Volume or path
        Ranges of grey values; or a volume of painted markers: 1 metal, 2 layer, 3 bone or background, 0 not known.
    sigma_um : float, optional
        Of the Gaussian whose derivative is the gradient; by default the longest edge of a voxel.
    bone_above : float, optional
        Threshold of bone. By default Otsu's, from the exact histogram of all voxels that are not locked; of values of 32
        bits as for `grey_thresholds`.
    work : Work or None

    Returns
    -------
    Volume
        Labels 0 background, 1 residual metal, 2 degradation layer, 3 bone. `threshold_used` tells the threshold.

    Raises
    ------
    InputError
        If the voxel size is not known, markers are missing or do not fit, or grey values are NaN.
    ValueError
        If ranges overlap or a length is not positive.
    """
    work, scan, target = work or Work(), opened(source), place(target)
    steep = _gradient_kernel(scan, sigma_um)
    asked = _asked(markers, steep, bone_above)
    refuse_own_source(target, (scan,) if isinstance(markers, Seeds) else (scan, opened(markers)))
    if not work.overwrite and finished_before(target, _last(scan, scan, bone_above, asked), found=(FOUND,)):
        work.tell_finished(target)
        return open_zarr(target)
    parts = parts_of(target)
    seeds = _marked(scan, parts, markers, work)
    relief = work.map(steep, scan, parts / "gradient.zarr")
    flooded = watershed(relief, seeds, parts / "flooded.zarr", work=work)
    if bone_above is None:
        bone_above = _otsu(scan, flooded, parts / "histogram", work)
    result = work.map(_last(scan, flooded, bone_above, asked), scan, target, kind="labels", classes=CLASSES)
    if not work.plan_only:
        shutil.rmtree(parts, ignore_errors=True)
    return result


def gradient(source: Source, target: str | Place, *, sigma_um: float | None = None, work: Work | None = None) -> Volume:
    """Write the magnitude of the gradient of a scan, in grey values per micrometre (float32): a relief to flood.

    Parameters
    ----------
    source : Volume or path
        Grey values.
    target : path
    sigma_um : float, optional
        Of the Gaussian whose derivative it is; by default the longest edge of a voxel.
    work : Work or None

    Raises
    ------
    InputError
        If the voxel size is not known.
    ValueError
        If `sigma_um` is not positive.
    """
    work, scan = work or Work(), opened(source)
    return work.map(_gradient_kernel(scan, sigma_um), scan, target)


def threshold_used(target: str | Place) -> float:
    """Grey value above which `semi_automatic` took for bone what is not of the implant.

    Raises
    ------
    InputError
        If `target` was not made by it.
    """
    folder = ledger_folder(target)
    steps = read_plan(folder)["step"] if folder is not None and (folder / "plan.json").exists() else {}
    for parameters in steps.values():
        if FOUND in parameters:
            return float(parameters[FOUND])
    raise InputError(f"{target} was not made by the semi-automatic workflow, so no threshold is known of it")


def grey_thresholds(
    source: Source, record: str | Path, *, n_classes: int = 2, work: Work | None = None
) -> tuple[float, ...]:
    """Thresholds by Otsu's rule, for two classes or more, from the exact histogram of a whole volume.

    Values of 32 bits are counted by their upper 16 bits (0.4 to 0.8 % of a float32): a threshold is the largest of those
    that are counted together.

    Parameters
    ----------
    source : Volume or path
        Integers of at most 32 bits, or float32.
    record : path
        Folder for the histogram.
    n_classes : int
    work : Work or None

    Returns
    -------
    tuple of float
        The largest grey value of each class but the brightest; empty where only plans are shown.

    Raises
    ------
    InputError
        If there are fewer grey values than classes, or NaN.
    ValueError
        If there are fewer than two classes, or the type has 64 bits.
    """
    if n_classes < 2:
        raise ValueError(f"n_classes must be at least 2, got {n_classes}: one class has no threshold")
    work, scan = work or Work(), opened(source)
    counts = work.measure((histogram(Population(scan.dtype.name)),), {"grey": scan}, record)
    if counts is None:
        return ()
    try:
        return otsu_thresholds(*_greys(counts, scan.dtype, 0), n_classes)
    except InputError as error:
        raise InputError(f"{scan.name}: {error}") from error


def _gradient_kernel(scan: Volume, sigma_um: float | None) -> Kernel:
    voxel_size = known_voxel_size(scan)
    return gradient_magnitude(max(voxel_size) if sigma_um is None else sigma_um, voxel_size)


def _asked(markers: Source | Seeds, steep: Kernel, bone_above: float | None) -> dict[str, Any]:
    """What guards a resumed run beside the scan."""
    made = (
        {**markers.kernel.parameters, "min_voxels": markers.min_voxels}
        if isinstance(markers, Seeds)
        else identity(opened(markers))
    )
    return {"markers": made, "gradient": dict(steep.parameters), "threshold": bone_above}


def _marked(scan: Volume, parts: Path, markers: Source | Seeds, work: Work) -> Volume:
    """Markers as a volume."""
    if not isinstance(markers, Seeds):
        painted = opened(markers)
        check_agreement({"scan": scan, "markers": painted})
        return painted
    found = work.map(markers.kernel, scan, parts / "ranges.zarr", kind="labels", classes=CLASSES)
    if markers.min_voxels <= 1:
        return found
    return remove_small(found, parts / "markers.zarr", min_voxels=markers.min_voxels, multilabel=True, work=work)


def _greys(counts: Counts, dtype: np.dtype[Any], row: int) -> tuple[np.ndarray, np.ndarray]:
    """Voxels and grey values of the filled bins of a class; a bin of 32-bit values is the largest that it may hold."""
    voxels = np.asarray(counts["histogram"])[row]
    bins = np.flatnonzero(voxels)
    keys = bins if dtype.itemsize < 4 else (bins << HALF) | ((1 << HALF) - 1)
    return voxels[bins], values_of(keys, dtype.name)


def _otsu(scan: Volume, flooded: Volume, record: Place, work: Work) -> float:
    """Threshold between background and bone, of voxels that are not of the implant."""
    population = Population(scan.dtype.name, n_classes=REST + 1)
    counts = work.measure((histogram(population),), {"grey": scan, "labels": flooded}, record)
    if counts is None:
        return 0.0
    try:
        return otsu_thresholds(*_greys(counts, scan.dtype, REST))[0]
    except InputError as error:
        raise InputError(
            f"{scan.name}: voxels that are not of the implant have no two grey values, so no threshold separates bone "
            "from background: give one, or check the markers of the rest"
        ) from error


def _last(scan: Volume, flooded: Volume, bone_above: float | None, asked: Mapping[str, Any]) -> Kernel:
    kernel = Kernel(
        "semi-automatic",
        _Last(flooded, 0.0 if bone_above is None else bone_above),
        Halo(),
        np.dtype(np.uint8),
        # What was flooded, the result, and two masks.
        bytes_per_voxel=flooded.dtype.itemsize + 3,
        located=True,
    )
    return made_of(kernel, scan, **asked, **{FOUND: bone_above})


@dataclass(frozen=True)
class _Last:
    """Implant as flooded, and bone by a threshold."""

    flooded: Volume
    bone_above: float

    def __call__(self, values: Array, block: Block) -> np.ndarray:
        labels = self.flooded.read(block.write)
        if int(labels.max()) > REST:
            raise InputError(
                f"{self.flooded.name} holds the label {int(labels.max())}, but markers are {METAL} metal, {LAYER} layer and "
                f"{REST} what is neither: check the markers"
            )
        bone = to_host(values) > self.bone_above
        return np.where(labels == REST, np.where(bone, np.uint8(BONE), np.uint8(0)), labels).astype(
            np.uint8, copy=False
        )
