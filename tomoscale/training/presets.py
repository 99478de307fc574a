"""Recipes of the papers: print one with ``tomoscale train --preset NAME --print`` and change what you like.

They are the published numbers as far as they are published; what a paper leaves open is this program's default. Statistics
of batch norm are measured anew on whole slices (`Recipe.recalibrate`), which no paper says: patches hold more border.
"""

from __future__ import annotations

from tomoscale.networks.card import Normalisation
from tomoscale.training.recipe import (
    Augmentation,
    Chance,
    Loss,
    Machine,
    Network,
    Optimiser,
    Recipe,
    Sampling,
    Schedule,
    Stop,
)

_DEGREES = Chance(1.0, -90, 90)

BALTRUSCHAT_2021 = Recipe(
    network=Network("scaled_unet", {"depth": 5, "width": 64}),
    sampling=Sampling(patch=(640, 640), batch=16, balance=0.0),
    # Patches of 85 to 100 % of a slice, aspects 3:4 to 4:3, are resized in the paper; here their size varies by as much.
    augmentation=Augmentation(
        flip=0.5,
        flip_axes=(1,),
        rotation=_DEGREES,
        scale=Chance(1.0, 0.92, 1.09),
        aspect=Chance(1.0, -0.415, 0.415),
        elastic=Chance(0.5, 0, 8),
        brightness=Chance(0.5, 0.8, 1.2),
        contrast=Chance(0.5, 0.8, 1.2),
    ),
    loss=Loss("cross_entropy"),
    optimiser=Optimiser("adam", rate=3e-4, weight_decay=0.0),
    schedule=Schedule("plateau", factor=0.5, patience_steps=10_000),
    stop=Stop(1_500_000, 1000, 1000, patience=50, watch="loss"),
    machine=Machine(precision="bf16"),
)
"""Baltruschat et al. 2021: the best of 48 scaled U-Nets (depth 5, width 64, input 640); batch 16 is that of large ones."""

TOMOSEG = Recipe(
    network=Network("tomoseg_unet", {"width": 64}),
    sampling=Sampling(patch=(512, 512), batch=5, balance=0.0),
    augmentation=Augmentation(
        flip=0.3, turn=0.3, scale=Chance(1.0, 0.5, 1.6), elastic=Chance(0.3, 0, 10), elastic_voxels=24
    ),
    loss=Loss("ohem", weights="inverse_root", hard_below=0.9, hard_least=100_000),
    optimiser=Optimiser("sgd", rate=0.01, weight_decay=1e-3, momentum=0.9, nesterov=False),
    schedule=Schedule("poly", power=0.9),
    stop=Stop(100_000, 1000, 1000, watch="iou"),
)
"""TomoSeg's configuration file, with an input of 512 as in Lopes Marinho et al. 2024; the best mean IoU is kept."""

_POOLINGS = 7
"""Until the longest feature map of a patch of 512 is 4, as nnU-Net's planner goes."""

NNUNET = Recipe(
    network=Network(
        "nnunet",
        {
            "features": [min(32 * 2**n, 512) for n in range(_POOLINGS + 1)],
            "strides": [[1, 1], *[[2, 2]] * _POOLINGS],
            "kernel_sizes": [[3, 3]] * (_POOLINGS + 1),
            "convolutions": [2] * (_POOLINGS + 1),
            "decoder_convolutions": [2] * _POOLINGS,
        },
    ),
    normalisation=Normalisation("zscore"),
    sampling=Sampling(patch=(512, 512), batch=12, balance=1 / 3),
    augmentation=Augmentation(
        flip=0.5,
        rotation=Chance(0.2, -180, 180),
        scale=Chance(0.2, 0.7, 1.4),
        noise=Chance(0.1, 0, 0.1),
        blur=Chance(0.2, 0.5, 1.0),
        brightness=Chance(0.15, 0.75, 1.25),
        contrast=Chance(0.15, 0.75, 1.25),
        low_resolution=Chance(0.25, 0.5, 1.0),
        gamma=Chance(0.3, 0.7, 1.5),
        inverted_gamma=Chance(0.1, 0.7, 1.5),
    ),
    loss=Loss("dice_cross_entropy", dice_background=False, sides="halving"),
    optimiser=Optimiser("sgd", rate=0.01, weight_decay=3e-5, momentum=0.99, nesterov=True, clip=12.0),
    schedule=Schedule("poly", power=0.9),
    stop=Stop(250_000, 250, 250, watch="iou"),
)
"""What nnU-Net does with any data set: losses, augmentation and rates of its trainer; a patch and a network by hand."""

SILVEIRA_2023 = Recipe(
    network=Network("sensor3d", {"in_slices": 3, "width": 64}),
    sampling=Sampling(patch=(128, 128), batch=32, axes=("z",), balance=0.0),
    augmentation=Augmentation(
        flip=0.5, rotation=Chance(1.0, -180, 180), scale=Chance(1.0, 0.9, 1.1), brightness=Chance(0.5, 0.9, 1.1)
    ),
    loss=Loss("cross_entropy"),
    optimiser=Optimiser("adadelta", rate=1.0, weight_decay=0.0),
    schedule=Schedule("constant"),
    # An epoch of the paper is taken as 100 steps: it does not say how many patches it had.
    stop=Stop(10_000, 100, 100, patience=10, watch="loss", least_gain=1e-4),
)
"""Silveira et al. 2023, Sensor3D on three slices: Adadelta, cross-entropy, at most 100 epochs, stop when 10 of them gain less than 0.01 %."""

PRESETS: dict[str, Recipe] = {
    "baltruschat2021": BALTRUSCHAT_2021,
    "tomoseg": TOMOSEG,
    "nnunet": NNUNET,
    "silveira2023": SILVEIRA_2023,
}


def preset(name: str) -> Recipe:
    """Recipe of a paper.

    Raises
    ------
    ValueError
        If there is none of this name.
    """
    if name not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {name!r}")
    return PRESETS[name]
