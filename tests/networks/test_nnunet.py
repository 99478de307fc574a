"""The network of nnU-Net gives what dynamic-network-architectures gives, from the same tensors."""

from __future__ import annotations

import pytest
import torch

from tomoscale.networks.nnunet import PlainConvUNet, without_aliases

FEATURES, ENCODER, DECODER = [4, 8, 6], [1, 2, 3], [1, 2]
RECORDED = {
    2: (
        ((1, 4, 16, 16), (0.61325, -0.48854, -0.65863, 0.08088)),
        ((1, 4, 16, 8), (-0.22974, 0.31997, -0.72306, -0.89238)),
    ),
    3: (
        ((1, 4, 16, 16, 16), (0.6156, -0.49283, -0.7516, 0.14699)),
        ((1, 4, 16, 16, 8), (0.10462, 0.3136, -0.37256, -0.68286)),
    ),
}
"""Four numbers of each output of dynamic-network-architectures 0.4.4 with the weights of `set_weights`."""


def geometry(dimensions):
    strides = [[1] * dimensions, [1] * (dimensions - 1) + [2], [2] * dimensions]
    kernels = [[1] * (dimensions - 1) + [3], [3] * dimensions, [3] * dimensions]
    return strides, kernels


def ours(dimensions):
    strides, kernels = geometry(dimensions)
    return PlainConvUNet(FEATURES, strides, kernels, ENCODER, DECODER, dimensions=dimensions).eval()


def set_weights(state):
    with torch.no_grad():
        for n, name in enumerate(sorted(state)):
            wave = torch.sin(torch.arange(state[name].numel(), dtype=torch.float64) * 1.7 + n) * 0.5
            state[name].copy_(wave.reshape(state[name].shape))


@pytest.mark.parametrize("dimensions", [2, 3])
def test_outputs_are_those_that_were_recorded(dimensions):
    network = ours(dimensions)
    set_weights(network.state_dict())
    values = torch.cos(torch.arange(16**dimensions, dtype=torch.float64) * 0.37).float()
    with torch.inference_mode():
        outputs = network.all_outputs(values.reshape(1, 1, *[16] * dimensions))
    for output, (shape, numbers) in zip(outputs, RECORDED[dimensions], strict=True):
        assert tuple(output.shape) == shape
        found = output.flatten()[:: output.numel() // 4 + 1]
        torch.testing.assert_close(found, torch.tensor(numbers), atol=2e-4, rtol=0)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_the_library_itself_gives_the_same(dimensions):
    # Its package asks for timm, and that for torchvision; the module of this network needs neither.
    library = pytest.importorskip("dynamic_network_architectures.architectures.unet")
    strides, kernels = geometry(dimensions)
    nn = torch.nn
    norm = getattr(nn, f"InstanceNorm{dimensions}d")
    theirs = library.PlainConvUNet(
        1,
        3,
        FEATURES,
        getattr(nn, f"Conv{dimensions}d"),
        kernels,
        strides,
        ENCODER,
        4,
        DECODER,
        conv_bias=True,
        norm_op=norm,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        deep_supervision=True,
    ).eval()
    network = ours(dimensions)
    assert without_aliases(theirs.state_dict()).keys() == network.state_dict().keys()
    network.load_state_dict(theirs.state_dict())
    values = torch.rand(1, 1, *[16] * dimensions)
    with torch.inference_mode():
        for one, other in zip(theirs(values), network.all_outputs(values), strict=True):
            assert torch.equal(one, other)


def aliased(network):
    """State of a network as nnU-Net writes it: each tensor of the encoder under four names."""
    found = {}
    for name, tensor in network.state_dict().items():
        names = [name, name.replace(".conv.", ".all_modules.0.").replace(".norm.", ".all_modules.1.")]
        if name.startswith("encoder."):
            names += [f"decoder.{n}" for n in names]
        found.update(dict.fromkeys(names, tensor))
    return found


def test_a_state_with_every_name_twice_loads_as_it_is():
    source, target = ours(2), ours(2)
    set_weights(source.state_dict())
    state = aliased(source)
    assert len(state) > 2 * len(source.state_dict())
    target.load_state_dict(state)
    for name, tensor in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], tensor)
    assert without_aliases(state).keys() == source.state_dict().keys()


def test_names_of_one_tensor_that_differ_are_refused():
    state = aliased(ours(2))
    name = next(n for n in state if ".all_modules." in n)
    state[name] = state[name] + 1
    with pytest.raises(ValueError, match="should be one tensor but differ"):
        without_aliases(state)


def test_a_module_knows_its_stride():
    assert (ours(2).stride, ours(3).stride) == ((2, 4), (2, 2, 4))
