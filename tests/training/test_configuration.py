"""Configurations of trainings: what is printed can be read, and what is wrong is refused with file and line."""

from __future__ import annotations

import json
from dataclasses import replace

import jsonschema
import pytest
import yaml

from tests.training.test_fit import CONFIG, pictures
from tomoscale.cli import main, make_program_of_all
from tomoscale.cli.shell import schema
from tomoscale.cli.train_config import part_of, read, settings_of
from tomoscale.cli.training import PRESETS as NAMES
from tomoscale.settings import ConfigurationError, load
from tomoscale.training.presets import PRESETS
from tomoscale.training.recipe import Augmentation, Chance, Loss, Recipe, Sampling


def test_the_command_line_knows_all_presets():
    assert tuple(PRESETS) == NAMES


@pytest.mark.parametrize("name", PRESETS)
def test_a_recipe_that_is_printed_gives_the_same_recipe(tmp_path, name, capsys):
    assert main(["train", "--preset", name, "--print"]) == 0
    path = tmp_path / "recipe.yaml"
    path.write_text(capsys.readouterr().out)
    assert part_of(load(path), Recipe()) == PRESETS[name]
    assert main(["train", "--preset", name, "--print", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["recipe"]["seed"] == 0


def test_every_field_can_be_set(tmp_path):
    recipe = replace(
        PRESETS["nnunet"],
        augmentation=Augmentation(flip_axes=(1,), noise=Chance(0.25, 0.5, 0.75)),
        loss=Loss("ohem", weights="given", class_weights=(1.0, 2.5)),
    )
    recipe = replace(recipe, normalisation=replace(recipe.normalisation, clip=(-5.0, 7.5), mean=1.0, deviation=2.0))
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(settings_of(recipe)))
    assert part_of(load(path), Recipe()) == recipe


def test_a_preset_is_changed_by_what_stands_beside_it(tmp_path, capsys):
    config = pictures(tmp_path)
    config.write_text("preset: silveira2023\n" + CONFIG.replace("machine:", "machine: {precision: bf16}\nseed: 4\n#"))
    recipe = read(config)["recipe"]
    assert recipe.loss == PRESETS["silveira2023"].loss
    assert recipe.augmentation.rotation == PRESETS["silveira2023"].augmentation.rotation
    assert (recipe.sampling.patch, recipe.machine.precision, recipe.seed) == ((16, 16), "bf16", 4)
    assert recipe.network.arguments == {"depth": 1, "width": 2}
    assert main(["train", str(config), "--print", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["recipe"]["machine"]["precision"] == "bf16"


HOSTILE = [
    ("stop: {", "stop: {stepz: 3, ", r":12: stop.stepz: no such key; did you mean steps\?"),
    ("average: 0.9", "average: 0.9\naverage: 0.8", ":15: average stands here and in line 14"),
    ("average: 0.9", "avrage: 0.9", r":14: avrage: no such key; did you mean average\?"),
    ("average: 0.9", "average: !!python/object/apply:os.system [ls]", ":14: the tag .* would make an object"),
    ("average: 0.9", "average: 0.9x", ":14: average: '0.9x' is not a number"),
    ("average: 0.9", "average: nan", ":14: average: 'nan' is not a number"),
    ("average: 0.9", "average: 1.5", "average must be from 0 to below 1"),
    ("batch: 2", "batch: 2.5", ":9: sampling.batch: '2.5' must be a whole number"),
    ("batch: 2", "batch: 3", "batch must be a multiple of accumulate x devices"),
    ("axes: [z]", "axes: [t]", r":9: sampling.axes #1: 't' must be one of z, y, x"),
    ("patch: [16, 16]", "patch: [16, 32]", "patches that are turned must be square"),
    ("patch: [16, 16]", "patch: 16", "patch must be two or three lengths"),
    ("turn: 0.5", "turn: 2", "flip and turn must be from 0 to 1"),
    ("low: 0,", "low: 3,", ":10: augmentation.noise: an augmentation has a probability"),
    ("kind: adamw", "kind: adamm", r":11: optimiser.kind: 'adamm' must be one of .*; did you mean adam\?"),
    ("depth: 1", "depth: {a: 1}", ":8: network.arguments.depth: the mapping with a must be a value"),
    ("voxel-size: 5um", "voxel-size: 5", ":3: voxel-size: '5' has no unit"),
    ("voxel-size: 5um\n", "", "lacks voxel-size: no volume says"),
    ("output: out", "preset: nnunet2", ":4: preset: preset must be one of baltruschat2021"),
    ("colour: [255, 0, 0]", "colour: [255, 0]", r":5: classes #3.colour: the list of 2 must hold 3 values"),
    ("colour: [255, 0, 0]", "colour: [256, 0, 0]", "must be four integers 0 to 255"),
    ("labels: a_mask.png", "labelz: a_mask.png", r":6: training #1.labelz: no such key; did you mean labels\?"),
    ("validation: [{name: b, grey: b.png, labels: b_mask.png}]", "", "lacks validation"),
]


@pytest.mark.parametrize(("old", "new", "words"), HOSTILE, ids=[words.strip(":\\?") for *_, words in HOSTILE])
def test_what_is_wrong_in_a_configuration_is_refused(tmp_path, old, new, words):
    path = pictures(tmp_path)
    assert old in CONFIG
    path.write_text(CONFIG.replace(old, new))
    with pytest.raises(ConfigurationError, match=words) as refused:
        read(path)["data"].open()
    assert str(refused.value).startswith(str(path))


def test_a_training_is_told_as_its_schema_says(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("tomoscale.training.output.draw_curves", lambda *_: None)
    config = pictures(tmp_path)
    config.write_text(CONFIG.replace("steps: 11", "steps: 2").replace("grey: a.png", "grey: elsewhere.png"))
    assert main(["train", str(config), "--output", str(tmp_path / "out")]) == 3
    assert "elsewhere.png" in capsys.readouterr().err
    assert main(["train"]) == 3
    assert "no configuration was given" in capsys.readouterr().err
    assert main(["train", str(config), "--preset", "nnunet"]) == 2
    assert main(["train", str(config), "--preset", "nnunet", "--print"]) == 2
    assert "two recipes" in capsys.readouterr().err
    config.write_text(CONFIG.replace("steps: 11", "steps: 2"))
    assert main(["train", str(config)]) == 0
    shown = capsys.readouterr()
    assert "IoU metal" in shown.out
    assert "step 2: loss" in shown.err
    for more in (["--resume"], ["--print"]):
        assert main(["train", str(config), "--json", *more]) == 0
        jsonschema.validate(json.loads(capsys.readouterr().out), schema(make_program_of_all(), "train"))
    assert (tmp_path / "out" / "best" / "card.json").exists()


def test_a_recipe_refuses_texts_that_are_no_choice():
    with pytest.raises(ValueError, match="kind must be one of cross_entropy, dice_cross_entropy, ohem, got 'mse'"):
        Recipe(loss=Loss("mse"))
    with pytest.raises(ValueError, match="in_slices must be odd"):
        Recipe(network=replace(Recipe().network, arguments={"in_slices": 2}))
    with pytest.raises(ValueError, match="flip_axes must be axes of the patch"):
        Recipe(augmentation=Augmentation(flip_axes=(2,)), sampling=Sampling((8, 8)))
