"""Training: the same bits after any stop, judged as inference labels, and refused before it starts where it cannot go well."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import nn

from tests.training.tiny import CLASSES, QUIET, SIZE, arrays, data, recipe, sample
from tomoscale.cli import main
from tomoscale.commands import convert, normalise
from tomoscale.errors import InputError, Interrupted, PlanError
from tomoscale.memory_array import MemoryArray
from tomoscale.networks import architectures
from tomoscale.networks.bundle import load_bundle
from tomoscale.networks.unet import ScaledUNet
from tomoscale.segmentation.segment import segment
from tomoscale.training import checkpoint, loop, output, preparation
from tomoscale.training.curves import draw_curves
from tomoscale.training.loop import fit
from tomoscale.training.optimisation import Judgement, MovingAverage, make_optimiser, rate_factor
from tomoscale.training.preparation import prepare
from tomoscale.training.presets import PRESETS
from tomoscale.training.recipe import Augmentation, Loss, Machine, Network, Optimiser, Recipe, Sampling, Schedule, Stop
from tomoscale.training.samples import Sample
from tomoscale.training.validation import measures_anew
from tomoscale.volume import Volume
from tomoscale.work import Work

ROOT = Path(__file__).resolve().parents[2]
CONFIG = """
name: tiny
voxel-size: 5um
output: out
classes: [{name: void, colour: [0, 0, 0]}, {name: bone, colour: [255, 255, 255]}, {name: metal, colour: [255, 0, 0]}]
training: [{name: a, grey: a.png, labels: a_mask.png}]
validation: [{name: b, grey: b.png, labels: b_mask.png}]
network: {architecture: scaled_unet, arguments: {depth: 1, width: 2}}
sampling: {patch: [16, 16], batch: 2, axes: [z]}
augmentation: {turn: 0.5, noise: {probability: 0.5, low: 0, high: 0.1}}
optimiser: {kind: adamw, rate: 0.01, accumulate: 2}
stop: {steps: 11, validate-every: 5, checkpoint-every: 3}
machine: {accelerator: cpu, threads: 1}
average: 0.9
"""


@pytest.fixture(autouse=True)
def _undrawn(monkeypatch):
    """Curves take a second each; they have a test of their own."""
    monkeypatch.setattr(output, "draw_curves", lambda *_: None)


def weights(path: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(path / "weights.safetensors")


def assert_equal(one: Path, other: Path) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def pictures(folder: Path) -> Path:
    """The configuration above and its pictures: grey slices, masks in colour."""
    folder.mkdir(exist_ok=True)
    colours = np.array([[0, 0, 0], [255, 255, 255], [255, 0, 0]], np.uint8)
    for seed, name in enumerate("ab"):
        grey, labels = arrays(seed, (1, 40, 44))
        Image.fromarray(grey[0]).save(folder / f"{name}.png")
        Image.fromarray(colours[labels[0]]).save(folder / f"{name}_mask.png")
    (folder / "config.yaml").write_text(CONFIG)
    return folder / "config.yaml"


DIES = """
import os, signal, sys
from tomoscale.cli import main
from tomoscale.training import loop
step = loop._step
def dies(training, *batch):
    step(training, *batch)  # the weights have changed, and nothing says so on disk
    if training.step == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(training, *batch)
loop._step = lambda training, *batch: dies(training, *batch) if training.step == 7 else step(training, *batch)
main(sys.argv[1:])
"""


def test_a_training_that_is_killed_goes_on_to_the_same_bits(tmp_path, capsys):
    config = pictures(tmp_path / "data")
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    line = ["train", str(config), "--output", str(killed), "--quiet"]
    done = subprocess.run([sys.executable, "-c", DIES, *line], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)
    assert done.returncode == -signal.SIGKILL
    assert checkpoint.load(killed / checkpoint.NAME)[1]["step"] == 6
    assert main(line) == 4
    assert "give --resume to go on with it" in capsys.readouterr().err
    assert main([*line, "--resume"]) == 0
    assert main(["train", str(config), "--output", str(whole), "--quiet"]) == 0
    assert_equal(killed / "last", whole / "last")
    assert_equal(killed / "best", whole / "best")
    told = [
        [{**json.loads(line), "minutes": 0} for line in (folder / "progress.jsonl").read_text().splitlines()]
        for folder in (killed, whole)
    ]
    assert told[0] == told[1]
    assert [line["step"] for line in told[0]] == [5, 10, 11]
    config.write_text(CONFIG.replace("rate: 0.01", "rate: 0.02"))
    assert main([*line, "--resume"]) == 3
    assert "was begun with another recipe or other data" in capsys.readouterr().err


@pytest.mark.parametrize(
    "how",
    [
        {"optimiser": Optimiser("sgd", rate=0.1, clip=1.0), "schedule": Schedule("poly")},
        {
            "optimiser": Optimiser("adadelta", rate=1.0),
            "schedule": Schedule("plateau", patience_steps=1),
            "average": 0.0,
        },
        {"sampling": Sampling((4, 8, 8), 2, threads=0), "network": Network("scaled_unet", {"depth": 1, "width": 2})},
        {"machine": Machine("cpu", precision="bf16", threads=1), "recalibrate": 1},
    ],
    ids=["sgd", "adadelta", "3d", "bf16"],
)
def test_a_training_stopped_by_a_signal_goes_on_to_the_same_bits(tmp_path, how, monkeypatch, request):
    monkeypatch.setattr(loop, "SHOW_SECONDS", 0)
    how = recipe(stop=Stop(5, 2, 100), **({"augmentation": Augmentation(flip_axes=(0, 1))} | how))
    whole = fit(how, data(), tmp_path / "whole", tell=print, work=QUIET)
    lines = []

    def stop_at_the_first_line(line: str) -> None:
        if line.startswith("step 2:") and not any(told.startswith("step 2:") for told in lines):
            os.kill(os.getpid(), signal.SIGTERM)
        lines.append(line)

    # One that nobody waits for would end all tests.
    previous = signal.signal(signal.SIGTERM, lambda number, frame: None)
    request.addfinalizer(lambda: signal.signal(signal.SIGTERM, previous))
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match=r"stopped after step 2 of 5; .* resume=True"):
        fit(how, data(), tmp_path / "stopped", tell=stop_at_the_first_line, work=QUIET)
    assert signal.getsignal(signal.SIGTERM) is before
    assert lines[0].startswith("step 1 of 5, loss ")
    assert "IoU void" in lines[1]
    gone_on = fit(how, data(), tmp_path / "stopped", resume=True, work=QUIET)
    assert_equal(gone_on.last, whole.last)
    assert_equal(gone_on.best, whole.best)
    assert (gone_on.steps, gone_on.best_step, gone_on.iou) == (5, whole.best_step, whole.iou)
    assert (
        fit(how, data(), tmp_path / "stopped", resume=True, work=QUIET).confusion.tolist() == whole.confusion.tolist()
    )


def test_it_is_judged_by_the_labels_that_segment_gives(tmp_path):
    result = fit(recipe(stop=Stop(20, 20, 20)), data(), tmp_path / "out", work=QUIET)
    grey, truth = arrays(3)
    scan = convert(Volume(MemoryArray(grey), SIZE), tmp_path / "scan.zarr", work=QUIET)
    bundle = load_bundle(result.best)
    percents = bundle.card.normalisation.percentiles
    normal = normalise(scan, tmp_path / "normal.zarr", percentiles_percent=percents, work=QUIET)
    labels = segment(normal, tmp_path / "labels.zarr", model=result.best, work=QUIET).read()
    expected = np.bincount(3 * truth.ravel().astype(int) + labels.ravel(), minlength=9).reshape(3, 3)
    # One thread a window there, and another order of sums here: near ties may fall otherwise.
    assert np.abs(result.confusion - expected).sum() <= 2
    assert bundle.card.training["validation"]["iou"] == [round(v, 6) for v in result.iou]
    assert [c.name for c in bundle.classes] == ["void", "bone", "metal"]


def test_curves_are_drawn_as_a_picture_and_a_page(tmp_path):
    line = {"step": 5, "loss": 1.5, "validation_loss": 0.7, "iou": [0.25, None, 0.5], "mean_iou": 0.375}
    draw_curves(tmp_path, [line, {**line, "step": 10, "iou": [0.5, None, 0.75]}], ["void", "<bone>", "metal"])
    page = (tmp_path / "curves.html").read_text()
    assert all(word in page for word in ("void", "&lt;bone&gt;", "metal", "data:image/svg", "0.7500", "0.3750"))
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.width > 500


def test_it_learns_what_grey_values_say(tmp_path):
    how = recipe(stop=Stop(60, 60, 60), network=Network("scaled_unet", {"depth": 1, "width": 8}))
    how = replace(how, optimiser=Optimiser("adamw", rate=0.02), sampling=Sampling((16, 16), 4, ("z",), balance=0.7))
    assert fit(how, data(), tmp_path / "out", work=QUIET).mean_iou > 0.95


def test_statistics_are_measured_anew_on_whole_slices(tmp_path):
    how = recipe(network=Network("scaled_unet", {"depth": 1, "width": 2}), stop=Stop(3, 3, 3), average=0.5)
    lagging = fit(replace(how, recalibrate=0), data(), tmp_path / "lagging", work=QUIET)
    measured = fit(replace(how, recalibrate=24), data(), tmp_path / "measured", work=QUIET)
    trained = [checkpoint.load(r.last.parent / checkpoint.NAME)[0] for r in (lagging, measured)]
    for name, tensor in trained[0].items():
        assert torch.equal(tensor, trained[1][name]), "what is trained stays as it is"
    network = load_bundle(measured.last).network()
    seen = []
    network.encoders[0][0].register_forward_hook(lambda *all_of: seen.append(all_of[2]))
    grey = np.concatenate([s.grey.read() for s in data().training])
    low, high = np.percentile(grey, how.normalisation.percentiles)
    network(torch.from_numpy((np.clip(grey, low, high) - low) / (high - low)).float()[:, None])
    assert (seen[0].mean((0, 2, 3)) - network.encoders[0][1].running_mean).abs().max() < 0.02
    far = load_bundle(lagging.last).network().encoders[0][1].running_mean
    assert (seen[0].mean((0, 2, 3)) - far).abs().max() > 0.05


def test_statistics_are_measured_anew_unless_the_recipe_or_the_network_has_none():
    planned = architectures.make_network("nnunet", {**PLANNED, "n_classes": 3, "dimensions": 2})
    assert measures_anew(Recipe(), ScaledUNet(1, 2, n_classes=3))
    assert all(measures_anew(PRESETS[name], ScaledUNet(1, 2, n_classes=3)) for name in PRESETS)
    assert not measures_anew(recipe(recalibrate=0), ScaledUNet(1, 2, n_classes=3))
    assert not measures_anew(Recipe(), planned)


PLANNED = {
    "features": [4, 8],
    "strides": [[1, 1], [2, 2]],
    "kernel_sizes": [[3, 3]] * 2,
    "convolutions": [1] * 2,
    "decoder_convolutions": [1],
}


@pytest.mark.parametrize(
    "network",
    [Network("sensor3d", {"in_slices": 3, "width": 2}), Network("nnunet", PLANNED)],
    ids=["three slices", "outputs on all levels, defined by windows"],
)
def test_networks_of_other_kinds_are_trained_and_saved(tmp_path, network):
    how = recipe(network=network, stop=Stop(1, 1, 1), loss=Loss(sides="halving"), recalibrate=1)
    bundle = load_bundle(fit(how, data(), tmp_path / "out", work=QUIET).last)
    assert bundle.architecture == network.architecture
    assert (bundle.card.windows is None) == bundle.reach.local
    assert bundle.reach.local == (network.architecture == "sensor3d")


def test_it_stops_early_when_nothing_is_gained(tmp_path):
    stop = Stop(100, 1, 100, patience=3, watch="loss", least_gain=10.0)
    result = fit(recipe(stop=stop), data(), tmp_path / "out", work=QUIET)
    assert (result.steps, result.best_step, result.stopped_early) == (4, 1, True)


def test_side_outputs_teach_and_weights_can_be_given(tmp_path, monkeypatch):
    seen = []

    class Sided(ScaledUNet):
        def all_outputs(self, values: torch.Tensor) -> list[torch.Tensor]:
            logits = self(values)
            seen.append(logits.shape)
            return [logits, nn.functional.avg_pool2d(logits, 2)]

    monkeypatch.setitem(architectures.ARCHITECTURES, "sided", Sided)
    how = recipe(network=Network("sided", {"depth": 1, "width": 2}), stop=Stop(1, 1, 1), average=0.0)
    torch.manual_seed(5)
    first = Sided(1, 2, n_classes=3)
    given = {name: tensor.clone() for name, tensor in first.state_dict().items()}
    how = replace(how, optimiser=Optimiser("sgd", rate=1e-12, weight_decay=0))
    result = fit(how, data(), tmp_path / "out", start_from=first, work=QUIET)
    assert seen == [(2, 3, 16, 16)]
    for name, tensor in weights(result.last).items():
        if "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(tensor, given[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"training": (sample("c", 1),)}, "sample c is in training and in validation"),
        ({"training": (sample("other name", 3),)}, "same grey values as other name"),
        ({"training": (sample("a", 1), sample("a", 2))}, "sample a comes twice"),
        ({"voxel_size_um": (4.0, 4.0, 4.0)}, "a network learns one size"),
        ({"classes": CLASSES[:2]}, r"labels that are no class \(0 to 1"),
        ({"classes": (*CLASSES, replace(CLASSES[0], id=3, name="shell"))}, "shell is in no labelled voxel"),
    ],
)
def test_samples_that_would_spoil_a_training_are_refused(tmp_path, change, words):
    with pytest.raises(InputError, match=words):
        fit(recipe(), data(**change), tmp_path / "out", work=QUIET)


def test_volumes_that_do_not_belong_together_are_refused():
    with pytest.raises(InputError, match="slices across z must be some of 0 to 5"):
        sample("a", 1, slices={"z": (6,)})
    grey, labels = arrays(1)
    one, other = Volume(MemoryArray(grey), SIZE), Volume(MemoryArray(labels), (5.0, 5.0, 6.0))
    with pytest.raises(InputError, match=r"sample a: voxels of .* are \(5.0, 5.0, 5.0\)"):
        Sample("a", one, other)
    with pytest.raises(InputError, match=r"has the shape \(6, 24, 27\), but the grey values \(6, 24, 28\)"):
        Sample("a", one, Volume(MemoryArray(labels[:, :, 1:])))
    with pytest.raises(InputError, match="holds float32, but labels are whole numbers"):
        Sample("a", one, Volume(MemoryArray(labels.astype(np.float32))))


def test_a_mirrored_copy_is_a_leak_too(tmp_path):
    grey, labels = arrays(3)
    mirrored = replace(
        sample("m", 3),
        grey=Volume(MemoryArray(grey[:, ::-1].copy())),
        labels=Volume(MemoryArray(labels[:, ::-1].copy())),
    )
    with pytest.raises(InputError, match="sample c of the validation data holds the same grey values as m"):
        fit(recipe(), data(training=(mirrored,)), tmp_path / "out", work=QUIET)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"sampling": Sampling((18, 16), 2), "augmentation": Augmentation()},
            r"does not take patches of \(18, 16\).*multiple of its stride",
        ),
        ({"network": Network("nonsense", {})}, "architecture 'nonsense' is unknown"),
        ({"network": Network("scaled_unet", {"depht": 2})}, "cannot be made of"),
    ],
)
def test_a_network_that_does_not_fit_its_patches_is_refused(tmp_path, change, words):
    with pytest.raises(ValueError, match=words):
        fit(recipe(**change), data(), tmp_path / "out", work=QUIET)
    assert not (tmp_path / "out").exists()


def test_a_patch_larger_than_the_slices_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"sample a of \(6, 24, 28\) voxels is smaller than a patch of \(32, 32\)"):
        fit(recipe(sampling=Sampling((32, 32), 2)), data(), tmp_path / "out", work=QUIET)


def test_what_does_not_fit_the_machine_is_refused(tmp_path):
    large = recipe(network=Network("scaled_unet", {"depth": 6, "width": 256}), sampling=Sampling((2048, 2048), 64))
    with pytest.raises(PlanError, match=r"a step needs about [0-9.]+ GiB .* accumulate more"):
        fit(large, data(), tmp_path / "out", work=QUIET)
    if not torch.cuda.is_available():
        with pytest.raises(PlanError, match="asks for 1 GPUs and torch sees 0"):
            fit(recipe(machine=Machine("cuda")), data(), tmp_path / "out", work=QUIET)


def large_sample() -> Sample:
    """A sample of which nothing but its shape is looked at."""
    grey = np.broadcast_to(np.uint8(0), (1, 3000, 3000))
    return Sample("wide", Volume(MemoryArray(grey), SIZE), Volume(MemoryArray(grey, "labels")))


def test_slices_too_large_to_judge_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(preparation, "_available_bytes", lambda _: 2**20)
    ready = prepare(data(), recipe(), tmp_path, QUIET)
    with torch.device("meta"):
        network = ScaledUNet(2, 64, n_classes=3)
    with pytest.raises(PlanError, match=r"sample c: to judge a whole slice of \[24, 28\] voxels 0.1 GiB are needed"):
        preparation.check_slices(network, recipe(), ready)
    monkeypatch.setattr(preparation, "_available_bytes", lambda _: 2**30)
    wide = replace(ready, training=(replace(ready.training[0], sample=large_sample()),))
    with pytest.raises(
        PlanError, match=r"to measure batch norm on a whole slice of \[3000, 3000\] .* set recalibrate: 0"
    ):
        preparation.check_slices(network, recipe(), wide)
    preparation.check_slices(network, recipe(recalibrate=0), wide)


def test_an_output_in_the_way_is_left_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    for work in (QUIET, Work(progress=False, overwrite=True)):
        with pytest.raises(PlanError, match="was not made by a training"):
            fit(recipe(), data(), tmp_path / "mine", work=work)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years"


def test_a_loss_that_is_not_a_number_ends_it(tmp_path):
    with pytest.raises(InputError, match="the training diverged; lower optimiser: rate"):
        fit(recipe(optimiser=Optimiser("sgd", rate=1e30)), data(), tmp_path / "out", work=QUIET)


def test_a_damaged_checkpoint_is_refused(tmp_path):
    path = tmp_path / checkpoint.NAME
    path.write_bytes(b"\x80\x04pickle")
    with pytest.raises(InputError, match="not a checkpoint that can be used"):
        checkpoint.load(path)
    safetensors.torch.save_file({"a": torch.zeros(1)}, str(path))
    with pytest.raises(InputError, match="its format is None"):
        checkpoint.load(path)


def test_rates_rise_and_fall_as_their_schedules_say():
    cycle = [rate_factor(Schedule("one_cycle", rise=0.25), step, 100, 0) for step in range(100)]
    assert 0.04 < cycle[0] < 0.06
    assert int(np.argmax(cycle)) in (24, 25)
    assert cycle[-1] < 0.001
    assert [rate_factor(Schedule("plateau", factor=0.5), 7, 10, n) for n in range(3)] == [1.0, 0.5, 0.25]
    judged = Judgement()
    for step, loss in ((10, 1.0), (20, 2.0), (30, 2.0), (40, 2.0), (50, 0.5)):
        judged = judged.after(step, -loss, loss, Stop(watch="loss"), Schedule("plateau", patience_steps=20))
    assert (judged.reduced, judged.best_step, judged.waited, judged.lowest_step) == (1, 50, 0, 50)


def test_the_moving_average_follows_the_weights_and_copies_counters():
    module = nn.BatchNorm1d(1)
    average = MovingAverage(module, 0.9)
    with torch.no_grad():
        module.weight.fill_(11.0)
        module.num_batches_tracked.fill_(7)
    average.update(module, 1000)
    assert average.state["weight"].item() == pytest.approx(0.9 * 1 + 0.1 * 11)
    assert average.state["num_batches_tracked"].item() == 7
    assert make_optimiser([nn.Parameter(torch.ones(1))], Optimiser("sgd", nesterov=False)).defaults["nesterov"] is False
