"""Small networks with random weights whose labels vary, in float32."""

from __future__ import annotations

import torch
from torch import nn

from tomoscale.networks.card import Card, ModelClass, Normalisation
from tomoscale.networks.unet import ScaledUNet


def random_network(depth: int, width: int, seed: int = 0, **arguments: int) -> ScaledUNet:
    """A network whose batch norms and weights are such that all classes come up."""
    random = torch.Generator().manual_seed(seed)
    network = ScaledUNet(depth, width, **arguments).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            module.running_mean.normal_(0, 0.1, generator=random)
            module.running_var.uniform_(0.3, 1, generator=random)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, (2 / parameter[0].numel()) ** 0.5, generator=random)
            elif name.endswith("bias"):
                parameter.normal_(0, 0.2, generator=random)
    return network


def card(n_classes: int = 4) -> Card:
    """A card for a network with `n_classes` outputs."""
    classes = tuple(ModelClass(i, f"class {i}") for i in range(n_classes))
    return Card("random", classes, (5.0, 5.0, 5.0), Normalisation(), training={"seed": 0})
