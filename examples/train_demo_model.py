"""Train the small model that ships with tomoscale, from phantoms whose seeds the demo never shows.

    python examples/train_demo_model.py tomoscale/models/demo

A Scaled U-Net (Baltruschat et al. 2021) of depth 3 and width 12 learns the four classes from single z slices of eight
phantoms of two sizes; two more phantoms watch. All random choices are seeded: on one machine the same weights come out.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from tomoscale.commands import CLASSES
from tomoscale.networks.bundle import save_bundle
from tomoscale.networks.card import Card, ModelClass, Normalisation
from tomoscale.networks.unet import ScaledUNet
from tomoscale.phantom import Phantom

TRAINING_SEEDS = (1000, 1001, 1002, 1003, 1004, 1005)
WATCHING_SEEDS = (2000, 2001)
SIZES = (256, 320)
PERCENTILES = (0.5, 99.9)
PATCH = 128
BATCH = 8
CLASS_WEIGHTS = (1.0, 1.0, 2.5, 1.0)  # the degradation layer is thin, rare and what the study is about


def load(seed: int, size: int, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Normalised grey and truth of every `step`-th slice: (n, Y, X) float32 and int64."""
    phantom = Phantom((size, size, size), seed)
    everything = tuple(slice(0, size) for _ in range(3))
    grey = phantom.grey(everything)
    low, high = np.percentile(grey, PERCENTILES)
    slices = slice(seed % step, None, step)
    scaled = (np.clip(grey[slices], low, high).astype(np.float32) - np.float32(low)) / np.float32(high - low)
    return scaled, phantom.labels(everything)[slices]


def batch(
    volumes: list[tuple[np.ndarray, np.ndarray]], random: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Random patches, turned, mirrored, and a little brighter or darker."""
    greys, truths = [], []
    for _ in range(BATCH):
        grey, truth = volumes[random.integers(len(volumes))]
        z, y, x = (int(random.integers(n)) for n in (grey.shape[0], grey.shape[1] - PATCH, grey.shape[2] - PATCH))
        turns, mirror = int(random.integers(4)), bool(random.integers(2))
        patches = [np.rot90(v[z, y : y + PATCH, x : x + PATCH], turns) for v in (grey, truth)]
        patches = [p[:, ::-1] if mirror else p for p in patches]
        gain, offset = random.normal(1, 0.05), random.normal(0, 0.03)
        greys.append(patches[0] * np.float32(gain) + np.float32(offset))
        truths.append(patches[1])
    return torch.from_numpy(np.stack(greys).astype(np.float32))[:, None], torch.from_numpy(
        np.stack(truths).astype(np.int64)
    )


def loss_of(scores: torch.Tensor, truth: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted cross-entropy plus one minus the mean Dice coefficient."""
    entropy = nn.functional.cross_entropy(scores, truth, weight=weights)
    shares = scores.softmax(1)
    wanted = nn.functional.one_hot(truth, scores.shape[1]).permute(0, 3, 1, 2)
    both = (shares * wanted).sum((0, 2, 3))
    dice = (2 * both + 1) / (shares.sum((0, 2, 3)) + wanted.sum((0, 2, 3)) + 1)
    return entropy + 1 - dice.mean()


def watch(network: nn.Module, volumes: list[tuple[np.ndarray, np.ndarray]]) -> list[float]:
    """IoU of each class over the watching phantoms."""
    counts = np.zeros((4, 4), np.int64)
    network.eval()
    with torch.inference_mode():
        for grey, truth in volumes:
            for g, t in zip(grey, truth, strict=True):
                labels = network(torch.from_numpy(g)[None, None]).argmax(1)[0].numpy()
                counts += np.bincount(4 * t.ravel().astype(np.int64) + labels.ravel(), minlength=16).reshape(4, 4)
    network.train()
    hits = np.diag(counts)
    return [round(float(v), 4) for v in hits / (counts.sum(0) + counts.sum(1) - hits)]


def main() -> None:
    """Train and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.manual_seed(7)
    torch.set_num_threads(options.threads)
    random = np.random.default_rng(7)
    training = [load(seed, SIZES[i % 2], 3) for i, seed in enumerate(TRAINING_SEEDS)]
    watching = [load(seed, SIZES[i % 2], 24) for i, seed in enumerate(WATCHING_SEEDS)]
    network = ScaledUNet(depth=3, width=12).to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=options.steps, pct_start=0.15)
    weights = torch.tensor(CLASS_WEIGHTS)
    curve, started = [], time.monotonic()
    for step in range(1, options.steps + 1):
        grey, truth = batch(training, random)
        loss = loss_of(network(grey.to(memory_format=torch.channels_last)), truth, weights)
        if not math.isfinite(loss.item()):
            sys.exit(f"the loss is {loss.item()} at step {step}")
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 50 == 0 or step == options.steps:
            iou = watch(network, watching)
            curve.append({"step": step, "loss": round(loss.item(), 4), "iou": iou})
            print(
                json.dumps({**curve[-1], "minutes": round((time.monotonic() - started) / 60, 1)}),
                file=sys.stderr,
                flush=True,
            )
    training = {
        "data": f"phantoms of seeds {TRAINING_SEEDS}, {SIZES} voxels on an edge; watched on seeds {WATCHING_SEEDS}",
        "recipe": f"{options.steps} steps of {BATCH} patches of {PATCH} x {PATCH}, AdamW, one cycle to 4e-3, cross-entropy + Dice",
        "curve": curve,
    }
    classes = tuple(ModelClass(c.value, c.name, c.rgba) for c in CLASSES)
    card = Card(
        "phantom screw in bone", classes, (5.0, 5.0, 5.0), Normalisation("percentiles", PERCENTILES), training=training
    )
    save_bundle(options.target, network.to(memory_format=torch.contiguous_format).eval(), card)


if __name__ == "__main__":
    main()
