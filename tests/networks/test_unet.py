from __future__ import annotations

import pytest
import torch

from tomoscale.networks.unet import ScaledUNet, extent
from tomoscale.networks.workspace import workspace_bytes


@pytest.mark.parametrize(("width", "millions"), [(64, 124.39), (96, 279.84)])
def test_number_of_parameters_is_that_of_the_paper(width, millions):
    with torch.device("meta"):
        network = ScaledUNet(depth=5, width=width)
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 2) == millions


def test_extents_are_those_of_gradient_tracing():
    assert [extent(depth) for depth in (3, 4, 5, 6)] == [51, 107, 219, 443]


@pytest.mark.parametrize("dimensions", [2, 3])
def test_output_has_the_shape_of_the_input_and_a_logit_per_class(dimensions):
    network = ScaledUNet(2, 2, n_classes=3, dimensions=dimensions)
    assert network(torch.zeros(1, 1, *(8,) * dimensions)).shape == (1, 3, *(8,) * dimensions)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"depth": 0, "width": 2}, "depth"),
        ({"depth": 40, "width": 2}, "depth"),
        ({"depth": 2, "width": 10**6}, "width"),
        ({"depth": 2, "width": 2, "n_classes": 256}, "n_classes"),
        ({"depth": 2, "width": 2, "dimensions": 4}, "dimensions"),
        ({"depth": 2.0, "width": 2}, "depth"),
    ],
)
def test_numbers_out_of_range_are_refused(arguments, name):
    with pytest.raises(ValueError, match=f"{name} must be a whole number from"):
        ScaledUNet(**arguments)


def test_workspace_of_one_layer_is_its_input_and_output():
    layer = torch.nn.Conv2d(1, 3, 3, padding=1, device="meta")
    assert workspace_bytes(layer, (1, 1, 10, 10)) == 4 * 100 * (1 + 3)


def test_workspace_counts_only_what_is_alive():
    layers = torch.nn.Sequential(*(torch.nn.Conv2d(2, 2, 1, device="meta") for _ in range(9)))
    # The caller holds the input, and a layer its input and output.
    assert workspace_bytes(layers, (1, 2, 10, 10)) == 4 * 100 * 2 * 3
