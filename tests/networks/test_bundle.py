from __future__ import annotations

import hashlib
import json
import pickle
import shutil
import struct

import pytest
import safetensors.torch
import torch

from tests.networks.random import card, random_network
from tomoscale.errors import InputError
from tomoscale.networks.bundle import CARD, WEIGHTS, load_bundle, save_bundle
from tomoscale.networks.card import Card, ModelClass
from tomoscale.networks.reach import Reach


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("bundles") / "good"
    save_bundle(path, random_network(1, 2), card())
    return path


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


def edit_card(path, change):
    document = json.loads((path / CARD).read_text())
    change(document)
    (path / CARD).write_text(json.dumps(document))


def edit_weights(path, change):
    """Change the tensors and make the hash fit, as an author of another network would."""
    tensors = safetensors.torch.load_file(path / WEIGHTS)
    change(tensors)
    safetensors.torch.save_file(tensors, path / WEIGHTS)
    sign(path)


def sign(path):
    digest = hashlib.sha256((path / WEIGHTS).read_bytes()).hexdigest()
    edit_card(path, lambda document: document.update(weights_sha256=digest))


def test_what_is_saved_is_loaded(saved):
    bundle = load_bundle(saved)
    assert bundle.card == card()
    assert bundle.classes[1] == ModelClass(1, "class 1")
    assert bundle.reach == Reach((2, 2), (9, 9), (9, 9), (8, 8), (8, 8))
    assert bundle.dimensions == 2
    values = torch.rand(1, 1, 16, 16)
    torch.testing.assert_close(bundle.network()(values), random_network(1, 2)(values))


def test_the_network_is_frozen_and_loaded_once(saved):
    network = load_bundle(saved).network()
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())
    assert load_bundle(saved).network() is network


def test_a_bundle_pickles_as_its_address(saved):
    bundle = load_bundle(saved)
    message = pickle.dumps(bundle)
    assert len(message) < 1000
    assert pickle.loads(message) == bundle


def test_a_pickled_bundle_notices_that_the_folder_changed(copy):
    message = pickle.dumps(load_bundle(copy))
    edit_card(copy, lambda document: document.update(name="other"))
    with pytest.raises(InputError, match="has changed since this run was planned"):
        pickle.loads(message)


def test_the_network_notices_that_the_weights_changed(copy):
    bundle = load_bundle(copy)
    content = bytearray((copy / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (copy / WEIGHTS).write_bytes(content)
    edit_card(copy, lambda document: document.update(name="not cached"))
    with pytest.raises(InputError, match="its card says"):
        load_bundle(copy)
    assert bundle.weights_sha256 != hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("classes"), "lacks 'classes'"),
        (lambda d: d.update(format="other"), '"format" must be'),
        (lambda d: d.update(architecture="os.system"), "'os.system' is unknown"),
        (lambda d: d["classes"].reverse(), "numbered 0, 1, 2"),
        (lambda d: d["classes"][1].update(id=7), "numbered 0, 1, 2"),
        (lambda d: d["classes"][1].update(name="class 0"), "different names"),
        (lambda d: d["classes"][1].update(rgba=[0, 0, 0, 256]), "four integers 0 to 255"),
        (lambda d: d["classes"].pop(), "3 classes but 4 outputs"),
        (lambda d: d["arguments"].update(depth=10**9), "depth must be a whole number"),
        (lambda d: d["arguments"].update(unheard_of=1), "unheard_of"),
        (lambda d: d["arguments"].update(width=512), "belongs to another network"),
        (lambda d: d["reach_voxels"].update(stride=[0, 2]), "strides >= 1"),
        (lambda d: d["reach_voxels"].update(before=[9, 9, 9]), "as many extents"),
        (
            lambda d: d["reach_voxels"].update({k: [2] * 3 for k in d["reach_voxels"] if k != "local"}),
            "reach for 3 axes",
        ),
        (lambda d: d["reach_voxels"].pop("margin_before"), "margin_before"),
        (lambda d: d.update(voxel_size_um=[1, 1]), "3 numbers expected"),
        (lambda d: d.update(voxel_size_um=[1, 1, float("nan")]), "lengths > 0"),
        (lambda d: d["normalisation"].update(percentiles=[99, 1]), "increasing numbers"),
        (lambda d: d.update(weights_sha256="../../secret"), "64 hexadecimal digits"),
        (lambda d: d.update(weights_sha256="0" * 64), "its card says"),
    ],
)
def test_cards_that_cannot_be_right_are_refused(copy, change, message):
    edit_card(copy, change)
    with pytest.raises(InputError, match=message):
        load_bundle(copy)


def nan(tensors):
    tensors["head.weight"][0] = torch.nan


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.update({"head.bias": t["head.bias"].to(torch.float16).repeat(2)}), "head.bias is torch.float16"),
        (lambda t: t.update({"head.bias": t["head.bias"].reshape(2, 2)}), "the architecture needs torch.float32"),
        (lambda t: t.update({"head.bios": t.pop("head.bias")}), r"lacks 1 tensors \['head.bias'\]"),
        (lambda t: t.update({"more": torch.zeros(1)}), r"do not belong \['more'\]"),
        (lambda t: t.update({"more": torch.zeros(2**20)}), "belongs to another network"),
        (lambda t: t.pop("encoders.0.3.weight"), "lacks 1 tensors"),
        (lambda t: t.pop("bottleneck.3.weight"), "lacks 1 tensors|cut short"),
        (nan, "head.weight holds NaN"),
    ],
)
def test_weights_that_do_not_fit_are_refused(copy, change, message):
    edit_weights(copy, change)
    with pytest.raises(InputError, match=message):
        load_bundle(copy)


def test_a_file_cut_short_is_refused(copy):
    content = (copy / WEIGHTS).read_bytes()
    (copy / WEIGHTS).write_bytes(content[:-100])
    sign(copy)
    with pytest.raises(InputError, match=r"not a safetensors file|cut short"):
        load_bundle(copy)


def test_a_pickle_is_not_opened(copy):
    class Bomb:
        def __reduce__(self):
            return pytest.fail, ("a bundle was unpickled",)

    size = (copy / WEIGHTS).stat().st_size
    (copy / WEIGHTS).write_bytes(pickle.dumps(Bomb()).ljust(size, b"\0"))
    sign(copy)
    with pytest.raises(InputError, match="not a safetensors file"):
        load_bundle(copy)


def test_a_header_that_lies_about_its_length_is_refused(copy):
    content = (copy / WEIGHTS).read_bytes()
    (copy / WEIGHTS).write_bytes(struct.pack("<Q", 2**60) + content[8:])
    sign(copy)
    with pytest.raises(InputError, match="not a safetensors file"):
        load_bundle(copy)


@pytest.mark.parametrize("content", ["", "[]", "{", "[" * 100_000, "\udcff"])
def test_cards_that_are_no_cards_are_refused(copy, content):
    (copy / CARD).write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match="cannot be used"):
        load_bundle(copy)


def test_a_huge_card_is_not_read(copy):
    (copy / CARD).write_bytes(b" " * (2**20 + 1))
    with pytest.raises(InputError, match="a card has at most"):
        load_bundle(copy)


def test_a_folder_without_weights_or_card_is_refused(copy):
    (copy / WEIGHTS).unlink()
    with pytest.raises(InputError, match="holds no weights"):
        load_bundle(copy)
    (copy / CARD).unlink()
    with pytest.raises(InputError, match="not a model bundle"):
        load_bundle(copy)


def test_saving_refuses_what_could_not_be_loaded(saved, tmp_path):
    network = random_network(1, 2)
    with pytest.raises(ValueError, match="never overwritten"):
        save_bundle(saved, network, card())
    with pytest.raises(ValueError, match=r"4 outputs but card\.classes names 3"):
        save_bundle(tmp_path / "new", network, card(3))
    with pytest.raises(ValueError, match="must be one of"):
        save_bundle(tmp_path / "new", torch.nn.Conv2d(1, 1, 1), card())
    network.head.bias.data[0] = torch.inf
    with pytest.raises(ValueError, match=r"head.bias holds NaN or infinity"):
        save_bundle(tmp_path / "new", network, card())
    assert not (tmp_path / "new").exists()


def test_a_card_refuses_a_class_without_a_name():
    with pytest.raises(ValueError, match="needs a name"):
        Card("x", (ModelClass(0, "a"), ModelClass(1, "")), (1.0, 1.0, 1.0))
