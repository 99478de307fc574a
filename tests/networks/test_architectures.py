"""Every network is the one of its paper: parameters, stride and reach; users' own networks are found, also by workers."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys

import pytest
import torch
from torch import nn

from tests.networks.random import card
from tomoscale.networks import architectures
from tomoscale.networks.architectures import (
    ARCHITECTURES,
    architecture_of,
    declare_from,
    make_network,
    reach_of,
    register_architecture,
)
from tomoscale.networks.bundle import load_bundle, save_bundle
from tomoscale.networks.reach import probe

STAGES = {"convolutions": [1, 2], "decoder_convolutions": [1]}
PLAN = {"features": [3, 4], "strides": [[1, 1], [2, 2]], "kernel_sizes": [[3, 3]] * 2, **STAGES}
RESIDUAL = {"blocks": [1, 2], "decoder_convolutions": [1], "stem": 3}
RESIDUAL |= {name: PLAN[name] for name in ("features", "strides", "kernel_sizes")}
SMALL = {
    "scaled_unet": {"depth": 2, "width": 2},
    "tomoseg_unet": {"width": 2},
    "hrnet": {"width": 2, "stem_width": 2},
    "u2net": {"divide": 16},
    "sensor3d": {"width": 2},
    "nnunet": PLAN,
    "nnunet_residual": RESIDUAL,
    "msd": {"depth": 5, "dilations": 3},
}
LAB = """
from torch import nn
from tomoscale.networks.architectures import register_architecture

class Sharp(nn.Module):
    def __init__(self, in_channels, n_classes, dimensions, width):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(in_channels, width, 5, padding=2), nn.ReLU(), nn.Conv2d(width, n_classes, 1))

    def forward(self, values):
        return self.layers(values)
"""
SHARP = {"in_channels": 1, "n_classes": 4, "dimensions": 2, "width": 3}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def same_weights():
    torch.manual_seed(0)


@pytest.fixture
def registry(monkeypatch):
    """What is registered here is forgotten afterwards."""
    monkeypatch.setattr(architectures, "ARCHITECTURES", {n: ARCHITECTURES[n] for n in SMALL})
    monkeypatch.setattr(architectures, "_DECLARED_IN", {})
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("toy_"):
            del sys.modules[name]


@pytest.mark.parametrize(
    ("name", "arguments", "parameters"),
    [
        ("tomoseg_unet", {}, 17_262_020),
        ("hrnet", {}, 55_413_712),
        ("u2net", {}, 44_050_300),
        ("msd", {"n_classes": 1}, 45_652),
    ],
)
def test_numbers_of_parameters_are_those_of_the_papers(name, arguments, parameters):
    with torch.device("meta"):
        network = make_network(name, arguments)
    assert sum(p.numel() for p in network.parameters()) == parameters


@pytest.mark.parametrize(
    ("name", "arguments", "stride", "before", "after"),
    [
        ("tomoseg_unet", {"width": 2}, 16, 122, 122),
        ("hrnet", {"width": 2, "stem_width": 2}, 32, 1448, 1417),
        ("sensor3d", {"width": 2}, 8, 84, 84),
        ("msd", {"depth": 20}, 1, 110, 110),
        pytest.param("u2net", {"divide": 16}, 32, 3326, 3326, marks=pytest.mark.slow),
    ],
)
def test_stride_and_reach_are_those_of_gradient_tracing_whatever_the_width(name, arguments, stride, before, after):
    with torch.device("meta" if name != "msd" else "cpu"):
        network = make_network(name, arguments)
    reach = reach_of(network)
    assert reach.local
    assert (reach.stride, reach.before, reach.after) == ((stride,) * 2, (before,) * 2, (after,) * 2)


@pytest.mark.parametrize("name", ["tomoseg_unet", "scaled_unet"])
def test_a_narrow_twin_looks_as_far_as_the_network_itself(name):
    arguments = {**SMALL[name], "width": 3}
    network = make_network(name, arguments)
    assert reach_of(network) == probe(network)


@pytest.mark.parametrize("name", ["tomoseg_unet", "hrnet"])
def test_aligned_corners_see_the_whole_window(name):
    assert not reach_of(make_network(name, {**SMALL[name], "align_corners": True})).local


def test_instance_norm_sees_the_whole_window_as_it_says_of_itself():
    network = make_network("nnunet", PLAN)
    assert not reach_of(network).local
    assert not probe(network, max_stride=8, max_reach=64).local
    assert probe(make_network("nnunet", {**PLAN, "norm": "batch"}), max_stride=8).local


@pytest.mark.parametrize("name", sorted(SMALL))
def test_every_network_gives_a_logit_per_class_and_voxel_and_says_how_it_is_made(name):
    network = make_network(name, {**SMALL[name], "n_classes": 3}).eval()
    values = torch.rand(2, network.arguments.get("in_slices", 1), 32, 64)
    with torch.inference_mode():
        logits = network(values)
    assert logits.shape == (2, 3, 32, 64)
    assert float(logits.std()) > 0
    again = make_network(name, network.arguments).eval()
    again.load_state_dict(network.state_dict())
    with torch.inference_mode():
        torch.testing.assert_close(again(values), logits)
    assert architecture_of(network) == architecture_of(ARCHITECTURES[name](**SMALL[name])) == name


@pytest.mark.parametrize(("name", "count"), [("u2net", 7), ("nnunet", 1)])
def test_training_sees_every_output_and_the_first_is_the_result(name, count):
    network = make_network(name, SMALL[name]).eval()
    values = torch.rand(1, 1, 32, 32)
    with torch.inference_mode():
        outputs = network.all_outputs(values)
        torch.testing.assert_close(outputs[0], network(values))
    assert len(outputs) == count


def test_without_the_deepest_pair_the_nested_network_has_one_output_less():
    assert len(make_network("u2net", {"divide": 16, "stages": 5}).eval().all_outputs(torch.rand(1, 1, 32, 32))) == 6


def test_the_middle_slice_is_labelled_with_what_its_neighbours_show():
    network = make_network("sensor3d", {"width": 2}).eval()
    for place in range(3):
        values = torch.rand(1, 3, 16, 16)
        values[0, place, 8, 8] = torch.nan
        with torch.inference_mode():
            assert network(values)[0, :, 8, 8].isnan().all()


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("tomoseg_unet", {"width": 0}, "width must be a whole number from 1"),
        ("tomoseg_unet", {"align_corners": 1}, "align_corners must be true or false"),
        ("hrnet", {"n_classes": 1}, "n_classes must be a whole number from 2"),
        ("hrnet", {"dimensions": 3}, "dimensions must be a whole number from 2 to 2"),
        ("u2net", {"stages": 4}, "stages must be a whole number from 5 to 6"),
        ("sensor3d", {"in_slices": 2}, "in_slices must be odd"),
        ("msd", {"depth": 10**9}, "depth must be a whole number"),
        ("nnunet", {**PLAN, "features": [3, 10**9]}, "features must be a whole number"),
        ("nnunet", {**PLAN, "features": [3] * 99}, "number of stages"),
        ("nnunet", {**PLAN, "strides": [[2, 2], [2, 2]]}, "first stride is 1"),
        ("nnunet", {**PLAN, "kernel_sizes": [[3, 3], [3, 4]]}, "kernel_sizes are odd"),
        ("nnunet", {**PLAN, "kernel_sizes": [[3, 3]]}, "for each of 2 stages"),
        ("nnunet", {**PLAN, "strides": [[1, 1], [2, 2, 2]]}, "length of strides"),
        ("nnunet", {**PLAN, "norm": "group"}, "norm is instance or batch"),
        ("nnunet", {**PLAN, "features": 3}, "cannot be made"),
        ("os.system", {}, "'os.system' is unknown"),
        ("monai:os", {}, "monai gives"),
        (["hrnet"], {}, "must be a name"),
    ],
)
def test_networks_that_cannot_be_made_are_refused(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        make_network(name, arguments)


def toy(folder, name, more):
    (folder / f"{name}.py").write_text(LAB + more)
    return name


def test_a_network_of_the_users_own_goes_to_a_bundle_and_to_a_worker(tmp_path, monkeypatch, registry):
    name = toy(tmp_path, "toy_registered", 'register_architecture("sharp", Sharp)\n')
    monkeypatch.syspath_prepend(tmp_path)
    declare_from(name)
    network = make_network("sharp", SHARP)
    assert architecture_of(network) == "sharp"
    bundle = save_bundle(tmp_path / "bundle", network, card())
    assert bundle.reach.before == (2, 2)
    assert name not in (tmp_path / "bundle" / "card.json").read_text()
    (tmp_path / "message").write_bytes(pickle.dumps(bundle))
    code = "import pickle, sys; print(pickle.load(open(sys.argv[1], 'rb')).network())"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), str(tmp_path)])}
    command = [sys.executable, "-c", code, str(tmp_path / "message")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert "Sharp" in done.stdout, done.stderr


def test_a_network_of_an_installed_package_is_found_by_its_entry_point(tmp_path, monkeypatch, registry):
    name = toy(tmp_path, "toy_installed", "")
    info = tmp_path / "toy_installed-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy_installed\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[tomoscale.architectures]\nsharp = {name}:Sharp\n")
    with pytest.raises(ValueError, match="'sharp' is unknown"):
        make_network("sharp", SHARP)
    monkeypatch.syspath_prepend(tmp_path)
    save_bundle(tmp_path / "bundle", make_network("sharp", SHARP), card())
    assert load_bundle(tmp_path / "bundle").arguments == SHARP


def test_a_card_cannot_bring_code(tmp_path, registry):
    register_architecture("sharp", nn.Conv2d, module="toy_nowhere")
    with pytest.raises(ValueError, match="sharp cannot be made of"):
        make_network("sharp", SHARP)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("", "registers no architecture"),
        ("raise OSError('broken')", r"cannot be imported \(OSError: broken\)"),
        ('register_architecture("hrnet", Sharp)', "network of tomoscale already"),
        ('register_architecture("Sharp!", Sharp)', "lower-case letters"),
    ],
)
def test_modules_that_declare_nothing_right_are_refused(tmp_path, monkeypatch, registry, code, message):
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=message):
        declare_from(toy(tmp_path, f"toy_wrong_{abs(hash(code))}", code))


@pytest.mark.parametrize(
    ("module", "message"), [("toy.nowhere", "cannot be imported"), ("a b", "a module is named as")]
)
def test_modules_that_are_not_there_are_refused(module, message):
    with pytest.raises(ValueError, match=message):
        declare_from(module)


def test_a_name_belongs_to_the_module_that_took_it_first(registry):
    register_architecture("sharp", nn.Identity, module="toy_one")
    register_architecture("sharp", nn.Identity, module="toy_one")
    with pytest.raises(ValueError, match="network of toy_one already"):
        register_architecture("sharp", nn.Identity, module="toy_two")


def test_a_network_of_a_script_cannot_travel(tmp_path, registry):
    register_architecture("sharp", lambda **how: nn.Conv2d(1, 4, 1), module="__main__")
    bundle = save_bundle(tmp_path / "bundle", make_network("sharp", SHARP), card())
    with pytest.raises(ValueError, match="registered in a script or notebook"):
        pickle.dumps(bundle)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": [4, 10**9], "strides": [2]}, "channels must be at most"),
        ({"channels": [4] * 100, "strides": [2]}, "longer or deeper"),
        ({"channels": [[[[[[1]]]]]], "strides": [2]}, "longer or deeper"),
        ({"unheard_of": 1}, "cannot be made"),
    ],
)
def test_arguments_out_of_which_no_library_builds_a_network_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_network("monai:UNet", {"in_channels": 1, "n_classes": 4, "dimensions": 2, **arguments})


def test_a_network_of_monai_goes_to_a_bundle(tmp_path):
    how = {"channels": [4, 8], "strides": [2], "norm": "batch"}
    network = make_network("monai:UNet", {"in_channels": 1, "n_classes": 4, "dimensions": 2, **how})
    bundle = save_bundle(tmp_path / "bundle", network, card())
    assert (bundle.architecture, bundle.reach.stride, bundle.reach.local) == ("monai:UNet", (2, 2), True)
    values = torch.rand(1, 1, 16, 16)
    torch.testing.assert_close(bundle.network()(values), network.eval()(values))


def test_what_a_library_lacks_is_said():
    arguments = {"in_channels": 1, "n_classes": 4, "dimensions": 2}
    try:
        import segmentation_models_pytorch  # noqa: F401
    except Exception:
        with pytest.raises(ValueError, match="segmentation-models-pytorch cannot be imported here"):
            make_network("smp:Unet", arguments)
    else:
        assert make_network("smp:Unet", arguments).arguments == arguments
    with pytest.raises(ValueError, match="2 dimensions"):
        make_network("smp:Unet", {**arguments, "encoder_weights": "imagenet"})


@pytest.mark.parametrize(
    ("name", "tensors"),
    [
        ("tomoseg_unet", ("inc.double_conv.0.weight", "down4.maxpool_conv.1.double_conv.4.bias", "outc.conv.weight")),
        ("hrnet", ("layer1.0.downsample.0.weight", "transition1.1.0.0.weight", "transition3.3.0.0.weight")),
        ("hrnet", ("stage2.0.branches.1.3.conv2.weight", "stage4.2.fuse_layers.3.0.2.0.weight", "last_layer.3.bias")),
        ("hrnet", ("stage3.3.fuse_layers.0.2.1.weight", "stage4.0.fuse_layers.2.0.0.1.running_var", "bn2.weight")),
    ],
)
def test_tensors_are_named_as_in_tomoseg(name, tensors):
    assert set(tensors) <= make_network(name, SMALL[name]).state_dict().keys()
