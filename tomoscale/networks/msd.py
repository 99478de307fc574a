"""Mixed-scale dense network: every layer sees all layers before it, at dilations that repeat (Pelt and Sethian 2018).

.. code-block:: text

    layer n     conv 3 dilated by 1 + n % dilations, of input and layers 0 .. n - 1  ->  one channel, ReLU
    output      1x1 of the input and all layers

No pooling: stride 1, and with 100 layers of dilations 1 to 10 a reach of 550 voxels from 45,652 numbers (1 -> 1).
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from tomoscale.networks.arguments import MAX_CHANNELS, MAX_CLASSES, check_whole

_CONVOLUTIONS: dict[int, type[nn.Conv2d] | type[nn.Conv3d]] = {2: nn.Conv2d, 3: nn.Conv3d}


class MixedScaleDense(nn.Module):
    """Mixed-scale dense network on slices or volumes of any size.

    Parameters
    ----------
    depth : int
        Layers of one channel each, 100 in the paper.
    dilations : int
        Dilations 1 to this repeat, 10 in the paper.
    in_channels, n_classes, dimensions : int
        As of `ScaledUNet`.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """

    def __init__(
        self, depth: int = 100, dilations: int = 10, in_channels: int = 1, n_classes: int = 4, dimensions: int = 2
    ) -> None:
        super().__init__()
        check_whole("depth", depth, 1, 400)
        check_whole("dilations", dilations, 1, 32)
        check_whole("dimensions", dimensions, 2, 3)
        check_whole("in_channels", in_channels, 1, MAX_CHANNELS)
        check_whole("n_classes", n_classes, 1, MAX_CLASSES)
        self.arguments = {
            "depth": depth,
            "dilations": dilations,
            "in_channels": in_channels,
            "n_classes": n_classes,
            "dimensions": dimensions,
        }
        self.stride = (1,) * dimensions
        convolution = _CONVOLUTIONS[dimensions]
        self.layers = nn.ModuleList()
        for n in range(depth):
            dilation = 1 + n % dilations
            self.layers.append(convolution(in_channels + n, 1, 3, padding=dilation, dilation=dilation))
        self.head = convolution(in_channels + depth, n_classes, 1)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Logits (N, n_classes, ...) of values (N, in_channels, ...)."""
        for layer in self.layers:
            values = torch.cat([values, functional.relu(layer(values))], dim=1)
        logits: torch.Tensor = self.head(values)
        return logits
