from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from tests.kernels.test_rotation import turned_back_by_scipy, turned_by_scipy
from tests.networks.random import card, random_network
from tests.traced import Traced
from tomoscale import block_runs
from tomoscale.commands import normalise
from tomoscale.errors import BlocksFailed, InputError, PlanError
from tomoscale.geometry import Grid, region_shape
from tomoscale.kernels import planes as kernels
from tomoscale.kernels.network import TORCH_BYTES
from tomoscale.kernels.nine_planes import PLANES
from tomoscale.kernels.plane_sums import add_predicted, add_turned, frame_of, predict_turned
from tomoscale.kernels.rotation import Rotation
from tomoscale.ledger import Ledger
from tomoscale.networks.bundle import load_bundle, save_bundle
from tomoscale.networks.card import Normalisation
from tomoscale.parts import parts_of
from tomoscale.plan import ledger_folder
from tomoscale.resources import Resources
from tomoscale.segmentation.fusion import Fusing, Fusion, Outputs
from tomoscale.segmentation.planes import segment_planes
from tomoscale.segmentation.planes_plan import plan_planes
from tomoscale.segmentation.segment import segment
from tomoscale.volume import MemoryArray, Volume, open_zarr
from tomoscale.work import Work

SHAPE = (9, 14, 12)
N_CLASSES = 3


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def short_windows(monkeypatch):
    """Slices of the canvas are cut at the volume though they are small."""
    monkeypatch.setattr(kernels, "WINDOW_STEP", 4)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("bundles") / "model"
    save_bundle(path, random_network(1, 3, seed=1, n_classes=N_CLASSES), card(N_CLASSES))
    return path


def grey(shape=SHAPE, seed=0):
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


def volume(values, voxel_size_um=5.0):
    size = (voxel_size_um,) * 3 if isinstance(voxel_size_um, float) else voxel_size_um
    return Volume(MemoryArray(values), size)


def work(block_shape=None, **options):
    return Work(resources=Resources(slots=1, io_slots=1), block_shape=block_shape, progress=False, **options)


def shares_of_slices(network, values, normal, stride, space):
    """The network on whole slices one after the other, zeros up to its stride: (classes, z, y, x)."""
    slices = np.moveaxis(values, normal, 0).astype(np.float32)
    padded = np.pad(slices, [(0, 0), *((0, -n % stride) for n in slices.shape[1:])])
    with torch.inference_mode():
        logits = torch.cat([network(torch.from_numpy(p[None, None])) for p in padded])
    values = (logits.softmax(1) if space == "probabilities" else logits)[:, :, : slices.shape[1], : slices.shape[2]]
    return np.moveaxis(values.transpose(0, 1).numpy(), 1, 1 + normal)


def whole_volume(model, values, n_planes, space="probabilities"):
    """What every plane says of a volume, in memory at once: (planes, classes, z, y, x)."""
    bundle = load_bundle(model)
    network, stride = bundle.network(), bundle.reach.stride[0]
    said = []
    for plane in PLANES[:n_planes]:
        if plane.rotation is None:
            said.append(shares_of_slices(network, values, plane.normal, stride, space))
        else:
            turned = turned_by_scipy(values, plane.rotation)
            shares = shares_of_slices(network, turned, plane.normal, stride, space)
            said.append(np.stack([turned_back_by_scipy(s, plane.rotation, values.shape) for s in shares]))
    return np.stack(said)


@pytest.mark.parametrize(("planes", "space"), [(1, "probabilities"), (3, "logits"), (9, "probabilities")])
def test_the_fused_volume_is_that_of_the_whole_in_memory(model, tmp_path, planes, space):
    values = grey()
    labels = segment_planes(
        volume(values),
        tmp_path / "labels.zarr",
        model=model,
        planes=planes,
        space=space,
        keep_probabilities=tmp_path / "shares",
        disagreement=tmp_path / "disagreement.zarr",
        method="slabs",
        work=work(),
    ).read()
    said = whole_volume(model, values, planes, space)
    mean = said.mean(0) if space == "probabilities" else torch.from_numpy(said).mean(0).softmax(0).numpy()
    kept = np.stack([open_zarr(tmp_path / "shares" / f"class_{c}.zarr").read() for c in range(N_CLASSES)])
    np.testing.assert_allclose(kept, mean, atol=1e-5)
    np.testing.assert_allclose(kept.sum(0, dtype=np.float64), 1, rtol=0, atol=1e-6)
    best = np.sort(mean, 0)
    clear = best[-1] - best[-2] > 1e-4
    np.testing.assert_array_equal(labels[clear], mean.argmax(0)[clear])
    assert clear.mean() > 0.99
    assert (np.bincount(labels.ravel(), minlength=N_CLASSES) > 0.02 * labels.size).all()
    firm = clear & (np.sort(said, 1)[:, -1] - np.sort(said, 1)[:, -2] > 1e-4).all(0)
    expected = (said.argmax(1) != mean.argmax(0)).sum(0)
    np.testing.assert_array_equal(open_zarr(tmp_path / "disagreement.zarr").read()[firm], expected[firm])
    assert not parts_of(tmp_path / "labels.zarr").exists()


@pytest.mark.parametrize(
    "fusing",
    [
        {"tile": 8},
        {"storage": "uint16", "voting": "majority", "tie": "lowest", "tile": 12},
        {"storage": "float16", "space": "logits"},
    ],
    ids=lambda fusing: "-".join(map(str, fusing.values())),
)
def test_both_ways_and_every_block_give_the_same_bits(model, tmp_path, fusing):
    source = volume(grey(seed=3))
    results, kept = [], []
    for n, (method, block) in enumerate(
        [("slabs", None), ("slabs", (5, 8, 12)), ("blocks", SHAPE), ("blocks", (5, 14, 7))]
    ):
        target = tmp_path / f"labels_{n}.zarr"
        shares = tmp_path / f"shares_{n}" if n != 2 else None
        made = segment_planes(
            source, target, model=model, method=method, keep_probabilities=shares, work=work(block), **fusing
        )
        results.append(made.read())
        if shares is not None:
            kept.append([open_zarr(shares / f"class_{c}.zarr").read() for c in range(N_CLASSES)])
    for other in results[1:]:
        np.testing.assert_array_equal(other, results[0])
    for others in kept[1:]:
        np.testing.assert_array_equal(others, kept[0])


def test_a_run_goes_on_in_the_middle_of_a_plane(model, tmp_path, monkeypatch):
    source = volume(grey(seed=4))
    expected = segment_planes(
        source, tmp_path / "whole.zarr", model=model, method="slabs", work=work((5, 14, 12))
    ).read()
    target, computed = tmp_path / "labels.zarr", []
    run_block = block_runs.run_block

    def failing(plan, block):
        computed.append(plan.name)
        if plan.name == "predict plane y1" and block.number == 3:
            raise OSError(28, "No space left on device")
        return run_block(plan, block)

    monkeypatch.setattr(block_runs, "run_block", failing)
    options = {"model": model, "work": work((5, 14, 12))}
    with pytest.raises(PlanError, match="finished blocks are kept"):
        segment_planes(source, target, method="slabs", **options)
    parts = parts_of(target)
    assert sorted(p.name for p in parts.iterdir()) == ["shares_5.zarr", "sum_4.zarr", "turned_about_y.zarr"]
    monkeypatch.setattr(
        block_runs, "run_block", lambda plan, block: (computed.append(plan.name), run_block(plan, block))[1]
    )
    before, record = computed.copy(), ledger_folder(parts / "shares_5.zarr")
    done = int(Ledger.load(record).done.sum())
    computed.clear()
    result = segment_planes(source, target, **options)
    np.testing.assert_array_equal(result.read(), expected)
    assert before.count("add plane z2") == computed.count("add plane x2") > 1
    # Planes before, the volume turned about y and blocks of the plane were there.
    assert set(computed) == {f"{what} plane {p}" for what in ("predict", "add") for p in ("y1", "y2", "x1", "x2")} | {
        "fuse planes",
        "rotate by 45 degrees",
    }
    assert done >= 1
    assert computed.count("predict plane y1") == computed.count("predict plane y2") - done
    assert computed.count("rotate by 45 degrees") == before.count("rotate by 45 degrees") // 2
    computed.clear()
    segment_planes(source, target, **options)
    assert not computed


def test_a_target_of_other_options_is_refused(model, tmp_path):
    source, target = volume(grey()), tmp_path / "labels.zarr"
    segment_planes(source, target, model=model, planes=3, work=work())
    with pytest.raises(PlanError, match="begun with another plan"):
        segment_planes(source, target, model=model, planes=3, voting="majority", work=work())
    again = replace(work(), overwrite=True)
    segment_planes(source, target, model=model, planes=3, voting="majority", method="slabs", work=again)
    assert not parts_of(target).exists()


def test_constant_probabilities_stay_constant(tmp_path):
    network = random_network(1, 2, seed=2, n_classes=N_CLASSES)
    last = [m for m in network.modules() if isinstance(m, nn.Conv2d)][-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.log(torch.tensor([0.2, 0.5, 0.3])))
    save_bundle(tmp_path / "model", network, card(N_CLASSES))
    labels = segment_planes(
        volume(grey()),
        tmp_path / "labels.zarr",
        model=tmp_path / "model",
        keep_probabilities=tmp_path / "shares",
        disagreement=tmp_path / "disagreement.zarr",
        work=work(),
    )
    assert (labels.read() == 1).all()
    assert not open_zarr(tmp_path / "disagreement.zarr").read().any()
    for label, share in enumerate((0.2, 0.5, 0.3)):
        kept = open_zarr(tmp_path / "shares" / f"class_{label}.zarr").read()
        np.testing.assert_allclose(kept, share, rtol=0, atol=2e-7)
        assert kept.min() == kept.max()


def counting(monkeypatch):
    """Voxels that the network takes in from now on."""
    taken = [0]
    original = kernels.PlaneNetwork._input

    def count(self, window, grey):
        taken[0] += math.prod(region_shape(window))
        return original(self, window, grey)

    monkeypatch.setattr(kernels.PlaneNetwork, "_input", count)
    return taken


@pytest.mark.parametrize("method", ["slabs", "blocks"])
@pytest.mark.parametrize(("block", "tile"), [(None, None), ((5, 14, 12), 8)])
def test_the_plan_says_what_the_network_takes_in(model, tmp_path, monkeypatch, method, block, tile):
    source, settings = volume(grey()), work(block)
    fusion = Fusion.of(source, load_bundle(model), Fusing(9, tile=tile))
    outputs = Outputs(tmp_path / "labels.zarr")
    plan = plan_planes(fusion, outputs, settings, method=method)
    taken = counting(monkeypatch)
    segment_planes(source, outputs.labels, model=model, method=method, tile=tile, work=settings)
    assert taken[0] == plan.cost.network_voxels
    assert plan.method == method
    text = str(plan)
    assert f"network takes {plan.costs['slabs'].network_voxels} voxels" in text
    assert f"network takes {plan.costs['blocks'].network_voxels} voxels" in text


def test_the_cheaper_way_runs_and_blocks_need_memory(model, tmp_path):
    fusion = Fusion.of(volume(grey()), load_bundle(model), Fusing(9))
    outputs = Outputs(tmp_path / "labels.zarr")
    plan = plan_planes(fusion, outputs, work())
    assert plan.method == "blocks"
    assert plan.cost.disk_bytes == 0 < plan.costs["slabs"].disk_bytes
    with pytest.raises(PlanError, match="host memory"):
        plan_planes(fusion, outputs, Work(resources=Resources(memory_bytes=2**20)))
    with pytest.raises(ValueError, match="method must be 'auto', 'slabs' or 'blocks'"):
        plan_planes(fusion, outputs, work(), method="cubes")


@pytest.mark.parametrize("what", ["add", "predict", "turn back", "blocks"])
def test_declared_memory_bounds_the_measured_peak(model, what):
    values, n_planes = grey((24, 40, 36), 1), 3 if what == "add" else 9
    fusion = Fusion.of(volume(values), load_bundle(model), Fusing(n_planes, "majority"))
    network, ballot, sources = fusion.networks[-1], fusion.ballot, [values]
    rotation = Rotation(2, values.shape)
    tally = np.zeros((values.shape[0], ballot.numbers, *values.shape[1:]), np.float32)
    if what == "add":
        kernel, sources = add_predicted(network, ballot, first=False), [values, tally]
    elif what == "predict":
        kernel, sources = predict_turned(network, np.dtype("float32")), [grey(rotation.canvas, 1)]
    elif what == "turn back":
        kernel, frame = add_turned(rotation, "x1", ballot), frame_of(rotation)
        sources = [np.zeros((frame[0], n, *frame[1:]), np.float32) for n in (N_CLASSES, ballot.numbers)]
    else:
        kernel = fusion.of_blocks(values.shape, labels=True)
    shape = (sources[0].shape[0], *sources[0].shape[-2:])
    block = kernel.block(Grid(kernel.shape_of_target(shape), kernel.shape_of_target(shape)), 0, shape)
    first, *more = sources
    kernel.apply(first, block, *more)
    with Traced() as traced:
        kernel.apply(first, block, *more)
    torch_bytes = TORCH_BYTES if kernel.fixed_bytes else 0
    assert traced.peak_bytes <= kernel.bytes_per_voxel * math.prod(shape) + kernel.fixed_bytes - torch_bytes + 100_000


def test_plan_only_shows_both_costs_and_makes_nothing(model, tmp_path, capsys):
    segment_planes(volume(grey()), tmp_path / "a.zarr", model=model, method="slabs", work=work(plan_only=True))
    shown = capsys.readouterr().out
    assert "slabs  network takes" in shown
    assert "blocks  network takes" in shown
    assert "add plane x2" in shown
    assert not list(tmp_path.iterdir())


def test_three_planes_take_voxels_that_are_no_cubes(model, tmp_path):
    source = volume(grey(), (5.0, 5.0, 6.0))
    with pytest.raises(InputError, match="was trained on 5 µm"):
        segment_planes(source, tmp_path / "labels.zarr", model=model, planes=3, work=work())
    options = {"model": model, "planes": 3, "any_voxel_size": True}
    assert segment_planes(source, tmp_path / "labels.zarr", work=work(), **options).finished
    fusion = Fusion.of(source, load_bundle(model), Fusing(3))
    assert "are no cubes" in str(plan_planes(fusion, Outputs(tmp_path / "other.zarr"), work()))


@pytest.mark.parametrize(
    ("voxel_size", "options", "error", "message"),
    [
        ((5.0, 5.0, 6.0), {"any_voxel_size": True}, InputError, "planes at 45 degrees need cubes: resample"),
        (None, {}, InputError, "does not say how large a voxel is"),
        (5.0, {"planes": 5}, ValueError, "planes must be 1, 3 or 9, got 5"),
        (5.0, {"storage": "int8"}, ValueError, "storage must be one of"),
        (5.0, {"storage": "uint16", "space": "logits"}, ValueError, "logits are any"),
        (5.0, {"tile": 3}, ValueError, "not a multiple of the network's stride"),
        (5.0, {"backend": "tensorflow"}, ValueError, "backend must be one of"),
    ],
)
def test_bad_input_is_refused_before_work_starts(model, tmp_path, voxel_size, options, error, message):
    with pytest.raises(error, match=message):
        segment_planes(volume(grey(), voxel_size), tmp_path / "labels.zarr", model=model, work=work(), **options)
    assert not list(tmp_path.iterdir())


def test_networks_and_values_that_do_not_fit_are_refused(model, tmp_path):
    with pytest.raises(InputError, match="no contrast to scale"):
        segment_planes(volume(np.zeros(SHAPE, np.uint16)), tmp_path / "a.zarr", model=model, work=work())
    with pytest.raises(InputError, match="grey values of at most 32 bits: store it as float32"):
        segment_planes(volume(np.zeros(SHAPE)), tmp_path / "a.zarr", model=model, work=work())
    save_bundle(tmp_path / "3d", random_network(1, 2, dimensions=3, n_classes=2), card(2))
    with pytest.raises(InputError, match="is a network on volumes, but planes are fused for networks on single slices"):
        segment_planes(volume(grey()), tmp_path / "a.zarr", model=tmp_path / "3d", work=work())
    broken = grey()
    broken[3, 4, 5] = np.nan
    for method in ("slabs", "blocks"):
        target = tmp_path / f"{method}.zarr"
        with pytest.raises((InputError, BlocksFailed), match="hold NaN or infinity"):
            segment_planes(volume(broken), target, model=model, method=method, as_is=True, work=work())


def test_members_are_averaged_as_on_single_slices(tmp_path):
    members = [random_network(1, 3, seed=seed, n_classes=N_CLASSES) for seed in (1, 2)]
    save_bundle(tmp_path / "model", members, card(N_CLASSES))
    scan = volume(grey())
    fused = segment_planes(scan, tmp_path / "fused.zarr", model=tmp_path / "model", planes=1, work=work()).read()
    single = segment(scan, tmp_path / "single.zarr", model=tmp_path / "model", work=work()).read()
    np.testing.assert_array_equal(fused, single)
    save_bundle(tmp_path / "first", members[0], card(N_CLASSES))
    first = segment_planes(scan, tmp_path / "first.zarr", model=tmp_path / "first", planes=1, work=work()).read()
    assert (first != fused).any()


@pytest.mark.parametrize("scheme", ["percentiles", "zscore"])
def test_grey_values_are_scaled_by_the_card_to_the_bits_of_normalising_first(tmp_path, scheme):
    values = np.random.default_rng(2).gamma(2.0, 900.0, SHAPE).astype(np.uint16)
    said = replace(card(N_CLASSES), normalisation=Normalisation(scheme))
    save_bundle(tmp_path / "model", random_network(1, 3, seed=1, n_classes=N_CLASSES), said)
    normal = normalise(volume(values), tmp_path / "normal.zarr", scheme=scheme, work=work())
    results = []
    for n, (source, method) in enumerate([(normal, "slabs"), (volume(values), "slabs"), (volume(values), "blocks")]):
        target, shares = tmp_path / f"labels_{n}.zarr", tmp_path / f"shares_{n}"
        how = {"model": tmp_path / "model", "method": method, "keep_probabilities": shares}
        segment_planes(source, target, work=work((5, 14, 7)), **how)
        results.append([open_zarr(path).read() for path in (target, *sorted(shares.iterdir()))])
    for other in results[1:]:
        for one, expected in zip(other, results[0], strict=True):
            np.testing.assert_array_equal(one, expected)
    raw = segment_planes(volume(values), tmp_path / "raw.zarr", model=tmp_path / "model", as_is=True, work=work())
    assert (raw.read() != results[0][0]).any()


def test_what_belongs_to_single_slices_is_refused_of_planes(tmp_path, model):
    with pytest.raises(ValueError, match="tolerance and output are for slices across z"):
        segment(volume(grey()), tmp_path / "labels.zarr", model=model, planes=3, tolerance=0.1, work=work())
