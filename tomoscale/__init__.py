"""tomoscale: label and measure tomograms that no machine can hold."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from tomoscale.annotation.accept import accept as accept
    from tomoscale.annotation.suggest import suggest as suggest
    from tomoscale.audit import status as status
    from tomoscale.audit import verify as verify
    from tomoscale.commands import clean as clean
    from tomoscale.commands import convert as convert
    from tomoscale.commands import normalise as normalise
    from tomoscale.engine import run as run
    from tomoscale.formats import open_volume as open_volume
    from tomoscale.formats.export import export_volume as export_volume
    from tomoscale.formats.raw_layout import RawLayout as RawLayout
    from tomoscale.networks.architectures import register_architecture as register_architecture
    from tomoscale.networks.bundle import load_bundle as load_bundle
    from tomoscale.networks.bundle import save_bundle as save_bundle
    from tomoscale.networks.importing import import_nnunet as import_nnunet
    from tomoscale.networks.importing import import_weights as import_weights
    from tomoscale.objects.components import components as components
    from tomoscale.objects.distance import distance as distance
    from tomoscale.objects.semi_automatic import semi_automatic as semi_automatic
    from tomoscale.objects.splitting import split_touching as split_touching
    from tomoscale.objects.thickness import thickness as thickness
    from tomoscale.objects.watershed import watershed as watershed
    from tomoscale.plan import plan_map as plan_map
    from tomoscale.plan import plan_measure as plan_measure
    from tomoscale.resampling import resample as resample
    from tomoscale.resources import Resources as Resources
    from tomoscale.segmentation.planes import segment_planes as segment_planes
    from tomoscale.segmentation.segment import segment as segment
    from tomoscale.studies import implant as implant
    from tomoscale.thresholding import threshold as threshold
    from tomoscale.training.cross_validation import cross_validate as cross_validate
    from tomoscale.training.loop import fit as fit
    from tomoscale.volume import create_volume as create_volume
    from tomoscale.voxels import Volume as Volume
    from tomoscale.work import Work as Work
    from tomoscale.work import working as working

# Loaded when first asked for: `tomoscale --help` and `import tomoscale` pay for nothing they do not use.
_HOMES = {
    "RawLayout": "formats.raw_layout",
    "Resources": "resources",
    "Volume": "voxels",
    "Work": "work",
    "accept": "annotation.accept",
    "clean": "commands",
    "components": "objects.components",
    "convert": "commands",
    "create_volume": "volume",
    "cross_validate": "training.cross_validation",
    "distance": "objects.distance",
    "export_volume": "formats.export",
    "fit": "training.loop",
    "import_nnunet": "networks.importing",
    "import_weights": "networks.importing",
    "load_bundle": "networks.bundle",
    "normalise": "commands",
    "open_volume": "formats",
    "plan_map": "plan",
    "plan_measure": "plan",
    "register_architecture": "networks.architectures",
    "resample": "resampling",
    "run": "engine",
    "save_bundle": "networks.bundle",
    "segment": "segmentation.segment",
    "segment_planes": "segmentation.planes",
    "semi_automatic": "objects.semi_automatic",
    "split_touching": "objects.splitting",
    "status": "audit",
    "suggest": "annotation.suggest",
    "thickness": "objects.thickness",
    "threshold": "thresholding",
    "verify": "audit",
    "watershed": "objects.watershed",
    "working": "work",
}

__all__ = ["__version__", "implant", *_HOMES]


def __dir__() -> list[str]:
    """Names for tab completion and `help`: the public ones are not there before they are asked for."""
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})


def __getattr__(name: str) -> Any:
    if name == "implant":
        return importlib.import_module("tomoscale.studies.implant")
    if name in _HOMES:
        return getattr(importlib.import_module(f"tomoscale.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'tomoscale' has no attribute {name!r}")
