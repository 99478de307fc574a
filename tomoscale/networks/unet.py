"""The scaled U-Net: one design whose depth and width are free.

Baltruschat et al. 2021, "Scaling the U-Net: segmentation of biodegradable bone implants in high-resolution synchrotron
radiation microtomograms": `depth` poolings before a bottleneck, channels doubling from `width` at full resolution.

.. code-block:: text

    level 0        block(width) -------------- skip --------------- concat, block(width) -> 1x1 -> classes
                        | max pool 2                                   | transposed convolution 2
    level 1        block(2 width) ------------ skip ---------- concat, block(2 width)
    ...                                        ...
    level depth    block(width * 2**depth)                                     block = 2 x (conv 3, batch norm, Mish)
"""

from __future__ import annotations

import torch
from torch import nn

from tomoscale.networks.arguments import check_whole

_LAYERS: dict[int, tuple[type[nn.Module], type[nn.Module], type[nn.Module], type[nn.Module]]] = {
    2: (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.MaxPool2d),
    3: (nn.Conv3d, nn.ConvTranspose3d, nn.BatchNorm3d, nn.MaxPool3d),
}

MAX_DEPTH = 8
MAX_WIDTH = 1024


class ScaledUNet(nn.Module):
    """U-Net of `depth` poolings and `width` channels at full resolution.

    A voxel of the output depends on ``extent(depth)`` voxels to each side. Sizes must be multiples of ``2**depth``.

    Parameters
    ----------
    depth : int
        Poolings, 1 to 8, bottleneck not counted; the total stride is ``2**depth``.
    width : int
        Channels at full resolution, 1 to 1024.
    in_channels : int
        Grey values per voxel.
    n_classes : int
        Logits per voxel, 2 to 255.
    dimensions : int
        2 for slices (N, C, Y, X), 3 for volumes (N, C, Z, Y, X).

    Attributes
    ----------
    arguments : dict
        What the network was made with: a bundle makes it again from them.

    Raises
    ------
    ValueError
        If a number is out of range.
    """

    def __init__(self, depth: int, width: int, in_channels: int = 1, n_classes: int = 4, dimensions: int = 2) -> None:
        super().__init__()
        check_whole("depth", depth, 1, MAX_DEPTH)
        check_whole("width", width, 1, MAX_WIDTH)
        check_whole("in_channels", in_channels, 1, MAX_WIDTH)
        check_whole("n_classes", n_classes, 2, 255)
        check_whole("dimensions", dimensions, 2, 3)
        self.arguments = {
            "depth": depth,
            "width": width,
            "in_channels": in_channels,
            "n_classes": n_classes,
            "dimensions": dimensions,
        }
        convolution, transposed, _, pool = _LAYERS[dimensions]
        widths = [width * 2**level for level in range(depth + 1)]
        self.encoders = nn.ModuleList(
            _block(before, after, dimensions)
            for before, after in zip([in_channels, *widths], widths[:-1], strict=False)
        )
        self.pool = pool(2)
        self.bottleneck = _block(widths[-2], widths[-1], dimensions)
        self.ups = nn.ModuleList(transposed(2 * w, w, kernel_size=2, stride=2) for w in reversed(widths[:-1]))
        self.decoders = nn.ModuleList(_block(2 * w, w, dimensions) for w in reversed(widths[:-1]))
        self.head = convolution(width, n_classes, kernel_size=1)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Logits (N, n_classes, ...) of values (N, in_channels, ...), both of one spatial shape."""
        skips: list[torch.Tensor] = []
        for encoder in self.encoders:
            skips.append(encoder(values))
            values = self.pool(skips[-1])
        values = self.bottleneck(values)
        for up, decoder in zip(self.ups, self.decoders, strict=True):
            values = decoder(torch.cat([up(values), skips.pop()], dim=1))
        logits: torch.Tensor = self.head(values)
        return logits


def extent(depth: int) -> int:
    """Voxels to each side that one output voxel of a `ScaledUNet` depends on, at most.

    The bottleneck path: 2 convolutions at each level going down and 2 going up, plus the cells that pooling and
    upsampling join. The receptive fields printed in the paper, ``(5 * depth + 9) * 2**depth - 4``, count the decoder at
    full jump and are about twice as large.

    Examples
    --------
    >>> [extent(depth) for depth in (3, 4, 5, 6)]
    [51, 107, 219, 443]
    """
    return 7 * (1 << depth) - 5


def _block(in_channels: int, out_channels: int, dimensions: int) -> nn.Sequential:
    convolution, _, normalisation, _ = _LAYERS[dimensions]
    layers: list[nn.Module] = []
    for before in (in_channels, out_channels):
        # Biases are redundant before batch norm, but the published weights have them: 279.84 million for (5, 96).
        layers += [
            convolution(before, out_channels, kernel_size=3, padding=1),
            normalisation(out_channels),
            nn.Mish(inplace=True),
        ]
    return nn.Sequential(*layers)
