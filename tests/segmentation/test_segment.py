from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.networks.random import card, random_network
from tests.networks.windowed import PlainNet, instance_net, mean_of_windows, reach_of, windowed_card
from tomoscale.audit import verify
from tomoscale.commands import normalise
from tomoscale.errors import InputError, IntegrityError, Interrupted, PlanError
from tomoscale.kernels import tiles as tiles_module
from tomoscale.kernels.network import Runtime
from tomoscale.networks.bundle import load_bundle, save_bundle
from tomoscale.networks.card import Normalisation, Windows
from tomoscale.resampling import resample
from tomoscale.resources import Resources
from tomoscale.segmentation.agreement import measured_agreement, sample_bytes, within_memory
from tomoscale.segmentation.prepare import prepared
from tomoscale.segmentation.segment import segment, summary
from tomoscale.segmentation.tolerance import with_tolerance
from tomoscale.volume import MemoryArray, Volume, open_zarr
from tomoscale.work import Work

SHAPE = (9, 30, 34)
WINDOWS = Windows((8, 12), 0.5, "gaussian", "logits", (1,))


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    save_bundle(folder / "slices", instance_net(3), windowed_card(WINDOWS), reach_of(2))
    volume = instance_net(4, dimensions=3)
    save_bundle(folder / "volume", volume, windowed_card(Windows((6, 8, 10))), reach_of(3))
    zscore = windowed_card(WINDOWS, normalisation=Normalisation("zscore"))
    save_bundle(folder / "zscore", instance_net(3), zscore, reach_of(2))
    overlapping = windowed_card(Windows((8, 12), regions=(2, 3, 1)), 4)
    save_bundle(folder / "regions", instance_net(3), overlapping, reach_of(2))
    across = windowed_card(Windows((8, 12), axes=(1, 0, 2)))
    save_bundle(folder / "across", instance_net(3), across, reach_of(2))
    three = instance_net(5, PlainNet, in_slices=3)
    save_bundle(folder / "three", three, windowed_card(None), replace(reach_of(2, local=True)))
    save_bundle(folder / "local", random_network(2, 2, seed=1), card())
    return folder


def scan(values, voxel_size=(5.0, 5.0, 5.0)):
    return Volume(MemoryArray(values), voxel_size)


def grey(seed=0, shape=SHAPE):
    return np.random.default_rng(seed).integers(0, 4000, shape, dtype=np.uint16)


def quiet(**how):
    return Work(resources=Resources(slots=2), progress=False, **how)


def scaled(values):
    low, high = np.percentile(values, (0.5, 99.9))
    values = np.clip(values.astype(np.float32), np.float32(low), np.float32(high)) - np.float32(low)
    return values / np.float32(np.float32(high) - np.float32(low))


@pytest.mark.parametrize("name", ["slices", "volume"])
def test_every_block_shape_gives_the_same_labels_with_no_window_computed_twice(models, tmp_path, name):
    bundle, values = load_bundle(models / name), grey()
    results = []
    for number, block in enumerate(((9, 30, 34), (4, 13, 11), (9, 8, 30), (2, 30, 34))):
        target = tmp_path / f"{number}.zarr"
        found = segment(scan(values), target, model=models / name, work=quiet(block_shape=block))
        results.append(found.read())
        said = summary(open_zarr(target))["windows"]
        assert said["redundancy"] == 1.0
        assert not target.with_name(f"{number}.parts").exists()
    for labels in results[1:]:
        np.testing.assert_array_equal(labels, results[0])
    mean = mean_of_windows([bundle.network()], scaled(values), bundle.card.windows)
    best = np.sort(mean, axis=0)
    clear = best[-1] - best[-2] > 2e-5
    np.testing.assert_array_equal(results[0][clear], mean.argmax(0)[clear])


def test_a_run_cut_off_in_either_pass_goes_on_to_the_same_labels(models, tmp_path, monkeypatch):
    values, block = grey(1), (9, 13, 11)
    whole = segment(scan(values), tmp_path / "whole.zarr", model=models / "volume", work=quiet()).read()
    target = tmp_path / "cut.zarr"
    from tomoscale.segmentation import seams, windowed

    for kind in (windowed.Seams, seams._Joining):
        called = []
        run_one = kind.__call__

        def dying(self, *arguments, run_one=run_one, called=called):
            called.append(1)
            if len(called) == 4:
                raise KeyboardInterrupt
            return run_one(self, *arguments)

        monkeypatch.setattr(kind, "__call__", dying)
        with pytest.raises(Interrupted, match="the same command goes on"):
            segment(scan(values), target, model=models / "volume", work=quiet(block_shape=block))
        monkeypatch.setattr(kind, "__call__", run_one)
    result = segment(scan(values), target, model=models / "volume", work=quiet())
    np.testing.assert_array_equal(result.read(), whole)
    again = segment(scan(values), target, model=models / "volume", work=quiet())
    np.testing.assert_array_equal(again.read(), whole)
    with pytest.raises(PlanError, match="another"):
        segment(scan(grey(2)), target, model=models / "volume", work=quiet())


def test_seams_are_projected_in_the_plan(models, tmp_path, capsys):
    segment(
        scan(grey()), tmp_path / "a.zarr", model=models / "volume", work=quiet(block_shape=(9, 13, 11), plan_only=True)
    )
    plans = capsys.readouterr().out
    assert "inference on windows" in plans
    assert "beside the target" in plans
    assert "join windows" in plans
    assert not list(tmp_path.iterdir())


def test_three_slices_are_shown_with_the_edge_slice_repeated(models, tmp_path):
    bundle, values = load_bundle(models / "three"), grey(3)
    found = segment(scan(values), tmp_path / "a.zarr", model=models / "three", work=quiet(block_shape=(2, 11, 34)))
    padded = np.pad(scaled(values), ((1, 1), (0, 0), (0, 0)), "edge")
    stacks = torch.from_numpy(np.stack([padded[:-2], padded[1:-1], padded[2:]], 1))
    with torch.inference_mode():
        logits = bundle.network()(stacks).numpy()
    np.testing.assert_array_equal(found.read(), logits.argmax(1))


@pytest.mark.parametrize("windows", [WINDOWS, Windows((8, 12), 0.5, "gaussian", "probabilities"), None])
def test_members_are_averaged(tmp_path, windows):
    values, networks = grey(4), [instance_net(seed, PlainNet) for seed in (5, 6, 7)]
    reach = reach_of(2, local=True)
    save_bundle(tmp_path / "model", networks, windowed_card(windows), reach)
    found = segment(scan(values), tmp_path / "a.zarr", model=tmp_path / "model", work=quiet(block_shape=(4, 13, 34)))
    if windows is None:
        with torch.inference_mode():
            mean = sum(n(torch.from_numpy(scaled(values)[:, None])).transpose(0, 1).numpy() / 3 for n in networks)
    else:
        mean = mean_of_windows(networks, scaled(values), windows)
    best = np.sort(mean, axis=0)
    clear = best[-1] - best[-2] > 2e-5
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(found.read()[clear], mean.argmax(0)[clear])


@pytest.mark.parametrize("name", ["slices", "local"])
def test_normalising_first_gives_the_same_labels(models, tmp_path, name):
    values = scan(grey(5))
    normal = normalise(values, tmp_path / "normal.zarr", work=quiet())
    two_steps = segment(normal, tmp_path / "two.zarr", model=models / name, work=quiet()).read()
    one_step = segment(values, tmp_path / "one.zarr", model=models / name, work=quiet())
    np.testing.assert_array_equal(one_step.read(), two_steps)
    assert summary(open_zarr(tmp_path / "two.zarr"))["scaling"] is None
    low, high = np.percentile(values.read(), (0.5, 99.9))
    scaling = summary(open_zarr(tmp_path / "one.zarr"))["scaling"]
    assert (scaling["low"], scaling["high"]) == (low, high)


@pytest.mark.parametrize("dtype", ["uint16", "float32", "int32"])
def test_zscores_are_those_of_numpy_in_one_step_or_two(models, tmp_path, dtype):
    values = grey(6).astype(dtype)
    volume = scan(values)
    normal = normalise(volume, tmp_path / "normal.zarr", scheme="zscore", work=quiet())
    expected = (values.astype(np.float64) - values.mean()) / values.astype(np.float64).std()
    np.testing.assert_allclose(normal.read(), expected, atol=2e-6)
    two_steps = segment(normal, tmp_path / "two.zarr", model=models / "zscore", work=quiet()).read()
    one_step = segment(volume, tmp_path / "one.zarr", model=models / "zscore", work=quiet()).read()
    np.testing.assert_array_equal(one_step, two_steps)
    with pytest.raises(InputError, match="was normalised by zscore, but 'windowed' was trained on percentiles"):
        segment(normal, tmp_path / "three.zarr", model=models / "slices", work=quiet())


def test_floats_out_of_range_are_scaled_and_those_within_are_not(models, tmp_path):
    values = grey(12).astype(np.float32)
    out = segment(scan(values), tmp_path / "out.zarr", model=models / "slices", work=quiet()).read()
    within = segment(scan(scaled(values)), tmp_path / "in.zarr", model=models / "slices", work=quiet()).read()
    np.testing.assert_array_equal(out, within)
    assert summary(open_zarr(tmp_path / "in.zarr"))["scaling"] is None
    as_is = segment(scan(values), tmp_path / "as_is.zarr", model=models / "slices", as_is=True, work=quiet())
    assert (as_is.read() != out).any()


@pytest.mark.parametrize(("name", "quantisation"), [("slices", "uint16"), ("volume", "float32"), ("local", "uint16")])
def test_probabilities_are_kept_beside_the_labels(models, tmp_path, name, quantisation):
    values = scan(grey(7))
    how = {"model": models / name, "work": quiet(block_shape=(4, 13, 11))}
    folder = tmp_path / "shares"
    labels = segment(values, tmp_path / "a.zarr", probabilities=folder, quantisation=quantisation, **how)
    plain = segment(values, tmp_path / "b.zarr", **how)
    np.testing.assert_array_equal(labels.read(), plain.read())
    stored = [open_zarr(p) for p in sorted(folder.iterdir())]
    n_classes = len(load_bundle(models / name).classes)
    assert [p.name for p in sorted(folder.iterdir())] == [f"{n}_class_{n}.zarr" for n in range(n_classes)]
    shares = np.stack([v.read() for v in stored]).astype(np.float64)
    scale = stored[1].storage.state()["record"]["probability"]["scale"]
    np.testing.assert_allclose(shares.sum(0) * scale, 1, atol=5e-5)
    one = segment(values, tmp_path / "c.zarr", output="class 1", **how).read()
    np.testing.assert_allclose(shares[1] * scale, one, atol=1e-7 if quantisation == "float32" else 1e-5)
    segment(values, tmp_path / "a.zarr", probabilities=folder, quantisation=quantisation, **how)
    with pytest.raises(PlanError, match="give another folder"):
        segment(values, tmp_path / "d.zarr", probabilities=folder, quantisation="float16", **how)


@pytest.mark.parametrize("name", ["volume", "local"])
def test_verify_finds_damaged_probabilities(models, tmp_path, name):
    target, folder = tmp_path / "here" / "a.zarr", tmp_path / "here" / "shares"
    how = {"model": models / name, "work": quiet(block_shape=(4, 13, 11)), "quantisation": "uint16"}
    segment(scan(grey(7)), target, probabilities=folder, **how)
    found = verify(target)
    assert found["probabilities_compared"] == len(load_bundle(models / name).classes)
    assert found == {**found, "finished": True, "blocks_compared": found["blocks"]}
    assert found["leftovers"]["count"] == found["strays"]["count"] == 0
    (folder / "0_class_0.zarr/0/c/0/0/0_93f71b68a33e5b17.__lock").touch()
    assert verify(target)["leftovers"]["count"] == 0, "whoever makes the labels may be writing it"
    os.utime(folder / "0_class_0.zarr/0/c/0/0/0_93f71b68a33e5b17.__lock", (0, 0))
    assert verify(target, remove_leftovers=True)["leftovers"]["removed"] == 1
    shutil.copytree(tmp_path / "here", tmp_path / "moved")
    shutil.rmtree(folder)
    with pytest.raises(IntegrityError, match=r"the probabilities kept with .* are gone"):
        verify(target)
    target, folder = (tmp_path / "moved" / p.name for p in (target, folder))
    assert verify(target) == {**found, "path": str(target)}
    volume = open_zarr(folder / "1_class_1.zarr")
    block = slice(4, 8), slice(13, 26), slice(11, 22)
    values = volume.read(block)
    values[1, 2, 3] += 1
    replace(volume.storage, writable=True).write(block, values)
    with pytest.raises(IntegrityError, match=r"1_class_1\.zarr holds other probabilities than were written"):
        verify(target)
    shard = max(
        (p for p in (folder / "0_class_0.zarr").rglob("c/*/*/*") if p.is_file()), key=lambda p: p.stat().st_size
    )
    damaged = bytearray(shard.read_bytes())
    damaged[len(damaged) // 3] ^= 255
    shard.write_bytes(damaged)
    with pytest.raises(IntegrityError, match=r"0_class_0\.zarr is damaged"):
        verify(target)


def test_samples_fit_the_memory_or_are_refused(models, tmp_path, monkeypatch):
    values = scan(grey(8, (2, 70, 100)))
    monkeypatch.setattr(tiles_module, "WHOLE_SLICE_BYTES", 1)
    monkeypatch.setattr(tiles_module, "TILE_VOXELS", {2: 32})
    task = prepared(values, models / "local", tmp_path / "histogram", quiet())
    task = replace(task, runtime=Runtime(at_once=6))
    many, one = (sample_bytes(replace(task, runtime=Runtime(at_once=n))) for n in (6, 1))
    assert one < many
    given = {n: replace(quiet(), resources=Resources(memory_bytes=n)) for n in (many, one, one - 1)}
    assert within_memory(task, given[many]).runtime.at_once == 6
    assert within_memory(task, given[one]).runtime.at_once == 1
    with pytest.raises(PlanError, match=r"a sample of 1 x 32 x 32 voxels, .* needs .* but this process has"):
        with_tolerance(task, 0.2, given[one - 1])
    with pytest.raises(PlanError, match="a sample of 1 x 32 x 32 voxels"):
        measured_agreement(task, task, given[one - 1])
    few, plenty = (with_tolerance(task, 0.2, given[n]) for n in (one, many))
    assert (few.notes, few.runtime) == (plenty.notes, task.runtime)


def test_a_tolerance_takes_a_smaller_margin_and_says_what_it_costs(models, tmp_path, monkeypatch):
    values = scan(grey(8, (2, 70, 100)))
    monkeypatch.setattr(tiles_module, "WHOLE_SLICE_BYTES", 1)
    monkeypatch.setattr(tiles_module, "TILE_VOXELS", {2: 32})
    exact = segment(values, tmp_path / "exact.zarr", model=models / "local", work=quiet())
    found = segment(values, tmp_path / "fast.zarr", model=models / "local", tolerance=0.2, work=quiet())
    said = summary(open_zarr(tmp_path / "fast.zarr"))["tolerance"]
    full = load_bundle(models / "local").reach.margin_before[0]
    assert 0 < said["margin"][1] < full
    assert said["agreement"] >= 0.8
    assert said["largest_probability_difference"] > 0
    assert (found.read() == exact.read()).mean() == pytest.approx(said["agreement"], abs=0.1)
    segment(values, tmp_path / "fast.zarr", model=models / "local", tolerance=0.2, work=quiet())
    strict = segment(values, tmp_path / "strict.zarr", model=models / "local", tolerance=1e-9, work=quiet())
    np.testing.assert_array_equal(strict.read(), exact.read())


def test_a_reduced_precision_says_how_many_labels_it_changed(models, tmp_path):
    values = scan(grey(9))
    exact = segment(values, tmp_path / "a.zarr", model=models / "slices", work=quiet()).read()
    found = segment(values, tmp_path / "b.zarr", model=models / "slices", precision="bfloat16", work=quiet())
    said = summary(open_zarr(tmp_path / "b.zarr"))["agreement"]
    # Eight windows, some of them cut at the volume's end.
    assert 8 * 8 * 12 // 2 < said["samples_voxels"] <= 8 * 8 * 12
    assert (found.read() == exact).mean() == pytest.approx(said["agreement"], abs=0.05)
    assert 0 < said["largest_probability_difference"] < 0.5


def test_air_is_computed_once_and_counted(models, tmp_path):
    values = grey(10)
    values[2:] = 0
    segment(scan(values), tmp_path / "a.zarr", model=models / "slices", work=quiet())
    windows = summary(open_zarr(tmp_path / "a.zarr"))["windows"]
    assert windows["of_one_value"] * 9 == windows["computed"] * 7


@pytest.mark.parametrize(
    ("values", "how", "message"),
    [
        (lambda: scan(grey(), (5.0, 5.0, 6.0)), {}, "voxels of 6 µm along x, but 'windowed' was trained on 5 µm"),
        (lambda: scan(grey(), (5.0, 5.0, 6.0)), {}, "run `tomoscale resample .* OTHER.zarr --voxel-size 5um,5um,5um`"),
        (lambda: scan(grey().astype(np.float64)), {}, "at most 32 bits"),
        (lambda: scan(np.zeros(SHAPE, bool)), {}, "holds"),
        (lambda: scan(np.full(SHAPE, 7, np.uint16)), {}, "no contrast to scale"),
        (lambda: scan(np.where(grey() > 3990, np.nan, 1).astype(np.float32)), {}, "NaN"),
    ],
)
def test_input_that_cannot_be_labelled_is_refused(models, tmp_path, values, how, message):
    model = models / how.get("model", "slices")
    with pytest.raises(InputError, match=message):
        segment(values(), tmp_path / "a.zarr", model=model, work=quiet())
    assert not (tmp_path / "a.zarr").exists()


def test_a_volume_of_other_voxels_is_labelled_as_its_message_says(models, tmp_path):
    values = scan(grey(12), (5.0, 2.5, 5.0))
    resampled = resample(values, tmp_path / "other.zarr", voxel_size_um=(5.0, 5.0, 5.0), work=quiet())
    labels = segment(resampled, tmp_path / "labels.zarr", model=models / "slices", work=quiet())
    back = resample(labels, tmp_path / "back.zarr", voxel_size_um=values.voxel_size_um, work=quiet())
    assert (labels.shape, back.shape, back.kind) == ((9, 15, 34), SHAPE, "labels")
    assert back.voxel_size_um == values.voxel_size_um
    assert [c.name for c in back.classes] == [c.name for c in labels.classes]
    np.testing.assert_array_equal(back.read(), labels.read().repeat(2, 1))
    with pytest.raises(InputError, match="between which there is nothing"):
        resample(labels, tmp_path / "no.zarr", voxel_size_um=(1.0, 1.0, 1.0), method="linear", work=quiet())


def test_regions_and_other_axes_are_labelled_in_two_passes_as_in_one(models, tmp_path):
    for name in ("regions", "across"):
        whole = segment(scan(grey()), tmp_path / f"{name}.zarr", model=models / name, work=quiet(block_shape=SHAPE))
        blocks = quiet(block_shape=(5, 13, 11))
        parts = segment(scan(grey()), tmp_path / f"{name}_parts.zarr", model=models / name, work=blocks)
        np.testing.assert_array_equal(parts.read(), whole.read())
        assert len(np.unique(whole.read())) > 2


@pytest.mark.parametrize(
    ("name", "how", "message"),
    [
        ("regions", {"output": "class 1"}, "gives labels alone"),
        ("regions", {"probabilities": "p"}, "gives labels alone"),
        ("regions", {"planes": 3}, "labels regions"),
        ("across", {"planes": 3}, "slices across another axis"),
    ],
)
def test_what_windows_alone_do_is_refused_elsewhere(models, tmp_path, name, how, message):
    values = normalise(scan(grey()), tmp_path / "normal.zarr", work=quiet()) if "planes" in how else scan(grey())
    how = {n: tmp_path / v if n == "probabilities" else v for n, v in how.items()}
    with pytest.raises(ValueError, match=message):
        segment(values, tmp_path / "a.zarr", model=models / name, work=quiet(), **how)
    assert not (tmp_path / "a.zarr").exists()
    assert not (tmp_path / "p").exists()


def test_other_voxel_sizes_are_taken_when_asked(models, tmp_path):
    values = scan(grey(shape=(2, 20, 20)), (5.0, 5.0, 6.0))
    labels = segment(values, tmp_path / "a.zarr", model=models / "slices", any_voxel_size=True, work=quiet())
    assert labels.voxel_size_um == (5.0, 5.0, 6.0)
    same = segment(scan(grey(shape=(2, 20, 20))), tmp_path / "b.zarr", model=models / "slices", work=quiet())
    np.testing.assert_array_equal(labels.read(), same.read())


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"tolerance": 0.001}, "is defined by windows"),
        ({"tolerance": 2.0}, "between 0 and 1"),
        ({"quantisation": "int4"}, "quantisation must be one of"),
        ({"output": "bone"}, "must be 'labels' or one of the classes"),
    ],
)
def test_arguments_out_of_range_are_refused(models, tmp_path, how, message):
    with pytest.raises(ValueError, match=message):
        segment(scan(grey()), tmp_path / "a.zarr", model=models / "slices", work=quiet(), **how)


def test_memory_too_small_for_a_window_is_refused(models, tmp_path):
    work = Work(resources=Resources(slots=2, memory_bytes=300 * 2**20), progress=False)
    with pytest.raises(PlanError, match="of host memory"):
        segment(scan(grey()), tmp_path / "a.zarr", model=models / "slices", as_is=True, work=work)


def test_volumes_smaller_than_a_window_lie_among_zeros(models, tmp_path):
    bundle, values = load_bundle(models / "volume"), grey(11, (3, 5, 12))
    found = segment(scan(values), tmp_path / "a.zarr", model=models / "volume", work=quiet()).read()
    mean = mean_of_windows([bundle.network()], scaled(values), bundle.card.windows)
    np.testing.assert_array_equal(found, mean.argmax(0))


def test_the_record_is_json(models, tmp_path):
    segment(scan(grey()), tmp_path / "a.zarr", model=models / "volume", work=quiet(block_shape=(9, 13, 11)))
    assert json.loads(json.dumps(summary(open_zarr(tmp_path / "a.zarr"))))["backend"] == "torch"
