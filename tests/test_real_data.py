"""Real scans, measured by blocks, against the whole array in numpy, SciPy and scikit-image."""

from __future__ import annotations

import hashlib
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
import scipy.ndimage
import skimage.measure
from PIL import Image

from tests.conftest import REAL_DATA
from tomoscale.cluster import local
from tomoscale.commands import convert
from tomoscale.engine import run
from tomoscale.formats import open_volume
from tomoscale.geometry import whole
from tomoscale.kernels.classes import threshold
from tomoscale.kernels.resample import resample, resampled_shape, scale_factor
from tomoscale.measures import contact, fraction
from tomoscale.measures.cells import DIRECTIONS, direction_weights
from tomoscale.measures.pairs import label_counts
from tomoscale.measures.topology import configurations, euler_number, object_volume, surface_area
from tomoscale.measures.touching import touching_voxels
from tomoscale.memory_array import MemoryArray
from tomoscale.plan import plan_map, plan_measure
from tomoscale.volume import Volume, open_zarr
from tomoscale.work import Work

BONE_VOXEL_UM = 19.5
SCREW_VOXEL_UM = 15000 / 512
TILINGS = ((200, 200, 200), (64, 64, 64), (33, 200, 71))


@pytest.fixture(scope="module")
def grey_bone() -> np.ndarray:
    """The slices as Pillow reads them: no reader of ours, so that it can judge ours."""
    folder = REAL_DATA / "lhdl_trabecular_bone"
    if not folder.is_dir():
        pytest.skip("the real scans are not on this machine")
    return np.stack([np.asarray(Image.open(path)) for path in sorted(folder.glob("*.tif"))])


@pytest.fixture(scope="module")
def scan(grey_bone, tmp_path_factory) -> Volume:
    folder = tmp_path_factory.mktemp("bone")
    return convert(
        REAL_DATA / "lhdl_trabecular_bone", folder / "scan.zarr", voxel_size_um=BONE_VOXEL_UM, work=Work(progress=False)
    )


@pytest.fixture(scope="module")
def bone(scan, tmp_path_factory) -> Volume:
    path = tmp_path_factory.mktemp("bone") / "mask.zarr"
    return run(plan_map(threshold(low=63), scan, path, kind="mask", block_shape=(64, 96, 128)))


@pytest.fixture(scope="module")
def expected(grey_bone) -> dict[str, float]:
    """Everything measured of the whole array at once."""
    mask = grey_bone > 63
    pairs = sum(np.count_nonzero(np.diff(mask.view(np.uint8), axis=axis)) for axis in range(3))
    return {
        "BV/TV": float(mask.mean()),
        "voxel faces": pairs * BONE_VOXEL_UM**2,
        "crofton": crofton(mask, BONE_VOXEL_UM),
        "euler 6": skimage.measure.euler_number(mask, connectivity=1),
        "euler 26": skimage.measure.euler_number(mask, connectivity=3),
    }


def crofton(mask: np.ndarray, voxel_um: float) -> float:
    """Surface from all pairs of voxels in 13 directions, one in and one out, both inside the volume."""
    total = 0.0
    for weight, direction in zip(direction_weights(DIRECTIONS.astype(float)), DIRECTIONS.tolist(), strict=True):
        one = tuple(slice(max(0, -d), n - max(0, d)) for d, n in zip(direction, mask.shape, strict=True))
        other = tuple(slice(max(0, d), n + min(0, d)) for d, n in zip(direction, mask.shape, strict=True))
        total += weight * np.count_nonzero(mask[one] != mask[other]) / float(np.linalg.norm(direction))
    return 2 * total * voxel_um**2


def numbers(cells: np.ndarray) -> dict[str, float]:
    size = (BONE_VOXEL_UM,) * 3
    return {
        "BV/TV": object_volume(cells, size) / (200 * BONE_VOXEL_UM) ** 3,
        "voxel faces": surface_area(cells, size, "voxel_faces"),
        "crofton": surface_area(cells, size),
        "euler 6": euler_number(cells, 6),
        "euler 26": euler_number(cells, 26),
    }


def test_the_converted_scan_holds_the_published_bytes(scan, grey_bone):
    assert hashlib.sha256(scan.read().tobytes()).hexdigest().startswith("d65d7edcfd91881d")
    np.testing.assert_array_equal(scan.read(), grey_bone)
    assert scan.voxel_size_um == (BONE_VOXEL_UM,) * 3


@pytest.mark.parametrize("block_shape", TILINGS)
def test_bone_measured_by_blocks_equals_the_whole_array(bone, expected, block_shape):
    found = numbers(run(plan_measure(configurations(), bone, block_shape=block_shape))["configurations"])
    assert found == pytest.approx(expected, rel=1e-12)
    assert (found["euler 6"], found["euler 26"]) == (expected["euler 6"], expected["euler 26"])


def test_worker_processes_measure_the_same_bone(scan, expected, tmp_path):
    with local(2) as client:
        mask = run(
            plan_map(threshold(low=63), scan, tmp_path / "mask.zarr", kind="mask", block_shape=(64, 64, 200)), client
        )
        cells = run(plan_measure(configurations(), mask, block_shape=(64, 200, 50)), client)["configurations"]
    assert numbers(cells) == pytest.approx(expected, rel=1e-12)


def nearest(values: np.ndarray, factor: float) -> np.ndarray:
    """Voxels whose centre lies nearest to the centres of a grid `factor` times as coarse."""
    index = []
    for n in values.shape:
        centres = (np.arange(round(n / factor)) + 0.5) * factor - 0.5
        index.append(np.clip(np.floor(centres + 0.5).astype(int), 0, n - 1))
    return values[np.ix_(*index)]


@pytest.fixture(scope="module")
def screw_model() -> np.ndarray:
    """The screw along z: (512, 113, 113) uint8, 1 inside."""
    path = REAL_DATA / "screw_models" / "volLTS.mat"
    if not path.exists():
        pytest.skip("the screw model is not on this machine")
    volume = scipy.io.loadmat(path)["vol"]
    return np.ascontiguousarray(volume[:113, :113].transpose(2, 1, 0) > 0).astype(np.uint8)


def test_a_screw_resampled_to_the_voxels_of_the_bone(screw_model, tmp_path):
    factor = scale_factor((SCREW_VOXEL_UM,) * 3, (BONE_VOXEL_UM,) * 3)
    source = Volume(MemoryArray(screw_model, "mask"), (SCREW_VOXEL_UM,) * 3)
    kernel = resample(factor, order=0, dtype=np.uint8)
    fine = run(plan_map(kernel, source, tmp_path / "screw.zarr", kind="mask", block_shape=(100, 64, 170)))
    assert fine.shape == resampled_shape(screw_model.shape, factor) == (769, 170, 170)
    assert fine.voxel_size_um == pytest.approx((BONE_VOXEL_UM,) * 3)
    np.testing.assert_array_equal(fine.read(), nearest(screw_model, factor[0]))
    volumes_mm3 = [
        n * (h / 1000) ** 3 for n, h in ((screw_model.sum(), SCREW_VOXEL_UM), (fine.read().sum(), BONE_VOXEL_UM))
    ]
    assert volumes_mm3[1] == pytest.approx(volumes_mm3[0], rel=0.005)


@pytest.fixture(scope="module")
def screw_in_bone(screw_model, grey_bone) -> np.ndarray:
    """Labels of the bone with the middle of the screw put into it: 0 marrow, 1 screw, 3 bone."""
    fine = nearest(screw_model, BONE_VOXEL_UM / SCREW_VOXEL_UM)[280:480]
    labels = np.where(grey_bone > 63, 3, 0).astype(np.uint8)
    field = labels[:, 15:185, 15:185]
    field[fine > 0] = 1
    return labels


@pytest.mark.parametrize("block_shape", TILINGS[1:])
def test_contact_of_a_screw_in_real_bone_equals_numpy(screw_in_bone, block_shape):
    labels = screw_in_bone
    assert np.count_nonzero(labels == 1) > 100_000
    measures = (label_counts(4), touching_voxels((1, 2), 3))
    volume = Volume(MemoryArray(labels, "labels"), (BONE_VOXEL_UM,) * 3)
    counts = run(plan_measure(measures, {"labels": volume, "truth": volume}, block_shape=block_shape))
    faces, touching = (counts[m.name] for m in measures)
    to_bone = to_marrow = 0
    near = {k: np.zeros(labels.shape, bool) for k in (0, 3)}
    for axis in range(3):
        lines = np.moveaxis(labels, axis, 0)
        for here, there in ((slice(None, -1), slice(1, None)), (slice(1, None), slice(None, -1))):
            to_bone += np.count_nonzero((lines[here] == 1) & (lines[there] == 3))
            to_marrow += np.count_nonzero((lines[here] == 1) & (lines[there] == 0))
            for k, mask in near.items():
                np.moveaxis(mask, axis, 0)[here] |= lines[there] == k
    screw = labels == 1
    by_faces = contact.bic_faces(faces["faces"], (BONE_VOXEL_UM,) * 3)
    assert by_faces == pytest.approx(to_bone / (to_bone + to_marrow), rel=1e-12)
    exposed = np.count_nonzero(screw & (near[0] | near[3]))
    assert contact.bic_voxels(touching) == np.count_nonzero(screw & near[3]) / exposed
    assert 0.05 < by_faces < 0.6, "a screw in spongy bone touches some of it"


def test_porosity_of_a_femur_with_lacunae(real_data):
    """A multi-page TIFF whose last strips are too long, measured without being converted."""
    volume = open_volume(real_data / "femur_lacunae" / "bone_7H3A_B1.tif")
    region = (slice(240, 320), slice(0, 250), slice(0, 350))
    part = volume.read(region)
    with Image.open(real_data / "femur_lacunae" / "bone_7H3A_B1.tif") as image:
        pages = []
        for page in range(240, 320):
            image.seek(page)
            pages.append(np.array(image))
    expected = np.stack(pages)
    np.testing.assert_array_equal(part, expected)
    mask = run(
        plan_map(threshold(low=63, dtype=np.uint8), Volume(MemoryArray(part)), Volume(MemoryArray(np.empty_like(part))))
    )
    cells = run(plan_measure(configurations(), mask, block_shape=(17, 250, 90)))["configurations"]
    row = np.array([part.size - object_volume(cells, (1, 1, 1)), object_volume(cells, (1, 1, 1))], np.int64)
    assert fraction.porosity(row, void=0, bone=1) == np.count_nonzero(expected == 0) / expected.size
    assert euler_number(cells, 26) == skimage.measure.euler_number(expected > 0, connectivity=3)


@pytest.mark.parametrize(
    ("path", "dataset", "inside"),
    [
        ("beamline_k11_nexus/k11-18014.nxs", "/entry/imaging/data", (slice(1500, 1510), slice(3, 22), slice(0, 25))),
        ("beamline_aps_tooth/tooth.h5", "/exchange/data", (slice(170, 181), slice(0, 2), slice(100, 640))),
    ],
)
def test_real_hdf5_reads_as_h5py_does(real_data, path, dataset, inside):
    volume = open_volume(f"{real_data / path}::{dataset}")
    with h5py.File(real_data / path) as file:
        assert volume.shape == file[dataset].shape
        np.testing.assert_array_equal(volume.read(inside), file[dataset][inside])


def test_a_real_tooth_scan_is_converted_with_every_value(real_data, tmp_path):
    source = Path(real_data / "beamline_aps_tooth" / "tooth.h5")
    target = convert(
        source, tmp_path / "t.zarr", dataset="/exchange/data", voxel_size_um=1.0, work=Work(progress=False)
    )
    with h5py.File(source) as file:
        np.testing.assert_array_equal(
            open_zarr(tmp_path / "t.zarr").read(whole(target.shape)), file["/exchange/data"][...]
        )
