r"""HR-Net: four resolutions side by side, exchanged again and again (Wang et al. 2020; W44 with the V2 head as in TomoSeg).

.. code-block:: text

    stem: 2 x (conv 3 stride 2)     1/4   four bottlenecks     width, 2 width, 4 width, 8 width = 44, 88, 176, 352 channels
          1/4   o--o------o--o------o--o
                 \ | \  / | \ \  /  |        stage 2: 1 module, stage 3: 4 modules, stage 4: 3 modules
          1/8     o--o------o--o----o--o     module: 4 residual blocks in each branch, then each branch takes the sum of
                       \    |  \  /                   all, brought to its resolution
          1/16              o--o----o--o
                                 \  |
          1/32                      o--o     head: all branches at 1/4, 1x1, 1x1 -> classes, upsampled by 4

Tensors are named as in TomoSeg (github.com/Bashirkazimi/tomoseg), so that its weights load.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from tomoscale.networks.arguments import check_ends, check_flag, check_whole

BLOCKS = 4
"""Residual blocks of a branch of a module, and bottlenecks of the first stage."""
MODULES = (1, 4, 3)
"""Modules of stages 2, 3 and 4, which have as many branches as their number says."""


class HRNet(nn.Module):
    """High-resolution network on slices (N, C, Y, X) whose sizes are multiples of 32.

    Parameters
    ----------
    in_channels, n_classes, dimensions : int
        As of `ScaledUNet`; 2 dimensions only.
    width : int
        Channels of the finest branch, 44 in TomoSeg.
    stem_width : int
        Channels of stem and bottlenecks, 64 in TomoSeg.
    align_corners : bool
        True as TomoSeg trained it: upsampling then depends on the size of the window, and so does the result. False
        for new networks: exact by blocks, with a reach of 1448 voxels before and 1417 after.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """

    def __init__(
        self,
        in_channels: int = 1,
        n_classes: int = 4,
        width: int = 44,
        stem_width: int = 64,
        align_corners: bool = False,
        dimensions: int = 2,
    ) -> None:
        super().__init__()
        check_ends(in_channels, n_classes)
        check_whole("width", width, 1, 256)
        check_whole("stem_width", stem_width, 1, 256)
        check_flag("align_corners", align_corners)
        check_whole("dimensions", dimensions, 2, 2)
        self.arguments = {
            "in_channels": in_channels,
            "n_classes": n_classes,
            "width": width,
            "stem_width": stem_width,
            "align_corners": align_corners,
            "dimensions": 2,
        }
        self.align_corners = align_corners
        self.conv1 = _conv(in_channels, stem_width, stride=2)
        self.bn1 = nn.BatchNorm2d(stem_width)
        self.conv2 = _conv(stem_width, stem_width, stride=2)
        self.bn2 = nn.BatchNorm2d(stem_width)
        self.layer1 = nn.Sequential(*(_Bottleneck(stem_width * (4 if n else 1), stem_width) for n in range(BLOCKS)))
        widths = [width * 2**branch for branch in range(4)]
        self.transition1 = nn.ModuleList(
            [_unit(4 * stem_width, widths[0]), nn.Sequential(_unit(4 * stem_width, widths[1], stride=2))]
        )
        self.transition2 = _new_branch(widths[:3])
        self.transition3 = _new_branch(widths[:4])
        self.stage2, self.stage3, self.stage4 = (
            nn.Sequential(*(_Module(widths[:branches], align_corners) for _ in range(count)))
            for branches, count in zip((2, 3, 4), MODULES, strict=True)
        )
        self.last_layer = nn.Sequential(
            nn.Conv2d(sum(widths), sum(widths), 1),
            nn.BatchNorm2d(sum(widths)),
            nn.ReLU(inplace=True),
            nn.Conv2d(sum(widths), n_classes, 1),
        )

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Logits (N, n_classes, Y, X) of values (N, in_channels, Y, X)."""
        stem = functional.relu(self.bn1(self.conv1(values)))
        stem = self.layer1(functional.relu(self.bn2(self.conv2(stem))))
        branches = self.stage2([transition(stem) for transition in self.transition1])
        branches = self.stage3([*branches, self.transition2[-1](branches[-1])])
        branches = self.stage4([*branches, self.transition3[-1](branches[-1])])
        joined = torch.cat([_enlarge(b, 2**n, self.align_corners) for n, b in enumerate(branches)], dim=1)
        return _enlarge(self.last_layer(joined), 4, self.align_corners)


class _Module(nn.Module):
    """Residual blocks in each branch, then the exchange between all."""

    def __init__(self, widths: list[int], align_corners: bool) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.branches = nn.ModuleList(nn.Sequential(*(_Residual(w) for _ in range(BLOCKS))) for w in widths)
        # Where a branch meets itself stands a module without tensors: it only holds the place in the tensors' names.
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(_exchange(widths, source, target) for source in range(len(widths)))
            for target in range(len(widths))
        )

    def forward(self, values: list[torch.Tensor]) -> list[torch.Tensor]:
        branches = [branch(value) for branch, value in zip(self.branches, values, strict=True)]
        return [functional.relu(self._sum(ways, branches, target)) for target, ways in enumerate(self.fuse_layers)]

    def _sum(self, ways: nn.Module, branches: list[torch.Tensor], target: int) -> torch.Tensor:
        assert isinstance(ways, nn.ModuleList)
        brought = [
            _enlarge(way(branch), 2 ** max(0, source - target), self.align_corners)
            for source, (way, branch) in enumerate(zip(ways, branches, strict=True))
        ]
        total = brought[0]
        for one in brought[1:]:
            total = total + one
        return total


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(width, width), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _conv(width, width), nn.BatchNorm2d(width)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        changed = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(values)))))
        return functional.relu(changed + values)


class _Bottleneck(nn.Module):
    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(before, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _conv(width, width), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
        # The first of a row has other channels than it takes.
        self.downsample = (
            None
            if before == 4 * width
            else nn.Sequential(nn.Conv2d(before, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width))
        )

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        changed = functional.relu(self.bn1(self.conv1(values)))
        changed = self.bn3(self.conv3(functional.relu(self.bn2(self.conv2(changed)))))
        return functional.relu(changed + (values if self.downsample is None else self.downsample(values)))


def _exchange(widths: list[int], source: int, target: int) -> nn.Module:
    """From one branch to the channels of another: to a finer one by 1x1 (enlarged later), to a coarser one by strides."""
    if source == target:
        return nn.Identity()
    if source > target:
        return nn.Sequential(nn.Conv2d(widths[source], widths[target], 1, bias=False), nn.BatchNorm2d(widths[target]))
    steps = [_unit(widths[source], widths[source], stride=2) for _ in range(target - source - 1)]
    last = nn.Sequential(_conv(widths[source], widths[target], stride=2), nn.BatchNorm2d(widths[target]))
    return nn.Sequential(*steps, last)


def _new_branch(widths: list[int]) -> nn.ModuleList:
    """Transition that leaves all branches but the last as they are, and makes that from the one before."""
    old = [nn.Identity() for _ in widths[:-1]]
    return nn.ModuleList([*old, nn.Sequential(_unit(widths[-2], widths[-1], stride=2))])


def _unit(before: int, after: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(_conv(before, after, stride), nn.BatchNorm2d(after), nn.ReLU(inplace=True))


def _conv(before: int, after: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, stride, padding=1, bias=False)


def _enlarge(values: torch.Tensor, factor: int, align_corners: bool) -> torch.Tensor:
    if factor == 1:
        return values
    return functional.interpolate(values, scale_factor=float(factor), mode="bilinear", align_corners=align_corners)
