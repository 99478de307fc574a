"""What nnU-Net v2 writes of a trained network beside its weights: plans.json and dataset.json, as arguments and a card.

Isensee et al. 2021. Refused are plans whose result this package could not reproduce: several channels, cascades, grey
values that are normalised within a mask, other architectures. One thing is left to whoever makes the volume: nnU-Net cuts
away what is zero around the sample before it normalises and predicts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tomoscale.errors import InputError
from tomoscale.json_files import read_json
from tomoscale.networks.card import ModelClass, Normalisation
from tomoscale.networks.planned_network import network_of

PALETTE = ((0, 0, 0, 0), (74, 144, 217, 255), (245, 166, 61, 255), (238, 238, 238, 255), (126, 211, 33, 255))
"""Colours of classes that bring none; they repeat."""
MAX_PATCH = 16384
MAX_LABELS = 256
MAX_NAME = 200
_Z_Y_X = (0, 1, 2)


@dataclass(frozen=True)
class Plan:
    """A configuration of nnU-Net's plans, in our words.

    Attributes
    ----------
    configuration : str
    architecture : str
    arguments : mapping
        Of the architecture.
    classes : tuple of ModelClass
    normalisation : Normalisation
    patch : tuple of int
        Shape of a window, along the axes of the network.
    regions : tuple of int
        Class that each output writes, see `Windows`.
    axes : tuple of int
        Axis of the volume, 0 to 2 for z, y, x, that is each axis of the network; the first of them is the one across
        which slices lie.
    spacing : (z, y, x)
        Of a voxel, in the unit of the headers that nnU-Net was given.
    dataset : str
    """

    configuration: str
    architecture: str
    arguments: Mapping[str, Any]
    classes: tuple[ModelClass, ...]
    normalisation: Normalisation
    patch: tuple[int, ...]
    regions: tuple[int, ...]
    axes: tuple[int, int, int]
    spacing: tuple[float, float, float]
    dataset: str


def read_plan(folder: Path, configuration: str | None = None) -> Plan:
    """Read the plans of a folder of results.

    Parameters
    ----------
    folder : Path
        ``<trainer>__<plans>__<configuration>``.
    configuration : str, optional
        Such as "2d"; by default as the folder's name says.

    Raises
    ------
    InputError
        If a file is missing or not of nnU-Net v2, or the network is of a kind that is not supported.
    """
    if (folder / "plans.pkl").exists() and not (folder / "plans.json").exists():
        raise InputError(f"{folder} is a result of nnU-Net v1, whose files are pickles: train it again with nnU-Net v2")
    plans, dataset = (_json(folder / name) for name in ("plans.json", "dataset.json"))
    try:
        name = configuration or _configuration_of(folder, plans["configurations"])
        chosen = _inherited(plans["configurations"], name)
        _refuse_unsupported(plans, chosen, dataset)
        return _plan(name, plans, chosen, dataset)
    except KeyError as error:
        raise InputError(f"{folder / 'plans.json'} is not of nnU-Net v2: it has no {error}") from error
    except (TypeError, AttributeError, IndexError) as error:
        raise InputError(f"{folder / 'plans.json'} is not of nnU-Net v2 ({error})") from error
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{folder} cannot be imported: {error}") from error


def _plan(name: str, plans: Mapping[str, Any], chosen: Mapping[str, Any], dataset: Mapping[str, Any]) -> Plan:
    regions = _regions(dataset)
    classes = _classes_of_regions(dataset, regions) if regions else _classes(dataset["labels"])
    patch = _patch(chosen["patch_size"])
    architecture, arguments = network_of(chosen)
    arguments = {**arguments, "in_channels": 1, "n_classes": len(regions) or len(classes), "dimensions": len(patch)}
    axes = _axes(plans)
    return Plan(
        name,
        architecture,
        arguments,
        classes,
        _normalisation(chosen["normalization_schemes"][0], plans),
        patch,
        regions,
        axes,
        _spacing(plans, chosen, axes),
        str(plans.get("dataset_name", ""))[:MAX_NAME],
    )


def _patch(said: Sequence[Any]) -> tuple[int, ...]:
    patch = tuple(int(n) for n in said)
    if len(patch) not in (2, 3) or not all(1 <= n <= MAX_PATCH for n in patch):
        raise ValueError(f"its patch_size must be two or three lengths from 1 to {MAX_PATCH}, got {said!r:.100}")
    return patch


def _axes(plans: Mapping[str, Any]) -> tuple[int, int, int]:
    """Order of the axes of a volume as the network takes them."""
    forward = tuple(plans.get("transpose_forward", _Z_Y_X))
    backward = tuple(plans.get("transpose_backward", _Z_Y_X))
    if sorted(forward) != list(_Z_Y_X) or [forward[a] for a in backward] != list(_Z_Y_X):
        raise ValueError(f"its axes are transposed by {forward} and back by {backward}, which is not the inverse")
    first, second, third = forward
    return first, second, third


def _spacing(plans: Mapping[str, Any], chosen: Mapping[str, Any], axes: Sequence[int]) -> tuple[float, float, float]:
    """Voxel size along (z, y, x); plans say it along the axes of the network."""
    said = [float(v) for v in chosen["spacing"]]
    if len(said) == 2:
        said = [float(plans["original_median_spacing_after_transp"][0]), *said]
    if len(said) != 3 or not all(0 < v < math.inf for v in said):
        raise ValueError(f"its spacing must be two or three lengths > 0, got {chosen['spacing']!r:.100}")
    z, y, x = (said[axes.index(axis)] for axis in _Z_Y_X)
    return z, y, x


def _configuration_of(folder: Path, known: Mapping[str, Any]) -> str:
    said = folder.name.split("__")[-1]
    if said not in known:
        raise ValueError(f"its name does not end in one of the configurations {sorted(known)}: name one")
    return said


def _inherited(configurations: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a configuration with all that it takes from others."""
    if name not in configurations:
        raise ValueError(f"its plans have no configuration {name!r}, only {sorted(configurations)}")
    found: dict[str, Any] = {}
    following: str | None = name
    for _ in range(8):
        if following is None:
            return found
        found = {**configurations[following], **found}
        following = configurations[following].get("inherits_from")
    raise ValueError(f"configuration {name!r} inherits from itself")


def _refuse_unsupported(plans: Mapping[str, Any], chosen: Mapping[str, Any], dataset: Mapping[str, Any]) -> None:
    channels = dataset.get("channel_names") or dataset.get("modality") or {}
    if not 1 <= len(dataset["labels"]) <= MAX_LABELS:
        raise ValueError(f"it has {len(dataset['labels'])} labels, a network here has at most {MAX_LABELS}")
    reasons = {
        f"it takes {len(channels)} channels ({_names(channels)}), but a volume has one grey value per voxel: train nnU-Net on "
        "one channel": len(channels) != 1,
        "it is the second stage of a cascade, which needs the labels of the first: take 3d_fullres, or the first stage": bool(
            chosen.get("previous_stage")
        ),
        "it normalises the grey values within a mask of what is not zero (use_mask_for_norm), and only whole volumes are "
        "supported: train with volumes that are not masked": any(chosen.get("use_mask_for_norm", [])),
    }
    for reason, holds in reasons.items():
        if holds:
            raise ValueError(reason)


def _names(channels: Mapping[str, Any]) -> str:
    return ", ".join(str(name)[:40] for name in list(channels.values())[:4])


def classes_of(names: Sequence[str]) -> tuple[ModelClass, ...]:
    """Classes by their names in order, with colours of a palette that repeats."""
    return tuple(ModelClass(n, name, PALETTE[n % len(PALETTE)]) for n, name in enumerate(names))


def _classes(labels: Mapping[str, int]) -> tuple[ModelClass, ...]:
    """Classes in the order of the outputs; voxels labelled "ignore" have none."""
    ids = {_only(number): name for name, number in labels.items() if name != "ignore"}
    if sorted(ids) != list(range(len(ids))):
        raise ValueError(f"its labels must be numbered 0, 1, 2, ..., got {sorted(ids)}")
    return classes_of([str(ids[n]) for n in sorted(ids)])


def _regions(dataset: Mapping[str, Any]) -> tuple[int, ...]:
    """Class that each output writes; empty where outputs are classes."""
    if not any(isinstance(v, list) and len(v) > 1 for v in dataset["labels"].values()):
        return ()
    order = tuple(int(c) for c in dataset["regions_class_order"])
    names = _names_of_regions(dataset["labels"])
    if len(order) != len(names):
        raise ValueError(f"regions_class_order {list(order)} must have a class for each of the regions {names}")
    return order


def _names_of_regions(labels: Mapping[str, Any]) -> list[str]:
    """Names of what has an output, in its order; the background has none."""
    nothing = (0, [0])
    return [str(name) for name, number in labels.items() if name != "ignore" and number not in nothing]


def _classes_of_regions(dataset: Mapping[str, Any], order: Sequence[int]) -> tuple[ModelClass, ...]:
    """Classes that regions write; of two that write the same, the later gives the name."""
    ids = {0: "background", **dict(zip(order, _names_of_regions(dataset["labels"]), strict=True))}
    if sorted(ids) != list(range(len(ids))):
        raise ValueError(f"regions_class_order must hold 1, 2, 3, ... in some order, got {list(order)}")
    return classes_of([ids[n] for n in sorted(ids)])


def _only(number: Any) -> int:
    """Label that may be written as a list of one."""
    return int(number[0] if isinstance(number, list) else number)


def _normalisation(scheme: str, plans: Mapping[str, Any]) -> Normalisation:
    if scheme == "ZScoreNormalization":
        return Normalisation("zscore")
    if scheme == "CTNormalization":
        grey = plans["foreground_intensity_properties_per_channel"]["0"]
        clip = float(grey["percentile_00_5"]), float(grey["percentile_99_5"])
        return Normalisation("zscore", clip=clip, mean=float(grey["mean"]), deviation=float(grey["std"]))
    if scheme == "RescaleTo01Normalization":
        return Normalisation("percentiles", (0.0, 100.0))
    if scheme == "NoNormalization":
        return Normalisation("zscore", mean=0.0, deviation=1.0)
    if scheme == "RGBTo01Normalization":
        return Normalisation("zscore", mean=0.0, deviation=255.0)
    raise ValueError(f"its normalisation {scheme!r} is not one of nnU-Net's own, and is not supported")


def inside(folder: Path, file: Path) -> Path:
    """Return a file of a folder of results, unless a link leads out of the folder.

    Raises
    ------
    InputError
        If it does.
    """
    if not file.resolve().is_relative_to(folder.resolve()):
        raise InputError(
            f"{file} leads out of {folder} by a link: copy the folder with what its links lead to (cp -rL)"
        )
    return file


def _json(file: Path) -> dict[str, Any]:
    if not inside(file.parent, file).exists():
        raise InputError(f"{file.parent} is not a folder of results of nnU-Net v2: it holds no {file.name}")
    return read_json(file, "description of a network of nnU-Net v2", "copy it from the folder of results again")
