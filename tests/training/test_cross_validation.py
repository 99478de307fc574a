"""Cross-validation: whole samples on one side, finished folds kept, a table that a person can check."""

from __future__ import annotations

import csv
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import yaml

from tests.training.test_fit import CONFIG, pictures
from tests.training.tiny import CLASSES, QUIET, SIZE, recipe, sample
from tomoscale.cli import main, make_program_of_all
from tomoscale.cli.folds import PARTS, folds_of
from tomoscale.cli.shell import schema
from tomoscale.cli.train_config import read
from tomoscale.errors import InputError, PlanError
from tomoscale.measures.overlap import iou
from tomoscale.networks.bundle import load_bundle
from tomoscale.settings import ConfigurationError
from tomoscale.training import cross_validation, output
from tomoscale.training.cross_validation import CrossValidation, cross_validate
from tomoscale.training.fold_table import ALL, FOREGROUND, over_folds, quantities
from tomoscale.training.folds import Labelled
from tomoscale.training.loop import fit
from tomoscale.training.recipe import Machine, Stop
from tomoscale.work import Work

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(autouse=True)
def _undrawn(monkeypatch):
    monkeypatch.setattr(output, "draw_curves", lambda *_: None)


def labelled(*seeds: int, groups: tuple[str, ...] = ()) -> Labelled:
    return Labelled(CLASSES, tuple(sample(f"s{n}", n) for n in seeds), SIZE, groups)


SHORT = recipe(stop=Stop(2, 1, 1))


def test_folds_share_no_group_and_every_sample_judges_once():
    data = labelled(*range(7), groups=("a", "a", "b", "c", "b", "d", "e"))
    folds = data.folds(3)
    group_of = dict(zip((s.name for s in data.samples), data.groups, strict=True))
    assert sorted(s.name for f in folds for s in f.validation) == [f"s{n}" for n in range(7)]
    for fold in folds:
        assert {s.name for s in (*fold.training, *fold.validation)} == set(group_of)
        assert not {group_of[s.name] for s in fold.training} & {group_of[s.name] for s in fold.validation}
    assert [[s.name for s in f.validation] for f in folds] == [["s0", "s1", "s5"], ["s2", "s4", "s6"], ["s3"]]


def test_the_standard_error_is_that_of_a_hand_calculation():
    # Deviations -2, 0, 2 from 4: variance 8 / 2 = 4, deviation 2, over the root of 3.
    assert over_folds([2.0, 4.0, 6.0]) == {"mean": 4.0, "standard_error": pytest.approx(2 / math.sqrt(3)), "folds": 3}
    one = over_folds([0.5, math.nan])
    assert (one["mean"], one["folds"]) == (0.5, 1)
    assert math.isnan(one["standard_error"])


def test_both_means_are_taken_over_their_classes():
    found = quantities(np.array([[6, 2], [0, 4]]), ["void", "bone"])
    assert found == {"void": 6 / 8, "bone": 4 / 6, ALL: pytest.approx((6 / 8 + 4 / 6) / 2), FOREGROUND: 4 / 6}


def test_folds_are_trained_as_by_hand_and_finished_ones_are_kept(tmp_path, monkeypatch):
    data, place = labelled(1, 2, 3), tmp_path / "folds"
    plan = CrossValidation(SHORT, data, 3, "tiny")
    begun = []

    def stops_at_the_second(*arguments, **how):
        begun.append(arguments[2].name)
        if len(begun) == 2:
            raise KeyboardInterrupt
        return fit(*arguments, **how)

    monkeypatch.setattr(cross_validation, "fit", stops_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        cross_validate(plan, place, work=QUIET)
    checkpoint = place / "fold_1" / "checkpoint.safetensors"
    written = checkpoint.stat().st_mtime_ns
    with pytest.raises(PlanError, match="holds a cross-validation: give resume=True"):
        cross_validate(plan, place, work=QUIET)
    found = cross_validate(plan, place, resume=True, work=QUIET)
    assert begun == ["fold_1", "fold_2", "fold_1", "fold_2", "fold_3"]
    assert checkpoint.stat().st_mtime_ns == written, "a finished fold was trained again"
    by_hand = fit(SHORT, data.folds(3)[2], tmp_path / "alone", work=QUIET)
    assert found["folds"][2]["confusion"] == by_hand.confusion.tolist()
    ensemble = load_bundle(found["ensemble"])
    assert ensemble.member_sha256 == tuple(load_bundle(f["model"]).weights_sha256 for f in found["folds"])
    expected = [float(iou(np.array(f["confusion"]))[1]) for f in found["folds"]]
    assert found["table"]["bone"]["mean"] == pytest.approx(np.mean(expected))
    assert found["table"]["bone"]["standard_error"] == pytest.approx(np.std(expected, ddof=1) / math.sqrt(3))
    rows = list(csv.reader((place / "cross_validation.csv").read_text().splitlines()))
    assert [row[0] for row in rows] == ["fold", "1", "2", "3", "mean", "standard error"]
    assert [float(row[2]) for row in rows[1:4]] == expected
    page = (place / "report.html").read_text()
    assert page.count("data:image/svg") == 3
    assert "mean ± standard error" in page
    before = (place / "ensemble" / "card.json").stat().st_mtime_ns
    monkeypatch.setattr(cross_validation, "page_of", lambda *_: "")  # drawing takes seconds
    assert cross_validate(plan, place, resume=True, work=QUIET)["table"] == found["table"]
    assert (place / "ensemble" / "card.json").stat().st_mtime_ns == before
    with pytest.raises(InputError, match="begun with another folds"):
        cross_validate(replace(plan, folds=2), place, resume=True, work=QUIET)


def test_a_copy_in_another_fold_is_refused_before_any_training(tmp_path):
    data = labelled(1, 2, 3)
    copied = replace(data, samples=(*data.samples, sample("copy", 3)))
    with pytest.raises(InputError, match=r"fold \d, judged by .*holds the same grey values"):
        cross_validate(CrossValidation(SHORT, copied, 4), tmp_path / "out", work=QUIET)


@pytest.mark.parametrize(
    ("folds", "groups", "kind", "words"),
    [
        (1, (), ValueError, "folds must be 2 to 64, got 1"),
        (4, (), InputError, r"4 folds need as many samples .* there are 3 \(s1, s2, s3\)"),
        (3, ("a", "a", "b"), InputError, r"there are 2 \(a, b\)"),
        (2, ("a",), ValueError, "3 samples need as many groups, got 1"),
    ],
)
def test_folds_that_cannot_be_dealt_are_refused(folds, groups, kind, words):
    with pytest.raises(kind, match=words):
        labelled(1, 2, 3, groups=groups).folds(folds)


def test_what_is_in_the_way_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years")
    plan = CrossValidation(SHORT, labelled(1, 2), 2)
    with pytest.raises(PlanError, match="was not made by a cross-validation"):
        cross_validate(plan, tmp_path, work=Work(progress=False, overwrite=True))
    assert (tmp_path / "thesis.txt").read_text() == "years"
    with pytest.raises(PlanError, match="give only=1, only=2"):
        cross_validate(replace(plan, recipe=recipe(machine=Machine(devices=2))), tmp_path / "out", work=QUIET)


def configuration(folder, **change):
    document = yaml.safe_load(CONFIG) | {"folds": 2} | change
    pairs = [document.pop(part)[0] for part in ("training", "validation")]
    document = {"samples": pairs, **document}
    path = pictures(folder)
    path.write_text(yaml.safe_dump({k: v for k, v in document.items() if v is not None}))
    return path


def test_the_command_trains_folds_alone_and_sums_up_as_its_schema_says(tmp_path, capsys):
    config = configuration(tmp_path, stop={"steps": 1, "validate-every": 1}, output=str(tmp_path / "folds"))
    said = schema(make_program_of_all(), "cross-validate")
    line = ["cross-validate", str(config), "--quiet"]
    for more in (["--fold", "2"], ["--fold", "1"]):
        assert main([*line, *more, "--json"]) == 0
        jsonschema.validate(json.loads(capsys.readouterr().out), said)
    assert main([*line, "--fold", "3"]) == 2
    assert "there are folds 1 to 2, and no fold 3" in capsys.readouterr().err
    assert main([*line, "--fold", "1", "--overwrite"]) == 2
    assert "would remove all others" in capsys.readouterr().err
    assert main(line) == 4
    capsys.readouterr()
    assert main([*line, "--resume", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    jsonschema.validate(found, said)
    assert [f["validation"] for f in found["folds"]] == [["a"], ["b"]]
    assert main([*line, "--resume"]) == 0
    assert f"IoU {ALL}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"folds": 1}, r"folds: '1' must be a whole number from 2 to 64"),
        ({"folds": 2.5}, r"folds: '2.5' must be a whole number"),
        ({"fold": 2}, "fold: no such key; did you mean folds"),
    ],
)
def test_a_wrong_configuration_is_refused_with_its_line(tmp_path, change, words, capsys):
    config = configuration(tmp_path, **change)
    assert main(["cross-validate", str(config)]) == 2
    error = capsys.readouterr().err
    assert str(config) in error
    assert re.search(words, error)


@pytest.mark.parametrize("name", ["cross_validation", "scaling"])
def test_the_examples_can_be_read(name):
    given = read(EXAMPLES / f"{name}.yaml", parts=PARTS, more=("folds", "grid"))
    assert folds_of(given) <= len(given["data"].samples["samples"])
    assert all(
        s["grey"].text("").replace("images", "masks") == s["labels"].text("") for s in given["data"].samples["samples"]
    )


def test_lists_of_a_training_are_none_of_a_cross_validation(tmp_path):
    with pytest.raises(ConfigurationError, match=r"training: no such key"):
        read(pictures(tmp_path), parts={"samples": ()})
