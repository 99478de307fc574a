"""Windows against nnU-Net's own predictor with the same weights, where it is installed."""

from __future__ import annotations

import importlib.util
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.blocks import map_whole
from tests.networks.windowed import instance_net, reach_of, windowed_card
from tomoscale.kernels.window_sums import window_inference
from tomoscale.networks.bundle import save_bundle
from tomoscale.networks.card import Windows

pytestmark = pytest.mark.skipif(importlib.util.find_spec("nnunetv2") is None, reason="nnunetv2 is not installed")


def logits_of_nnunet(network, values, windows):
    """Logits (classes, Z, Y, X) as its predictor gives them, averaged in half precision."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

        predictor = nnUNetPredictor(
            tile_step_size=windows.step,
            use_gaussian=windows.weights == "gaussian",
            use_mirroring=bool(windows.mirror_axes),
            perform_everything_on_device=False,
            device=torch.device("cpu"),
            allow_tqdm=False,
        )
        predictor.network = network
        predictor.configuration_manager = SimpleNamespace(patch_size=windows.shape)
        predictor.label_manager = SimpleNamespace(num_segmentation_heads=network.arguments["n_classes"])
        predictor.allowed_mirroring_axes = windows.mirror_axes or None
        with torch.inference_mode():
            return predictor.predict_sliding_window_return_logits(torch.from_numpy(values[None])).float().numpy()


@pytest.mark.parametrize(
    ("dimensions", "windows", "shape"),
    [
        (3, Windows((8, 16, 16)), (21, 37, 40)),
        (3, Windows((8, 16, 16), 0.5, "gaussian", "logits", (0, 1, 2)), (8, 30, 33)),
        (3, Windows((8, 16, 16)), (5, 11, 40)),
        (3, Windows((7, 9, 11), 0.3, "uniform"), (16, 20, 31)),
        (2, Windows((16, 12), 0.5, "gaussian", "logits", (0, 1)), (4, 37, 29)),
    ],
)
def test_labels_are_those_of_nnunet_but_for_near_ties(tmp_path, dimensions, windows, shape):
    network = instance_net(3, dimensions=dimensions)
    bundle = save_bundle(tmp_path / "model", network, windowed_card(windows), reach_of(dimensions))
    values = np.random.default_rng(0).random(shape, dtype=np.float32)
    labels = map_whole(window_inference(bundle, shape), values)
    logits = logits_of_nnunet(bundle.network(), values, windows)
    best = np.sort(logits, axis=0)
    # Half precision rounds a logit, its weight and their sum to 11 bits.
    clear = best[-1] - best[-2] > 4e-3 * np.abs(logits).max()
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(labels[clear], logits.argmax(0)[clear])
