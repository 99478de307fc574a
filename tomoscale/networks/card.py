"""What the author of a network says of it: classes, normalisation, and how its result over a volume is defined."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tomoscale.geometry import Shape, Spacing, three


@dataclass(frozen=True)
class ModelClass:
    """A class a network tells apart: the label it gets, its name, and its colour (red, green, blue, alpha)."""

    id: int
    name: str
    rgba: tuple[int, int, int, int] = (128, 128, 128, 255)

    def __post_init__(self) -> None:
        if not self.name or len(self.name) > 100:
            raise ValueError(f"class {self.id} needs a name of 1 to 100 characters, got {self.name!r}")
        if len(self.rgba) != 4 or not all(isinstance(c, int) and 0 <= c <= 255 for c in self.rgba):
            raise ValueError(f"rgba of class {self.name!r} must be four integers 0 to 255, got {self.rgba}")


@dataclass(frozen=True)
class Normalisation:
    """What becomes of grey values before a network sees them; always of the whole volume, never of a block.

    Attributes
    ----------
    scheme : "percentiles" or "zscore"
        Grey values at two percentiles become 0 and 1, values beyond are clipped (Baltruschat et al. 2021); or the mean
        is taken off and the rest divided by the standard deviation.
    percentiles : (low, high)
        Of the first.
    clip, mean, deviation : numbers or None
        Of the second: grey values are clipped first (None: not), and mean and standard deviation are these (None: those
        of the volume).
    """

    scheme: Literal["percentiles", "zscore"] = "percentiles"
    percentiles: tuple[float, float] = (0.5, 99.9)
    clip: tuple[float, float] | None = None
    mean: float | None = None
    deviation: float | None = None

    def __post_init__(self) -> None:
        if self.scheme not in ("percentiles", "zscore"):
            raise ValueError(f"normalisation must be percentiles or zscore, got {self.scheme!r}")
        if len(self.percentiles) != 2 or not 0 <= self.percentiles[0] < self.percentiles[1] <= 100:
            raise ValueError(f"percentiles must be two increasing numbers within 0..100, got {self.percentiles}")
        numbers = [v for v in (*(self.clip or ()), self.mean, self.deviation) if v is not None]
        if not all(math.isfinite(v) for v in numbers):
            raise ValueError(f"clip, mean and deviation must be finite, got {numbers}")
        if self.clip is not None and (len(self.clip) != 2 or not self.clip[0] < self.clip[1]):
            raise ValueError(f"clip must be two increasing grey values, got {self.clip}")
        if (self.mean is None) != (self.deviation is None) or (self.deviation is not None and self.deviation <= 0):
            raise ValueError(
                f"mean and deviation (> 0) are given together or not at all, got {self.mean}, {self.deviation}"
            )


@dataclass(frozen=True)
class Windows:
    """Grid of overlapping windows that defines the result of a network whose output depends on the window as a whole.

    Windows lie on positions that the volume's shape alone fixes, never the block (`tomoscale.networks.windows`). Each
    voxel gets the weighted mean over the windows that hold it.

    Attributes
    ----------
    shape : tuple of int
        Voxels of a window along the axes of the network (two or three).
    step : float
        Largest distance of neighbouring windows over their length, in (0, 1].
    weights : "gaussian" or "uniform"
        Of the voxels of a window.
    average : "logits" or "probabilities"
        What is averaged, over windows, mirrorings and members alike.
    mirror_axes : tuple of int
        Axes of the network that are mirrored at inference: the mean over all combinations.
    axes : tuple of int
        Axis of the volume, 0 to 2 for z, y, x, that is each axis of the network. For a network of two dimensions the first
        is the one across which slices lie: (1, 0, 2) labels slices of z and x, one after the other along y.
    regions : tuple of int
        Class that each output writes where its mean logit is above 0 (its probability above 0.5), in this order, over
        what is written before; what none writes is class 0. Empty: each output is a class, and the largest wins.
    """

    shape: tuple[int, ...]
    step: float = 0.5
    weights: Literal["gaussian", "uniform"] = "gaussian"
    average: Literal["logits", "probabilities"] = "logits"
    mirror_axes: tuple[int, ...] = ()
    axes: tuple[int, int, int] = (0, 1, 2)
    regions: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if len(self.shape) not in (2, 3) or not all(isinstance(n, int) and n >= 1 for n in self.shape):
            raise ValueError(f"the shape of a window must be two or three lengths >= 1, got {self.shape}")
        if not 0 < self.step <= 1:
            raise ValueError(f"the step of windows must be in (0, 1], got {self.step}")
        if self.weights not in ("gaussian", "uniform") or self.average not in ("logits", "probabilities"):
            raise ValueError(
                f"windows are weighted gaussian or uniform, and logits or probabilities averaged, got {self.weights!r}, "
                f"{self.average!r}"
            )
        axes = range(len(self.shape))
        if list(self.mirror_axes) != sorted(set(self.mirror_axes) & set(axes)):
            raise ValueError(
                f"mirror_axes must be different, in order, and within {list(axes)}, got {self.mirror_axes}"
            )
        if sorted(self.axes) != [0, 1, 2]:
            raise ValueError(f"axes must be 0, 1 and 2 in some order, got {self.axes}")
        if self.regions and (self.average != "logits" or min(self.regions) < 1):
            raise ValueError(f"regions are classes from 1 on, of means of logits, got {self.regions}, {self.average!r}")

    @property
    def lengths(self) -> Shape:
        """Voxels of a window along z, y and x of the volume."""
        own = ((1,) * (3 - len(self.shape))) + self.shape
        return three(own[self.axes.index(axis)] for axis in range(3))


@dataclass(frozen=True)
class Card:
    """What the author of a network says of it.

    Attributes
    ----------
    name : str
    classes : tuple of ModelClass
        Ids 0, 1, 2, ... in order.
    voxel_size_um : (z, y, x)
        Of the volumes it was trained on.
    normalisation : Normalisation
    windows : Windows or None
        None for a network whose result is local: it is the same for every tiling.
    training : mapping
        JSON values: data, recipe, scores.
    """

    name: str
    classes: tuple[ModelClass, ...]
    voxel_size_um: Spacing
    normalisation: Normalisation = Normalisation()
    windows: Windows | None = None
    training: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ids = [c.id for c in self.classes]
        if ids != list(range(len(ids))) or len(ids) < 2:
            raise ValueError(f"classes must be numbered 0, 1, 2, ... in order, got {ids}")
        names = [c.name for c in self.classes]
        if len(set(names)) < len(names):
            raise ValueError(f"classes must have different names, got {names}")
        if len(self.voxel_size_um) != 3 or not all(math.isfinite(v) and v > 0 for v in self.voxel_size_um):
            raise ValueError(f"voxel_size_um must be three lengths > 0 (z, y, x), got {self.voxel_size_um}")
        if set(self.regions) - set(ids):
            raise ValueError(f"regions are classes {ids[1:]}, got {self.regions}")

    @property
    def regions(self) -> tuple[int, ...]:
        """Class that each output writes, where outputs are regions that may overlap; empty where they are classes."""
        return () if self.windows is None else self.windows.regions

    @property
    def outputs(self) -> int:
        """Numbers that the network gives for a voxel."""
        return len(self.regions) or len(self.classes)

    def check_network(self, arguments: Mapping[str, Any]) -> None:
        """Refuse a network that is not the one of this card.

        Raises
        ------
        ValueError
            If it has another number of outputs or axes, or is shown neighbouring slices across another axis than z.
        """
        if arguments["n_classes"] != self.outputs:
            what = (
                f"card.classes names {len(self.classes)}" if not self.regions else f"{self.outputs} regions are named"
            )
            raise ValueError(f"the network has {arguments['n_classes']} outputs but {what}")
        if self.windows is None:
            return
        if len(self.windows.shape) != arguments["dimensions"]:
            raise ValueError(f"windows of {self.windows.shape} voxels for a network of {arguments['dimensions']} axes")
        if self.windows.axes != (0, 1, 2) and arguments.get("in_slices", 1) != 1:
            raise ValueError(f"axes {self.windows.axes} are for networks that are shown one slice, not its neighbours")


def card_of(document: Mapping[str, Any]) -> Card:
    """Card of a parsed JSON document.

    Raises
    ------
    KeyError, TypeError, ValueError
        If it is incomplete or wrong.
    """
    return Card(
        str(document["name"]),
        tuple(ModelClass(int(c["id"]), str(c["name"]), _four(c["rgba"])) for c in document["classes"]),
        _numbers(document["voxel_size_um"], 3),
        _normalisation_of(document["normalisation"]),
        None if document["windows"] is None else _windows_of(document["windows"]),
        dict(document["training"]),
    )


def _normalisation_of(said: Mapping[str, Any]) -> Normalisation:
    return Normalisation(
        said["scheme"],
        _numbers(said["percentiles"], 2),
        None if said["clip"] is None else _numbers(said["clip"], 2),
        None if said["mean"] is None else float(said["mean"]),
        None if said["deviation"] is None else float(said["deviation"]),
    )


def _windows_of(said: Mapping[str, Any]) -> Windows:
    return Windows(
        tuple(int(n) for n in said["shape"]),
        float(said["step"]),
        said["weights"],
        said["average"],
        tuple(int(a) for a in said["mirror_axes"]),
        three(int(a) for a in said.get("axes", (0, 1, 2))),
        tuple(int(c) for c in said.get("regions", ())),
    )


def _four(values: Any) -> tuple[int, int, int, int]:
    red, green, blue, alpha = values
    return red, green, blue, alpha


def _numbers(values: Any, count: int) -> Any:
    """Exactly `count` numbers as floats."""
    numbers = tuple(float(v) for v in values)
    if len(numbers) != count:
        raise ValueError(f"{count} numbers expected, got {values}")
    return numbers
