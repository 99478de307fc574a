"""Train a network in Python, with all that `tomoscale train` has: here on phantoms, whose truth is known.

    python examples/train_on_phantoms.py phantoms/

A Scaled U-Net (Baltruschat et al. 2021) of depth 3 and width 12 learns four classes from z slices of six phantoms of two
sizes; two more phantoms judge it: IoU 0.98 for background, 0.93 for metal, 0.74 for the degradation layer, 0.96 for bone
after 600 steps. `phantoms/network/last` is a model. All random choices are seeded: on one machine the same weights come
out, and a training that was stopped goes on.
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
        sampling=Sampling(patch=(PATCH, PATCH), batch=8, axes=("z",), balance=0.3),
        augmentation=Augmentation(
            flip=0.5, turn=0.75, brightness=Chance(0.5, 0.92, 1.08), shift=Chance(0.5, -0.04, 0.04)
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
        name="screw in bone, of phantoms",
        tell=lambda line: print(line, file=sys.stderr, flush=True),
    )
    print(
        f"mean IoU {result.mean_iou:.4f} at step {result.best_step}: {result.best}; the last network is {result.last}"
    )


if __name__ == "__main__":
    main()
