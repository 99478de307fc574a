"""The path from slices to report: stopped, moved to other workers and refused, it gives the numbers of brute force."""

from __future__ import annotations

import json
import shutil
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage

from tests.blocks import map_whole
from tests.world import volume_at
from tomoscale.cli import main
from tomoscale.commands import CLASSES, clean, convert, normalise, report
from tomoscale.demo import demo
from tomoscale.driver import Driver
from tomoscale.errors import InputError, Interrupted, PlanError
from tomoscale.formats import open_tiff, open_volume
from tomoscale.formats.export import export_volume
from tomoscale.kernels.majority import majority
from tomoscale.measures.cells import DIRECTIONS, direction_weights
from tomoscale.memory_array import MemoryArray
from tomoscale.networks.bundle import load_bundle
from tomoscale.objects.components import components
from tomoscale.objects.table import object_table
from tomoscale.segmentation.segment import SHIPPED_MODEL, segment
from tomoscale.studies import implant
from tomoscale.volume import Volume, open_zarr
from tomoscale.watch import run_state
from tomoscale.work import Work, working

SHAPE = (52, 64, 60)
BLOCK = (26, 64, 60)
VOLUMES = ("truth", "reference", "scan", "normal", "labels", "clean")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    demo(folder, shape=SHAPE, work=Work(block_shape=BLOCK, progress=False))
    return folder


def shards(folder: Path, names: tuple[str, ...] = VOLUMES) -> dict[str, bytes]:
    """Stored bytes of the voxels, by file."""
    files = [p for name in names for p in (folder / f"{name}.zarr" / "0" / "c").rglob("*") if p.is_file()]
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def measured(folder: Path) -> dict[str, object]:
    """What was measured, without the times of the runs and where they lay."""
    content = json.loads((folder / "results" / "results.json").read_text())
    return {name: content[name] for name in ("quantities", "confusion", "caveats", "parameters", "classes")}


def test_the_demo_writes_every_volume_and_the_numbers_of_them(undisturbed):
    volumes = {name: open_zarr(undisturbed / f"{name}.zarr") for name in VOLUMES}
    assert all(v.finished and v.shape == SHAPE and v.voxel_size_um == (5.0, 5.0, 5.0) for v in volumes.values())
    kinds = {name: v.kind for name, v in volumes.items()}
    assert kinds == dict(zip(VOLUMES, ("labels", "mask", "grey", "grey", "labels", "labels"), strict=True))
    truth, cleaned = volumes["truth"].read(), volumes["clean"].read()
    confusion = np.bincount(4 * truth.ravel().astype(int) + cleaned.ravel(), minlength=16).reshape(4, 4)
    assert measured(undisturbed)["confusion"] == {"counts": confusion.tolist()}
    assert len(shards(undisturbed)) == 2 * len(VOLUMES)


@pytest.mark.parametrize("before_the_record", [False, True])
def test_a_demo_stopped_in_every_step_gives_the_same_bytes(tmp_path, undisturbed, monkeypatch, before_the_record):
    record, calls = Driver._record, [0]

    def stopping(driver: Driver, outcome: object) -> None:
        calls[0] += 1
        stop = calls[0] % 2 == 1
        if stop and before_the_record:
            raise KeyboardInterrupt
        record(driver, outcome)
        if stop:
            raise KeyboardInterrupt

    monkeypatch.setattr(Driver, "_record", stopping)
    stops, result = 0, None
    while result is None:
        try:
            result = demo(tmp_path, shape=SHAPE, work=Work(block_shape=BLOCK, progress=False))
        except Interrupted:
            stops += 1
        assert stops < 60
    assert stops >= len(VOLUMES)
    assert shards(tmp_path) == shards(undisturbed)
    assert measured(tmp_path) == measured(undisturbed)


def test_worker_processes_give_the_same_bytes(tmp_path, undisturbed):
    with working("processes", processes=2, block_shape=BLOCK, progress=False) as work:
        demo(tmp_path, shape=SHAPE, work=work)
    assert shards(tmp_path) == shards(undisturbed)
    assert measured(tmp_path) == measured(undisturbed)


def test_other_blocks_give_the_same_voxels_and_numbers(tmp_path, undisturbed):
    demo(tmp_path, shape=SHAPE, work=Work(block_shape=(52, 23, 41), progress=False))
    for name in VOLUMES:
        here, there = (open_zarr(folder / f"{name}.zarr").read() for folder in (tmp_path, undisturbed))
        np.testing.assert_array_equal(here, there, err_msg=name)
    assert measured(tmp_path) == measured(undisturbed)


def test_a_report_made_again_has_the_same_bytes_and_replaces_nothing_unasked(tmp_path, undisturbed):
    first = (undisturbed / "report.html").read_bytes()
    assert report(undisturbed / "results", tmp_path / "again.html").path.read_bytes() == first
    with pytest.raises(PlanError, match="exists"):
        report(undisturbed / "results", tmp_path / "again.html")
    (tmp_path / "again.html").write_text("old")
    assert report(undisturbed / "results", tmp_path / "again.html", overwrite=True).path.read_bytes() == first


def test_a_finished_demo_given_again_computes_nothing(undisturbed, monkeypatch):
    before = shards(undisturbed)
    monkeypatch.setattr(Driver, "run", lambda driver: pytest.fail("a finished step ran again"))
    demo(undisturbed, shape=SHAPE, work=Work(progress=False))
    assert shards(undisturbed) == before


def test_the_plan_of_a_demo_writes_nothing(tmp_path, capsys):
    assert main(["demo", str(tmp_path / "demo"), "--size", "48", "--plan"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("memory") >= 9, "truth, reference, scan, histogram, normal, labels, clean, roi, measures"
    assert list(tmp_path.iterdir()) == []


def test_another_phantom_is_not_mixed_with_the_slices_that_are_there(undisturbed):
    with pytest.raises(PlanError, match="holds other slices than those of this phantom"):
        demo(undisturbed, shape=SHAPE, seed=2, work=Work(progress=False))


def grey(values: np.ndarray, kind: str = "grey", voxel_size_um: tuple[float, float, float] = (5.0, 5.0, 5.0)) -> Volume:
    return Volume(MemoryArray(values, kind=kind), voxel_size_um)


def quiet(**how: object) -> Work:
    return Work(progress=False, **how)


def test_overwriting_removes_what_this_program_made_and_nothing_else(tmp_path):
    values = np.arange(4 * 5 * 6, dtype=np.uint8).reshape(4, 5, 6)
    convert(grey(values), tmp_path / "ours.zarr", work=quiet())
    with pytest.raises(PlanError, match="was"):
        convert(grey(values[::-1].copy()), tmp_path / "ours.zarr", work=quiet())
    quiet().clear(tmp_path / "ours.zarr")
    assert (tmp_path / "ours.zarr").exists(), "without overwrite nothing is removed"
    again = convert(grey(values[::-1].copy()), tmp_path / "ours.zarr", work=quiet(overwrite=True))
    np.testing.assert_array_equal(again.read(), values[::-1])


@pytest.mark.parametrize("held", ["nothing", "a file", "another plan.json", "a broken plan.json"])
def test_overwriting_refuses_folders_of_others(tmp_path, held):
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    if held == "a file":
        (foreign / "thesis.txt").write_text("years of work")
    if held.endswith("plan.json"):
        (foreign / "plan.json").write_text('{"n_blocks": 3, "holiday": "sea"}' if "another" in held else "{")
    before = sorted(p.name for p in foreign.iterdir())
    with pytest.raises(PlanError, match="was not made by tomoscale"):
        convert(grey(np.ones((2, 3, 4), np.uint8)), foreign, work=quiet(overwrite=True))
    assert sorted(p.name for p in foreign.iterdir()) == before


def test_overwriting_refuses_a_file(tmp_path):
    (tmp_path / "file").write_text("years of work")
    with pytest.raises(PlanError, match="was not made by tomoscale"):
        convert(grey(np.ones((2, 3, 4), np.uint8)), tmp_path / "file", work=quiet(overwrite=True))
    assert (tmp_path / "file").read_text() == "years of work"


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32"])
def test_normalise_clips_at_the_percentiles_of_numpy(tmp_path, dtype):
    random = np.random.default_rng(7)
    values = (random.normal(100, 20, (19, 23, 29)) * (1.37 if dtype == "float32" else 1)).astype(dtype)
    normal = normalise(
        grey(values), tmp_path / "n.zarr", percentiles_percent=(2.5, 97.0), work=quiet(block_shape=(7, 23, 10))
    )
    low, high = np.percentile(values.astype(np.float64) if dtype != "float32" else values, np.array([2.5, 97.0]))
    bottom, top = np.float32(low), np.float32(high)
    expected = (np.clip(values.astype(np.float32), bottom, top) - bottom) / (top - bottom)
    assert normal.dtype == np.float32
    np.testing.assert_array_equal(normal.read(), expected)
    passes = [p.parent.name for p in sorted((tmp_path / "n.histogram").rglob("plan.json"))]
    assert passes == (["first", "second"] if dtype == "float32" else ["first"])


def test_normalise_leaves_out_zeros_and_corners_when_asked(tmp_path):
    values = np.random.default_rng(8).normal(0, 1, (6, 21, 21)).astype(np.float32)
    values[:, :4] = 0
    y, x = np.mgrid[:21, :21]
    inside = np.broadcast_to((y - 10) ** 2 + (x - 10) ** 2 <= 10.5**2, values.shape)
    normal = normalise(
        grey(values), tmp_path / "n.zarr", exclude_zeros=True, disc=True, percentiles_percent=(10, 90), work=quiet()
    )
    counted = values[inside & (values != 0)]
    low, high = (np.float32(v) for v in np.percentile(counted, [10.0, 90.0]))
    expected = (np.clip(values, low, high) - low) / (high - low)
    np.testing.assert_allclose(normal.read(), expected, atol=1e-6)


def test_normalise_refuses_what_has_no_contrast(tmp_path):
    flat = grey(np.full((4, 5, 6), 7, np.uint16))
    with pytest.raises(InputError, match=r"percentiles 0\.5 and 99\.9 are both 7\.0, so there is no contrast"):
        normalise(flat, tmp_path / "a.zarr", work=quiet())
    with pytest.raises(InputError, match="no voxel counts, so there is no contrast"):
        normalise(grey(np.zeros((4, 5, 6), np.uint16)), tmp_path / "b.zarr", exclude_zeros=True, work=quiet())
    assert not list(tmp_path.iterdir()), "what was counted would be in the way of the next try"
    with pytest.raises(ValueError, match=r"two increasing numbers within 0\.\.100, got \(99, 1\)"):
        normalise(flat, tmp_path / "c.zarr", percentiles_percent=(99, 1), work=quiet())


@pytest.mark.parametrize("kind", ["grey", "labels", "mask"])
def test_convert_keeps_kind_classes_and_voxels(tmp_path, kind):
    values = np.random.default_rng(1).integers(0, 2 if kind == "mask" else 4, (9, 10, 11)).astype(np.uint8)
    first = convert(grey(values), tmp_path / "first.zarr", kind=kind, work=quiet())
    second = convert(tmp_path / "first.zarr", tmp_path / "second.zarr", work=quiet(block_shape=(3, 10, 6)))
    for volume in (first, second, open_zarr(tmp_path / "second.zarr")):
        assert volume.kind == kind
        assert volume.classes == (), "nobody has said what the labels mean"
        np.testing.assert_array_equal(volume.read(), values)


def test_convert_takes_names_of_classes_from_the_source_alone(tmp_path):
    named = Volume(MemoryArray(np.ones((4, 5, 6), np.uint8)), (5.0, 5.0, 5.0), classes=CLASSES[:2])
    convert(named, tmp_path / "first.zarr", kind="labels", work=quiet())
    assert convert(tmp_path / "first.zarr", tmp_path / "second.zarr", work=quiet()).classes == CLASSES[:2]


@pytest.mark.parametrize("classes", [(), CLASSES])
def test_labels_of_seven_classes_are_cleaned_by_number_whatever_has_names(tmp_path, classes):
    values = np.random.default_rng(5).integers(0, 7, (12, 13, 14)).astype(np.uint8)
    values[4:9, 4:9, 4:9] = 200
    named = Volume(MemoryArray(values), (5.0, 5.0, 5.0), classes=classes)
    labels = convert(named, tmp_path / "labels.zarr", kind="labels", work=quiet())
    cleaned = clean(labels, tmp_path / "clean.zarr", work=quiet(block_shape=(12, 13, 7)))
    np.testing.assert_array_equal(cleaned.read(), map_whole(majority(1, 201), values))


def test_clean_refuses_what_may_be_grey_values(tmp_path):
    with pytest.raises(
        InputError, match="check that these are labels and no grey values, and convert them with kind='labels'"
    ):
        clean(grey(np.full((4, 5, 6), 7, np.uint8)), tmp_path / "clean.zarr", work=quiet())


def test_convert_needs_a_voxel_size(tmp_path):
    with pytest.raises(InputError, match=r"never guessed: give it, such as voxel_size_um=5\.0"):
        convert(Volume(MemoryArray(np.ones((2, 3, 4), np.uint8)), None), tmp_path / "a.zarr", work=quiet())


def test_segment_refuses_labels_and_what_has_no_contrast(tmp_path):
    with pytest.raises(InputError, match="no contrast to scale"):
        segment(grey(np.ones((8, 16, 16), np.uint16)), tmp_path / "a.zarr", work=quiet())
    with pytest.raises(InputError, match="but a network labels grey values"):
        segment(grey(np.ones((8, 16, 16), bool)), tmp_path / "a.zarr", work=quiet())


def test_segment_refuses_a_scan_whose_scale_nobody_knows(tmp_path):
    values = np.random.default_rng(0).integers(0, 60000, (2, 40, 40)).astype(np.uint16)
    unknown = Volume(MemoryArray(values), None)
    with pytest.raises(InputError, match=r"does not say how large .* trained on 5 x 5 x 5 µm.*any_voxel_size=True"):
        segment(unknown, tmp_path / "labels.zarr", work=quiet())
    assert segment(unknown, tmp_path / "any.zarr", any_voxel_size=True, work=quiet()).finished


@pytest.mark.parametrize("radius", [1, 2])
def test_clean_by_blocks_equals_the_kernel_on_the_whole(tmp_path, radius):
    values = np.random.default_rng(2).integers(0, 4, (13, 17, 19)).astype(np.uint8)
    cleaned = clean(
        grey(values, "labels"), tmp_path / "c.zarr", radius_voxels=radius, work=quiet(block_shape=(5, 17, 6))
    )
    np.testing.assert_array_equal(cleaned.read(), map_whole(majority(radius, 4), values))
    assert cleaned.kind == "labels"


@pytest.mark.parametrize(("dtype", "value"), [(bool, True), (np.uint8, 255)])
def test_a_mask_is_cleaned_and_stays_one(tmp_path, dtype, value):
    values = np.zeros((8, 9, 10), dtype)
    values[2:7, 2:7, 2:7], values[0, 0, 9] = value, value
    volume = grey(values, "mask")
    cleaned = clean(volume, tmp_path / "clean.zarr", work=quiet())
    found = cleaned.read()
    assert (cleaned.kind, cleaned.dtype) == ("mask", values.dtype)
    assert not found[0, 0, 9]
    assert found[4, 4, 4] == value
    np.testing.assert_array_equal(found, map_whole(majority(1, 256 if value == 255 else 2, dtype), values))


@pytest.mark.parametrize("dtype", [np.int16, np.uint16])
def test_labels_of_any_width_are_cleaned(tmp_path, dtype):
    values = np.random.default_rng(1).integers(0, 4, (6, 7, 8)).astype(dtype)
    cleaned = clean(grey(values, "labels"), tmp_path / "clean.zarr", work=quiet())
    np.testing.assert_array_equal(cleaned.read(), map_whole(majority(1, 4, dtype), values))


def sample(seed: int = 5) -> dict[str, np.ndarray]:
    """Labels, truth, screw and grey values of a rod of metal with a layer, in sponge-like bone."""
    random = np.random.default_rng(seed)
    shape = (22, 34, 36)
    z, y, x = np.indices(shape)
    distance = np.hypot(y - 16.3 - 0.1 * z, x - 18.2) + random.normal(0, 0.4, shape)
    bone = scipy.ndimage.gaussian_filter(random.normal(size=shape), 1.5) > 0
    truth = np.where(bone, 3, 0)
    truth[distance < 9] = 2
    truth[distance < 6] = 1
    wrong = random.random(shape) < 0.005
    labels = np.where(wrong, random.integers(0, 4, shape), truth)
    levels = np.array([17000, 30500, 35000, 40000])[truth] + random.normal(0, 1500, shape)
    screw = (np.hypot(y - 16.3 - 0.1 * z, x - 18.2) < 8) & (z >= 2)
    return {
        "labels": labels.astype(np.uint8),
        "truth": truth.astype(np.uint8),
        "reference": screw.astype(np.uint8),
        "grey": levels.astype(np.uint16),
    }


def neighbours(mask: np.ndarray) -> np.ndarray:
    """Whether one of the six neighbours inside the volume is set."""
    cross = scipy.ndimage.generate_binary_structure(3, 1)
    cross[1, 1, 1] = False
    return scipy.ndimage.binary_dilation(mask, cross)


def contact_by_faces(labels: np.ndarray, size: tuple[float, float, float]) -> float:
    bone = background = 0.0
    for axis in range(3):
        low, high = (
            np.take(labels, range(*bounds), axis) for bounds in ((labels.shape[axis] - 1,), (1, labels.shape[axis]))
        )
        area = float(np.prod(size)) / size[axis]
        for a, b in ((low, high), (high, low)):
            implanted = (a == 1) | (a == 2)
            bone += area * np.count_nonzero(implanted & (b == 3))
            background += area * np.count_nonzero(implanted & (b == 0))
    return bone / (bone + background)


def contact_by_voxels(labels: np.ndarray) -> float:
    implanted = (labels == 1) | (labels == 2)
    touching = implanted & neighbours(labels == 3)
    exposed = implanted & neighbours((labels == 3) | (labels == 0))
    return np.count_nonzero(touching) / np.count_nonzero(exposed)


def crofton(mask: np.ndarray, size: tuple[float, float, float]) -> float:
    """Surface from pairs of voxels, one in and one out, both inside the volume."""
    steps = DIRECTIONS * np.array(size)
    total = 0.0
    for weight, step, direction in zip(direction_weights(steps), steps, DIRECTIONS, strict=True):
        one = tuple(slice(max(0, -d), n - max(0, d)) for d, n in zip(direction, mask.shape, strict=True))
        other = tuple(slice(max(0, d), n + min(0, d)) for d, n in zip(direction, mask.shape, strict=True))
        total += weight * np.count_nonzero(mask[one] != mask[other]) / np.linalg.norm(step)
    return 2 * float(np.prod(size)) * total


def interiors(labels: np.ndarray, k: int) -> np.ndarray:
    """Voxels of class k with no other label within 2 voxels."""
    ball = sum(d.astype(float) ** 2 for d in np.mgrid[-2:3, -2:3, -2:3]) <= 4
    return scipy.ndimage.binary_erosion(labels == k, ball, border_value=1)


def numbers_by_brute_force(
    labels: np.ndarray, reference: np.ndarray, size: tuple[float, float, float], days: float, distance_um: float
) -> dict[str, float]:
    near = scipy.ndimage.distance_transform_edt(reference == 0, sampling=size) <= distance_um
    bone, background = (np.count_nonzero(near & (labels == k)) for k in (3, 0))
    voxel = float(np.prod(size))
    lost = (np.count_nonzero(reference) - np.count_nonzero(labels == 1)) * voxel
    years = days / 365.25
    surface_voxels = np.count_nonzero((reference > 0) & neighbours(reference == 0))
    cubes = len(set(size)) == 1
    return {
        "bone-implant contact, faces": contact_by_faces(labels, size),
        "bone-implant contact, voxels": contact_by_voxels(labels),
        "volume of residual metal": np.count_nonzero(labels == 1) * voxel * 1e-9,
        "volume of degradation layer": np.count_nonzero(labels == 2) * voxel * 1e-9,
        "volume of bone": np.count_nonzero(labels == 3) * voxel * 1e-9,
        "bone fraction around the reference": bone / (bone + background),
        "degradation rate": lost / crofton(reference > 0, size) / 1000 / years,
        **(
            {"degradation rate, surface voxels": lost / (surface_voxels * size[0] ** 2) / 1000 / years} if cubes else {}
        ),
    }


def by_name(results: dict[str, object] | None) -> dict[str, dict[str, object]]:
    assert results is not None
    return {q["name"]: q for q in results["quantities"]}


@pytest.mark.parametrize("size", [(5.0, 5.0, 5.0), (8.0, 5.0, 4.0)])
@pytest.mark.parametrize("block_shape", [None, (5, 34, 7)])
def test_everything_measured_equals_brute_force(tmp_path, size, block_shape):
    arrays = sample()
    volumes = {name: grey(values, voxel_size_um=size) for name, values in arrays.items()}
    results = implant.measure(
        **volumes,
        results=tmp_path / "results",
        healing_days=42.0,
        roi_distance_um=23.7,
        work=quiet(block_shape=block_shape),
    )
    found = by_name(results)
    for column, name in (("value", "labels"), ("truth", "truth")):
        expected = numbers_by_brute_force(arrays[name], arrays["reference"], size, 42.0, 23.7)
        for what, number in expected.items():
            assert found[what][column] == pytest.approx(number, rel=1e-12), (what, name)
    for k, text in enumerate(("background", "residual metal", "degradation layer", "bone")):
        a, b = arrays["labels"] == k, arrays["truth"] == k
        assert found[f"IoU {text}"]["value"] == np.count_nonzero(a & b) / np.count_nonzero(a | b)
        assert found[f"Dice {text}"]["value"] == 2 * np.count_nonzero(a & b) / (a.sum() + b.sum())
        inside = arrays["grey"][interiors(arrays["labels"], k)].astype(np.float64)
        if inside.size and inside.std():
            assert found[f"signal to noise, {text}"]["value"] == pytest.approx(inside.mean() / inside.std(), rel=1e-9)
        else:
            assert found[f"signal to noise, {text}"]["value"] is None
    assert found["signal to noise, bone"]["value"] > 0
    assert ("degradation rate, surface voxels" in found) == (len(set(size)) == 1)
    assert any("cut by the field of view at z high" in c for c in results["caveats"])
    assert json.loads((tmp_path / "results" / "results.json").read_text()) == json.loads(json.dumps(results))


def test_contrast_is_the_difference_of_means_over_the_summed_noise(tmp_path):
    truth, levels = np.zeros((8, 24, 24), np.uint8), np.zeros((8, 24, 24), np.uint16)
    random = np.random.default_rng(0)
    for k, (y, x) in enumerate(product((0, 12), repeat=2)):
        truth[:, y : y + 12, x : x + 12] = k
        levels[:, y : y + 12, x : x + 12] = random.normal(1000 * (k + 1), 40 + 10 * k, (8, 12, 12))
    results = implant.measure(grey(truth), tmp_path / "r", grey=grey(levels), work=quiet())
    found, inside = by_name(results), [levels[interiors(truth, k)].astype(np.float64) for k in range(4)]
    for one, other, text in ((3, 2, "bone and degradation layer"), (3, 0, "bone and background")):
        noise = np.sqrt(inside[one].var() + inside[other].var())
        expected = abs(inside[one].mean() - inside[other].mean()) / noise
        assert found[f"contrast to noise, {text}"]["value"] == pytest.approx(expected, rel=1e-9)


def test_each_volume_brings_its_own_numbers_and_no_others(tmp_path):
    volumes = {name: grey(values) for name, values in sample().items()}
    labels = volumes["labels"]
    alone = by_name(implant.measure(labels, tmp_path / "1", work=quiet()))
    assert set(alone) == {
        "bone-implant contact, faces",
        "bone-implant contact, voxels",
        "volume of residual metal",
        "volume of degradation layer",
        "volume of bone",
    }
    assert all(q["truth"] is None and q["relative_error"] is None for q in alone.values())
    compared = by_name(implant.measure(labels, tmp_path / "2", truth=volumes["truth"], work=quiet()))
    assert {name.split()[0] for name in set(compared) - set(alone)} == {"IoU", "Dice", "mean"}
    implanted = by_name(implant.measure(labels, tmp_path / "3", reference=volumes["reference"], work=quiet()))
    assert set(implanted) - set(alone) == {"bone fraction around the reference"}
    everything = implant.measure(**volumes, results=tmp_path / "4", healing_days=42, work=quiet())
    for name, q in {**alone, **implanted}.items():
        if name != "bone fraction around the reference":
            assert by_name(everything)[name]["value"] == q["value"], name
    assert "confusion" not in json.loads((tmp_path / "1" / "results.json").read_text())


def test_grey_values_that_are_no_integers_are_named_and_not_measured(tmp_path):
    arrays = sample()
    levels = grey(arrays["grey"].astype(np.float32))
    results = implant.measure(grey(arrays["labels"]), tmp_path / "r", grey=levels, work=quiet())
    assert "signal to noise, bone" not in by_name(results)
    assert any("not integers: signal and contrast" in c for c in results["caveats"])


@pytest.mark.parametrize("fill", [0, 1])
def test_a_reference_without_a_surface_has_no_degradation_rate(tmp_path, fill):
    arrays = sample()
    reference = grey(np.full_like(arrays["reference"], fill))
    with pytest.raises(InputError, match="the reference has no surface inside the volume"):
        implant.measure(
            grey(arrays["labels"]),
            tmp_path / "r",
            reference=reference,
            healing_days=42,
            roi_distance_um=20,
            work=quiet(),
        )


def test_measuring_refuses_times_that_cannot_be_and_voxels_of_no_size(tmp_path):
    labels = grey(sample()["labels"])
    with pytest.raises(InputError, match="the healing time must be positive, got -1"):
        implant.measure(labels, tmp_path / "a", healing_days=-1, work=quiet())
    with pytest.raises(InputError, match="does not say how large a voxel is"):
        implant.measure(Volume(labels.storage, None), tmp_path / "b", work=quiet())
    with pytest.raises(InputError, match="holds no results"):
        report(tmp_path, tmp_path / "report.html")


def test_a_tilde_is_the_home_directory_wherever_a_path_is_given(tmp_path, monkeypatch, capsys):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    values = np.random.default_rng(3).integers(0, 3, (6, 7, 8)).astype(np.uint8)
    volume_at(home / "labels.zarr", values)
    np.testing.assert_array_equal(open_volume("~/labels.zarr").read(), values)
    made = (
        clean("~/labels.zarr", "~/clean.zarr", work=quiet()).name,
        components("~/labels.zarr", "~/objects.zarr", work=quiet()).name,
        object_table("~/objects.zarr", "~/objects.csv", work=quiet()),
        export_volume("~/labels.zarr", "~/labels.tif"),
        open_tiff("~/labels.tif").name,
        run_state("~/clean.zarr").folder,
        implant.measure("~/labels.zarr", "~/results", work=quiet()) and report("~/results", "~/report.html").path,
    )
    assert all(Path(path).is_relative_to(home) and Path(path).exists() for path in made)
    shutil.copytree(SHIPPED_MODEL, home / "model")
    assert load_bundle("~/model").path.is_relative_to(home)
    chain = tmp_path / "chain.yaml"
    chain.write_text("steps:\n  - clean: {source: ~/labels.zarr, target: ~/again.zarr}\n")
    assert main(["run", str(chain), "--quiet"]) == 0
    assert main(["info", "~/again.zarr"]) == 0
    assert not (tmp_path / "~").exists()
    assert not Path("~").exists()
