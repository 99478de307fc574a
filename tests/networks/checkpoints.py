"""A folder of results as nnU-Net v2 writes it, with small networks of random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tomoscale.networks.nnunet import PlainConvUNet
from tomoscale.networks.nnunet_residual import ResidualEncoderUNet

LABELS = {"background": 0, "metal": 1, "bone": 2}
PATCH = {2: [24, 32], 3: [8, 24, 32]}


def network(dimensions: int, seed: int, kind: str = "plain", n_classes: int = 3) -> torch.nn.Module:
    """What the plans of `write_results` describe: "plain", "residual", or "batch", which the plans do not say."""
    torch.manual_seed(seed)
    strides = [[1] * dimensions, [1] * (dimensions - 2) + [2, 2]]
    kernels = [[1] * (dimensions - 2) + [3, 3], [3] * dimensions]
    ends = {"n_classes": n_classes, "dimensions": dimensions}
    if kind == "residual":
        return ResidualEncoderUNet([4, 6], strides, kernels, [1, 2], [1], 4, **ends).eval()
    norm = "batch" if kind == "batch" else "instance"
    return PlainConvUNet([4, 6], strides, kernels, [1, 2], [1], norm=norm, **ends).eval()


def aliased(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """State of a network as nnU-Net writes it: each tensor of the encoder under four names."""
    found = {}
    for name, tensor in module.state_dict().items():
        names = [name, name.replace(".conv.", ".all_modules.0.").replace(".norm.", ".all_modules.1.")]
        if name.startswith("encoder."):
            names += [f"decoder.{n}" for n in names]
        found.update(dict.fromkeys(names, tensor))
    return found


def checkpoint(dimensions: int, fold: int, kind: str = "plain", trainer: str = "nnUNetTrainer") -> dict[str, Any]:
    """All that a checkpoint of nnU-Net v2 holds; numbers of NumPy are what plain readers of weights refuse."""
    module = network(dimensions, fold, kind)
    optimizer = torch.optim.SGD(module.parameters(), 0.01, momentum=0.99, nesterov=True)
    module(torch.rand(1, 1, *PATCH[dimensions])).sum().backward()
    optimizer.step()
    return {
        "network_weights": aliased(network(dimensions, fold, kind)),
        "optimizer_state": optimizer.state_dict(),
        "grad_scaler_state": None,
        "logging": {"mean_fg_dice": [np.float64(0.5)], "ema_fg_dice": [np.float32(0.5)], "lrs": [0.01]},
        "_best_ema": np.float64(0.8),
        "current_epoch": 1000,
        "init_args": {
            "plans": plans(kind),
            "configuration": "2d" if dimensions == 2 else "3d_fullres",
            "fold": fold,
            "dataset_json": dataset(),
            "device": torch.device("cuda"),
        },
        "trainer_name": trainer,
        "inference_allowed_mirroring_axes": tuple(range(dimensions)),
    }


def plans(kind: str = "plain") -> dict[str, Any]:
    """Plans of a configuration of each dimension."""
    name, counts = ("ResidualEncoderUNet", "blocks") if kind == "residual" else ("PlainConvUNet", "conv")

    def configuration(dimensions: int) -> dict[str, Any]:
        module = network(dimensions, 0).arguments
        return {
            "data_identifier": "nnUNetPlans",
            "batch_size": 2,
            "patch_size": PATCH[dimensions],
            "spacing": [0.006, 0.005, 0.005][-dimensions:],
            "normalization_schemes": ["ZScoreNormalization"],
            "use_mask_for_norm": [False],
            "architecture": {
                "network_class_name": "dynamic_network_architectures.architectures.unet." + name,
                "arch_kwargs": {
                    "n_stages": 2,
                    "features_per_stage": module["features"],
                    "conv_op": f"torch.nn.modules.conv.Conv{dimensions}d",
                    "kernel_sizes": module["kernel_sizes"],
                    "strides": module["strides"],
                    f"n_{counts}_per_stage": module["convolutions"],
                    "n_conv_per_stage_decoder": module["decoder_convolutions"],
                    "conv_bias": True,
                    "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dimensions}d",
                    "norm_op_kwargs": {"eps": 1e-05, "affine": True},
                    "dropout_op": None,
                    "dropout_op_kwargs": None,
                    "nonlin": "torch.nn.LeakyReLU",
                    "nonlin_kwargs": {"inplace": True},
                },
                "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
            },
            "batch_dice": True,
        }

    return {
        "dataset_name": "Dataset001_Screw",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [0.006, 0.005, 0.005],
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {
            "2d": configuration(2),
            "3d_fullres": configuration(3),
            "3d_small": {"inherits_from": "3d_fullres", "patch_size": [4, 16, 16]},
        },
        "foreground_intensity_properties_per_channel": {
            "0": {"mean": 90.0, "std": 12.0, "percentile_00_5": 10.0, "percentile_99_5": 200.0}
        },
    }


def dataset() -> dict[str, Any]:
    """What the user told nnU-Net of the data."""
    return {"channel_names": {"0": "xray"}, "labels": dict(LABELS), "numTraining": 2, "file_ending": ".tif"}


def write_results(
    folder: Path, dimensions: int = 2, folds: int = 1, kind: str = "plain", trainer: str = "nnUNetTrainer"
) -> Path:
    """Write ``nnUNetTrainer__nnUNetPlans__2d`` and the like."""
    place = folder / f"{trainer}__nnUNetPlans__{'2d' if dimensions == 2 else '3d_fullres'}"
    place.mkdir()
    (place / "plans.json").write_text(json.dumps(plans(kind)))
    (place / "dataset.json").write_text(json.dumps(dataset()))
    for fold in range(folds):
        (place / f"fold_{fold}").mkdir()
        torch.save(checkpoint(dimensions, fold, kind, trainer), place / f"fold_{fold}" / "checkpoint_final.pth")
    return place
