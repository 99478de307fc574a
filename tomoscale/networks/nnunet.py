"""nnU-Net's plain convolutional U-Net, built from the numbers of its plans (Isensee et al. 2021).

Strided convolutions instead of poolings, instance norm, transposed convolutions, and an output on every level of the
decoder, of which only the finest is used at inference. Instance norm sees its whole window: the result over a volume is
defined by a grid of windows (`tomoscale.networks.card.Windows`).

Tensors are named as in dynamic-network-architectures, from which nnU-Net's checkpoints come. Those hold each tensor up to
four times, under other names as well, which are left out here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from tomoscale.networks.arguments import MAX_CHANNELS, check_ends, check_flag, check_whole

MAX_STAGES = 12
MAX_CONVOLUTIONS = 16

_LAYERS: dict[int, tuple[type[nn.Module], type[nn.Module], Mapping[str, type[nn.Module]]]] = {
    2: (nn.Conv2d, nn.ConvTranspose2d, {"instance": nn.InstanceNorm2d, "batch": nn.BatchNorm2d}),
    3: (nn.Conv3d, nn.ConvTranspose3d, {"instance": nn.InstanceNorm3d, "batch": nn.BatchNorm3d}),
}


class PlainConvUNet(nn.Module):
    """U-Net of nnU-Net, on slices (N, C, Y, X) or volumes (N, C, Z, Y, X).

    Parameters
    ----------
    features : list of int
        Channels of each stage.
    strides, kernel_sizes : list of list of int
        Of each stage, per axis; the first stride is 1.
    convolutions, decoder_convolutions : list of int
        Per stage of the encoder and, without the deepest, of the decoder (from the deepest up).
    in_channels, n_classes, dimensions : int
    norm : "instance" or "batch"
    norm_eps : float
    bias : bool
        Of the convolutions.

    Attributes
    ----------
    arguments : dict
        What the network was made with.
    stride : tuple of int
        Total stride per axis.
    sees_whole_window : bool
        The result depends on the window as a whole.

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
        convolutions: Sequence[int],
        decoder_convolutions: Sequence[int],
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
            "convolutions": list(convolutions),
            "decoder_convolutions": list(decoder_convolutions),
            "in_channels": in_channels,
            "n_classes": n_classes,
            "dimensions": dimensions,
            "norm": norm,
            "norm_eps": norm_eps,
            "bias": bias,
        }
        check_plan(self.arguments, "convolutions")
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


def without_aliases(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors of a checkpoint of nnU-Net, each under one name only.

    Raises
    ------
    ValueError
        If two names of one tensor stand for different values.
    """
    kept: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        known = kept.setdefault(_canonical(name), tensor)
        if known.shape != tensor.shape or not (known is tensor or torch.equal(known, tensor)):
            raise ValueError(
                f"{name} and {_canonical(name)} should be one tensor but differ: the checkpoint is damaged"
            )
    return kept


def _canonical(name: str) -> str:
    """Name of a tensor in the module that owns it: the decoder holds the encoder, and units hold their layers twice."""
    name = name.removeprefix("module.").removeprefix("_orig_mod.")
    name = name.removeprefix("decoder.") if name.startswith("decoder.encoder.") else name
    return re.sub(r"\.all_modules\.([01])\.", lambda m: (".conv.", ".norm.")[int(m[1])], name)


def drop_aliases(module: nn.Module, state: dict[str, Any], prefix: str, *rest: Any) -> None:
    """Let `load_state_dict` take a checkpoint as it is."""
    aliases = [n for n in state if n.startswith(prefix) and _canonical(n[len(prefix) :]) != n[len(prefix) :]]
    for name in aliases:
        state.setdefault(prefix + _canonical(name[len(prefix) :]), state[name])
        del state[name]


class _Encoder(nn.Module):
    def __init__(self, plan: Mapping[str, Any]) -> None:
        super().__init__()
        inputs = [plan["in_channels"], *plan["features"]]
        # Each stage is a sequence of one element: so the tensors are named.
        self.stages = nn.ModuleList(
            nn.Sequential(Stage(plan, stage, inputs[stage], plan["convolutions"][stage], plan["strides"][stage]))
            for stage in range(len(plan["features"]))
        )

    def forward(self, values: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Values of the deepest stage, and those of the others."""
        skips: list[torch.Tensor] = []
        for stage in self.stages:
            values = stage(values)
            skips.append(values)
        return skips.pop(), skips


class Decoder(nn.Module):
    """From the deepest stage up: transposed convolution, the skip beside it, convolutions; and an output on each level."""

    def __init__(self, plan: Mapping[str, Any]) -> None:
        super().__init__()
        convolution, transposed, _ = _LAYERS[plan["dimensions"]]
        features, strides = plan["features"], plan["strides"]
        upwards = range(len(features) - 2, -1, -1)
        self.transpconvs = nn.ModuleList(
            transposed(features[s + 1], features[s], strides[s + 1], strides[s + 1], bias=plan["bias"]) for s in upwards
        )
        self.stages = nn.ModuleList(
            Stage(plan, s, 2 * features[s], count, [1] * plan["dimensions"])
            for s, count in zip(upwards, plan["decoder_convolutions"], strict=True)
        )
        self.seg_layers = nn.ModuleList(convolution(features[s], plan["n_classes"], 1) for s in upwards)

    def forward(self, values: torch.Tensor, skips: list[torch.Tensor]) -> torch.Tensor:
        """Logits of the finest level, of the deepest values and the skips of the others, the finest first."""
        for stage in range(len(skips)):
            values = self._step(stage, values, skips)
        logits: torch.Tensor = self.seg_layers[-1](values)
        return logits

    def all_outputs(self, values: torch.Tensor, skips: list[torch.Tensor]) -> list[torch.Tensor]:
        """Return the logits of every level, the finest first."""
        found = []
        for stage in range(len(skips)):
            values = self._step(stage, values, skips)
            found.append(self.seg_layers[stage](values))
        return found[::-1]

    def _step(self, stage: int, values: torch.Tensor, skips: list[torch.Tensor]) -> torch.Tensor:
        """Values one level up."""
        up = self.transpconvs[stage](values)
        result: torch.Tensor = self.stages[stage](torch.cat([up, skips[-1 - stage]], dim=1))
        return result


class Stage(nn.Module):
    """Several units, of which the first may stride."""

    def __init__(self, plan: Mapping[str, Any], stage: int, before: int, count: int, stride: Sequence[int]) -> None:
        super().__init__()
        after = plan["features"][stage]
        first = [before, *[after] * (count - 1)]
        steps = [stride, *[[1] * plan["dimensions"]] * (count - 1)]
        self.convs = nn.Sequential(
            *(Unit(plan, b, after, plan["kernel_sizes"][stage], s) for b, s in zip(first, steps, strict=True))
        )

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Values of all units, one after the other."""
        result: torch.Tensor = self.convs(values)
        return result


class Unit(nn.Module):
    """Convolution, norm and, if it is `active`, LeakyReLU."""

    def __init__(  # noqa: PLR0913 -- the numbers of a convolution
        self,
        plan: Mapping[str, Any],
        before: int,
        after: int,
        kernel: Sequence[int],
        stride: Sequence[int],
        *,
        bias: bool | None = None,
        active: bool = True,
    ) -> None:
        super().__init__()
        convolution, _, norms = _LAYERS[plan["dimensions"]]
        padding = [(k - 1) // 2 for k in kernel]
        self.conv = convolution(before, after, kernel, stride, padding, bias=plan["bias"] if bias is None else bias)
        self.norm = norms[plan["norm"]](after, eps=plan["norm_eps"], affine=True)
        self.nonlin = rectifier() if active else nn.Identity()

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Values of the convolution, normalised."""
        result: torch.Tensor = self.nonlin(self.norm(self.conv(values)))
        return result


def rectifier() -> nn.Module:
    """Return the non-linear function of nnU-Net."""
    return nn.LeakyReLU(0.01, inplace=True)


def check_plan(plan: Mapping[str, Any], counts: str) -> None:
    """Refuse arguments that make no network.

    Parameters
    ----------
    plan : mapping
    counts : str
        Name of the argument that counts what each stage of the encoder holds.

    Raises
    ------
    ValueError
        Naming the argument.
    """
    check_ends(plan["in_channels"], plan["n_classes"])
    check_whole("dimensions", plan["dimensions"], 2, 3)
    check_flag("bias", plan["bias"])
    _check_lists(plan, counts, len(plan["features"]))
    if any(k % 2 == 0 for kernel in plan["kernel_sizes"] for k in kernel) or set(plan["strides"][0]) != {1}:
        raise ValueError("kernel_sizes are odd and the first stride is 1, or output and input would differ in size")
    if plan["norm"] not in ("instance", "batch") or not 0 < plan["norm_eps"] < 1:
        raise ValueError(f"norm is instance or batch, norm_eps in (0, 1), got {plan['norm']!r}, {plan['norm_eps']!r}")


def _check_lists(plan: Mapping[str, Any], counts: str, stages: int) -> None:
    check_whole("number of stages", stages, 2, MAX_STAGES)
    lengths = {name: len(plan[name]) for name in ("strides", "kernel_sizes", counts)}
    if set(lengths.values()) != {stages} or len(plan["decoder_convolutions"]) != stages - 1:
        raise ValueError(
            f"features, strides, kernel_sizes and {counts} are given for each of {stages} stages, decoder_convolutions "
            f"for one less, got {lengths} and {len(plan['decoder_convolutions'])}"
        )
    for name, high in (("features", MAX_CHANNELS), *((n, MAX_CONVOLUTIONS) for n in (counts, "decoder_convolutions"))):
        for value in plan[name]:
            check_whole(name, value, 1, high)
    for name, high in (("strides", 4), ("kernel_sizes", 7)):
        for values in plan[name]:
            check_whole(f"length of {name}", len(values), plan["dimensions"], plan["dimensions"])
            for value in values:
                check_whole(name, value, 1, high)
