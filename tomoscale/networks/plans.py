"""What nnU-Net v2 writes of a trained network beside its weights: plans.json and dataset.json, as arguments and a card.

Isensee et al. 2021. Refused are plans whose result this package could not reproduce: several channels, regions instead of
labels, cascades, transposed axes, other architectures.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tomoscale.errors import InputError
from tomoscale.networks.card import ModelClass, Normalisation

MAX_JSON_BYTES = 64 * 2**20
PALETTE = ((0, 0, 0, 0), (74, 144, 217, 255), (245, 166, 61, 255), (238, 238, 238, 255), (126, 211, 33, 255))
"""Colours of classes that bring none; they repeat."""
_NETWORK = "PlainConvUNet"


@dataclass(frozen=True)
class Plan:
    """A configuration of nnU-Net's plans, in our words.

    Attributes
    ----------
    configuration : str
    arguments : mapping
        Of the architecture "nnunet".
    classes : tuple of ModelClass
    normalisation : Normalisation
    patch : tuple of int
        Shape of a window.
    spacing : (z, y, x)
        Of a voxel, in the unit of the headers that nnU-Net was given.
    dataset : str
    """

    configuration: str
    arguments: Mapping[str, Any]
    classes: tuple[ModelClass, ...]
    normalisation: Normalisation
    patch: tuple[int, ...]
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
    classes = _classes(dataset["labels"])
    patch = tuple(int(n) for n in chosen["patch_size"])
    spacing = [float(v) for v in chosen["spacing"]]
    if len(spacing) == 2:
        spacing = [float(plans["original_median_spacing_after_transp"][0]), *spacing]
    z, y, x = spacing
    arguments = {**_arguments(chosen), "in_channels": 1, "n_classes": len(classes), "dimensions": len(patch)}
    normalisation = _normalisation(chosen["normalization_schemes"][0], plans)
    return Plan(name, arguments, classes, normalisation, patch, (z, y, x), str(plans.get("dataset_name", "")))


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
    forward = [int(a) for a in plans.get("transpose_forward", [])]
    network = str(chosen.get("architecture", {}).get("network_class_name") or chosen.get("UNet_class_name")).split(".")[
        -1
    ]
    reasons = {
        f"it takes {len(channels)} channels, a volume has one": len(channels) != 1,
        f"its network is a {network}, only {_NETWORK} is supported": network != _NETWORK,
        "it is the second stage of a cascade": bool(chosen.get("previous_stage")),
        f"its axes are transposed ({forward})": forward != sorted(forward),
        "it labels regions that overlap": any(isinstance(v, list) for v in dataset["labels"].values()),
        "it normalises within a mask": any(chosen.get("use_mask_for_norm", [])),
    }
    for reason, holds in reasons.items():
        if holds:
            raise ValueError(f"{reason}; such a network of nnU-Net cannot be run here")


def classes_of(names: Sequence[str]) -> tuple[ModelClass, ...]:
    """Classes by their names in order, with colours of a palette that repeats."""
    return tuple(ModelClass(n, name, PALETTE[n % len(PALETTE)]) for n, name in enumerate(names))


def _classes(labels: Mapping[str, int]) -> tuple[ModelClass, ...]:
    """Classes in the order of the outputs; voxels labelled "ignore" have none."""
    ids = {int(number): name for name, number in labels.items() if name != "ignore"}
    if sorted(ids) != list(range(len(ids))):
        raise ValueError(f"its labels must be numbered 0, 1, 2, ..., got {sorted(ids)}")
    return classes_of([str(ids[n]) for n in sorted(ids)])


def _arguments(chosen: Mapping[str, Any]) -> dict[str, Any]:
    if "architecture" not in chosen:
        return _arguments_of_old_plans(chosen)
    told = chosen["architecture"]["arch_kwargs"]
    stages = int(told["n_stages"])
    axes = len(chosen["patch_size"])
    norm = {"InstanceNorm": "instance", "BatchNorm": "batch"}.get(str(told["norm_op"]).split(".")[-1].rstrip("23d"))
    linear = str(told["nonlin"]).split(".")[-1]
    options = dict(told.get("norm_op_kwargs") or {})
    slope = dict(told.get("nonlin_kwargs") or {}).get("negative_slope", 0.01)
    if (
        norm is None
        or told.get("dropout_op")
        or linear != "LeakyReLU"
        or slope != 0.01
        or not options.get("affine", False)
    ):
        raise ValueError(
            f"its network has {told['norm_op']} {options}, {told['nonlin']} and dropout {told.get('dropout_op')}; supported are "
            "affine instance or batch norm, LeakyReLU(0.01) and no dropout"
        )
    return {
        "features": _each(told["features_per_stage"], stages),
        "strides": [_each(s, axes) for s in _each(told["strides"], stages)],
        "kernel_sizes": [_each(k, axes) for k in _each(told["kernel_sizes"], stages)],
        "convolutions": _each(told["n_conv_per_stage"], stages),
        "decoder_convolutions": _each(told["n_conv_per_stage_decoder"], stages - 1),
        "norm": norm,
        "norm_eps": float(options.get("eps", 1e-5)),
        "bias": bool(told.get("conv_bias", False)),
    }


def _arguments_of_old_plans(chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Plans of nnU-Net 2.0 to 2.2 name widths by a base and a limit; all else is fixed."""
    stages = len(chosen["conv_kernel_sizes"])
    base, most = int(chosen["UNet_base_num_features"]), int(chosen["unet_max_num_features"])
    return {
        "features": [min(base * 2**stage, most) for stage in range(stages)],
        "strides": [list(s) for s in chosen["pool_op_kernel_sizes"]],
        "kernel_sizes": [list(k) for k in chosen["conv_kernel_sizes"]],
        "convolutions": list(chosen["n_conv_per_stage_encoder"]),
        "decoder_convolutions": list(chosen["n_conv_per_stage_decoder"]),
        "norm": "instance",
        "norm_eps": 1e-5,
        "bias": True,
    }


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
    raise ValueError(f"its normalisation {scheme!r} is not supported")


def _each(value: Any, count: int) -> list[Any]:
    """Return a value for each of several, given once or for each."""
    return list(value) if isinstance(value, list | tuple) else [value] * count


def _json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise InputError(f"{file.parent} is not a folder of results of nnU-Net v2: it holds no {file.name}")
    if file.stat().st_size > MAX_JSON_BYTES:
        raise InputError(f"{file} has {file.stat().st_size} bytes, it should have less than {MAX_JSON_BYTES}")
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} is not JSON ({error})") from error
    if not isinstance(content, dict):
        raise InputError(f"{file} must hold names and values")
    return content
