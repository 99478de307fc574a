from __future__ import annotations

import dataclasses
import hashlib
import json
import pickle
import shutil
import struct

import pytest
import safetensors.torch
import torch

from tests.networks.random import card, random_network
from tests.networks.windowed import instance_net, windowed_card
from tomoscale.errors import InputError
from tomoscale.networks.bundle import CARD, load_bundle, save_bundle
from tomoscale.networks.card import Card, ModelClass, Normalisation, Windows
from tomoscale.networks.description import facts, in_words, normalisation_in_words, windows_in_words
from tomoscale.networks.reach import Reach
from tomoscale.networks.weights import WEIGHTS


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


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory):
    path = tmp_path_factory.mktemp("bundles") / "three"
    save_bundle(path, [random_network(1, 2, seed=seed) for seed in range(3)], card())
    return path


def test_the_members_of_an_ensemble_are_those_that_were_saved(ensemble, saved):
    bundle = load_bundle(ensemble)
    assert (bundle.members, len(set(bundle.member_sha256))) == (3, 3)
    assert bundle.weights_bytes == 3 * load_bundle(saved).weights_bytes
    assert bundle.weights_sha256 not in bundle.member_sha256
    values = torch.rand(1, 1, 16, 16)
    for member in range(3):
        network = bundle.network(member=member)
        torch.testing.assert_close(network(values), random_network(1, 2, seed=member)(values))
        assert load_bundle(ensemble).network(member=member) is network
    assert pickle.loads(pickle.dumps(bundle)) == bundle


def test_members_that_were_swapped_are_refused(ensemble, tmp_path):
    copy = shutil.copytree(ensemble, tmp_path / "copy")
    (copy / "weights.1.safetensors").rename(copy / "one")
    (copy / "weights.2.safetensors").rename(copy / "weights.1.safetensors")
    (copy / "one").rename(copy / "weights.2.safetensors")
    with pytest.raises(InputError, match=r"weights\.1\.safetensors has SHA-256"):
        load_bundle(copy)


def test_members_of_different_networks_are_refused(tmp_path):
    with pytest.raises(ValueError, match="differ in their weights alone"):
        save_bundle(tmp_path / "new", [random_network(1, 2), random_network(1, 3)], card())
    with pytest.raises(ValueError, match="1 to 64 members"):
        save_bundle(tmp_path / "new", [], card())


def test_what_a_stopped_save_left_is_replaced_and_nothing_else(tmp_path):
    partial = tmp_path / "new.partial"
    partial.mkdir()
    (partial / WEIGHTS).write_bytes(b"half")
    save_bundle(tmp_path / "new", random_network(1, 2), card())
    assert not partial.exists()
    partial = tmp_path / "other.partial"
    partial.mkdir()
    (partial / "mine").touch()
    with pytest.raises(OSError, match="not empty"):
        save_bundle(tmp_path / "other", random_network(1, 2), card())
    assert (partial / "mine").exists()


def test_a_bundle_is_told_in_words_and_as_a_table(saved, ensemble):
    bundle = load_bundle(saved)
    words = in_words(bundle)
    assert words["labels"] == {str(n): f"class {n}" for n in range(4)}
    assert words["parameters"] == f"{sum(p.numel() for p in bundle.network().parameters()):,}"
    assert words["reach"].startswith("9 x 9 voxels before and 9 x 9 after")
    assert in_words(load_bundle(ensemble))["members"] == "3, averaged"
    assert json.loads(json.dumps(facts(bundle)))["exactness"] == "exact by blocks"
    edited = dataclasses.replace(bundle, card=dataclasses.replace(card(), name="<b>"))
    html = edited._repr_html_()
    assert "&lt;b&gt;" in html
    assert "<b>" not in html
    assert "class 3" in html


@pytest.mark.parametrize(
    ("normalisation", "words"),
    [
        (Normalisation(), "percentiles 0.5 and 99.9 of the volume become 0 and 1"),
        (Normalisation("zscore"), "mean 0 and standard deviation 1, of the volume itself"),
        (
            Normalisation("zscore", clip=(-5.0, 9.0), mean=2.0, deviation=3.0),
            "clipped to -5..9, then minus 2, divided by 3",
        ),
    ],
)
def test_a_normalisation_is_said_in_words(normalisation, words):
    assert normalisation_in_words(normalisation).startswith(words)


def test_windows_are_said_in_words():
    windows = Windows((16, 32), mirror_axes=(1,))
    expected = "windows of 16 x 32 voxels, at most 0.5 of their length apart, gaussian weights, mirrored along x"
    assert windows_in_words(windows) == f"{expected}; mean of logits"


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
        (lambda d: d["classes"].pop(), "has 4 outputs but card.classes names 3"),
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
        (lambda d: d["reach_voxels"].update(local=False), "names no windows: say those that it was trained for"),
        (lambda d: d.update(voxel_size_um=[1, 1]), "3 numbers expected"),
        (lambda d: d.update(voxel_size_um=[1, 1, float("nan")]), "lengths > 0"),
        (lambda d: d["normalisation"].update(percentiles=[99, 1]), "increasing numbers"),
        (lambda d: d.update(weights_sha256="../../secret"), "64 hexadecimal digits"),
        (lambda d: d.update(weights_sha256=[]), "64 hexadecimal digits"),
        (lambda d: d.update(weights_sha256=["0" * 64] * 65), "64 hexadecimal digits"),
        (lambda d: d.update(weights_sha256=["0" * 64] * 2), "holds no weights.0.safetensors"),
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
    with pytest.raises(ValueError, match=r"depends on its window as a whole .* and its card names no windows"):
        save_bundle(tmp_path / "new", instance_net(), windowed_card(None))
    network.head.bias.data[0] = torch.inf
    with pytest.raises(ValueError, match=r"head.bias holds NaN or infinity"):
        save_bundle(tmp_path / "new", network, card())
    assert not (tmp_path / "new").exists()


def test_a_card_refuses_a_class_without_a_name():
    with pytest.raises(ValueError, match="needs a name"):
        Card("x", (ModelClass(0, "a"), ModelClass(1, "")), (1.0, 1.0, 1.0))
