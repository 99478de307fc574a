"""Networks of MONAI and of segmentation-models-pytorch, by name: ``monai:DynUNet``, ``smp:Unet``.

A card names one of a fixed list and gives JSON arguments. The libraries are optional and imported when such a network is
made. ``n_classes`` becomes their number of output channels, ``dimensions`` MONAI's ``spatial_dims``; all else goes to the
library as it is.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

LIBRARIES: dict[str, tuple[str, ...]] = {
    "monai": ("AttentionUnet", "BasicUNet", "DynUNet", "SegResNet", "SwinUNETR", "UNETR", "UNet"),
    "smp": ("DeepLabV3", "DeepLabV3Plus", "FPN", "Linknet", "MAnet", "PAN", "PSPNet", "Segformer", "UPerNet", "Unet"),
}
"""Networks of each library that take grey values and return logits of the same size."""

MAX_NUMBER = 4096
MAX_LENGTH = 64
MAX_NESTING = 4


def make_of_library(architecture: str) -> Callable[..., nn.Module]:
    """Return what makes a network of a library.

    Raises
    ------
    ValueError
        If the library has none of that name.
    """
    library, _, name = architecture.partition(":")
    if name not in LIBRARIES[library]:
        raise ValueError(f"its architecture {architecture[:100]!r} is unknown, {library} gives {LIBRARIES[library]}")
    return partial({"monai": _monai, "smp": _smp}[library], name)


def _monai(name: str, in_channels: int, n_classes: int, dimensions: int, **arguments: Any) -> nn.Module:
    for key, value in {"in_channels": in_channels, "n_classes": n_classes, **arguments}.items():
        _check(key, value)
    nets = _imported("monai.networks.nets", "monai")
    made = getattr(nets, name)(spatial_dims=dimensions, in_channels=in_channels, out_channels=n_classes, **arguments)
    assert isinstance(made, nn.Module)
    return made


def _smp(name: str, in_channels: int, n_classes: int, dimensions: int, **arguments: Any) -> nn.Module:
    for key, value in {"in_channels": in_channels, "n_classes": n_classes, **arguments}.items():
        _check(key, value)
    if dimensions != 2 or "encoder_weights" in arguments:
        raise ValueError("networks of segmentation-models-pytorch have 2 dimensions, and fetch no encoder_weights")
    library = _imported("segmentation_models_pytorch", "segmentation-models-pytorch")
    made = getattr(library, name)(encoder_weights=None, in_channels=in_channels, classes=n_classes, **arguments)
    assert isinstance(made, nn.Module)
    return made


def _imported(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except Exception as error:
        # Some builds of torch lack what torchvision needs, and its import then fails in many ways.
        raise ValueError(
            f"{package} cannot be imported here ({type(error).__name__}: {str(error)[:200]}): pip install {package}"
        ) from error


def _check(name: str, value: Any, nesting: int = 0) -> None:
    """Refuse numbers and lists out of which no one builds a network."""
    if nesting > MAX_NESTING or (isinstance(value, list | tuple | dict | str) and len(value) > MAX_LENGTH):
        raise ValueError(f"{name} is longer or deeper than an argument of a network can be")
    if isinstance(value, int | float) and not abs(value) <= MAX_NUMBER:
        raise ValueError(f"{name} must be at most {MAX_NUMBER}, got {value}")
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ():
        _check(name, part, nesting + 1)
