"""What is looked at before a training starts, and refused: labels, classes, sizes, leaks, memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from torch import nn

from tomoscale.errors import InputError, PlanError
from tomoscale.geometry import AXES
from tomoscale.kernels.scaling import AS_IT_IS
from tomoscale.networks.architectures import make_network
from tomoscale.networks.workspace import training_bytes, workspace_bytes
from tomoscale.normalisation import counted_greys, scaling_unless_done
from tomoscale.resources import this_machine
from tomoscale.training.class_index import cells_of, class_cells, index_of
from tomoscale.training.patches import Prepared
from tomoscale.training.recipe import Recipe
from tomoscale.training.samples import Data, Sample
from tomoscale.training.validation import measures_anew
from tomoscale.work import Work

LARGEST_STRIDE = 256
"""Multiple of the strides of all networks, to which slices are padded in the estimate of their memory."""
STATE_COPIES = {"adam": 2, "adamw": 2, "sgd": 1, "adadelta": 2}
"""Copies of the weights that an optimiser keeps."""


@dataclass(frozen=True)
class PreparedData:
    """All samples, counted.

    Attributes
    ----------
    training, validation : tuple of Prepared
    contents : tuple of str
        Digest of the shape and the grey values of each sample.
    """

    training: tuple[Prepared, ...]
    validation: tuple[Prepared, ...]
    contents: tuple[str, ...]

    @property
    def totals(self) -> np.ndarray:
        """Labelled training voxels of each class: (n_classes,) int64."""
        return np.asarray(sum(s.index.totals for s in self.training))


def prepare(data: Data, recipe: Recipe, records: Path, work: Work) -> PreparedData:
    """Count grey values and labels of all samples, and refuse what cannot be learned from.

    Parameters
    ----------
    data : Data
    recipe : Recipe
    records : path
        Folder for the records of the passes: they are not repeated by the next call.
    work : Work

    Raises
    ------
    InputError
        If a label is no class, a class occurs nowhere in the training data, a sample is smaller than a patch, or the
        same voxels are in training and validation.
    """
    prepared: dict[str, list[Prepared]] = {"training": [], "validation": []}
    contents: dict[str, list[str]] = {"training": [], "validation": []}
    for part, samples in (("training", data.training), ("validation", data.validation)):
        for number, sample in enumerate(samples):
            axes = _axes_of(sample, recipe)
            record = records / f"{part}_{number}"
            one, content = _prepare(sample, axes, len(data.classes), recipe, record, work)
            prepared[part].append(one)
            contents[part].append(content)
    _refuse_leaks(data, contents)
    result = PreparedData(
        tuple(prepared["training"]), tuple(prepared["validation"]), (*contents["training"], *contents["validation"])
    )
    absent = [c.name for c, n in zip(data.classes, result.totals, strict=True) if not n]
    if absent:
        raise InputError(
            f"{absent[0]} is in no labelled voxel of the training data: a network cannot learn it; label some, or leave the "
            "class out"
        )
    return result


def check_network(recipe: Recipe, n_classes: int) -> nn.Module:
    """Make the network without weights and show it a patch, so that what does not fit is refused at once.

    Raises
    ------
    ValueError
        If the architecture is unknown, or the patch is not a multiple of its stride.
    PlanError
        If the training does not fit this machine's memory, or the accelerator is not there.
    """
    with torch.device("meta"):
        network = make_network(recipe.network.architecture, network_arguments(recipe, n_classes))
    accelerator = accelerator_of(recipe)
    per_device = recipe.sampling.batch // recipe.machine.devices // recipe.optimiser.accumulate
    shape = (per_device, recipe.in_slices, *recipe.sampling.patch)
    try:
        activations = training_bytes(network, shape)
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"{recipe.network.architecture} {dict(recipe.network.arguments)} does not take patches of {recipe.sampling.patch} "
            f"({str(error).splitlines()[0]}): each length must be a multiple of its stride, such as 32 or 64"
        ) from error
    weights = sum(p.numel() * p.itemsize for p in network.parameters())
    needed = activations + weights * (2 + STATE_COPIES[recipe.optimiser.kind] + bool(recipe.average))
    needed += recipe.sampling.cache_mib * 2**20 if accelerator == "cpu" else 0
    available = _available_bytes(accelerator)
    if needed > available:
        raise PlanError(
            f"a step needs about {needed / 2**30:.1f} GiB ({per_device} patches of {recipe.sampling.patch} on each device at a "
            f"time) but {available / 2**30:.1f} GiB are there: make batch or patch smaller, or accumulate more"
        )
    return network


def check_slices(network: nn.Module, recipe: Recipe, prepared: PreparedData) -> None:
    """Refuse slices that cannot be judged, or measured, whole in this machine's memory.

    Parameters
    ----------
    network : torch module on the "meta" device
    recipe : Recipe
    prepared : PreparedData

    Raises
    ------
    PlanError
    """
    if recipe.dimensions == 3:
        return
    available = _available_bytes(accelerator_of(recipe))
    slices = [("to judge", s, s.axes[:1], "give smaller validation samples") for s in prepared.validation]
    if measures_anew(recipe, network):
        slices += [("to measure batch norm on", s, s.axes, "set recalibrate: 0") for s in prepared.training]
    for what, sample, axes, way_out in slices:
        for lengths in (_without(sample.sample.grey.shape, axis) for axis in axes):
            padded = [-(-n // LARGEST_STRIDE) * LARGEST_STRIDE for n in lengths]
            needed = workspace_bytes(network.eval(), (1, recipe.in_slices, *padded))
            if needed > available:
                raise PlanError(
                    f"sample {sample.sample.name}: {what} a whole slice of {lengths} voxels {needed / 2**30:.1f} GiB are needed "
                    f"but {available / 2**30:.1f} GiB are there: {way_out}, or a smaller network"
                )


def network_arguments(recipe: Recipe, n_classes: int) -> dict[str, Any]:
    """What the network is made with: the recipe's arguments, the number of classes, and the axes of a patch."""
    given: Mapping[str, Any] = recipe.network.arguments
    return {**given, "n_classes": n_classes, "dimensions": recipe.dimensions}


def accelerator_of(recipe: Recipe) -> str:
    """Return "cuda" or "cpu".

    Raises
    ------
    PlanError
        If the GPUs that the recipe asks for are not there.
    """
    wanted, there = recipe.machine.accelerator, torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "cuda" and there < recipe.machine.devices:
        raise PlanError(
            f"the recipe asks for {recipe.machine.devices} GPUs and torch sees {there}: set machine: accelerator and devices"
        )
    if wanted == "auto":
        return "cuda" if there >= recipe.machine.devices else "cpu"
    return wanted


def _prepare(
    sample: Sample, axes: tuple[int, ...], n_classes: int, recipe: Recipe, record: Path, work: Work
) -> tuple[Prepared, str]:
    labels = sample.known(n_classes)
    histogram = counted_greys(sample.grey, record, work)
    how = recipe.normalisation
    asks = f"the recipe asks for {how.scheme}: give the volume before it was normalised"
    scaling = scaling_unless_done(sample.grey, how, record, work, asks=asks) or AS_IT_IS
    cells = cells_of(sample.grey.shape, n_classes)
    counts = work.measure((class_cells(cells, n_classes),), {"labels": labels}, record / "classes")
    index = index_of(cells, np.asarray(counts["cells"]), labels.name)
    if not index.counts.any():
        raise InputError(f"sample {sample.name}: no voxel of {labels.name} is labelled")
    digest = xxhash.xxh3_128(repr((sorted(sample.grey.shape), sample.grey.dtype.name)).encode())
    digest.update(np.ascontiguousarray(histogram["histogram"]).data)
    return Prepared(sample, labels, index, scaling, axes), digest.hexdigest()


def _axes_of(sample: Sample, recipe: Recipe) -> tuple[int, ...]:
    """Axes across which slices of a sample hold a patch."""
    shape, patch = sample.grey.shape, recipe.sampling.patch
    if recipe.dimensions == 3:
        fits = all(n >= p for n, p in zip(shape, patch, strict=True))
        allowed: tuple[int, ...] = (0, 1, 2) if fits else ()
    else:
        chosen = [AXES.index(a) for a in recipe.sampling.axes if not sample.slices or a in sample.slices]
        allowed = tuple(a for a in chosen if all(n >= p for n, p in zip(_without(shape, a), patch, strict=True)))
    if not allowed:
        raise InputError(
            f"sample {sample.name} of {shape} voxels is smaller than a patch of {patch} across every axis that is asked for "
            f"({', '.join(recipe.sampling.axes)}): make the patch smaller"
        )
    return allowed


def _without(shape: Sequence[int], axis: int) -> list[int]:
    return [n for a, n in enumerate(shape) if a != axis]


def _refuse_leaks(data: Data, contents: Mapping[str, Sequence[str]]) -> None:
    """Refuse one scan under two names: equal shape and histogram, so a mirrored or turned copy counts too."""
    known = dict(zip(contents["training"], data.training, strict=True))
    for content, sample in zip(contents["validation"], data.validation, strict=True):
        if content in known:
            raise InputError(
                f"sample {sample.name} of the validation data holds the same grey values as {known[content].name} of the training "
                "data: the network would be judged by what it has seen; give another sample"
            )


def _available_bytes(accelerator: str) -> int:
    if accelerator == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    return this_machine().memory_bytes
