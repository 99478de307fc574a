"""The U-Net of TomoSeg: four poolings, bilinear upsampling.

Lopes Marinho et al. 2024 compared it with other networks on synchrotron tomograms of magnesium implants; it is the one
that TomoSeg (github.com/Bashirkazimi/tomoseg) trains, and its tensors have the same names here, so that such weights load.

.. code-block:: text

    1      block(64)  ---------------- skip ----------------- [skip, up] block(64)  -> 1x1 -> classes
    1/2    max pool, block(128) ------ skip ------------ [skip, up] block(64)
    1/4    max pool, block(256) ------ skip ------- [skip, up] block(128)
    1/8    max pool, block(512) ------ skip -- [skip, up] block(256)
    1/16   max pool, block(512)                                  block = 2 x (conv 3 without bias, batch norm, ReLU)
"""

from __future__ import annotations

import torch
from torch import nn

from tomoscale.networks.arguments import MAX_CHANNELS, check_ends, check_flag, check_whole


class TomoSegUNet(nn.Module):
    """U-Net of four poolings, on slices (N, C, Y, X) whose sizes are multiples of 16.

    Parameters
    ----------
    in_channels, n_classes, dimensions : int
        As of `ScaledUNet`; 2 dimensions only.
    width : int
        Channels at full resolution, 64 in the paper.
    align_corners : bool
        True as TomoSeg trained it: upsampling then depends on the size of the window, and so does the result. False
        for new networks: exact by blocks, with a reach of 122 voxels.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Notes
    -----
    TomoSeg pads odd sizes within its decoder; here slices are padded to multiples of 16 instead, as for every network.
    """

    def __init__(
        self,
        in_channels: int = 1,
        n_classes: int = 4,
        width: int = 64,
        align_corners: bool = False,
        dimensions: int = 2,
    ) -> None:
        super().__init__()
        check_ends(in_channels, n_classes)
        check_whole("width", width, 1, MAX_CHANNELS)
        check_flag("align_corners", align_corners)
        check_whole("dimensions", dimensions, 2, 2)
        self.arguments = {
            "in_channels": in_channels,
            "n_classes": n_classes,
            "width": width,
            "align_corners": align_corners,
            "dimensions": 2,
        }
        self.inc = _Block(in_channels, width, width)
        self.down1 = _Down(width, 2 * width)
        self.down2 = _Down(2 * width, 4 * width)
        self.down3 = _Down(4 * width, 8 * width)
        self.down4 = _Down(8 * width, 8 * width)
        self.up1 = _Up(16 * width, 4 * width, align_corners)
        self.up2 = _Up(8 * width, 2 * width, align_corners)
        self.up3 = _Up(4 * width, width, align_corners)
        self.up4 = _Up(2 * width, width, align_corners)
        self.outc = _Head(width, n_classes)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Logits (N, n_classes, Y, X) of values (N, in_channels, Y, X)."""
        skips = [self.inc(values)]
        for down in (self.down1, self.down2, self.down3, self.down4):
            skips.append(down(skips[-1]))
        values = skips.pop()
        for up in (self.up1, self.up2, self.up3, self.up4):
            values = up(values, skips.pop())
        logits: torch.Tensor = self.outc(values)
        return logits


class _Block(nn.Module):
    def __init__(self, before: int, between: int, after: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for first, second in ((before, between), (between, after)):
            layers += [
                nn.Conv2d(first, second, 3, padding=1, bias=False),
                nn.BatchNorm2d(second),
                nn.ReLU(inplace=True),
            ]
        self.double_conv = nn.Sequential(*layers)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.double_conv(values)
        return result


class _Down(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.maxpool_conv = nn.Sequential(nn.MaxPool2d(2), _Block(before, after, after))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.maxpool_conv(values)
        return result


class _Up(nn.Module):
    def __init__(self, before: int, after: int, align_corners: bool) -> None:
        super().__init__()
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=align_corners)
        self.conv = _Block(before, before // 2, after)

    def forward(self, values: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.conv(torch.cat([skip, self.up(values)], dim=1))
        return result


class _Head(nn.Module):
    def __init__(self, before: int, n_classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, n_classes, 1)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.conv(values)
        return result
