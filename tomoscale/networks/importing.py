"""Make bundles of networks that were trained elsewhere."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tomoscale.errors import InputError
from tomoscale.geometry import Spacing
from tomoscale.networks.architectures import make_network, reach_of
from tomoscale.networks.bundle import Bundle, save_bundle
from tomoscale.networks.card import Card, Windows
from tomoscale.networks.checkpoint import Checkpoint, read_checkpoint
from tomoscale.networks.plans import Plan, inside, read_plan
from tomoscale.networks.weights import check_tensors
from tomoscale.places import local_path

CHECKPOINTS = ("final", "best")
UNITS_UM = {"mm": 1e3, "um": 1.0, "nm": 1e-3}


def import_nnunet(  # noqa: PLR0913 -- what a folder of results leaves open
    source: str | Path,
    target: str | Path,
    *,
    spacing_unit: str | None = None,
    voxel_size_um: Spacing | None = None,
    configuration: str | None = None,
    folds: Sequence[int] | None = None,
    checkpoint: str = "final",
    name: str | None = None,
) -> Bundle:
    """Make a bundle of a folder of results of nnU-Net v2; its folds become the members of an ensemble.

    Parameters
    ----------
    source : path
        ``<trainer>__<plans>__<configuration>/`` with plans.json, dataset.json and fold_0, fold_1, ... or fold_all.
    target : path
        Must not exist.
    spacing_unit : "mm", "um" or "nm"
        Of the spacing in the plans, which they do not say.
    voxel_size_um : (z, y, x), optional
        Instead of that spacing.
    configuration : str, optional
        Such as "2d", if the folder's name does not end in it.
    folds : sequence of int, optional
        All by default.
    checkpoint : "final" or "best"
    name : str, optional
        By default as the data set is called.

    Returns
    -------
    Bundle

    Raises
    ------
    InputError
        If a file is missing, damaged or hostile, is not of nnU-Net v2, or holds a kind of network that is not supported.
    ValueError
        If an argument is out of its range, or the target exists.
    """
    source, target = local_path(source), _new(target)
    if checkpoint not in CHECKPOINTS:
        raise ValueError(f"checkpoint must be one of {CHECKPOINTS}, got {checkpoint!r}")
    plan = read_plan(source, configuration)
    _check_network(plan, source)
    size = voxel_size_um or _spacing(plan, spacing_unit)
    files = [inside(source, f / f"checkpoint_{checkpoint}.pth") for f in _fold_folders(source, folds)]
    loaded = [read_checkpoint(file) for file in files]
    axes = {tuple(one.facts.get("mirror_axes", ())) for one in loaded}
    if len(axes) > 1:
        raise InputError(f"the folds of {source} are mirrored along different axes: {sorted(axes)}")
    try:
        windows = Windows(plan.patch, mirror_axes=next(iter(axes)), axes=plan.axes, regions=plan.regions)
        training = _training(source, plan, files, loaded)
        card = Card(name or plan.dataset or source.name, plan.classes, size, plan.normalisation, windows, training)
    except ValueError as error:
        raise InputError(f"{source} cannot be imported: {error}") from error
    members = [
        _filled(plan.architecture, _as_trained(plan, one), one.tensors, file)
        for one, file in zip(loaded, files, strict=True)
    ]
    return save_bundle(target, members, card)


def import_weights(
    source: str | Path | Sequence[str | Path],
    target: str | Path,
    *,
    architecture: str,
    arguments: Mapping[str, Any],
    card: Card,
) -> Bundle:
    """Make a bundle of weights alone, as ``torch.save(module.state_dict(), ...)`` or safetensors wrote them.

    Parameters
    ----------
    source : path, or several
        ``.pth``, ``.pt``, ``.ckpt`` or ``.safetensors``; several are the members of an ensemble.
    target : path
        Must not exist.
    architecture, arguments
        What the network was made with; see `tomoscale.networks.architectures`.
    card : Card
        All that the weights do not say.

    Returns
    -------
    Bundle

    Raises
    ------
    InputError
        If a file is missing, damaged or hostile, or its tensors are not those of the network.
    ValueError
        If the network cannot be made, its classes are not those of the card, the target exists, or the result depends on
        its windows and the card names none.
    """
    target = _new(target)
    files = [Path(source)] if isinstance(source, str | Path) else [Path(s) for s in source]
    members = [_filled(architecture, arguments, read_checkpoint(file).tensors, file) for file in files]
    reach = reach_of(members[0])
    return save_bundle(target, members, card, reach)


def _check_network(plan: Plan, source: Path) -> None:
    """Make the network without weights, before a checkpoint is opened."""
    try:
        with torch.device("meta"):
            make_network(plan.architecture, plan.arguments)
    except ValueError as error:
        raise InputError(f"{source} cannot be imported: {error}") from error


def _as_trained(plan: Plan, one: Checkpoint) -> Mapping[str, Any]:
    """Arguments with the norm of the weights: a trainer may change it, and leaves the plans as they are."""
    batch = any(name.endswith("norm.running_mean") for name in one.tensors)
    return {**plan.arguments, "norm": "batch"} if batch else plan.arguments


def _new(target: str | Path) -> Path:
    target = local_path(target)
    if target.exists():
        raise ValueError(f"{target} exists: a bundle is never overwritten, choose another path or remove it")
    return target


def _filled(
    architecture: str, arguments: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], file: Path
) -> nn.Module:
    """Network with the tensors of a file."""
    with torch.device("meta"):
        network = make_network(architecture, arguments)
    expected = network.state_dict()
    found = {name: _as_float32(tensor, expected.get(name)) for name, tensor in _named_as(tensors, expected).items()}
    check_tensors(str(file), found, expected)
    network.load_state_dict(found, assign=True)
    return network.eval()


def _named_as(tensors: Mapping[str, torch.Tensor], expected: Mapping[str, Any]) -> Mapping[str, torch.Tensor]:
    """Tensors without the name of the attribute that held the network, such as ``model.`` or ``net.``."""
    starts = {name.partition(".")[0] for name in tensors}
    if len(starts) != 1 or expected.keys() & tensors.keys():
        return tensors
    return {name.partition(".")[2]: tensor for name, tensor in tensors.items()}


def _as_float32(tensor: torch.Tensor, expected: torch.Tensor | None) -> torch.Tensor:
    """Networks here hold 32-bit numbers, whichever of those with a fraction they were saved as."""
    fits = expected is not None and expected.is_floating_point() and expected.shape == tensor.shape
    return tensor.float() if fits and tensor.is_floating_point() else tensor


def _spacing(plan: Plan, unit: str | None) -> Spacing:
    if unit not in UNITS_UM:
        raise ValueError(
            f"nnU-Net does not say the unit of its voxel size {plan.spacing} (z, y, x), and none is guessed: give spacing_unit "
            f"as one of {', '.join(UNITS_UM)}, or voxel_size_um"
        )
    # Headers keep 32-bit numbers: 5.000000237 is 5.
    z, y, x = (float(f"{v * UNITS_UM[unit]:.6g}") for v in plan.spacing)
    return z, y, x


def _fold_folders(source: Path, folds: Sequence[int] | None) -> list[Path]:
    """Return the folders of the folds in order; ``fold_all`` where there is no other."""
    there = {int(m[1]): f for f in source.iterdir() if (m := re.fullmatch(r"fold_(\d+)", f.name))}
    if folds is None and not there and (source / "fold_all").is_dir():
        return [source / "fold_all"]
    wanted = sorted(there) if folds is None else list(folds)
    if not wanted or not set(wanted) <= there.keys():
        raise InputError(f"{source} has the folds {sorted(there)}, not {wanted or 'any'}")
    return [there[n] for n in wanted]


def _training(source: Path, plan: Plan, files: Sequence[Path], loaded: Sequence[Checkpoint]) -> dict[str, Any]:
    return {
        "made by": "nnU-Net v2",
        "folder": source.resolve().name,
        "configuration": plan.configuration,
        "folds": [file.parent.name.removeprefix("fold_") for file in files],
        "checkpoint": files[0].name,
        "trainer": str(loaded[0].facts.get("trainer_name", "not said")),
        "epochs": [one.facts.get("current_epoch") for one in loaded],
    }
