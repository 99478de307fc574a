"""How the predictions of several planes become labels: all that the result depends on, and what can be made of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tomoscale.errors import InputError
from tomoscale.geometry import Shape
from tomoscale.kernels.nine_planes import PLANES
from tomoscale.kernels.plane_blocks import fuse_blocks
from tomoscale.kernels.planes import PlaneNetwork, plane_network
from tomoscale.kernels.scaling import Scaling
from tomoscale.kernels.voting import Ballot, of_tally
from tomoscale.networks.bundle import Bundle
from tomoscale.parts import origin_of
from tomoscale.places import Place
from tomoscale.step import Kernel
from tomoscale.volume import Volume

STORED = ("float32", "float16", "uint16")


@dataclass(frozen=True)
class Fusing:
    """How the predictions of several planes become labels; each is part of the result's definition.

    Attributes
    ----------
    planes : 1, 3, 9
        Slices across z; across each axis; across each axis and each of the six diagonals between two axes.
    voting : "soft" or "majority"
    tie : "summed" or "lowest"
        Of a majority, see `tomoscale.kernels.voting.Ballot`.
    space : "probabilities" or "logits"
    storage : "float32", "float16" or "uint16"
        What the probabilities of diagonal planes are kept as on their own grid, and those that are asked for: exact, to
        11 bits, or in steps of 1/65535. Sums are always float32.
    tile : int or None
        Edge of the tiles within a slice, see `tomoscale.kernels.planes.plane_network`.
    backend, precision
        See `tomoscale.kernels.network.inference`.
    """

    planes: int = 9
    voting: str = "soft"
    tie: str = "summed"
    space: str = "probabilities"
    storage: str = "float32"
    tile: int | None = None
    backend: str = "torch"
    precision: str = "float32"

    def __post_init__(self) -> None:
        if self.planes not in (1, 3, 9):
            raise ValueError(f"planes must be 1, 3 or 9, got {self.planes}")
        if self.storage not in STORED:
            raise ValueError(f"storage must be one of {STORED}, got {self.storage!r}")
        if self.storage == "uint16" and self.space == "logits":
            raise ValueError("storage 'uint16' holds numbers within 0..1, but logits are any: take float32 or float16")


@dataclass(frozen=True)
class Fusion:
    """A volume, a network and how its planes are fused: all that the result depends on.

    Attributes
    ----------
    volume : Volume
    bundle : Bundle
    fusing : Fusing
    ballot : Ballot
    networks : tuple of PlaneNetwork
        One per plane, in the order they are added.
    scaling : Scaling or None
        Of grey values, before anything is turned; None takes them as they are.
    """

    volume: Volume
    bundle: Bundle
    fusing: Fusing
    ballot: Ballot
    networks: tuple[PlaneNetwork, ...]
    scaling: Scaling | None = None

    @classmethod
    def of(cls, volume: Volume, bundle: Bundle, fusing: Fusing, *, votes: bool = False) -> Fusion:
        """Check a volume and a network, and put them together.

        Parameters
        ----------
        volume : Volume
        bundle : Bundle
        fusing : Fusing
        votes : bool
            Count votes though the voting does not need them.

        Raises
        ------
        InputError
            If nine planes are wanted of voxels that are not cubes, or the network is not one on single slices.
        """
        if fusing.planes == 9:
            _check_cubes(volume)
        networks = tuple(
            plane_network(
                bundle,
                plane,
                volume.shape,
                tile=fusing.tile,
                space=fusing.space,
                backend=fusing.backend,
                precision=fusing.precision,
            )
            for plane in PLANES[: fusing.planes]
        )
        votes = votes or fusing.voting == "majority"
        ballot = Ballot(len(bundle.classes), fusing.planes, fusing.voting, fusing.tie, votes, fusing.space)
        return cls(volume, bundle, fusing, ballot, networks)

    @property
    def dtype(self) -> np.dtype[Any]:
        """What probabilities are kept as."""
        return np.dtype(self.fusing.storage)

    def described(self, kernel: Kernel, upto: int | None = None) -> Kernel:
        """Kernel whose record says all that the tally of the first `upto` planes depends on."""
        networks = self.networks[:upto]
        first = networks[0]
        asked = {
            "fused planes": [n.plane.name for n in networks],
            "tile shapes": [list(n.tiles.tile) for n in networks],
            "weights_sha256": self.bundle.weights_sha256,
            "architecture": self.bundle.architecture,
            "arguments": dict(self.bundle.arguments),
            "scaling": self.scaling and self.scaling.describe(),
            "storage": self.fusing.storage,
            "space": self.fusing.space,
            "backend": first.runtime[0],
            "precision": first.runtime[1],
        }
        return replace(kernel, parameters={**kernel.parameters, "made of": self._origin, **asked})

    @cached_property
    def _origin(self) -> dict[str, Any]:
        # The files of a foreign volume are listed for it, which is done once.
        return origin_of(self.volume)

    def of_blocks(self, block_shape: Shape, *, labels: bool) -> Kernel:
        """Kernel that fuses all planes of a block: to labels, or to the tally of `Tallying`."""
        kernel = fuse_blocks(
            self.networks, self.ballot, block_shape, labels=labels, dtype=self.dtype, scaling=self.scaling
        )
        if not labels:
            return self.described(kernel)
        return replace(kernel, parameters=self.described(of_tally("labels", self.ballot)).parameters)


@dataclass(frozen=True)
class Outputs:
    """Volumes that are made of a tally.

    Attributes
    ----------
    labels : Path or BucketPath
    probabilities : Path or None
        Folder of a volume per class, ``class_0.zarr`` onwards.
    disagreement, entropy : Path or None
    """

    labels: Place
    probabilities: Path | None = None
    disagreement: Path | None = None
    entropy: Path | None = None

    def __post_init__(self) -> None:
        paths = [p.absolute() for p in (self.labels, self.probabilities, self.disagreement, self.entropy) if p]
        if len(set(paths)) < len(paths):
            raise ValueError(f"two outputs are the same path: {', '.join(map(str, paths))}")

    @property
    def labels_only(self) -> bool:
        """Whether nothing else is asked for."""
        return self.probabilities is None and self.disagreement is None and self.entropy is None

    def kernels(self, fusion: Fusion) -> dict[Place, Kernel]:
        """Kernel of every volume; the labels come last, since they say that all is done."""
        ballot = fusion.ballot
        found: dict[Place, Kernel] = {}
        if self.probabilities is not None:
            for label in range(ballot.n_classes):
                found[self.probabilities / f"class_{label}.zarr"] = of_tally(
                    "mean", ballot, label, fusion.fusing.storage
                )
        if self.disagreement is not None:
            found[self.disagreement] = of_tally("disagreement", ballot)
        if self.entropy is not None:
            found[self.entropy] = of_tally("entropy", ballot)
        found[self.labels] = of_tally("labels", ballot)
        return {path: fusion.described(kernel) for path, kernel in found.items()}


def _check_cubes(volume: Volume) -> None:
    if volume.voxel_size_um is None:
        raise InputError(
            f"{volume.name} does not say how large a voxel is, and planes at 45 degrees need cubes: convert it with its size, such as voxel_size_um=5.0"
        )
    if max(volume.voxel_size_um) > min(volume.voxel_size_um) * (1 + 1e-6):
        raise InputError(
            f"{volume.name} has voxels of {volume.voxel_size_um} µm, but planes at 45 degrees need cubes: resample it to one "
            "voxel size first, or fuse three planes"
        )
