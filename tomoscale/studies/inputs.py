"""The samples of a study: what is given of each, checked before work starts on any."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tomoscale.errors import InputError
from tomoscale.formats import Source, open_volume
from tomoscale.geometry import Spacing
from tomoscale.kernels.ball import make_ball
from tomoscale.refusals import check_agreement
from tomoscale.volume import Kind, Volume

KINDS: dict[str, Kind] = {"scan": "grey", "labels": "labels", "truth": "labels", "reference": "mask"}
"""What can be given of a sample, and what the voxels of it are."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,99}")


@dataclass(frozen=True)
class Sample:
    """One explant of a study; `scan` or `labels` is given, or both.

    Attributes
    ----------
    name : str
        Of its folder and its row: letters, digits, spaces, dots, dashes, underscores.
    scan : Volume or path, optional
        Grey values; labelled by a network where there are no labels, measured for signal and contrast to noise.
    labels : Volume or path, optional
        Labels, to be measured as they are.
    truth, reference : Volume or path, optional
        As for `measure`.
    healing_days : float, optional
    voxel_size_um : (z, y, x) or one length, optional
        Of all volumes that do not say it themselves.
    dataset : str, optional
        Of the scan, inside an HDF5 file.
    """

    name: str
    scan: Source | None = None
    labels: Source | None = None
    truth: Source | None = None
    reference: Source | None = None
    healing_days: float | None = None
    voxel_size_um: float | Spacing | None = None
    dataset: str | None = None


def checked(samples: Sequence[Sample], roi_distance_um: float) -> dict[str, dict[str, Volume]]:
    """Open every volume of every sample and raise at the first thing that cannot work.

    Returns
    -------
    dict
        By sample name, its volumes by role.

    Raises
    ------
    ValueError
        If there is no sample, a name is no name or is taken, neither scan nor labels are given, or the
        distance is none on the voxels of a sample.
    InputError
        If a volume cannot be read or does not fit the others of its sample.
    """
    if not samples:
        raise ValueError("a study needs at least one sample")
    volumes: dict[str, dict[str, Volume]] = {}
    for sample in samples:
        if not _NAME.fullmatch(sample.name) or sample.name.endswith((".", " ")):
            raise ValueError(
                f"sample name {sample.name!r} must be letters, digits, spaces, dots, dashes and underscores, the first a letter "
                "or a digit: it names a folder"
            )
        # File systems differ in whether two names that differ in case are one folder.
        if sample.name.lower() in {name.lower() for name in volumes}:
            raise ValueError(f"two samples are called {sample.name}: results would overwrite each other")
        if sample.scan is None and sample.labels is None:
            raise ValueError(f"sample {sample.name} has neither scan nor labels: there is nothing to measure")
        try:
            volumes[sample.name] = _opened(sample)
            make_ball(roi_distance_um, voxel_size_of(volumes[sample.name]))
        except InputError as error:
            raise InputError(f"sample {sample.name}: {error}") from error
        except ValueError as error:
            raise ValueError(f"sample {sample.name}: {error}") from error
    return volumes


def _opened(sample: Sample) -> dict[str, Volume]:
    """Volumes of a sample by role, on one grid, with a voxel size each."""
    volumes = {}
    for role in KINDS:
        source = getattr(sample, role)
        if isinstance(source, Volume):
            volumes[role] = source
        elif source is not None:
            dataset = sample.dataset if role == "scan" else None
            volumes[role] = open_volume(source, dataset=dataset, voxel_size_um=sample.voxel_size_um)
    given = sample.voxel_size_um
    size = next((v.voxel_size_um for v in volumes.values() if v.voxel_size_um), None) or (
        (given,) * 3 if isinstance(given, int | float) else given
    )
    if size is None:
        raise InputError(
            "no volume says how large a voxel is, and it is never guessed: give voxel_size_um, such as 5.0"
        )
    volumes = {role: v if v.voxel_size_um else replace(v, voxel_size_um=size) for role, v in volumes.items()}
    check_agreement(volumes)
    for role in ("labels", "truth"):
        if role in volumes and volumes[role].dtype.kind not in "iu":
            raise InputError(f"{role} {volumes[role].name} holds {volumes[role].dtype}, but a class is a whole number")
    if sample.healing_days is not None and not sample.healing_days > 0:
        raise InputError(f"the healing time must be positive, got {sample.healing_days} days")
    return volumes


def voxel_size_of(volumes: Mapping[str, Volume]) -> Spacing:
    """Voxel size of the first volume that says one.

    Raises
    ------
    InputError
        If none does.
    """
    size = next((v.voxel_size_um for v in volumes.values() if v.voxel_size_um), None)
    if size is None:
        first = next(iter(volumes.values()))
        raise InputError(
            f"{first.name} does not say how large a voxel is: convert it with its size, such as voxel_size_um=5.0"
        )
    return size
