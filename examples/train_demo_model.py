"""Train the small model that ships with tomoscale, from phantoms whose seeds the demo never shows.

    python examples/train_demo_model.py demo_training/

A Scaled U-Net (Baltruschat et al. 2021) of depth 3 and width 12 learns the four classes from z slices of six phantoms of
two sizes; two more phantoms judge. `demo_training/network/last` is the model. All random choices are seeded: on one
machine, the same weights come out.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tomoscale import Work, convert, fit
from tomoscale.commands import CLASSES
from tomoscale.networks.card import ModelClass
from tomoscale.phantom import Phantom
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
from tomoscale.training.samples import Data, Sample
from tomoscale.volume import Volume

TRAINING_SEEDS = (1000, 1001, 1002, 1003, 1004, 1005)
JUDGING_SEEDS = (2000, 2001)
SIZES = (256, 320)
PATCH = 128


def recipe(steps: int, threads: int) -> Recipe:
    """How it is trained."""
    return Recipe(
        network=Network("scaled_unet", {"depth": 3, "width": 12}),
        sampling=Sampling(patch=(PATCH, PATCH), batch=8, axes=("z",), balance=0.0),
        augmentation=Augmentation(
            flip=0.5, turn=0.75, brightness=Chance(1.0, 0.9, 1.1), shift=Chance(1.0, -0.05, 0.05)
        ),
        # The degradation layer is thin, rare and what the study is about.
        loss=Loss("dice_cross_entropy", weights="given", class_weights=(1.0, 1.0, 2.5, 1.0)),
        optimiser=Optimiser("adamw", rate=4e-3, weight_decay=1e-4, clip=1.0),
        schedule=Schedule("one_cycle", rise=0.15),
        stop=Stop(steps, validate_every=100, checkpoint_every=100),
        machine=Machine("cpu", threads=threads),
        average=0.98,
        seed=7,
    )


def sample(folder: Path, seed: int, size: int, step: int) -> Sample:
    """Scan and truth of a phantom, of which every `step`-th z slice counts as labelled."""
    phantom, work = Phantom((size, size, size), seed), Work(progress=False)
    grey = convert(Volume(phantom.scan, phantom.voxel_size_um), folder / f"{seed}_scan.zarr", work=work)
    truth = Volume(phantom.truth, phantom.voxel_size_um)
    labels = convert(truth, folder / f"{seed}_truth.zarr", kind="labels", work=work)
    return Sample(f"phantom {seed}", grey, labels, slices={"z": tuple(range(seed % step, size, step))})


def main() -> None:
    """Train and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    phantoms = options.folder / "phantoms"
    training = tuple(sample(phantoms, seed, SIZES[i % 2], 3) for i, seed in enumerate(TRAINING_SEEDS))
    judging = tuple(sample(phantoms, seed, SIZES[i % 2], 24) for i, seed in enumerate(JUDGING_SEEDS))
    classes = tuple(ModelClass(c.value, c.name, c.rgba) for c in CLASSES)
    size = training[0].grey.voxel_size_um
    assert size is not None
    result = fit(
        recipe(options.steps, options.threads),
        Data(classes, training, judging, size),
        options.folder / "network",
        resume=True,
        name="phantom screw in bone",
        tell=lambda line: print(line, file=sys.stderr, flush=True),
    )
    print(
        f"mean IoU {result.mean_iou:.4f} at step {result.best_step}: {result.best}; the last network is {result.last}"
    )


if __name__ == "__main__":
    main()
