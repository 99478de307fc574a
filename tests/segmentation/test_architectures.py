"""Every network of the registry labels a volume by blocks as it labels whole slices, or the whole volume."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.blocks import seeds
from tests.networks.random import card
from tests.networks.windowed import mean_of_windows
from tomoscale.kernels import tiles as tiles_module
from tomoscale.networks.architectures import _OURS, make_network
from tomoscale.networks.bundle import Bundle, load_bundle, save_bundle
from tomoscale.networks.card import Windows
from tomoscale.networks.reach import Reach
from tomoscale.resources import Resources
from tomoscale.segmentation.segment import segment, summary
from tomoscale.volume import MemoryArray, Volume, open_zarr
from tomoscale.work import Work

COMMON = {"in_channels": 1, "n_classes": 3, "dimensions": 2}
HRNET = {"width": 2, "stem_width": 2}


def plan(dimensions):
    return {
        "features": [3, 4],
        "strides": [[1] * dimensions, [2] * dimensions],
        "kernel_sizes": [[3] * dimensions] * 2,
        "convolutions": [1, 2],
        "decoder_convolutions": [1],
        "dimensions": dimensions,
    }


RESIDUAL = {name: value for name, value in plan(2).items() if name != "convolutions"} | {"blocks": [1, 2], "stem": 3}


def reaching(stride, voxels, *, local=True, dimensions=2):
    return Reach(*[(n,) * dimensions for n in (stride, *[voxels] * 4)], local=local)


CASES = {
    "scaled_unet": ("scaled_unet", {"depth": 2, "width": 2}, None, None),
    "scaled_unet of volumes": ("scaled_unet", {"depth": 1, "width": 2, "dimensions": 3}, None, None),
    "tomoseg_unet": ("tomoseg_unet", {"width": 2}, None, reaching(16, 128)),
    "hrnet": ("hrnet", HRNET, None, reaching(32, 1472)),
    "hrnet, aligned": ("hrnet", {**HRNET, "align_corners": True}, Windows((32, 32)), reaching(32, 32, local=False)),
    "u2net": ("u2net", {"divide": 16}, None, reaching(32, 3328)),
    "sensor3d": ("sensor3d", {"width": 2}, None, reaching(8, 88)),
    "msd": ("msd", {"depth": 5, "dilations": 3}, None, None),
    "nnunet": ("nnunet", plan(2), Windows((16, 12)), reaching(2, 8, local=False)),
    "nnunet_residual": ("nnunet_residual", RESIDUAL, Windows((12, 16)), reaching(2, 8, local=False)),
    "nnunet of volumes": (
        "nnunet",
        plan(3),
        Windows((4, 8, 12), 0.5, "gaussian", "logits", (0, 2)),
        reaching(2, 4, local=False, dimensions=3),
    ),
}
"""Architecture, arguments, the windows of those that see their window as a whole, and the reach where probing takes long."""


@pytest.fixture(autouse=True, scope="module")
def small_tiles_on_one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        # So that slices of these sizes have several tiles.
        patch.setattr(tiles_module, "WHOLE_SLICE_BYTES", 1)
        patch.setattr(tiles_module, "TILE_VOXELS", {2: 16, 3: 8})
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles")
    for name, (architecture, arguments, windows, reach) in CASES.items():
        network = stirred(make_network(architecture, {**COMMON, **arguments}))
        save_bundle(folder / name, network, replace(card(3), windows=windows), reach)
    return {name: load_bundle(folder / name) for name in CASES}


def stirred(network: nn.Module) -> nn.Module:
    """The network in eval mode with random weights that neither explode nor fade, and logits around 0."""
    random, arguments = torch.Generator().manual_seed(1), network.arguments
    values = torch.rand(2, arguments.get("in_slices", 1), *[32] * arguments["dimensions"], generator=random)
    heads: list[nn.Module] = []
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            module.running_mean.normal_(0, 0.1, generator=random)
            module.running_var.uniform_(2, 4, generator=random)
        elif getattr(module, "out_channels", 0) == arguments["n_classes"] and module.bias is not None:
            module.register_forward_hook(lambda module, *_: heads.append(module))
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, (2 / parameter[0].numel()) ** 0.5, generator=random)
        logits = network.eval()(values)
        heads[-1].bias -= logits.mean([0, *range(2, logits.dim())])
        assert len(network(values).argmax(1).unique()) > 1
    return network


def expected_of(bundle: Bundle, values: np.ndarray) -> np.ndarray:
    """Logits of whole slices with zeros up to the stride, of the whole volume, or means of windows: (classes, Z, Y, X)."""
    network, slices = bundle.network(), bundle.arguments.get("in_slices", 1)
    if bundle.card.windows is not None:
        return mean_of_windows([network], values, bundle.card.windows, slices)
    steps = (1,) * (3 - bundle.dimensions) + bundle.reach.stride
    padded = torch.from_numpy(np.pad(values, [(0, -n % s) for n, s in zip(values.shape, steps, strict=True)]))
    with torch.inference_mode():
        if bundle.dimensions == 3:
            logits = network(padded[None, None])[0]
        else:
            around = np.arange(len(padded))[:, None] + np.arange(-(slices // 2), slices // 2 + 1)
            shown = padded[np.clip(around, 0, len(padded) - 1)]
            logits = torch.cat([network(v[None]) for v in shown]).transpose(0, 1)
    return logits[:, *(slice(0, n) for n in values.shape)].numpy()


def by_blocks(bundle, values, block_shape, target):
    work = Work(resources=Resources(slots=1), progress=False, block_shape=block_shape, overwrite=True)
    volume = Volume(MemoryArray(values), (5.0, 5.0, 5.0))
    return segment(volume, target, model=bundle.path, as_is=True, work=work).read()


def test_all_networks_are_here():
    assert {architecture for architecture, *_ in CASES.values()} == _OURS


@pytest.mark.parametrize("name", list(CASES))
@given(
    seed=seeds,
    shape=st.tuples(st.integers(1, 4), st.integers(17, 38), st.integers(17, 38)),
    block_shape=st.tuples(st.integers(1, 4), st.integers(9, 38), st.integers(9, 38)),
)
@settings(max_examples=2)
def test_labels_by_blocks_are_those_of_the_whole(bundles, name, seed, shape, block_shape, tmp_path_factory):
    bundle, folder = bundles[name], tmp_path_factory.mktemp("labels")
    values = np.random.default_rng(seed).random(shape, dtype=np.float32)
    labels = by_blocks(bundle, values, block_shape, folder / "blocks.zarr")
    np.testing.assert_array_equal(labels, by_blocks(bundle, values, shape, folder / "whole.zarr"))
    if bundle.card.windows is not None:
        assert summary(open_zarr(folder / "blocks.zarr"))["windows"]["redundancy"] == 1.0
    logits = expected_of(bundle, values)
    best = np.sort(logits, axis=0)
    near_tie = best[-1] - best[-2] < 1e-4 * np.abs(logits).max()
    np.testing.assert_array_equal(labels[~near_tie], logits.argmax(0)[~near_tie])
    assert near_tie.mean() < 0.1
