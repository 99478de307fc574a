"""Networks trained elsewhere become bundles; files that are damaged, hostile or of another kind do not."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import torch

from tests.networks import checkpoints
from tests.networks.random import card, random_network
from tomoscale.errors import InputError
from tomoscale.networks import checkpoint as reading
from tomoscale.networks import importing
from tomoscale.networks.card import Card, ModelClass, Normalisation, Windows
from tomoscale.networks.checkpoint import Checkpoint, read_checkpoint
from tomoscale.networks.importing import import_nnunet, import_weights
from tomoscale.networks.plans import read_plan

UNET = {"depth": 1, "width": 2}


@pytest.fixture
def here(monkeypatch):
    """Read checkpoints in this process: the child takes seconds to start, and is tested by itself."""

    def read(path, seconds=0.0):
        if Path(path).suffix == ".safetensors":
            return read_checkpoint(path)
        target = f"{path}.read"
        answer = reading._answer(lambda: reading._open(str(path), target))
        if answer["refused"]:
            raise InputError(answer["refused"])
        return Checkpoint(safetensors.torch.load_file(target), answer["facts"])

    monkeypatch.setattr(importing, "read_checkpoint", read)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return checkpoints.write_results(tmp_path_factory.mktemp("nnunet"), folds=2)


def test_results_of_nnunet_become_an_ensemble(results, tmp_path, here):
    bundle = import_nnunet(results, tmp_path / "bundle", spacing_unit="mm")
    assert [c.name for c in bundle.classes] == ["background", "metal", "bone"]
    assert bundle.card.voxel_size_um == (6.0, 5.0, 5.0)
    assert bundle.card.normalisation == Normalisation("zscore")
    assert bundle.card.windows == Windows((24, 32), 0.5, "gaussian", "logits", (0, 1))
    assert bundle.card.training["folds"] == ["0", "1"]
    assert (bundle.members, bundle.reach.local, bundle.reach.stride) == (2, False, (2, 2))
    values = torch.rand(1, 1, 24, 32)
    for fold in range(2):
        expected = checkpoints.network(2, fold)(values)
        torch.testing.assert_close(bundle.network(member=fold)(values), expected)


def test_a_network_of_volumes_and_one_fold_of_many(tmp_path, here):
    results = checkpoints.write_results(tmp_path, dimensions=3, folds=3)
    bundle = import_nnunet(results, tmp_path / "bundle", voxel_size_um=(1.0, 2.0, 3.0), folds=[2], name="mine")
    assert (bundle.members, bundle.dimensions, bundle.card.name) == (1, 3, "mine")
    assert bundle.card.voxel_size_um == (1.0, 2.0, 3.0)
    assert bundle.card.windows == Windows((8, 24, 32), mirror_axes=(0, 1, 2))
    values = torch.rand(1, 1, 8, 24, 32)
    torch.testing.assert_close(bundle.network()(values), checkpoints.network(3, 2)(values))


@pytest.fixture
def copy(results, tmp_path):
    return shutil.copytree(results, tmp_path / results.name)


def edit(file, change):
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def chosen(plans):
    return plans["configurations"]["2d"]


def test_grey_values_of_computed_tomography_are_clipped_as_the_plans_say(copy):
    edit(copy / "plans.json", lambda p: chosen(p).update(normalization_schemes=["CTNormalization"]))
    expected = Normalisation("zscore", clip=(10.0, 200.0), mean=90.0, deviation=12.0)
    assert read_plan(copy).normalisation == expected
    edit(copy / "plans.json", lambda p: chosen(p).update(normalization_schemes=["RescaleTo01Normalization"]))
    assert read_plan(copy).normalisation == Normalisation("percentiles", (0.0, 100.0))
    edit(copy / "plans.json", lambda p: chosen(p).update(normalization_schemes=["RGBTo01Normalization"]))
    assert read_plan(copy).normalisation == Normalisation("zscore", mean=0.0, deviation=255.0)
    edit(copy / "plans.json", lambda p: chosen(p).update(normalization_schemes=["NoNormalization"]))
    assert read_plan(copy).normalisation == Normalisation("zscore", mean=0.0, deviation=1.0)


def test_a_configuration_takes_what_it_does_not_say_from_another(copy):
    plan = read_plan(copy, "3d_small")
    assert (plan.patch, plan.spacing) == ((4, 16, 16), (0.006, 0.005, 0.005))


def test_plans_of_older_versions_of_nnunet_mean_the_same(copy):
    before = read_plan(copy).arguments

    def change(plans):
        told = chosen(plans).pop("architecture")["arch_kwargs"]
        chosen(plans).update(
            UNet_class_name="PlainConvUNet",
            UNet_base_num_features=4,
            unet_max_num_features=6,
            pool_op_kernel_sizes=told["strides"],
            conv_kernel_sizes=told["kernel_sizes"],
            n_conv_per_stage_encoder=told["n_conv_per_stage"],
            n_conv_per_stage_decoder=told["n_conv_per_stage_decoder"],
        )

    edit(copy / "plans.json", change)
    assert read_plan(copy).arguments == before


def test_a_residual_encoder_becomes_an_ensemble(tmp_path, here):
    results = checkpoints.write_results(
        tmp_path, dimensions=3, folds=2, kind="residual", trainer="nnUNetTrainer_50epochs"
    )
    bundle = import_nnunet(results, tmp_path / "bundle", spacing_unit="mm")
    assert (bundle.architecture, bundle.members, bundle.arguments["blocks"]) == ("nnunet_residual", 2, [1, 2])
    values = torch.rand(1, 1, 8, 24, 32)
    for fold in range(2):
        expected = checkpoints.network(3, fold, "residual")(values)
        torch.testing.assert_close(bundle.network(member=fold)(values), expected)


def test_plans_of_a_residual_encoder_say_stem_and_blocks(copy):
    change = network_class("ResidualEncoderUNet")
    edit(copy / "plans.json", change)
    edit(copy / "plans.json", told(n_blocks_per_stage=[1, 3]))
    found = read_plan(copy)
    assert (found.architecture, found.arguments["blocks"]) == ("nnunet_residual", [1, 3])
    assert (found.arguments["stem"], found.arguments["bottleneck"]) == (4, None)
    edit(copy / "plans.json", told(stem_channels=7, block="x.BottleneckD", bottleneck_channels=3))
    found = read_plan(copy)
    assert (found.arguments["stem"], found.arguments["bottleneck"]) == (7, [3, 3])
    edit(copy / "plans.json", told(block="x.Mine"))
    with pytest.raises(InputError, match="only BasicBlockD and BottleneckD"):
        read_plan(copy)


def test_the_best_checkpoint_of_all_the_data(copy, tmp_path, here):
    shutil.rmtree(copy / "fold_1")
    (copy / "fold_0" / "checkpoint_final.pth").rename(copy / "fold_0" / "checkpoint_best.pth")
    (copy / "fold_0").rename(copy / "fold_all")
    bundle = import_nnunet(copy, tmp_path / "bundle", spacing_unit="mm", checkpoint="best")
    assert (bundle.card.training["folds"], bundle.card.training["checkpoint"]) == (["all"], "checkpoint_best.pth")


def test_a_trainer_that_takes_batch_norm_and_leaves_the_plans(tmp_path, here):
    results = checkpoints.write_results(tmp_path, kind="batch", trainer="nnUNetTrainerBN")
    bundle = import_nnunet(results, tmp_path / "bundle", spacing_unit="mm")
    assert (bundle.arguments["norm"], bundle.card.training["trainer"]) == ("batch", "nnUNetTrainerBN")
    values = torch.rand(1, 1, 24, 32)
    torch.testing.assert_close(bundle.network()(values), checkpoints.network(2, 0, "batch")(values))


def test_axes_of_the_network_are_those_of_the_plans_and_voxels_those_of_the_volume(copy):
    edit(copy / "plans.json", lambda p: p.update(transpose_forward=[2, 0, 1], transpose_backward=[1, 2, 0]))
    edit(copy / "plans.json", lambda p: chosen(p).update(spacing=[0.007, 0.008]))
    plan = read_plan(copy)
    assert (plan.axes, plan.patch, plan.spacing) == ((2, 0, 1), (24, 32), (0.007, 0.008, 0.006))


def test_regions_are_outputs_that_write_classes_in_order(copy):
    edit(copy / "dataset.json", regions([2, 1]))
    plan = read_plan(copy)
    assert (plan.regions, plan.arguments["n_classes"]) == ((2, 1), 2)
    assert [c.name for c in plan.classes] == ["background", "bone", "metal"]


def network_class(name):
    return lambda p: chosen(p)["architecture"].update(network_class_name=f"x.{name}")


def told(**what):
    return lambda p: chosen(p)["architecture"]["arch_kwargs"].update(what)


def regions(order):
    def change(dataset):
        dataset["labels"].update(metal=[1, 2], bone=[2])
        dataset["regions_class_order"] = order

    return change


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("plans.json", lambda p: p.pop("configurations"), "not of nnU-Net v2: it has no 'configurations'"),
        ("plans.json", lambda p: chosen(p).pop("patch_size"), "it has no 'patch_size'"),
        ("plans.json", lambda p: p["configurations"].pop("2d"), "does not end in one of the configurations"),
        ("plans.json", lambda p: chosen(p).update(inherits_from="2d"), "inherits from itself"),
        ("plans.json", lambda p: chosen(p).update(previous_stage="3d_lowres"), "second stage of a cascade"),
        ("plans.json", lambda p: p.update(transpose_forward=[1, 2, 0]), "not the inverse"),
        ("plans.json", lambda p: p.update(transpose_forward=[0, 0, 2]), "not the inverse"),
        ("plans.json", lambda p: p.update(transpose_backward=[0, 1, "z"]), "not of nnU-Net v2"),
        ("plans.json", lambda p: chosen(p).update(use_mask_for_norm=[True]), "within a mask"),
        (
            "plans.json",
            lambda p: chosen(p).update(normalization_schemes=["Mine"]),
            "'Mine' is not one of nnU-Net's own",
        ),
        ("plans.json", lambda p: chosen(p).update(spacing=[None, 1]), "not of nnU-Net v2"),
        ("plans.json", network_class("Primus"), "is a Primus, only PlainConvUNet and ResidualEncoderUNet are"),
        ("plans.json", network_class("ResidualEncoderUNet"), "it has no 'n_blocks_per_stage'"),
        ("plans.json", told(nonlin_first=True), "LeakyReLU\\(0.01\\) after it"),
        ("plans.json", told(n_stages=10**9), "n_stages must be a whole number"),
        ("plans.json", told(nonlin="torch.nn.Mish"), "supported are affine"),
        ("plans.json", told(norm_op=None), "supported are affine"),
        (
            "dataset.json",
            lambda d: d.update(channel_names={"0": "absorption", "1": "phase"}),
            r"takes 2 channels \(absorption, phase\), but a volume has one grey value per voxel: train nnU-Net on one channel",
        ),
        ("dataset.json", lambda d: d["labels"].update(bone=[1, 2]), "it has no 'regions_class_order'"),
        ("dataset.json", regions([1]), r"must have a class for each of the regions \['metal', 'bone'\]"),
        ("dataset.json", regions([1, 3]), "must hold 1, 2, 3"),
        ("dataset.json", lambda d: d["labels"].update(bone=7), "numbered 0, 1, 2"),
        ("dataset.json", lambda d: d.pop("labels"), "it has no 'labels'"),
    ],
)
def test_plans_that_cannot_be_followed_are_refused(copy, file, change, message):
    edit(copy / file, change)
    with pytest.raises(InputError, match=message):
        read_plan(copy)


@pytest.mark.parametrize(
    ("content", "message"), [("{", "cannot be read"), ("[" * 10**5, "nested too deep"), ("[]", "not a JSON object")]
)
def test_plans_that_are_no_json_are_refused(copy, content, message):
    (copy / "plans.json").write_text(content)
    with pytest.raises(InputError, match=message):
        read_plan(copy)


def test_a_voxel_size_is_what_the_header_meant(copy, tmp_path, here):
    edit(copy / "plans.json", lambda p: chosen(p).update(spacing=[0.004999999888241291] * 2))
    bundle = import_nnunet(copy, tmp_path / "bundle", spacing_unit="mm", folds=[0])
    assert bundle.card.voxel_size_um == (6.0, 5.0, 5.0)


def test_the_ignored_label_has_no_output(copy):
    edit(copy / "dataset.json", lambda d: d["labels"].update(ignore=3))
    assert len(read_plan(copy).classes) == 3


def test_results_of_the_first_version_of_nnunet_are_refused(tmp_path):
    (tmp_path / "plans.pkl").touch()
    with pytest.raises(InputError, match=r"nnU-Net v1, whose files are pickles"):
        import_nnunet(tmp_path, tmp_path / "bundle")
    with pytest.raises(InputError, match=r"holds no plans\.json"):
        read_plan(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({}, "does not say the unit"),
        ({"spacing_unit": "parsec"}, "does not say the unit"),
        ({"spacing_unit": "mm", "folds": [0, 7]}, r"has the folds \[0, 1\], not \[0, 7\]"),
        ({"spacing_unit": "mm", "checkpoint": "worst"}, "checkpoint must be one of"),
        ({"spacing_unit": "mm", "checkpoint": "best"}, r"checkpoint_best\.pth is no file"),
        ({"spacing_unit": "mm", "configuration": "4d"}, "no configuration '4d'"),
    ],
)
def test_what_results_do_not_have_is_refused(results, tmp_path, how, message):
    with pytest.raises(ValueError, match=message):
        import_nnunet(results, tmp_path / "bundle", **how)
    assert not (tmp_path / "bundle").exists()


def test_weights_that_are_not_of_the_plans_are_refused(copy, tmp_path, here):
    edit(copy / "plans.json", told(features_per_stage=[4, 8]))
    with pytest.raises(InputError, match=r"fold_0.* is torch.float32 .* the architecture needs"):
        import_nnunet(copy, tmp_path / "bundle", spacing_unit="mm")
    edit(copy / "dataset.json", lambda d: d["labels"].update(more=3))
    edit(copy / "plans.json", told(features_per_stage=[4, 6]))
    with pytest.raises(InputError, match=r"seg_layers.* the architecture needs"):
        import_nnunet(copy, tmp_path / "bundle", spacing_unit="mm")


def saved(path, change=lambda state: state):
    state = change(dict(random_network(1, 2).state_dict()))
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path)
    return path


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth"])
@pytest.mark.parametrize(
    "change",
    [
        lambda state: state,
        lambda state: {f"module.{n}": t for n, t in state.items()},
        lambda state: {f"net.{n}": t for n, t in state.items()},
        lambda state: {n: t.double() if t.is_floating_point() else t for n, t in state.items()},
    ],
    ids=["as they are", "parallel", "in an attribute", "64 bits"],
)
def test_weights_alone_become_a_bundle(tmp_path, here, name, change):
    file = saved(tmp_path / name, change)
    bundle = import_weights(file, tmp_path / "bundle", architecture="scaled_unet", arguments=UNET, card=card())
    values = torch.rand(1, 1, 16, 16)
    torch.testing.assert_close(bundle.network()(values), random_network(1, 2)(values))


def test_several_files_are_the_members_of_an_ensemble(tmp_path):
    files = [saved(tmp_path / f"{n}.safetensors") for n in range(2)]
    bundle = import_weights(files, tmp_path / "bundle", architecture="scaled_unet", arguments=UNET, card=card())
    assert bundle.members == 2


def nan(state):
    state["head.bias"] = torch.full((4,), torch.nan)
    return state


def without_head(state):
    del state["head.bias"]
    return state


@pytest.mark.parametrize(
    ("change", "arguments", "how", "message"),
    [
        (without_head, {}, {}, r"lacks 1 tensors \['head.bias'\]"),
        (lambda s: {**s, "more": torch.zeros(1)}, {}, {}, r"do not belong \['more'\]"),
        (nan, {}, {}, "head.bias holds NaN"),
        (lambda s: s, {"in_channels": 2}, {}, "the architecture needs"),
        (lambda s: s, {"width": 3}, {}, "the architecture needs"),
        (lambda s: s, {"n_classes": 3}, {}, "the architecture needs"),
        (lambda s: s, {"depth": "two"}, {}, "depth must be a whole number"),
        (lambda s: s, {}, {"card": card(3)}, r"4 outputs but card\.classes names 3"),
        (lambda s: s, {}, {"architecture": "nothing"}, "'nothing' is unknown"),
        (lambda s: s, {}, {"architecture": "smp:nothing"}, "is unknown, smp gives"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path, change, arguments, how, message):
    file = saved(tmp_path / "weights.safetensors", change)
    keywords = {"architecture": "scaled_unet", "arguments": {**UNET, **arguments}, "card": card(), **how}
    with pytest.raises(ValueError, match=message):
        import_weights(file, tmp_path / "bundle", **keywords)
    assert list(tmp_path.iterdir()) == [file]


def test_a_network_that_sees_its_window_needs_one(tmp_path):
    arguments = {"width": 2, "align_corners": True}
    network = importing.make_network("tomoseg_unet", arguments)
    safetensors.torch.save_file(network.state_dict(), tmp_path / "a.safetensors")
    how = {"architecture": "tomoseg_unet", "arguments": arguments}
    with pytest.raises(ValueError, match="names no windows: say those that it was trained for"):
        import_weights(tmp_path / "a.safetensors", tmp_path / "bundle", card=card(), **how)
    given = Card("x", card().classes, (5.0, 5.0, 5.0), windows=Windows((64, 64)))
    assert import_weights(tmp_path / "a.safetensors", tmp_path / "bundle", card=given, **how).card == given


def test_a_target_in_the_way_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(ValueError, match="never overwritten"):
        import_weights(tmp_path / "nowhere", tmp_path, architecture="x", arguments={}, card=card())


class Bomb:
    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return os.system, (f"touch {self.place}",)


def test_a_hostile_checkpoint_is_refused_and_nothing_is_executed(tmp_path):
    torch.save({"network_weights": {}, "_best_ema": Bomb(tmp_path / "executed")}, tmp_path / "bomb.pth")
    with pytest.raises(InputError, match=r"was not opened: it asks to call (posix|nt)\.system"):
        read_checkpoint(tmp_path / "bomb.pth")
    torch.load(tmp_path / "bomb.pth", weights_only=False)
    assert (tmp_path / "executed").exists(), "the file would have executed a command"


def test_a_checkpoint_that_takes_too_long_is_given_up(tmp_path):
    saved(tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"was not read within 0\.01 s"):
        read_checkpoint(tmp_path / "a.pth", seconds=0.01)


def test_a_checkpoint_that_takes_too_much_memory_is_refused(tmp_path, monkeypatch):
    torch.save({"w": torch.zeros(2**24)}, tmp_path / "large.pth")
    with zipfile.ZipFile(tmp_path / "large.pth") as large, zipfile.ZipFile(tmp_path / "a.pth", "w", 8) as small:
        for name in large.namelist():
            small.writestr(name, large.read(name))
    assert (tmp_path / "a.pth").stat().st_size < 2**20
    monkeypatch.setattr(reading, "FREE_BYTES", 2**24)
    with pytest.raises(InputError, match="takes more memory than its size allows"):
        read_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"w": torch.zeros(1).expand(2**40)}, "claim 4398046511104 bytes"),
        ({"w": torch.zeros(2, 2).to_sparse()}, "sparse, quantised or complex"),
        ({"w": torch.zeros(2, dtype=torch.complex64)}, "sparse, quantised or complex"),
        ({"w": torch.zeros(2), "epoch": 3}, "or other things among them"),
        ({"state_dict": {}}, "no tensors by name"),
        ([torch.zeros(2)], "holds a list"),
        (torch.nn.Conv2d(1, 1, 1), "asks to call torch.nn.modules.conv.Conv2d"),
        (b"hello", "damaged or no checkpoint"),
        (b"", "damaged or no checkpoint"),
    ],
)
@pytest.mark.filterwarnings("ignore:Sparse")
def test_files_that_are_no_checkpoints_are_refused(tmp_path, here, content, message):
    file = tmp_path / "a.pth"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    with pytest.raises(InputError, match=message):
        importing.read_checkpoint(file)


def test_files_that_are_cut_short_or_missing_are_refused(tmp_path, here):
    file = saved(tmp_path / "a.pth")
    file.write_bytes(file.read_bytes()[:-300])
    with pytest.raises(InputError, match="damaged or no checkpoint"):
        importing.read_checkpoint(file)
    file = saved(tmp_path / "a.safetensors")
    file.write_bytes(file.read_bytes()[:-300])
    with pytest.raises(InputError, match="not a safetensors file"):
        read_checkpoint(file)
    (tmp_path / "empty.pth").touch()
    with pytest.raises(InputError, match="has 0 bytes"):
        read_checkpoint(tmp_path / "empty.pth")
    with pytest.raises(InputError, match="is no file"):
        read_checkpoint(tmp_path)


def test_classes_get_colours(results):
    assert read_plan(results).classes[1] == ModelClass(1, "metal", (74, 144, 217, 255))
