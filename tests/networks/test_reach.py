from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.networks.random import random_network
from tomoscale.networks.reach import Reach, probe
from tomoscale.networks.unet import extent

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5])
def test_reach_of_the_scaled_unet(depth):
    reach = probe(random_network(depth, 1))
    assert reach.stride == (2**depth,) * 2
    assert reach.before == reach.after == (extent(depth),) * 2
    assert reach.margin_before == reach.margin_after == ({1: 8}.get(depth, 6 * 2**depth),) * 2
    assert reach.local


def test_reach_in_three_dimensions():
    reach = probe(random_network(1, 1, dimensions=3), dimensions=3)
    assert reach == Reach((2,) * 3, (9,) * 3, (9,) * 3, (8,) * 3, (8,) * 3)


def test_reach_holds_whatever_the_weights():
    network = random_network(2, 2)
    with torch.no_grad():
        network.bottleneck[0].weight.zero_()
    assert probe(network) == probe(random_network(2, 2))


def test_sides_and_axes_differ_where_the_network_does():
    layer = nn.Sequential(nn.ZeroPad2d((3, 1, 0, 2)), nn.Conv2d(1, 2, (3, 5)))
    assert probe(layer, max_stride=8) == Reach((1, 1), (0, 3), (2, 1), (0, 3), (2, 1))


def test_changes_beyond_the_reach_change_nothing_and_at_the_reach_something():
    network = random_network(2, 2).double()
    reach = probe(network).before[1]
    values = torch.rand(1, 1, 8, 96, dtype=torch.float64)
    changed = []
    with torch.inference_mode():
        reference = network(values)
        for x in range(44, 48):
            other = values.clone()
            other[..., x] += 1e4
            changed += [x - int(i) for i in (network(other) != reference).any(1)[0].any(0).nonzero()]
    assert (min(changed), max(changed)) == (-reach, reach)


@pytest.mark.parametrize(
    "layers",
    [
        (nn.Conv2d(1, 2, 3, padding=1), nn.InstanceNorm2d(2)),
        (nn.MaxPool2d(2), nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)),
    ],
    ids=["instance norm", "aligned corners"],
)
def test_networks_that_see_their_whole_window_are_not_local(layers):
    assert not probe(nn.Sequential(*layers), max_stride=8, max_reach=200).local


def test_bilinear_upsampling_that_keeps_its_grid_is_local():
    layers = nn.Sequential(nn.MaxPool2d(2), nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
    reach = probe(layers, max_stride=8)
    assert reach.local
    assert reach.stride == (2, 2)


def test_a_network_that_looks_further_than_asked_is_not_local():
    assert not probe(random_network(3, 1), max_stride=8, max_reach=10).local


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Conv2d(1, 2, 3), "one output voxel per input voxel"),
        (random_network(3, 1), "multiple of its stride, not 4"),
        (nn.Sequential(nn.Conv2d(1, 2, 1), nn.Threshold(float("inf"), 0.0)), "output"),
    ],
    ids=["shrinks", "stride", "constant"],
)
def test_networks_that_cannot_be_probed_are_refused(network, message):
    with pytest.raises(ValueError, match=message):
        probe(network, max_stride=4)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        (((1, 1), (-1, 0), (0, 0), (0, 0), (0, 0)), "extents >= 0"),
        (((1, 1), (1, 1), (0, 0, 0), (0, 0), (0, 0)), "as many extents"),
        (((4, 4), (3, 3), (3, 3), (4, 3), (4, 4)), "multiples of the stride"),
    ],
)
def test_a_reach_that_cannot_be_is_refused(numbers, message):
    with pytest.raises(ValueError, match=message):
        Reach(*numbers)
