"""nnU-Net's U-Net with a residual encoder, built from the numbers of its plans (Isensee et al. 2024, "nnU-Net Revisited").

.. code-block:: text

    stem      convolution, norm, LeakyReLU
    stages    blocks, the first of which strides, and what goes past each of them:

              values --+--- unit --- unit without LeakyReLU ---------------------(+)--- LeakyReLU
                       |                                                          |
                       +--- [mean over the stride] --- [1x1 unit, no LeakyReLU] --+     [where it changes size or channels]

    decoder   that of the plain network (`tomoscale.networks.nnunet`)

A block of two units is that of He et al. 2015, and what goes past it that of He et al. 2019. With `bottleneck`, a block has
three units: to fewer channels, with the stride among these, and back.

Tensors are named as in dynamic-network-architectures, as for the plain network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from tomoscale.networks.arguments import MAX_CHANNELS, check_whole
from tomoscale.networks.nnunet import Decoder, Stage, Unit, check_plan, drop_aliases, rectifier

_MEANS: Mapping[int, type[nn.Module]] = {2: nn.AvgPool2d, 3: nn.AvgPool3d}


class ResidualEncoderUNet(nn.Module):
    """U-Net of nnU-Net with residual blocks, on slices (N, C, Y, X) or volumes (N, C, Z, Y, X).

    Parameters
    ----------
    features : list of int
        Channels of each stage.
    strides, kernel_sizes : list of list of int
        Of each stage, per axis; the first stride is 1.
    blocks : list of int
        Per stage of the encoder.
    decoder_convolutions : list of int
        Per stage of the decoder, from the deepest up: one less.
    stem : int
        Channels of the stem.
    bottleneck : list of int or None
        Channels within the blocks of each stage; None: blocks of two units.
    in_channels, n_classes, dimensions, norm, norm_eps, bias
        As for `tomoscale.networks.nnunet.PlainConvUNet`.

    Attributes
    ----------
    arguments, stride, sees_whole_window
        As for `tomoscale.networks.nnunet.PlainConvUNet`.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """

    def __init__(  # noqa: PLR0913 -- the numbers of a plan
        self,
        features: Sequence[int],
        strides: Sequence[Sequence[int]],
        kernel_sizes: Sequence[Sequence[int]],
        blocks: Sequence[int],
        decoder_convolutions: Sequence[int],
        stem: int,
        bottleneck: Sequence[int] | None = None,
        in_channels: int = 1,
        n_classes: int = 4,
        dimensions: int = 2,
        norm: str = "instance",
        norm_eps: float = 1e-5,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.arguments: dict[str, Any] = {
            "features": list(features),
            "strides": [list(s) for s in strides],
            "kernel_sizes": [list(k) for k in kernel_sizes],
            "blocks": list(blocks),
            "decoder_convolutions": list(decoder_convolutions),
            "stem": stem,
            "bottleneck": None if bottleneck is None else list(bottleneck),
            "in_channels": in_channels,
            "n_classes": n_classes,
            "dimensions": dimensions,
            "norm": norm,
            "norm_eps": norm_eps,
            "bias": bias,
        }
        _check(self.arguments)
        self.stride = tuple(math.prod(axis) for axis in zip(*strides, strict=True))
        self.sees_whole_window = norm == "instance"
        self.encoder = _Encoder(self.arguments)
        self.decoder = Decoder(self.arguments)
        self.register_load_state_dict_pre_hook(drop_aliases)  # type: ignore[no-untyped-call]

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Logits (N, n_classes, ...) of values (N, in_channels, ...)."""
        logits: torch.Tensor = self.decoder(*self.encoder(values))
        return logits

    def all_outputs(self, values: torch.Tensor) -> list[torch.Tensor]:
        """Return the logits on every level of the decoder, the finest first, each of its own size: for training."""
        return self.decoder.all_outputs(*self.encoder(values))


class _Encoder(nn.Module):
    def __init__(self, plan: Mapping[str, Any]) -> None:
        super().__init__()
        ones = [1] * plan["dimensions"]
        self.stem = Stage({**plan, "features": [plan["stem"]]}, 0, plan["in_channels"], 1, ones)
        inputs = [plan["stem"], *plan["features"]]
        self.stages = nn.ModuleList(_Blocks(plan, stage, inputs[stage]) for stage in range(len(plan["features"])))

    def forward(self, values: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Values of the deepest stage, and those of the others."""
        values = self.stem(values)
        skips: list[torch.Tensor] = []
        for stage in self.stages:
            values = stage(values)
            skips.append(values)
        return skips.pop(), skips


class _Blocks(nn.Module):
    def __init__(self, plan: Mapping[str, Any], stage: int, before: int) -> None:
        super().__init__()
        kind = _Block if plan["bottleneck"] is None else _Bottleneck
        after, count = plan["features"][stage], plan["blocks"][stage]
        steps = [plan["strides"][stage], *[[1] * plan["dimensions"]] * (count - 1)]
        first = [before, *[after] * (count - 1)]
        self.blocks = nn.Sequential(*(kind(plan, stage, b, s) for b, s in zip(first, steps, strict=True)))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.blocks(values)
        return result


class _Block(nn.Module):
    def __init__(self, plan: Mapping[str, Any], stage: int, before: int, stride: Sequence[int]) -> None:
        super().__init__()
        after, kernel = plan["features"][stage], plan["kernel_sizes"][stage]
        self.conv1 = Unit(plan, before, after, kernel, stride)
        self.conv2 = Unit(plan, after, after, kernel, [1] * plan["dimensions"], active=False)
        self.skip = _beside(plan, before, after, stride)
        self.last = rectifier()

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.last(self.conv2(self.conv1(values)) + self.skip(values))
        return result


class _Bottleneck(nn.Module):
    def __init__(self, plan: Mapping[str, Any], stage: int, before: int, stride: Sequence[int]) -> None:
        super().__init__()
        after, within, kernel = plan["features"][stage], plan["bottleneck"][stage], plan["kernel_sizes"][stage]
        ones = [1] * plan["dimensions"]
        self.conv1 = Unit(plan, before, within, ones, ones)
        self.conv2 = Unit(plan, within, within, kernel, stride)
        self.conv3 = Unit(plan, within, after, ones, ones, active=False)
        self.skip = _beside(plan, before, after, stride)
        self.last = rectifier()

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.last(self.conv3(self.conv2(self.conv1(values))) + self.skip(values))
        return result


def _beside(plan: Mapping[str, Any], before: int, after: int, stride: Sequence[int]) -> nn.Sequential:
    """What values become that go past a block; nothing where neither size nor channels change."""
    ones = [1] * plan["dimensions"]
    means = [] if list(stride) == ones else [_MEANS[plan["dimensions"]](stride, stride)]
    units = [] if before == after else [Unit(plan, before, after, ones, ones, bias=False, active=False)]
    return nn.Sequential(*means, *units)


def _check(plan: Mapping[str, Any]) -> None:
    check_plan(plan, "blocks")
    check_whole("stem", plan["stem"], 1, MAX_CHANNELS)
    if plan["bottleneck"] is not None:
        check_whole("length of bottleneck", len(plan["bottleneck"]), len(plan["features"]), len(plan["features"]))
        for value in plan["bottleneck"]:
            check_whole("bottleneck", value, 1, MAX_CHANNELS)
