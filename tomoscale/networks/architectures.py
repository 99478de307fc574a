"""The networks a bundle's card can name: a card cannot bring code.

A network is a torch module that was made from JSON values and keeps them as ``arguments``; among them

.. code-block:: text

    in_channels   grey values per voxel: 1
    n_classes     logits per voxel
    dimensions    2: (N, in_slices, Y, X) -> (N, n_classes, Y, X);  3: (N, 1, Z, Y, X) -> (N, n_classes, Z, Y, X)
    in_slices     optional, odd: neighbouring slices that are shown, the middle one is labelled (2 dimensions; default 1)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from tomoscale.networks.unet import ScaledUNet

ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {"scaled_unet": ScaledUNet}
"""What makes each network from its arguments."""


def make_network(architecture: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Return a network with new weights.

    Raises
    ------
    ValueError
        If the architecture is unknown or does not take the arguments.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(f"its architecture {architecture!r} is unknown, this version has {sorted(ARCHITECTURES)}")
    try:
        return ARCHITECTURES[architecture](**arguments)
    except TypeError as error:
        raise ValueError(f"{architecture} cannot be made of {dict(arguments)}: {error}") from error


def arguments_of(module: nn.Module) -> dict[str, Any]:
    """Return what a network was made with.

    Raises
    ------
    ValueError
        If it does not say so.
    """
    arguments: Any = getattr(module, "arguments", None)
    if not isinstance(arguments, dict) or not {"in_channels", "n_classes", "dimensions"} <= arguments.keys():
        raise ValueError(
            f"{type(module).__name__} must have a dict `arguments` with in_channels, n_classes and dimensions, so that it can "
            "be made again"
        )
    return arguments


def architecture_of(module: nn.Module) -> str:
    """Return the name under which the kind of a network is known.

    Raises
    ------
    ValueError
        If it is not.
    """
    names = [name for name, make in ARCHITECTURES.items() if type(module) is make]
    if not names:
        raise ValueError(f"module must be one of {sorted(ARCHITECTURES)}, got {type(module).__name__}")
    return names[0]
