"""A network whose result depends on its window: instance norm between two convolutions; and what it says of a volume."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import nn

from tomoscale.networks import architectures
from tomoscale.networks.card import Card, ModelClass, Normalisation, Windows
from tomoscale.networks.reach import Reach


class InstanceNet(nn.Module):
    """Two convolutions with instance norm between them."""

    def __init__(self, in_channels: int = 1, n_classes: int = 3, dimensions: int = 2, in_slices: int = 1) -> None:
        super().__init__()
        self.arguments = {
            "in_channels": in_channels,
            "n_classes": n_classes,
            "dimensions": dimensions,
            "in_slices": in_slices,
        }
        convolution = {2: nn.Conv2d, 3: nn.Conv3d}[dimensions]
        norm = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}[dimensions]
        self.first = convolution(in_channels * in_slices, 4, 3, padding=1)
        self.norm = norm(4, affine=True)
        self.last = convolution(4, n_classes, 3, padding=1)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.norm(self.first(values))))


class PlainNet(InstanceNet):
    """The same without the norm: its result is local."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.first(values)))


architectures.ARCHITECTURES.setdefault("tests_instance", InstanceNet)
architectures.ARCHITECTURES.setdefault("tests_plain", PlainNet)


def instance_net(seed: int = 0, kind: type[InstanceNet] = InstanceNet, **arguments: int) -> InstanceNet:
    """A network with random weights whose classes all come up."""
    torch.manual_seed(seed)
    network = kind(**arguments).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(2.0)
    return network


def windowed_card(windows: Windows | None, n_classes: int = 3, normalisation: Normalisation | None = None) -> Card:
    classes = tuple(ModelClass(i, f"class {i}") for i in range(n_classes))
    return Card("windowed", classes, (5.0, 5.0, 5.0), normalisation or Normalisation(), windows)


def reach_of(dimensions: int, *, local: bool = False) -> Reach:
    ones, twos = (1,) * dimensions, (2,) * dimensions
    return Reach(ones, twos, twos, twos, twos, local)


def starts_of(length: int, window: int, step: float) -> list[int]:
    """Where nnU-Net puts windows along an axis at least as long as one."""
    count = int(np.ceil((length - window) / (window * step))) + 1
    actual = (length - window) / (count - 1) if count > 1 else 0
    return [int(np.round(actual * i)) for i in range(count)]


def mean_of_windows(networks, values: np.ndarray, windows: Windows, in_slices: int = 1) -> np.ndarray:
    """Mean over all windows of a whole volume, plain and in float64: (classes, Z, Y, X); logits or probabilities."""
    dimensions = len(windows.shape)
    window = (1,) * (3 - dimensions) + windows.shape
    missing = [max(0, w - n) for w, n in zip(window, values.shape, strict=True)]
    around = [(m // 2, m - m // 2) for m in missing]
    padded = np.pad(values, around)
    weights = np.ones(window)
    if windows.weights == "gaussian":
        for axis, n in enumerate(window):
            if axis >= 3 - dimensions:
                profile = np.exp(-0.5 * ((np.arange(n) - n // 2) / (n / 8)) ** 2)
                weights = weights * profile.reshape([-1 if a == axis else 1 for a in range(3)])
    starts = [
        range(n) if axis < 3 - dimensions else starts_of(n, w, windows.step)
        for axis, (n, w) in enumerate(zip(padded.shape, window, strict=True))
    ]
    total, weight = 0.0, np.zeros(padded.shape)
    for place in itertools.product(*starts):
        part = tuple(slice(p, p + w) for p, w in zip(place, window, strict=True))
        if dimensions == 2:
            z = np.clip(np.arange(place[0] - in_slices // 2, place[0] + in_slices // 2 + 1), 0, len(padded) - 1)
            tensor = torch.from_numpy(padded[z][:, part[1], part[2]][None])
        else:
            tensor = torch.from_numpy(padded[part][None, None])
        found = _answer(networks, tensor, windows)
        result = found[:, None] if dimensions == 2 else found
        if not isinstance(total, np.ndarray):
            total = np.zeros((len(result), *padded.shape))
        total[:, *part] += result * weights
        weight[part] += weights
    inside = tuple(slice(a, a + n) for (a, _), n in zip(around, values.shape, strict=True))
    return (total / weight)[:, *inside]


def _answer(networks, tensor: torch.Tensor, windows: Windows) -> np.ndarray:
    results = []
    for network in networks:
        for bits in itertools.product((False, True), repeat=len(windows.mirror_axes)):
            axes = [2 + a for a, flipped in zip(windows.mirror_axes, bits, strict=True) if flipped]
            with torch.inference_mode():
                found = network(tensor.flip(axes)).flip(axes)
            results.append(found.softmax(1) if windows.average == "probabilities" else found)
    return torch.stack(results).double().mean(0)[0].numpy()
