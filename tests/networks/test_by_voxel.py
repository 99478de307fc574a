"""The same layers with the channels of a voxel beside each other: what they give is what torch's own give."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.blocks import seeds
from tomoscale.networks.by_voxel import RUN_VOXELS, by_voxel
from tomoscale.networks.nnunet import PlainConvUNet

LAYOUTS = {2: torch.channels_last, 3: torch.channels_last_3d}
NORMS = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
CLOSE = {"atol": 2e-5, "rtol": 2e-5}


def random_norm(dimensions: int, channels: int, affine: bool) -> nn.Module:
    norm = NORMS[dimensions](channels, affine=affine)
    if affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return norm.eval().requires_grad_(False)


@given(
    seed=seeds,
    sizes=st.lists(st.integers(1, 9), min_size=2, max_size=3),
    batch=st.integers(1, 2),
    channels=st.integers(2, 19),
    affine=st.booleans(),
    offset=st.sampled_from([0.0, 100.0]),
)
@settings(max_examples=40)
def test_norms_are_those_of_the_definition(seed, sizes, batch, channels, affine, offset):
    torch.manual_seed(seed)
    sizes = [max(2, sizes[0]), *sizes[1:]]
    norm = random_norm(len(sizes), channels, affine)
    values = (torch.randn(batch, channels, *sizes) + offset).to(memory_format=LAYOUTS[len(sizes)])
    before = values.clone()
    with torch.inference_mode():
        found = by_voxel(norm_in := nn.Sequential(norm))(values)
    double = values.double().numpy()
    axes = tuple(range(2, values.dim()))
    mean, variance = double.mean(axes, keepdims=True), double.var(axes, keepdims=True)
    expected = (double - mean) / np.sqrt(variance + norm.eps)
    if affine:
        shape = (-1, *[1] * len(sizes))
        expected = expected * norm.weight.double().numpy().reshape(shape) + norm.bias.double().numpy().reshape(shape)
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-5 * (1 + offset), rtol=2e-5)
    assert torch.equal(values, before)
    assert type(norm_in[0]) is NORMS[len(sizes)]


def test_many_values_far_from_zero_keep_their_variance():
    torch.manual_seed(0)
    values = (torch.randn(1, 16, 40, 50 * RUN_VOXELS) * 0.5 + 1000).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        found = by_voxel(nn.Sequential(nn.InstanceNorm2d(16)))(values)
    double = values.double()
    expected = (double - double.mean((2, 3), keepdim=True)) / (
        double.var((2, 3), correction=0, keepdim=True) + 1e-5
    ).sqrt()
    torch.testing.assert_close(found.double(), expected, atol=2e-4, rtol=0)


def test_values_that_are_all_equal_become_the_bias():
    norm = random_norm(2, 4, affine=True)
    values = torch.full((1, 4, 37, 41), 0.3).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        found = by_voxel(nn.Sequential(norm))(values)
    assert torch.equal(found, norm.bias.reshape(1, 4, 1, 1).expand_as(found))


@pytest.mark.parametrize("arguments", [{}, {"stride": 2, "padding": 1}, {"dilation": 2, "bias": False}, {"groups": 2}])
@pytest.mark.parametrize("channels", [2, 8])
def test_convolutions_of_volumes_are_torchs(arguments, channels):
    torch.manual_seed(1)
    convolution = nn.Conv3d(channels, 6, 3, **arguments).eval().requires_grad_(False)
    values = torch.randn(1, channels, 7, 9, 8)
    with torch.inference_mode():
        found = by_voxel(nn.Sequential(convolution).to(memory_format=torch.channels_last_3d))(values)
        torch.testing.assert_close(found, convolution(values), **CLOSE)
    assert found.is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_network_of_nnunet_gives_the_same_and_shares_its_weights(dimensions):
    torch.manual_seed(2)
    steps = [[1] * dimensions, [2] * dimensions]
    network = PlainConvUNet([4, 6], steps, [[3] * dimensions] * 2, [2, 2], [2], dimensions=dimensions)
    network = network.eval().requires_grad_(False).to(memory_format=LAYOUTS[dimensions])
    fast = by_voxel(network)
    values = torch.randn(1, 1, *[16] * dimensions)
    with torch.inference_mode():
        torch.testing.assert_close(fast(values), network(values), **CLOSE)
    kinds = {type(m).__module__ for m in fast.modules() if isinstance(m, NORMS[dimensions])}
    assert kinds == {"tomoscale.networks.by_voxel"}
    assert all(a is b for a, b in zip(fast.parameters(), network.parameters(), strict=True))


def test_nothing_else_is_left_to_the_fast_layers():
    network = by_voxel(
        nn.Sequential(nn.Conv3d(2, 4, 3, padding="same"), nn.InstanceNorm3d(4, track_running_stats=True))
    )
    values = torch.randn(1, 2, 5, 6, 7)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert network.eval()(values).dtype in (torch.float32, torch.bfloat16)
    with torch.inference_mode():
        assert network(values).shape == (1, 4, 5, 6, 7)
