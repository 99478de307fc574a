"""Samples and recipes so small that a training takes a second."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from tomoscale.memory_array import MemoryArray
from tomoscale.networks.card import ModelClass
from tomoscale.training.recipe import Augmentation, Machine, Network, Optimiser, Recipe, Sampling, Stop
from tomoscale.training.samples import Data, Sample
from tomoscale.volume import Volume
from tomoscale.work import Work

CLASSES = (ModelClass(0, "void"), ModelClass(1, "bone"), ModelClass(2, "metal"))
SIZE = (5.0, 5.0, 5.0)
QUIET = Work(progress=False)


def arrays(seed: int, shape: tuple[int, int, int] = (6, 24, 28)) -> tuple[np.ndarray, np.ndarray]:
    """Grey values that tell three classes apart, the last one rare: uint8 both."""
    random = np.random.default_rng(seed)
    labels = (random.random(shape) < 0.4).astype(np.uint8)
    labels[:, 5:8, 4:9] = 2
    return (60 * labels + 20 + random.integers(0, 9, shape)).astype(np.uint8), labels


def sample(name: str, seed: int, **how: Any) -> Sample:
    grey, labels = arrays(seed)
    return Sample(
        name, Volume(MemoryArray(grey, name=f"{name} grey"), SIZE), Volume(MemoryArray(labels, "labels")), **how
    )


def data(**how: Any) -> Data:
    return replace(Data(CLASSES, (sample("a", 1), sample("b", 2)), (sample("c", 3),), SIZE), **how)


def recipe(**how: Any) -> Recipe:
    start = Recipe(
        network=Network("scaled_unet", {"depth": 2, "width": 2}),
        sampling=Sampling(patch=(16, 16), batch=2, axes=("z",), threads=1),
        augmentation=Augmentation(turn=0.5),
        optimiser=Optimiser("adamw", rate=0.01),
        stop=Stop(steps=6, validate_every=3, checkpoint_every=2),
        machine=Machine("cpu", threads=1),
        average=0.9,
        recalibrate=1,
    )
    return replace(start, **how)
