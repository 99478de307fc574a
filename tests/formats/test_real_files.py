"""Files as scanners, beamlines and other programs wrote them, against what their own documentation says of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pydicom
import pytest
import scipy.io
import tifffile

from tomoscale.errors import InputError
from tomoscale.formats import open_volume

ORMIR = "formats_ormir"


@pytest.mark.parametrize(
    ("name", "shape", "dtype", "size_um"),
    [
        (f"{ORMIR}/test_aim.AIM", (25, 25, 25), "int16", 60.68),
        (f"{ORMIR}/test_isq.ISQ", (25, 25, 25), "int16", 60.68),
        (f"{ORMIR}/test_dicom", (25, 25, 25), "int16", 60.7),
        (f"{ORMIR}/test_dicom/IMG0012.dcm", (1, 25, 25), "int16", None),
        (f"{ORMIR}/test_nii.nii", (25, 25, 25), "uint8", 60.7),
        (f"{ORMIR}/test_mha.mha", (25, 25, 25), "int16", 60.7),
        (f"{ORMIR}/test_nrrd.nrrd", (25, 25, 25), "int16", None),
        ("screw_models/volLTS.mat", (512, 512, 512), "uint8", None),
        ("beamline_k11_nexus/k11-18014.nxs", (3201, 22, 26), "uint16", None),
        ("beamline_k11_nexus/k11-18014/k11-18014-imaging.h5", (3201, 22, 26), "uint16", None),
        ("beamline_aps_tooth/tooth.h5", (181, 2, 640), "float32", None),
        ("femur_lacunae/bone_7H3A_B1.tif", (600, 250, 350), "uint8", None),
        ("lhdl_trabecular_bone", (200, 200, 200), "uint8", None),
        ("cotton_fibres/cotton_test_volume.tif", (100, 100, 100), "uint8", None),
    ],
)
def test_shape_type_and_voxel_size(real_data, name, shape, dtype, size_um):
    volume = open_volume(real_data / name)
    assert volume.shape == shape
    assert volume.dtype == dtype
    assert volume.voxel_size_um == (None if size_um is None else pytest.approx((size_um,) * 3, rel=1e-3))
    region = tuple(slice(n // 2, n // 2 + 1) for n in shape)
    assert volume.read(region).shape == (1, 1, 1)


def plain_isq(folder: Path) -> np.ndarray:
    """Voxels of the ISQ by its documentation alone: int16 after one block of 512 bytes."""
    return np.fromfile(folder / "test_isq.ISQ", "<i2", 25**3, offset=512).reshape(25, 25, 25)


@pytest.mark.parametrize(
    "name", ["test_aim.AIM", "test_isq.ISQ", "test_dicom", "test_nii.nii", "test_mha.mha", "test_nrrd.nrrd"]
)
def test_one_volume_in_six_formats_is_the_same_to_the_voxel(real_data, name):
    expected = plain_isq(real_data / ORMIR)
    assert np.count_nonzero(expected == 1) == 81
    volume = open_volume(real_data / ORMIR / name)
    np.testing.assert_array_equal(volume.read(), expected)
    region = (slice(3, 19), slice(7, 8), slice(1, 24))
    np.testing.assert_array_equal(volume.read(region), expected[region])


def test_dicom_slices_are_what_pydicom_reads(real_data):
    volume = open_volume(real_data / ORMIR / "test_dicom")
    slices = [pydicom.dcmread(path) for path in (real_data / ORMIR / "test_dicom").iterdir()]
    slices.sort(key=lambda s: float(s.ImagePositionPatient[2]))
    np.testing.assert_array_equal(volume.read(), np.stack([s.pixel_array for s in slices]))


def test_the_screw_is_where_its_authors_put_it(real_data):
    volume = open_volume(real_data / "screw_models" / "volLTS.mat", voxel_size_um=29.297)
    screw = volume.read((slice(0, 512), slice(0, 113), slice(0, 113)))
    assert np.array_equal(np.unique(screw), [0, 255])
    assert np.count_nonzero(screw) == 2_991_499
    assert not volume.read((slice(100, 110), slice(113, 512), slice(0, 512))).any()
    assert not volume.read((slice(400, 410), slice(0, 512), slice(113, 512))).any()
    # Long axis: every slice along it holds some of the screw.
    assert screw.any(axis=(1, 2)).all()


def test_the_screw_is_what_scipy_reads(real_data):
    path = real_data / "screw_models" / "volLTS.mat"
    whole = scipy.io.loadmat(path)["vol"].transpose(2, 1, 0)
    volume = open_volume(path)
    for z in (0, 77, 300, 511):
        region = (slice(z, z + 1), slice(0, 512), slice(0, 512))
        np.testing.assert_array_equal(volume.read(region), whole[region])


def test_the_screw_takes_far_less_memory_than_its_voxels(real_data):
    program = (
        "import sys, resource; from tomoscale.formats import open_volume\n"
        "volume = open_volume(sys.argv[1]); before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for z in range(0, 512, 16): volume.read((slice(z, z + 16), slice(0, 512), slice(0, 512)))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    path = real_data / "screw_models" / "volLTS.mat"
    done = subprocess.run(
        [sys.executable, "-c", program, path], capture_output=True, text=True, check=True, timeout=120
    )
    assert int(done.stdout) * 1024 < 512**3 / 4


def test_links_of_a_beamline_that_lead_nowhere_are_named(real_data):
    path = real_data / "beamline_k11_nexus" / "k11-18014.nxs"
    with pytest.raises(InputError, match=r"EtherCAT/data leads to .*, which is not there: copy the file that belongs"):
        open_volume(path, dataset="/entry/EtherCAT/data")
    with pytest.raises(InputError, match=r"has no 'images' in /entry, which holds: "):
        open_volume(path, dataset="/entry/images")
    frames = real_data / "beamline_k11_nexus" / "k11-18014" / "k11-18014-imaging.h5"
    with h5py.File(frames) as file:
        whole = file["/entry/detector/detector"][1000:1003]
    np.testing.assert_array_equal(open_volume(path).read((slice(1000, 1003), slice(0, 22), slice(0, 26))), whole)
    assert open_volume(path).name.startswith(str(frames))


def test_projections_in_data_exchange(real_data):
    path = real_data / "beamline_aps_tooth" / "tooth.h5"
    with h5py.File(path) as file:
        whole = file["exchange/data"][:]
    np.testing.assert_array_equal(open_volume(path).read(), whole)


def test_strips_that_stop_a_decoder(real_data):
    volume = open_volume(real_data / "femur_lacunae" / "bone_7H3A_B1.tif")
    part = volume.read((slice(299, 302), slice(240, 250), slice(0, 350)))
    assert np.array_equal(np.unique(part), [0, 127])


def test_a_stack_of_fibres(real_data):
    path = real_data / "cotton_fibres" / "cotton_test_volume.tif"
    np.testing.assert_array_equal(open_volume(path).read(), tifffile.imread(path))
