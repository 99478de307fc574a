"""The residual encoder of nnU-Net is the one of its description, by plain calls on tensors, and of its package."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from tests.networks.test_nnunet import aliased, geometry, set_weights
from tomoscale.networks.architectures import make_network
from tomoscale.networks.nnunet import without_aliases
from tomoscale.networks.nnunet_residual import ResidualEncoderUNet

FEATURES, BLOCKS, DECODER = [4, 8, 8], [1, 2, 3], [1, 2]
CONVOLVE = {2: functional.conv2d, 3: functional.conv3d}
TRANSPOSED = {2: functional.conv_transpose2d, 3: functional.conv_transpose3d}
MEAN = {2: functional.avg_pool2d, 3: functional.avg_pool3d}


def ours(dimensions=2, **changes):
    strides, kernels = geometry(dimensions)
    arguments = {"stem": FEATURES[0], "dimensions": dimensions, **changes}
    return ResidualEncoderUNet(FEATURES, strides, kernels, BLOCKS, DECODER, **arguments).eval()


class Reference:
    """The network by plain calls on the tensors of its state, stage after stage."""

    def __init__(self, state, dimensions, *, bottleneck):
        self.state, self.dimensions, self.bottleneck = state, dimensions, bottleneck

    def unit(self, name, values, stride, *, active=True):
        weight = self.state[f"{name}.conv.weight"]
        padding = [k // 2 for k in weight.shape[2:]]
        found = CONVOLVE[self.dimensions](values, weight, self.state.get(f"{name}.conv.bias"), stride, padding)
        found = functional.instance_norm(
            found, weight=self.state[f"{name}.norm.weight"], bias=self.state[f"{name}.norm.bias"], eps=1e-5
        )
        return torch.where(found > 0, found, 0.01 * found) if active else found

    def block(self, name, values, stride):
        ones = [1] * self.dimensions
        past = MEAN[self.dimensions](values, stride) if stride != ones else values
        skip = f"{name}.skip.{int(stride != ones)}"
        if f"{skip}.conv.weight" in self.state:
            past = self.unit(skip, past, ones, active=False)
        if self.bottleneck:
            values = self.unit(f"{name}.conv2", self.unit(f"{name}.conv1", values, ones), stride)
            found = self.unit(f"{name}.conv3", values, ones, active=False) + past
        else:
            found = self.unit(f"{name}.conv2", self.unit(f"{name}.conv1", values, stride), ones, active=False) + past
        return torch.where(found > 0, found, 0.01 * found)

    def __call__(self, values):
        strides, _ = geometry(self.dimensions)
        ones, skips = [1] * self.dimensions, []
        values = self.unit("encoder.stem.convs.0", values, ones)
        for stage, stride in enumerate(strides):
            for block in range(BLOCKS[stage]):
                values = self.block(f"encoder.stages.{stage}.blocks.{block}", values, ones if block else stride)
            skips.append(values)
        values, outputs = skips.pop(), []
        for stage, stride in enumerate(strides[:0:-1]):
            name = f"decoder.transpconvs.{stage}"
            up = TRANSPOSED[self.dimensions](values, self.state[f"{name}.weight"], self.state[f"{name}.bias"], stride)
            values = torch.cat([up, skips.pop()], 1)
            for unit in range(DECODER[stage]):
                values = self.unit(f"decoder.stages.{stage}.convs.{unit}", values, ones)
            name = f"decoder.seg_layers.{stage}"
            outputs.append(CONVOLVE[self.dimensions](values, self.state[f"{name}.weight"], self.state[f"{name}.bias"]))
        return outputs[::-1]


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("bottleneck", [None, [2, 2, 3]])
def test_outputs_are_those_of_plain_calls(dimensions, bottleneck):
    network = ours(dimensions, bottleneck=bottleneck, stem=5)
    set_weights(network.state_dict())
    values = torch.rand(1, 1, *[16] * dimensions, dtype=torch.float64)
    network = network.double()
    with torch.inference_mode():
        expected = Reference(network.state_dict(), dimensions, bottleneck=bottleneck is not None)(values)
        for one, other in zip(network.all_outputs(values), expected, strict=True):
            torch.testing.assert_close(one, other)
        torch.testing.assert_close(network(values), expected[0])


def parameters_of(plan, n_classes, bias):
    """Parameters counted from the numbers of a plan."""

    def unit(before, after, kernel, biased):
        return before * after * math.prod(kernel) + after * (2 + biased)

    features, kernels, strides = plan["features"], plan["kernel_sizes"], plan["strides"]
    one = [1] * len(kernels[0])
    total, before = unit(1, plan["stem"], kernels[0], bias), plan["stem"]
    for stage, after in enumerate(features):
        for _ in range(plan["blocks"][stage]):
            total += unit(before, after, kernels[stage], bias) + unit(after, after, kernels[stage], bias)
            total += unit(before, after, one, False) if before != after else 0
            before = after
    for count, stage in zip(plan["decoder_convolutions"], range(len(features) - 2, -1, -1), strict=True):
        own = features[stage]
        total += features[stage + 1] * own * math.prod(strides[stage + 1]) + own * bias
        total += unit(2 * own, own, kernels[stage], bias) + (count - 1) * unit(own, own, kernels[stage], bias)
        total += own * n_classes + n_classes
    return total


@st.composite
def plans(draw):
    stages, dimensions = draw(st.integers(2, 4)), draw(st.integers(2, 3))
    several = {"min_size": stages, "max_size": stages}
    axes = {"min_size": dimensions, "max_size": dimensions}
    return {
        "features": draw(st.lists(st.integers(1, 9), **several)),
        "strides": [[1] * dimensions, *draw(st.lists(st.lists(st.integers(1, 2), **axes), **several))[1:]],
        "kernel_sizes": draw(st.lists(st.lists(st.sampled_from([1, 3]), **axes), **several)),
        "blocks": draw(st.lists(st.integers(1, 3), **several)),
        "decoder_convolutions": draw(st.lists(st.integers(1, 3), **several))[1:],
        "stem": draw(st.integers(1, 9)),
        "dimensions": dimensions,
    }


@settings(max_examples=30, deadline=None)
@given(plan=plans(), bias=st.booleans())
def test_parameters_are_as_many_as_the_plan_says(plan, bias):
    with torch.device("meta"):
        network = make_network("nnunet_residual", {**plan, "n_classes": 3, "in_channels": 1, "bias": bias})
    assert sum(p.numel() for p in network.parameters()) == parameters_of(plan, 3, bias)


def test_the_large_network_of_the_recommended_plans_has_the_recorded_parameters():
    features = [32, 64, 128, 256, 320, 320]
    plan = {
        "features": features,
        "strides": [[1] * 3, *[[2] * 3] * 5],
        "kernel_sizes": [[3] * 3] * 6,
        "blocks": [1, 3, 4, 6, 6, 6],
        "decoder_convolutions": [1] * 5,
        "stem": 32,
        "dimensions": 3,
    }
    with torch.device("meta"):
        network = make_network("nnunet_residual", {**plan, "n_classes": 3, "in_channels": 1})
    assert sum(p.numel() for p in network.parameters()) == RECORDED


RECORDED = 102_350_575
"""Of dynamic-network-architectures 0.4.4, with one channel and three classes."""


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("bottleneck", [None, [2, 2, 3]])
def test_the_library_itself_gives_the_same(dimensions, bottleneck):
    library = pytest.importorskip("dynamic_network_architectures.architectures.unet")
    blocks = pytest.importorskip("dynamic_network_architectures.building_blocks.residual")
    strides, kernels = geometry(dimensions)
    nn = torch.nn
    theirs = library.ResidualEncoderUNet(
        1,
        3,
        FEATURES,
        getattr(nn, f"Conv{dimensions}d"),
        kernels,
        strides,
        BLOCKS,
        4,
        DECODER,
        conv_bias=True,
        norm_op=getattr(nn, f"InstanceNorm{dimensions}d"),
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        deep_supervision=True,
        block=blocks.BasicBlockD if bottleneck is None else blocks.BottleneckD,
        bottleneck_channels=bottleneck,
    ).eval()
    network = ours(dimensions, bottleneck=bottleneck)
    assert without_aliases(theirs.state_dict()).keys() == network.state_dict().keys()
    network.load_state_dict(theirs.state_dict())
    values = torch.rand(1, 1, *[16] * dimensions)
    with torch.inference_mode():
        for one, other in zip(theirs(values), network.all_outputs(values), strict=True):
            assert torch.equal(one, other)


def test_tensors_are_named_as_in_checkpoints():
    names = ours(2, stem=5).state_dict().keys()
    assert {
        "encoder.stem.convs.0.conv.weight",
        "encoder.stages.0.blocks.0.skip.0.conv.weight",
        "encoder.stages.1.blocks.0.conv1.norm.bias",
        "encoder.stages.1.blocks.0.skip.1.norm.weight",
        "decoder.transpconvs.0.weight",
    } < names
    assert "encoder.stages.2.blocks.0.skip.1.conv.weight" not in names, "channels stay, a mean alone goes past"
    assert "encoder.stages.1.blocks.0.skip.1.conv.bias" not in names


def test_a_state_with_every_name_twice_loads_as_it_is():
    source, target = ours(2), ours(2)
    set_weights(source.state_dict())
    target.load_state_dict(aliased(source))
    for name, tensor in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], tensor)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stem": 0}, "stem must be a whole number"),
        ({"stem": None}, "stem must be a whole number"),
        ({"bottleneck": [2, 2]}, "length of bottleneck"),
        ({"bottleneck": [2, 2, 10**9]}, "bottleneck must be a whole number"),
        ({"norm": "group"}, "norm is instance or batch"),
    ],
)
def test_arguments_that_make_no_network_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        ours(**change)
