"""A volume: voxels somewhere and the size of one of them."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, Protocol

import numpy as np

from tomoscale.geometry import AXES, Region, Shape, Spacing, whole
from tomoscale.memory_array import MemoryArray
from tomoscale.ome import LEVEL, STATE, STATE_VERSION, Kind, LabelClass, OmeVersion, group_attributes
from tomoscale.voxel_size import check_voxel_size, in_micrometres
from tomoscale.words import shape_text
from tomoscale.zarr_array import ZarrArray
from tomoscale.zarr_group import check_label, image_of, list_labels


class Storage(Protocol):
    """Where voxels are; an address, not the voxels: it is frozen and pickles small."""

    @property
    def shape(self) -> Shape:
        """Voxels along (z, y, x)."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a voxel, in native byte order."""

    @property
    def chunk_shape(self) -> Shape:
        """What is decoded as a whole when any voxel of it is read."""

    @property
    def name(self) -> str:
        """The path, for messages."""

    def read(self, region: Region) -> np.ndarray:
        """Values of a region, on the host, in C order and native byte order; the caller owns them."""

    def identity(self) -> dict[str, Any]:
        """Small JSON that changes when the data change."""


@dataclass(frozen=True)
class Volume:
    """Voxels and the size of one of them.

    Attributes
    ----------
    storage : Storage
    voxel_size_um : (z, y, x) or None
        In micrometres; None if it is not known.
    classes : tuple of LabelClass
        Names and colours of the values of a label volume.

    Raises
    ------
    ValueError
        If the voxel size is not three positive lengths.
    """

    storage: Storage
    voxel_size_um: Spacing | None = None
    classes: tuple[LabelClass, ...] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        if hasattr(self.storage, "__array__"):
            raise TypeError(
                f"storage is a {type(self.storage).__module__}.{type(self.storage).__name__}, which is no storage of voxels: "
                "open a path with open_volume, or give MemoryArray(array), of tomoscale.memory_array, for a NumPy array"
            )
        if self.voxel_size_um is not None:
            object.__setattr__(self, "voxel_size_um", check_voxel_size(self.voxel_size_um, self.name))

    @property
    def shape(self) -> Shape:
        """Voxels along (z, y, x)."""
        return self.storage.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a voxel."""
        return self.storage.dtype

    @property
    def name(self) -> str:
        """The path, for messages."""
        return self.storage.name

    @property
    def nbytes(self) -> int:
        """Size of all voxels, decoded."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def kind(self) -> Kind:
        """What the values mean: "grey", "labels" or "mask"."""
        kind: Kind = getattr(self.storage, "kind", "grey")
        return kind

    @property
    def exists(self) -> bool:
        """Whether it is on disk (or in memory), finished or not."""
        return bool(getattr(self.storage, "exists", True))

    @property
    def finished(self) -> bool:
        """Whether all voxels are there; a volume not made by us is taken as it is."""
        state = self.storage.state() if isinstance(self.storage, ZarrArray) else None
        return self.exists if state is None else state.get("finished") is True

    @property
    def counted(self) -> dict[str, Any]:
        """What the kernel that made it counted on the way, by name, summed over all blocks; of any other volume nothing."""
        state = self.storage.state() if isinstance(self.storage, ZarrArray) else None
        return dict(((state or {}).get("record") or {}).get("counts") or {})

    def read(self, region: Sequence[slice] | None = None) -> np.ndarray:
        """Values of a region (slices of voxels along z, y, x), or of the whole volume.

        Raises
        ------
        ValueError
            If the region is not inside the volume.
        InputError, IntegrityError
            If the data cannot be read, or are not what was written.
        """
        return self.storage.read(whole(self.shape) if region is None else self._checked(region))

    def write(self, region: Sequence[slice], values: np.ndarray) -> None:
        """Write the values of a region; for a Zarr volume it must be made of whole shards.

        Raises
        ------
        ValueError
            If the storage is read-only, or region and values do not fit it.
        OSError
            If the file system refuses.
        """
        if not isinstance(self.storage, ZarrArray | MemoryArray):
            raise ValueError(f"{self.name} can only be read: write to a volume of create_volume")
        self.storage.write(self._checked(region), values)

    def create(self) -> None:
        """Put what `create_volume` described on disk, without voxels; in memory there is nothing to do.

        Raises
        ------
        PlanError
            If something is in the way.
        """
        if isinstance(self.storage, ZarrArray):
            in_image = check_label(self.storage, self.voxel_size_um)
            state: dict[str, Any] = {
                "version": STATE_VERSION,
                "kind": self.storage.kind,
                "finished": False,
                "classes": [[c.value, c.name, list(c.rgba)] for c in self.classes],
                "record": {},
            }
            title = self.storage.directory.name.removesuffix(".zarr").removesuffix(".ome")
            version = _ome_version(self.storage)
            ome = group_attributes(title, self.storage.kind, self.voxel_size_um, self.classes, version, in_image)
            self.storage.create({**ome, STATE: state})
            if in_image:
                list_labels(self.storage.directory.parent, version)

    def finish(self, record: dict[str, Any]) -> None:
        """State that all voxels are written, and what made them (JSON values); list a label image in its image.

        Raises
        ------
        IntegrityError
            If a shard is not there.
        """
        if isinstance(self.storage, ZarrArray):
            self.storage.finish(record)
            if self.storage.inside == LEVEL and image_of(self.storage.directory):
                list_labels(self.storage.directory.parent, _ome_version(self.storage))

    def identity(self) -> dict[str, Any]:
        """Small JSON that changes when the data or the voxel size change; it guards a resumed run."""
        size = None if self.voxel_size_um is None else list(self.voxel_size_um)
        return {**self.storage.identity(), "shape": list(self.shape), "dtype": self.dtype.name, "voxel_size_um": size}

    def described(self) -> dict[str, Any]:
        """What the metadata say of the voxels: kept by a finished run, so that a change of them is found (JSON values)."""
        size = None if self.voxel_size_um is None else list(self.voxel_size_um)
        layout = self.storage.layout_digest() if isinstance(self.storage, ZarrArray) else None
        return {"kind": self.kind, "voxel_size_um": size, "layout": layout}

    def _checked(self, region: Sequence[slice]) -> Region:
        if len(region) != 3 or not all(isinstance(r, slice) and r.step in (None, 1) for r in region):
            raise ValueError(f"{self.name}: a region is three slices (z, y, x) without steps, got {region!r}")
        z, y, x = (
            slice(0 if r.start is None else operator.index(r.start), n if r.stop is None else operator.index(r.stop))
            for r, n in zip(region, self.shape, strict=True)
        )
        for axis, r, n in zip(AXES, (z, y, x), self.shape, strict=True):
            if not 0 <= r.start < r.stop <= n:
                raise ValueError(
                    f"{self.name}: {axis} {r.start}:{r.stop} is not inside the volume, whose {axis} is 0:{n}"
                )
        return z, y, x

    def __repr__(self) -> str:
        size = "unknown size" if self.voxel_size_um is None else in_micrometres(self.voxel_size_um)
        return f"<Volume {self.name}: {shape_text(self.shape)} {self.dtype} {self.kind}, voxels of {size}>"

    def __array__(self, *_: Any, **__: Any) -> NoReturn:
        # Without this NumPy would wrap the address in an array of one object, and functions of others would take it.
        raise TypeError(
            f"{self.name} is no array but the address of one: give its values, volume.read((slice(0, 64),) * 3)"
        )

    def _repr_html_(self) -> str:
        # Loaded only where it is shown: pictures need Pillow, and previews open volumes themselves.
        from tomoscale.notebook.preview import preview_html

        return preview_html(self)


def _ome_version(storage: ZarrArray) -> OmeVersion:
    return "0.4" if storage.version == 2 else "0.5"
