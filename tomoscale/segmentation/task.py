"""What is to be segmented, by which network and how; and the kernels that do it on any block."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tomoscale.geometry import Shape, three
from tomoscale.kernels.network import Runtime, Sink, inference
from tomoscale.kernels.scaling import Scaling
from tomoscale.kernels.tiles import tiles_of
from tomoscale.kernels.window_sums import HandOver, window_inference
from tomoscale.networks.bundle import Bundle
from tomoscale.networks.windows import WindowGrid
from tomoscale.step import Kernel
from tomoscale.volume import LabelClass, Volume


@dataclass(frozen=True)
class Task:
    """A volume, a network, and how it is run.

    Attributes
    ----------
    bundle : Bundle
    volume : Volume
    scaling : Scaling or None
    output : str
        "labels" or the name of a class.
    runtime : Runtime
    margin : (z, y, x) or None
        Of tiles, instead of the network's own.
    notes : mapping
        JSON values that are recorded with the result: what reduced margins and backends cost.
    """

    bundle: Bundle
    volume: Volume
    scaling: Scaling | None = None
    output: str = "labels"
    runtime: Runtime = field(default_factory=Runtime)
    margin: Shape | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def windowed(self) -> bool:
        """Whether the result is defined by windows, not local."""
        return self.bundle.card.windows is not None

    @property
    def windows(self) -> WindowGrid:
        """Windows over the volume."""
        assert self.bundle.card.windows is not None
        return WindowGrid(self.volume.shape, self.bundle.card.windows)

    @property
    def cell(self) -> Shape:
        """What is compared as a sample: a tile, or as much as a window."""
        if self.windowed:
            return three(min(w, n) for w, n in zip(self.windows.window, self.volume.shape, strict=True))
        tile = tiles_of(self.bundle, self.volume.shape, None).tile
        return three(min(t, n) for t, n in zip(tile, self.volume.shape, strict=True))

    @property
    def classes(self) -> tuple[LabelClass, ...]:
        """Classes of the labels."""
        return tuple(LabelClass(c.id, c.name, c.rgba) for c in self.bundle.classes) if self.output == "labels" else ()

    def kernel(self, *, sink: Sink | None = None, hand_over: HandOver | None = None) -> Kernel:
        """Kernel of one pass over the volume."""
        how: dict[str, Any] = {"scaling": self.scaling, "output": self.output, "runtime": self.runtime, "sink": sink}
        if self.windowed:
            kernel = window_inference(self.bundle, self.volume.shape, hand_over=hand_over, **how)
        else:
            kernel = inference(self.bundle, self.volume.shape, margin=self.margin, **how)
        return replace(kernel, parameters={**kernel.parameters, **self.notes})
