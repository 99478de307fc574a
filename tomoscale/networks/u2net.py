"""U²-Net: a U-Net each of whose blocks is a small U-Net (Qin et al. 2020).

.. code-block:: text

    En1 RSU-7    ------------------------------------------------- De1 RSU-7     RSU-L: conv, then L - 1 convs with poolings
     En2 RSU-6    ------------------------------------------- De2 RSU-6          between, one dilated by 2, and back with
      En3 RSU-5    ------------------------------------- De3 RSU-5               upsampling and skips; the first conv is added
       En4 RSU-4    ------------------------------- De4 RSU-4
        En5 RSU-4F   ------------------------- De5 RSU-4F                        RSU-4F: dilations 1, 2, 4, 8 instead of poolings
         En6 RSU-4F
                                                 each De and the last En: conv 3 -> classes at full size; 1x1 joins them
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from tomoscale.networks.arguments import check_ends, check_whole

ENCODER = ((7, 32, 64), (6, 32, 128), (5, 64, 256), (4, 128, 512), (0, 256, 512), (0, 256, 512))
"""Height (0: dilated, RSU-4F), inner and outer channels of the encoder's blocks."""
DECODER = ((7, 16, 64), (6, 32, 64), (5, 64, 128), (4, 128, 256), (0, 256, 512))
"""The same of the decoder's, from full resolution down."""


class U2Net(nn.Module):
    """Nested U-Net on slices (N, C, Y, X) whose sizes are multiples of 32.

    Parameters
    ----------
    in_channels, n_classes, dimensions : int
        As of `ScaledUNet`; 2 dimensions only.
    stages : int
        Encoder blocks: 6 as published; 5 drops the deepest pair.
    divide : int
        Divides all channels; 1 as published.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Notes
    -----
    Exact by blocks on sizes that are multiples of 32, which slices are padded to. Its reach, 3326 voxels, exceeds most
    slices.
    """

    def __init__(
        self, in_channels: int = 1, n_classes: int = 4, stages: int = 6, divide: int = 1, dimensions: int = 2
    ) -> None:
        super().__init__()
        check_ends(in_channels, n_classes)
        check_whole("stages", stages, 5, 6)
        check_whole("divide", divide, 1, 16)
        check_whole("dimensions", dimensions, 2, 2)
        self.arguments = {
            "in_channels": in_channels,
            "n_classes": n_classes,
            "stages": stages,
            "divide": divide,
            "dimensions": 2,
        }
        self.stride = (32, 32)
        down = [(height, inner // divide, outer // divide) for height, inner, outer in ENCODER[:stages]]
        up = [(height, inner // divide, outer // divide) for height, inner, outer in DECODER[: stages - 1]]
        inputs = [in_channels, *(outer for _, _, outer in down)]
        self.encoders = nn.ModuleList(_rsu(h, inputs[n], inner, outer) for n, (h, inner, outer) in enumerate(down))
        below = [*(outer for _, _, outer in up[1:]), down[-1][2]]
        self.decoders = nn.ModuleList(
            _rsu(height, below[n] + down[n][2], inner, outer) for n, (height, inner, outer) in enumerate(up)
        )
        widths = [*(outer for _, _, outer in up), down[-1][2]]
        self.sides = nn.ModuleList(nn.Conv2d(width, n_classes, 3, padding=1) for width in widths)
        self.fuse = nn.Conv2d(stages * n_classes, n_classes, 1)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Logits (N, n_classes, Y, X) of values (N, in_channels, Y, X): the fused output."""
        return self.all_outputs(values)[0]

    def all_outputs(self, values: torch.Tensor) -> list[torch.Tensor]:
        """Return the fused logits and those of each side, all of full size: training takes the sum of their losses."""
        skips: list[torch.Tensor] = []
        for encoder in self.encoders:
            values = encoder(_pool(values) if skips else values)
            skips.append(values)
        found = [values := skips.pop()]
        for decoder in reversed(self.decoders):
            values = decoder(torch.cat([_enlarge(values, 2), skips.pop()], dim=1))
            found.append(values)
        sides = [
            _enlarge(side(v), 2**level) for level, (side, v) in enumerate(zip(self.sides, reversed(found), strict=True))
        ]
        return [self.fuse(torch.cat(sides, dim=1)), *sides]


class _RSU(nn.Module):
    """Residual U-block of `height` levels."""

    def __init__(self, height: int, before: int, inner: int, outer: int) -> None:
        super().__init__()
        self.first = _unit(before, outer)
        self.down = nn.ModuleList(_unit(inner if level else outer, inner) for level in range(height - 1))
        self.bottom = _unit(inner, inner, dilation=2)
        self.up = nn.ModuleList(_unit(2 * inner, inner if level else outer) for level in range(height - 1))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        first = self.first(values)
        skips: list[torch.Tensor] = []
        values = first
        for layer in self.down:
            values = layer(_pool(values) if skips else values)
            skips.append(values)
        # The bottom is dilated instead of pooled: the first skip has its size.
        values = self.bottom(values)
        for level, layer in enumerate(reversed(self.up)):
            values = layer(torch.cat([_enlarge(values, 2 if level else 1), skips.pop()], dim=1))
        result: torch.Tensor = values + first
        return result


class _DilatedRSU(nn.Module):
    """Residual U-block whose levels differ by dilation instead of resolution."""

    def __init__(self, before: int, inner: int, outer: int) -> None:
        super().__init__()
        self.first = _unit(before, outer)
        self.down = nn.ModuleList(_unit(inner if n else outer, inner, dilation=2**n) for n in range(3))
        self.bottom = _unit(inner, inner, dilation=8)
        self.up = nn.ModuleList(_unit(2 * inner, inner if n else outer, dilation=2**n) for n in range(3))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        first = self.first(values)
        skips: list[torch.Tensor] = []
        values = first
        for layer in self.down:
            values = layer(values)
            skips.append(values)
        values = self.bottom(values)
        for layer in reversed(self.up):
            values = layer(torch.cat([values, skips.pop()], dim=1))
        result: torch.Tensor = values + first
        return result


def _rsu(height: int, before: int, inner: int, outer: int) -> nn.Module:
    return _RSU(height, before, inner, outer) if height else _DilatedRSU(before, inner, outer)


def _unit(before: int, after: int, dilation: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(before, after, 3, padding=dilation, dilation=dilation)
    return nn.Sequential(convolution, nn.BatchNorm2d(after), nn.ReLU(inplace=True))


def _pool(values: torch.Tensor) -> torch.Tensor:
    return functional.max_pool2d(values, 2)


def _enlarge(values: torch.Tensor, factor: int) -> torch.Tensor:
    if factor == 1:
        return values
    return functional.interpolate(values, scale_factor=float(factor), mode="bilinear", align_corners=False)
