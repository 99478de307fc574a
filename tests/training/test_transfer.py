"""A training that starts from a trained network: all its weights, or all but a head for other classes."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.training.test_fit import CONFIG, pictures, weights
from tests.training.tiny import CLASSES, QUIET, SIZE, arrays, data, recipe, sample
from tomoscale.cli import main
from tomoscale.errors import InputError
from tomoscale.memory_array import MemoryArray
from tomoscale.networks.architectures import make_network
from tomoscale.networks.bundle import load_bundle, save_bundle
from tomoscale.networks.card import Card
from tomoscale.training import output
from tomoscale.training.cross_validation import CrossValidation, cross_validate
from tomoscale.training.folds import Labelled
from tomoscale.training.loop import fit
from tomoscale.training.recipe import Augmentation, Network, Optimiser, Stop
from tomoscale.training.samples import Data, Sample
from tomoscale.training.transfer import seen_by, start_of
from tomoscale.volume import Volume

STILL = recipe(
    stop=Stop(1, 1, 1), optimiser=Optimiser("sgd", rate=1e-12, weight_decay=0), average=0.0, augmentation=Augmentation()
)
"""Steps so small that the weights stay as they were."""


@pytest.fixture(autouse=True)
def _undrawn(monkeypatch):
    monkeypatch.setattr(output, "draw_curves", lambda *_: None)


@pytest.fixture
def bundle(tmp_path):
    return load_bundle(fit(recipe(stop=Stop(2, 2, 2)), data(), tmp_path / "first", work=QUIET).best)


def two_classes() -> Data:
    def one(name: str, seed: int) -> Sample:
        grey, labels = arrays(seed)
        return Sample(name, Volume(MemoryArray(grey), SIZE), Volume(MemoryArray(np.minimum(labels, 1), "labels")))

    return Data(CLASSES[:2], (one("d", 7),), (one("e", 8),), SIZE)


def test_weights_are_taken_and_the_card_says_from_whom(tmp_path, bundle):
    result = fit(STILL, data(), tmp_path / "same", start_from=bundle, work=QUIET)
    card = load_bundle(result.last).card.training["start_from"]
    assert card == {
        "name": "network",
        "weights_sha256": bundle.weights_sha256,
        "classes": ["void", "bone", "metal"],
        "new_tensors": [],
        "training_samples": ["a", "b"],
    }
    before, after = weights(bundle.path), weights(result.last)
    for name, tensor in after.items():
        if "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(tensor, before[name], rtol=0, atol=1e-6)


def test_a_head_for_other_classes_is_new_and_all_else_is_kept(bundle):
    start = start_of(bundle, STILL, CLASSES[:2])
    new = start.origin["new_tensors"]
    before, after = weights(bundle.path), start.network.state_dict()
    assert len(new) == 2, "weight and bias of the last layer"
    for name, tensor in after.items():
        if name in new:
            assert tensor.shape[0] == 2
            assert before[name].shape[0] == 3
        else:
            assert torch.equal(tensor, before[name]), name
    again = start_of(bundle, STILL, CLASSES[:2]).network.state_dict()
    assert all(torch.equal(again[name], after[name]) for name in after), "a new head depends on the seed alone"
    renamed = start_of(bundle, STILL, (*CLASSES[:2], replace(CLASSES[2], name="polymer")))
    assert renamed.origin["new_tensors"] == new, "an output means its class: another name, another head"


def test_it_goes_on_only_from_the_same_start(tmp_path, bundle):
    first = fit(STILL, two_classes(), tmp_path / "out", start_from=bundle, work=QUIET)
    assert len(load_bundle(first.best).card.training["start_from"]["new_tensors"]) == 2
    fit(STILL, two_classes(), tmp_path / "out", start_from=bundle, resume=True, work=QUIET)
    with pytest.raises(InputError, match="was begun with another recipe"):
        fit(STILL, two_classes(), tmp_path / "out", resume=True, work=QUIET)


def test_no_network_is_judged_by_what_the_one_before_has_learned(tmp_path, bundle):
    seen = data(training=(sample("d", 7),), validation=(sample("b", 2),))
    with pytest.raises(InputError, match="has learned from sample b, which is to judge what starts from it"):
        fit(STILL, seen, tmp_path / "out", start_from=bundle, work=QUIET)
    assert not (tmp_path / "out").exists()
    second = fit(STILL, two_classes(), tmp_path / "second", start_from=bundle, work=QUIET)
    assert seen_by(load_bundle(second.best)) == ("d", "a", "b"), "nor by what the one before that has"
    folds = CrossValidation(STILL, Labelled(CLASSES, (sample("a", 1), sample("e", 8)), SIZE), 2, start_from=bundle)
    with pytest.raises(InputError, match="has learned from sample a"):
        cross_validate(folds, tmp_path / "folds", work=QUIET)
    assert not (tmp_path / "folds").exists()


def test_another_network_is_refused(tmp_path, bundle):
    with pytest.raises(ValueError, match=r"is a scaled_unet and the recipe trains a tomoseg_unet"):
        start_of(bundle, replace(STILL, network=Network("tomoseg_unet", {"width": 2})), CLASSES)
    with pytest.raises(ValueError, match="was made with width 2 and not 3"):
        start_of(bundle, replace(STILL, network=Network("scaled_unet", {"depth": 2, "width": 3})), CLASSES)
    made = [make_network("scaled_unet", {"depth": 2, "width": 2, "n_classes": 3, "dimensions": 2}) for _ in range(2)]
    ensemble = save_bundle(tmp_path / "ensemble", made, Card("two", CLASSES, SIZE))
    with pytest.raises(ValueError, match="an ensemble of 2 networks"):
        start_of(ensemble, STILL, CLASSES)


def test_a_configuration_names_the_bundle(tmp_path, capsys):
    config = pictures(tmp_path)
    short = CONFIG.replace("steps: 11", "steps: 1")
    config.write_text(short)
    assert main(["train", str(config), "--quiet"]) == 0
    config.write_text(short.replace("output: out", "output: more\nstart-from: out/best"))
    capsys.readouterr()
    assert main(["train", str(config), "--quiet", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    origin = load_bundle(found["model"]).card.training["start_from"]
    assert origin["weights_sha256"] == load_bundle(tmp_path / "out" / "best").weights_sha256
    config.write_text(short.replace("output: out", "output: more\nstart-from: nowhere"))
    assert main(["train", str(config), "--quiet"]) == 3
    assert "nowhere is not a model bundle" in capsys.readouterr().err
