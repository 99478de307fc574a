"""The networks a bundle's card can name: a card cannot bring code.

A network is a torch module that was made from JSON values and keeps them as ``arguments``; among them

.. code-block:: text

    in_channels   grey values per voxel: 1
    n_classes     logits per voxel
    dimensions    2: (N, in_slices, Y, X) -> (N, n_classes, Y, X);  3: (N, 1, Z, Y, X) -> (N, n_classes, Z, Y, X)
    in_slices     optional, odd: neighbouring slices that are shown, the middle one is labelled (2 dimensions; default 1)

It may also have

.. code-block:: text

    stride               total stride per axis, so that probing need not guess what sizes it takes
    sees_whole_window    True where its output depends on the window as a whole, whatever the weights
    all_outputs(values)  what training sees: a list of logits, that of ``forward`` first

The code of a network comes from here, from an installed package (entry points of the group "tomoscale.architectures"), from
a module that the user names (`declare_from`, `register_architecture`), or from MONAI or segmentation-models-pytorch
(`tomoscale.networks.libraries`).
"""

from __future__ import annotations

import importlib
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points
from typing import Any

import torch
from torch import nn

from tomoscale.networks.arguments import input_channels
from tomoscale.networks.hrnet import HRNet
from tomoscale.networks.libraries import LIBRARIES, make_of_library
from tomoscale.networks.msd import MixedScaleDense
from tomoscale.networks.nnunet import PlainConvUNet
from tomoscale.networks.nnunet_residual import ResidualEncoderUNet
from tomoscale.networks.reach import DEFAULT_UNIT, Reach, probe
from tomoscale.networks.sensor3d import Sensor3D
from tomoscale.networks.tomoseg_unet import TomoSegUNet
from tomoscale.networks.u2net import U2Net
from tomoscale.networks.unet import ScaledUNet

ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "scaled_unet": ScaledUNet,
    "tomoseg_unet": TomoSegUNet,
    "hrnet": HRNet,
    "u2net": U2Net,
    "nnunet": PlainConvUNet,
    "nnunet_residual": ResidualEncoderUNet,
    "sensor3d": Sensor3D,
    "msd": MixedScaleDense,
}
"""What makes each network from its arguments; `register_architecture` adds to it."""

_NARROW: Mapping[str, Mapping[str, int]] = {
    "scaled_unet": {"width": 2},
    "tomoseg_unet": {"width": 2},
    "hrnet": {"width": 2, "stem_width": 2},
    "u2net": {"divide": 16},
    "sensor3d": {"width": 2},
}
"""Arguments with which our networks look as far as ever, at a small part of the cost."""

ENTRY_POINTS = "tomoscale.architectures"
"""Group of entry points by which installed packages offer networks."""

MAX_MEMBERS = 64
MAX_TWIN_REACH = 4096
"""Reach of U²-Net, 3326, and some."""

_OURS = frozenset(ARCHITECTURES)
_DECLARED_IN: dict[str, str] = {}
"""Module whose import registers an architecture, so that other processes can do the same."""


def register_architecture(name: str, make: Callable[..., nn.Module], *, module: str | None = None) -> None:
    """Let bundles name a network of your own.

    Parameters
    ----------
    name : str
        As cards will call it: lower-case letters, digits, ``_`` and ``-``.
    make : callable
        ``make(in_channels=..., n_classes=..., dimensions=..., ...)`` gives a torch module; a class will do.
    module : str, optional
        Import path of the module in which this call stands, so that Dask workers can import it too; found by itself.

    Raises
    ------
    ValueError
        If the name is none, or belongs to another network.

    Examples
    --------
    >>> from torch import nn
    >>> def make_sharp(in_channels, n_classes, dimensions, width):
    ...     return nn.Sequential(nn.Conv2d(in_channels, width, 5, padding=2), nn.ReLU(), nn.Conv2d(width, n_classes, 1))
    >>> register_architecture("sharp", make_sharp)
    >>> network = make_network("sharp", {"in_channels": 1, "n_classes": 2, "dimensions": 2, "width": 8})
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,63}", name):
        raise ValueError(f"an architecture's name has lower-case letters, digits, _ and -, got {name!r}")
    declared_in = module or str(sys._getframe(1).f_globals.get("__name__", "__main__"))
    if name in _OURS or _DECLARED_IN.get(name, declared_in) != declared_in:
        owner = _DECLARED_IN.get(name, "tomoscale")
        raise ValueError(f"{name!r} is a network of {owner} already: choose another name")
    ARCHITECTURES[name] = make
    _DECLARED_IN[name] = declared_in


def declare_from(module: str) -> None:
    """Import a module that registers architectures.

    Parameters
    ----------
    module : str
        Its import path, such as ``my_lab.networks``; given by the user, never by a card.

    Raises
    ------
    ValueError
        If it cannot be imported, or registers nothing.
    """
    if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", module):
        raise ValueError(f"a module is named as in `import my_lab.networks`, got {module!r}")
    try:
        importlib.import_module(module)
    except Exception as error:
        raise ValueError(
            f"the module {module} cannot be imported ({type(error).__name__}: {error}): install its package, or name its "
            "folder in PYTHONPATH"
        ) from error
    if module not in _DECLARED_IN.values():
        raise ValueError(f"the module {module} registers no architecture: it must call register_architecture")


def declared_in(architecture: str) -> str | None:
    """Module that other processes must import to know an architecture, or None if they know it by themselves.

    Raises
    ------
    ValueError
        If it was declared in a script or notebook.
    """
    module = _DECLARED_IN.get(architecture)
    if module == "__main__":
        raise ValueError(
            f"the architecture {architecture!r} was registered in a script or notebook, which other processes cannot import: "
            "write its declaration to a module (a file) and import that"
        )
    return module


def make_network(architecture: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Return a network with new weights.

    Raises
    ------
    ValueError
        If the architecture is unknown or does not take the arguments.
    """
    make = _make_of(architecture)
    try:
        module = make(**arguments)
    except Exception as error:
        # Also of code that is not ours: a card's numbers may fail anywhere within it.
        raise ValueError(f"{architecture} cannot be made of {_short(arguments)}: {error}") from error
    if not isinstance(module, nn.Module):
        raise ValueError(f"{architecture} gives {type(module).__name__}, which is no torch module")
    if not isinstance(getattr(module, "arguments", None), dict):
        module.arguments = dict(arguments)  # type: ignore[assignment]
    module.architecture = architecture  # type: ignore[assignment]
    return module


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
            "be made again: make it by make_network"
        )
    return arguments


def architecture_of(module: nn.Module) -> str:
    """Return the name under which the kind of a network is known.

    Raises
    ------
    ValueError
        If it is not.
    """
    said = getattr(module, "architecture", None)
    names = [name for name, make in ARCHITECTURES.items() if type(module) is make]
    if isinstance(said, str):
        return said
    if not names:
        raise ValueError(
            f"module must be one of {sorted(ARCHITECTURES)}, or made by make_network, got {type(module).__name__}"
        )
    return names[0]


def common_of(members: Sequence[nn.Module]) -> tuple[str, dict[str, Any]]:
    """Architecture and arguments that all members of an ensemble share.

    Raises
    ------
    ValueError
        If there are none, too many, or they differ in more than their weights.
    """
    if not 1 <= len(members) <= MAX_MEMBERS:
        raise ValueError(f"a bundle has 1 to {MAX_MEMBERS} members, got {len(members)}")
    made = [(architecture_of(m), arguments_of(m)) for m in members]
    other = next((n for n, one in enumerate(made) if one != made[0]), None)
    if other is not None:
        raise ValueError(
            f"members of a bundle differ in their weights alone, but member {other} is {made[other]} and member 0 {made[0]}"
        )
    return made[0]


def reach_of(module: nn.Module) -> Reach:
    """Measure how far a network looks, on a narrow twin of the same structure where there is one.

    NaN spread by structure alone, whatever the weights and however many channels (`tomoscale.networks.reach`): the twin
    gives the numbers of the network itself, hundreds of times faster.

    Raises
    ------
    ValueError
        As `probe`.
    """
    arguments = arguments_of(module)
    name, dimensions = architecture_of(module), int(arguments["dimensions"])
    stride = getattr(module, "stride", None)
    unit = math.lcm(*stride) if isinstance(stride, tuple) else None
    if getattr(module, "sees_whole_window", False):
        strides = stride if isinstance(stride, tuple) else (DEFAULT_UNIT[dimensions],) * dimensions
        return Reach(*(strides,) * 5, local=False)
    if name not in _NARROW:
        return probe(module, input_channels(arguments), dimensions, unit)
    twin = _alive(name, {**arguments, **_NARROW[name]})
    return probe(twin, input_channels(arguments), dimensions, unit, max_reach=MAX_TWIN_REACH)


def _alive(architecture: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Network with the same weights every time, such that no narrow layer gives zeros only."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = make_network(architecture, arguments)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("bias"):
                parameter.fill_(1.0)
    return network


def _make_of(architecture: str) -> Callable[..., nn.Module]:
    if not isinstance(architecture, str):
        raise ValueError(f"its architecture must be a name, got {architecture!r}")
    if architecture in ARCHITECTURES:
        return ARCHITECTURES[architecture]
    library = architecture.partition(":")[0]
    if library in LIBRARIES:
        return make_of_library(architecture)
    offers = entry_points(group=ENTRY_POINTS, name=architecture)
    if len({offer.value for offer in offers}) > 1:
        raise ValueError(f"several packages offer the architecture {architecture!r}: {[o.value for o in offers]}")
    for offer in offers:
        make: Callable[..., nn.Module] = offer.load()
        return make
    raise ValueError(
        f"its architecture {architecture[:100]!r} is unknown, this version has {sorted(ARCHITECTURES)}; one of your own is "
        "found in an installed package or a module that you name"
    )


def _short(arguments: Mapping[str, Any]) -> str:
    text = repr(dict(arguments))
    return text if len(text) <= 200 else f"{text[:200]}..."
