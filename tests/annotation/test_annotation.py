"""The loop with a human: scores by blocks equal the whole, picks a person can check, corrections back to the bit."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil

import jsonschema
import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.blocks import measure_by_blocks
from tests.traced import Traced
from tests.training.tiny import recipe, sample
from tests.world import volume_at
from tomoscale.annotation import manifest
from tomoscale.annotation.accept import accept
from tomoscale.annotation.pictures import colours_of, read_labels, write_labels
from tomoscale.annotation.places import name_of, patches_of, pick, slices_across
from tomoscale.annotation.rounds import worth_another
from tomoscale.annotation.suggest import Asked, suggest
from tomoscale.cli import main, make_program_of_all
from tomoscale.cli.annotation import SCORES as NAMES
from tomoscale.cli.shell import schema
from tomoscale.engine import run
from tomoscale.errors import InputError, PlanError
from tomoscale.geometry import Grid
from tomoscale.measures.uncertainty import SCORES, uncertainty, unit_of
from tomoscale.memory_array import MemoryArray
from tomoscale.networks.architectures import make_network
from tomoscale.networks.bundle import load_bundle, save_bundle
from tomoscale.networks.card import Card, ModelClass
from tomoscale.plan import plan_measure
from tomoscale.training.loop import fit
from tomoscale.training.preparation import prepare
from tomoscale.training.recipe import Network, Stop
from tomoscale.training.samples import Data, Sample
from tomoscale.volume import Volume, open_zarr
from tomoscale.work import Work

SHAPE = (9, 20, 24)
QUIET = Work(progress=False)
CLASSES = (
    ModelClass(0, "void", (0, 0, 0, 255)),
    ModelClass(1, "bone", (238, 238, 238, 255)),
    ModelClass(2, "metal", (255, 0, 0, 255)),
)


def probabilities(seed: int, shape: tuple[int, int, int], n_classes: int) -> list[np.ndarray]:
    shares = np.random.default_rng(seed).dirichlet([0.5] * n_classes, shape)
    shares[0, 0, 0] = np.eye(n_classes)[0]
    return [np.rint(65535 * s).astype(np.uint16) for s in np.moveaxis(shares, -1, 0)]


def expected(shares: list[np.ndarray], score: str) -> np.ndarray:
    """Scores of voxels in float64, by the textbook."""
    p = np.stack(shares).astype(np.float64) / 65535
    if score == "entropy":
        return -np.sum(np.where(p > 0, p * np.log(np.maximum(p, 1e-300)), 0), 0) / math.log(len(p))
    ordered = np.sort(p, axis=0)
    return 1 - ordered[-1] + (ordered[-2] if score == "margin" else 0)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 99),
    shape=st.tuples(*[st.integers(1, 7)] * 3),
    cell=st.tuples(*[st.integers(1, 8)] * 3),
    block=st.tuples(*[st.integers(1, 7)] * 3),
    n_classes=st.integers(2, 4),
    score=st.sampled_from(["entropy", "least_confidence", "margin"]),
)
def test_scores_by_blocks_equal_the_whole_and_the_textbook(seed, shape, cell, block, n_classes, score):
    shares = probabilities(seed, shape, n_classes)
    volumes = {f"class_{n}": Volume(MemoryArray(s)) for n, s in enumerate(shares)}
    measure = uncertainty(score, cell, shape, n_classes)
    whole, parts = (
        run(plan_measure((measure,), volumes, block_shape=b), progress=False)["scores"] for b in (shape, block)
    )
    np.testing.assert_array_equal(whole, parts)
    by_voxel = expected(shares, score)
    table = np.zeros(whole.shape)
    for place in np.ndindex(*shape):
        table[tuple(p // c for p, c in zip(place, cell, strict=True))] += by_voxel[place]
    np.testing.assert_allclose(whole / unit_of(score), table, atol=n_classes * math.prod(shape) / 2**20, rtol=1e-12)


@pytest.mark.parametrize("score", ["entropy", "least_confidence", "margin"])
def test_scores_are_the_same_on_the_device(score, device):
    shares = tuple(probabilities(1, (5, 6, 7), 3))
    measure = uncertainty(score, (2, 4, 3), (5, 6, 7), 3)
    found = measure_by_blocks(measure, shares, (3, 3, 4), device)["scores"]
    np.testing.assert_array_equal(found, measure_by_blocks(measure, shares, (5, 6, 7), "cpu")["scores"])


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("cell", [(1, 64, 64), (32, 64, 1), (8, 8, 8)])
def test_scores_take_no_more_memory_than_declared(score, cell):
    shape = (32, 64, 64)
    shares = probabilities(1, shape, 3)[: 1 if score == "disagreement" else 3]
    measure = uncertainty(score, cell, shape, 3)
    block = measure.block(Grid(shape, shape), 0)
    measure.function(*shares, block=block)  # fills the table of logarithms
    with Traced() as traced:
        measure.function(*shares, block=block)
    assert traced.peak_bytes <= measure.bytes_per_voxel * math.prod(shape)


def test_disagreements_are_summed_as_they_are():
    votes = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    measure = uncertainty("disagreement", (1, 3, 4), (2, 3, 4), 3)
    found = run(
        plan_measure((measure,), {"disagreement": Volume(MemoryArray(votes))}, block_shape=(2, 2, 3)), progress=False
    )
    assert found["scores"].tolist() == [[[66]], [[210]]]


def test_picks_are_the_highest_a_distance_apart_and_ties_go_by_place():
    cells = slices_across("z", (8, 5, 5))
    scores = np.array([3, 9, 9, 1, 7, 7, 0, 7]).reshape(8, 1, 1)
    assert [(r[0].start, s) for r, s in pick(scores, cells, 3, 2)] == [(1, 9), (4, 7), (7, 7)]
    assert [r[0].start for r, _ in pick(scores, cells, 9, 1)] == [1, 2, 4, 5, 7, 0, 3, 6]
    taken = [cells.region(2)]
    assert [r[0].start for r, _ in pick(scores, cells, 2, 2, taken)] == [4, 7]
    patches = patches_of((1, 2, 2), (1, 4, 5))
    # The third column of cells is cut by the end of the volume.
    found = pick(np.array([[[1, 5, 99], [2, 5, 99]]]), patches, 2, 0)
    assert [name_of(r, patches.shape) for r, _ in found] == ["y00000_x00002", "y00002_x00002"]
    with pytest.raises(ValueError, match=r"patches of .* do not lie within"):
        patches_of((2, 2, 2), (1, 4, 5))
    with pytest.raises(ValueError, match=r"8388608 patches of .* make them larger"):
        patches_of((1, 256, 256), (8192, 8192, 8192))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("annotation")
    torch.manual_seed(0)
    network = make_network("scaled_unet", {"depth": 1, "width": 2, "n_classes": 3, "dimensions": 2})
    save_bundle(folder / "model", network, Card("tiny", CLASSES, (5.0, 5.0, 5.0)))
    grey = np.random.default_rng(1).integers(0, 60000, SHAPE).astype(np.uint16)
    volume_at(folder / "scan.zarr", grey, kind="grey")
    suggest(folder / "model", folder / "scan.zarr", folder / "given", asked=Asked(3, spacing=2), work=QUIET)
    return folder


@pytest.fixture
def given_out(world, tmp_path):
    shutil.copytree(world / "given", tmp_path / "given")
    return tmp_path / "given"


def picks(folder):
    return manifest.read_manifest(folder).picks


def test_what_is_given_out_is_what_the_network_says_of_the_least_sure_slices(world):
    found = json.loads((world / "given" / "suggestion.json").read_text())
    shares = [open_zarr(p).read() for p in sorted((world / "given" / "probabilities").glob("*.zarr"))]
    by_slice = expected(shares, "entropy").mean((1, 2))
    order = []
    for z in np.argsort(-by_slice):
        if all(abs(z - other) >= 2 for other in order) and len(order) < 3:
            order.append(int(z))
    assert [p["region"]["z"][0] for p in found["picks"]] == order
    assert found["picks"][0]["score"] == pytest.approx(by_slice[order[0]], abs=1e-5)
    labels, grey = open_zarr(world / "given" / "labels.zarr").read(), open_zarr(world / "scan.zarr").read()
    np.testing.assert_array_equal(labels, np.argmax(np.stack(shares), 0))
    for pick_, z in zip(found["picks"], order, strict=True):
        file = f"{pick_['name']}.tif"
        assert file == f"z{z:05d}.tif"
        np.testing.assert_array_equal(tifffile.imread(world / "given" / "grey" / file), grey[z])
        np.testing.assert_array_equal(tifffile.imread(world / "given" / "labels" / file), labels[z])
        assert hashlib.sha256((world / "given" / "grey" / file).read_bytes()).hexdigest() == pick_["grey_sha256"]
    with Image.open(world / "given" / "labels" / file) as shown:
        colours = np.asarray(shown.convert("RGB"))
    assert {tuple(c) for c in colours.reshape(-1, 3).tolist()} <= {c.rgba[:3] for c in CLASSES}


def test_corrections_come_back_to_the_bit_and_say_who_changed_what(given_out, tmp_path):
    first, second, third = picks(given_out)
    new = tifffile.imread(given_out / "labels" / f"{first.name}.tif")
    old = new.copy()
    new[2:5, 3:9] = 2
    new[10:, :4] = 255
    tifffile.imwrite(given_out / "labels" / f"{first.name}.tif", new, compression="deflate")
    (given_out / "labels" / f"{third.name}.tif").unlink()
    record = accept(
        given_out, tmp_path / "truth.zarr", by="A. Author", work=Work(progress=False, block_shape=(4, 16, 16))
    )
    truth = open_zarr(tmp_path / "truth.zarr")
    wanted = np.full(SHAPE, 255, np.uint8)
    wanted[first.region] = new
    wanted[second.region] = tifffile.imread(given_out / "labels" / f"{second.name}.tif")
    np.testing.assert_array_equal(truth.read(), wanted)
    assert [c.name for c in truth.classes] == ["void", "bone", "metal"]
    assert record["by"] == "A. Author"
    assert record["left_out"] == [third.name]
    assert record["pieces"][0]["changed_voxels"] == int((old != new).sum())
    assert sum(c["voxels"] for c in record["pieces"][0]["changes"] if c["to"] == "metal") == int(
        ((old != new) & (new == 2)).sum()
    )
    assert record["pieces"][1]["changes"] == []
    assert json.loads((tmp_path / "truth.annotation.json").read_text()) == record
    assert accept(given_out, tmp_path / "truth.zarr", by="B", work=QUIET)["when"] == record["when"], "done already"


def test_a_second_stage_adds_to_the_first_and_picks_other_slices(world, given_out, tmp_path):
    accept(given_out, tmp_path / "first.zarr", work=QUIET)
    found = suggest(
        world / "model",
        world / "scan.zarr",
        tmp_path / "second",
        asked=Asked(2, "margin", spacing=1),
        after=[given_out],
        work=QUIET,
    )
    assert not {p["name"] for p in found["picks"]} & {p.name for p in picks(given_out)}
    record = accept(tmp_path / "second", tmp_path / "both.zarr", add_to=tmp_path / "first.zarr", work=QUIET)
    labelled = (open_zarr(tmp_path / "both.zarr").read() != 255).any((1, 2))
    assert labelled.sum() == 5
    assert record["earlier"]["annotation"]["pieces"][0]["name"] == picks(given_out)[0].name


def test_a_network_goes_on_from_its_weights_with_what_was_corrected(world, given_out, tmp_path, monkeypatch):
    monkeypatch.setattr("tomoscale.training.output.draw_curves", lambda *_: None)
    for one, pick_ in enumerate(picks(given_out)):
        painted = np.full(SHAPE[1:], 255, np.uint8)
        painted[:6] = np.arange(6)[:, None] % 3
        painted[10 + one] = 1
        tifffile.imwrite(given_out / "labels" / f"{pick_.name}.tif", painted)
    accept(given_out, tmp_path / "truth.zarr", work=QUIET)
    labels = open_zarr(tmp_path / "truth.zarr")
    learned = Sample("scan", open_zarr(world / "scan.zarr"), labels)
    first = load_bundle(world / "model")
    data = Data(first.classes, (learned,), (sample("judge", 3),), (5.0, 5.0, 5.0))
    how = recipe(stop=Stop(1, 1, 1), network=Network("scaled_unet", {"depth": 1, "width": 2}))
    result = fit(how, data, tmp_path / "again", start_from=first, work=QUIET)
    told = json.loads((tmp_path / "again" / "training.json").read_text())
    assert told["training"][0]["labels"] == str(tmp_path / "truth.zarr")
    assert load_bundle(result.best).card.training["start_from"]["weights_sha256"] == first.weights_sha256
    counts = prepare(data, how, tmp_path / "counts", QUIET).training[0].index.totals
    assert counts.tolist() == [3 * 2 * 24, 3 * 2 * 24 + 3 * 24, 3 * 2 * 24], "only what was painted is learned"


ROUNDS = {
    "the first": ([0.8], None, "too early to say: .* there are 0"),
    "one round": ([0.8, 0.9], None, "too early to say: .* there are 1"),
    "one gained": ([0.8, 0.9, 0.901], True, r"yes: a round of the last 2 gained 0\.1000 mean IoU"),
    "only the last two count": (
        [0.2, 0.9, 0.901, 0.902],
        False,
        r"no: .* less than 0\.005 mean IoU each \(0\.9000, 0\.9010",
    ),
    "worse": ([0.9, 0.8, 0.7], False, "no: the last 2 rounds gained less"),
    "again by the same network": ([0.8, 0.9, 0.9], None, "too early to say"),
    "not known": ([0.8, None, 0.9, 0.9001], None, "not known: the card"),
    "known again": ([None, 0.9, 0.9001, 0.9002], False, "no: "),
    "no number": ([0.9, "x", 0.9], None, "not known"),
}


@pytest.mark.parametrize("name", ROUNDS)
def test_rounds_are_worth_it_until_two_in_a_row_gained_little(name):
    scores, verdict, words = ROUNDS[name]
    models = [{"weights_sha256": str(s), "mean_iou": s} for s in scores]
    found = worth_another(models, 0.005)
    assert found["worth_another"] is verdict
    assert re.match(words, found["why"])


def test_a_suggestion_says_whether_another_round_is_worth_it(world, tmp_path, capsys):
    given = []
    for number, score in enumerate((0.70, 0.702, 0.703)):
        torch.manual_seed(number)
        network = make_network("scaled_unet", {"depth": 1, "width": 2, "n_classes": 3, "dimensions": 2})
        said = Card("tiny", CLASSES, (5.0, 5.0, 5.0), training={"validation": {"mean_iou": score}})
        save_bundle(tmp_path / f"model_{number}", network, said)
        line = [
            "suggest",
            str(tmp_path / f"model_{number}"),
            str(world / "scan.zarr"),
            str(tmp_path / f"given_{number}"),
        ]
        earlier = [word for folder in given for word in ("--after", folder)]
        assert main([*line, "--number", "1", "--spacing", "1", "--quiet", *earlier]) == 0
        given.append(str(tmp_path / f"given_{number}"))
        shown = capsys.readouterr().out
    assert "no: the last 2 rounds gained less than 0.005 mean IoU each (0.7000, 0.7020, 0.7030)" in shown
    assert json.loads((tmp_path / "given_2" / "suggestion.json").read_text())["rounds"]["worth_another"] is False


def test_patches_of_three_dimensions_come_back(world, tmp_path):
    asked = Asked(2, "least_confidence", patch=(4, 8, 8), spacing=0)
    suggest(world / "model", world / "scan.zarr", tmp_path / "given", asked=asked, work=QUIET)
    accept(tmp_path / "given", tmp_path / "truth.zarr", work=QUIET)
    truth, labels = open_zarr(tmp_path / "truth.zarr").read(), open_zarr(tmp_path / "given" / "labels.zarr").read()
    assert (truth != 255).sum() == 2 * 4 * 8 * 8
    np.testing.assert_array_equal(truth[truth != 255], labels[truth != 255])


def test_colours_of_a_painter_are_classes_again(tmp_path):
    labels = np.array([[0, 1, 2], [2, 255, 0]], np.uint8)
    colours = colours_of([c.rgba[:3] for c in CLASSES])
    write_labels(tmp_path / "a.tif", labels, colours)
    with Image.open(tmp_path / "a.tif") as shown:
        shown.convert("RGB").save(tmp_path / "b.tif")
    assert tifffile.imread(tmp_path / "b.tif").shape == (2, 3, 3)
    np.testing.assert_array_equal(read_labels(tmp_path / "b.tif", (2, 3), colours), labels)
    alike = colours_of([(128, 128, 128)] * 12)
    assert len(set(alike)) == 12


def corrected(folder, values):
    tifffile.imwrite(folder / "labels" / f"{picks(folder)[0].name}.tif", values)


SPOILED = {
    "shape": (
        lambda f: corrected(f, np.zeros((20, 23), np.uint8)),
        r"has \(20, 23\) pixels and \(20, 24\) were given out",
    ),
    "class": (
        lambda f: corrected(f, np.full(SHAPE[1:], 7, np.uint8)),
        r"480 voxels with labels that are no class \(0 to 2",
    ),
    "float": (lambda f: corrected(f, np.zeros(SHAPE[1:], np.float32)), "holds float32, but labels are whole numbers"),
    "colour": (
        lambda f: corrected(f, np.full((*SHAPE[1:], 3), 9, np.uint8)),
        r"has the colour \(9, 9, 9\) in 480 pixels",
    ),
    "grey": (
        lambda f: tifffile.imwrite(f / "grey" / f"{picks(f)[0].name}.tif", np.zeros(SHAPE[1:], np.uint16)),
        "was changed since it was given out",
    ),
    "no picture": (lambda f: (f / "labels" / f"{picks(f)[0].name}.tif").write_text("x"), "is not a picture"),
    "nothing": (lambda f: shutil.rmtree(f / "labels"), "holds none of the 3 pictures"),
    "no manifest": (lambda f: (f / "suggestion.json").unlink(), "that `tomoscale suggest` wrote"),
    "not json": (lambda f: (f / "suggestion.json").write_text("{"), "the suggestion cannot be read"),
}


@pytest.mark.parametrize("how", SPOILED)
def test_corrections_that_do_not_fit_are_refused(how, given_out, tmp_path):
    spoil, words = SPOILED[how]
    spoil(given_out)
    with pytest.raises(InputError, match=words):
        accept(given_out, tmp_path / "truth.zarr", work=QUIET)
    assert not (tmp_path / "truth.zarr").exists()


def test_a_manifest_reaches_no_file_outside_of_its_folder(given_out, tmp_path):
    content = json.loads((given_out / "suggestion.json").read_text())
    content["picks"][0]["name"] = "../../secret"
    (given_out / "suggestion.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="is no name of a piece"):
        accept(given_out, tmp_path / "truth.zarr", work=QUIET)


def test_a_suggestion_that_was_stopped_goes_on_to_the_same_pictures(world, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("tomoscale.annotation.suggest.write_grey", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            suggest(world / "model", world / "scan.zarr", tmp_path / "given", asked=Asked(3, spacing=2), work=QUIET)
    with pytest.raises(InputError, match="it was not finished"):
        accept(tmp_path / "given", tmp_path / "truth.zarr", work=QUIET)
    wanted = json.loads((world / "given" / "suggestion.json").read_text())
    for place, work in (
        (tmp_path / "given", QUIET),
        (tmp_path / "tiled", Work(progress=False, block_shape=(4, 20, 24))),
    ):
        again = suggest(world / "model", world / "scan.zarr", place, asked=Asked(3, spacing=2), work=work)
        assert again == wanted


def test_pictures_that_were_corrected_are_never_written_over(world, given_out):
    file = given_out / "labels" / f"{picks(given_out)[0].name}.tif"
    tifffile.imwrite(file, np.zeros(SHAPE[1:], np.uint8))
    before = file.read_bytes()
    how = (world / "model", world / "scan.zarr", given_out)
    suggest(*how, asked=Asked(3, spacing=2), work=QUIET)
    assert file.read_bytes() == before
    with pytest.raises(PlanError, match="was corrected, and overwrite=True would remove it"):
        suggest(*how, asked=Asked(3, spacing=2), work=Work(progress=False, overwrite=True))
    with pytest.raises(PlanError, match="holds a suggestion of another asked"):
        suggest(*how, asked=Asked(2, spacing=2), work=QUIET)
    assert file.read_bytes() == before


def test_what_makes_no_sense_is_refused(world, given_out, tmp_path):
    how = (world / "model", world / "scan.zarr", tmp_path / "new")
    for wrong in ({"number": 0}, {"spacing": -1}, {"patch": (0, 1, 1)}, {"across": "t"}, {"least_gain": 1.0}):
        with pytest.raises(ValueError, match=r"must be|at least|from 0 to below 1"):
            Asked(**wrong)
    with pytest.raises(ValueError, match="score must be one of"):
        uncertainty("doubt", (1, 1, 1), (1, 1, 1), 2)
    with pytest.raises(ValueError, match="needs a volume that says how many planes disagree"):
        suggest(*how, asked=Asked(score="disagreement"), work=QUIET)
    coarse = volume_at(tmp_path / "coarse.zarr", np.zeros((9, 20, 23), np.uint8), 50.0, kind="grey")
    with pytest.raises(InputError, match="it would see another scale"):
        suggest(how[0], coarse, how[2], work=QUIET)
    assert suggest(*how, asked=Asked(number=1), work=QUIET)["picks"], "what was refused is in nobody's way"
    (tmp_path / "thesis.txt").write_text("years")
    with pytest.raises(PlanError, match="was not made by a suggestion"):
        suggest(*how[:2], tmp_path, work=Work(progress=False, overwrite=True))
    other = volume_at(tmp_path / "other.zarr", np.zeros((9, 20, 23), np.uint8))
    with pytest.raises(InputError, match="belongs to another scan"):
        accept(given_out, tmp_path / "truth.zarr", add_to=other, work=QUIET)


def test_the_commands_say_what_their_schemas_say(world, given_out, tmp_path, capsys):
    program = make_program_of_all()
    assert NAMES == SCORES
    line = [
        "suggest",
        str(world / "model"),
        str(world / "scan.zarr"),
        str(given_out),
        "--number",
        "3",
        "--spacing",
        "2",
    ]
    assert main([*line, "--quiet", "--json"]) == 0
    jsonschema.validate(json.loads(capsys.readouterr().out), schema(program, "suggest"))
    assert main([*line, "--quiet"]) == 0
    assert picks(given_out)[0].name in capsys.readouterr().out
    line = ["accept", str(given_out), str(tmp_path / "truth.zarr"), "--by", "me", "--quiet"]
    assert main([*line, "--json"]) == 0
    jsonschema.validate(json.loads(capsys.readouterr().out), schema(program, "accept"))
    assert main(line) == 0
    assert "0 voxels changed" in capsys.readouterr().out
