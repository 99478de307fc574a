"""HDF5 volumes read as they are; no link leads out of the folder, and nothing missing reads as zeros."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor

import h5py
import hdf5plugin
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.blocks import seeds, small_shapes
from tomoscale.errors import InputError
from tomoscale.formats import open_volume

VALUES = np.random.default_rng(0).integers(0, 60000, (12, 9, 14)).astype("u2")


def write(path, values=VALUES, name="entry/data", **options):
    with h5py.File(path, "a") as file:
        return file.create_dataset(name, data=values, **options).name


@given(
    seed=seeds,
    shape=small_shapes,
    dtype=st.sampled_from(["u1", ">u2", "<i4", "f2", ">f4", "f8", "bool"]),
    options=st.sampled_from(
        [{}, {"chunks": True}, {"chunks": True, "compression": "gzip"}, {"chunks": True, **hdf5plugin.Bitshuffle()}]
    ),
    data=st.data(),
)
def test_any_region_reads_as_it_slices(tmp_path_factory, seed, shape, dtype, options, data):
    values = np.random.default_rng(seed).integers(0, 100, shape).astype(dtype)
    path = tmp_path_factory.mktemp("h") / "a.h5"
    write(path, values, **options)
    region = tuple(
        slice(*sorted(data.draw(st.lists(st.integers(0, n), min_size=2, max_size=2, unique=True)))) for n in shape
    )
    volume = open_volume(path)
    found = volume.read(region)
    assert found.dtype.isnative
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, values[region])


def test_the_dataset_may_be_in_the_path_or_an_argument(tmp_path):
    path = tmp_path / "scan.nxs"
    write(path, chunks=(4, 9, 7))
    write(path, VALUES + 1, "other")
    volume = open_volume(f"{path}::/entry/data")
    assert volume.storage.chunk_shape == (4, 9, 7)
    np.testing.assert_array_equal(volume.read(), VALUES)
    np.testing.assert_array_equal(open_volume(path, dataset="other").read(), VALUES + 1)
    with pytest.raises(InputError, match=r"several volumes; give dataset= one of: /entry/data \(12, 9, 14\); /other"):
        open_volume(path)
    with pytest.raises(ValueError, match="contradicts the path"):
        open_volume(f"{path}::/entry/data", dataset="other")


def test_threads_read_and_the_address_pickles(tmp_path):
    write(tmp_path / "a.h5", chunks=(2, 3, 4), compression="gzip")
    volume = pickle.loads(pickle.dumps(open_volume(tmp_path / "a.h5")))
    with ThreadPoolExecutor(4) as threads:
        for z, found in enumerate(threads.map(lambda z: volume.read((slice(z, z + 1), *[slice(None)] * 2)), range(12))):
            np.testing.assert_array_equal(found[0], VALUES[z])


def test_one_volume_under_many_names_is_one(tmp_path):
    write(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["soft"] = h5py.SoftLink("/entry/data")
        file["entry/relative"] = h5py.SoftLink("data")
        file["hard"] = file["entry/data"]
        file["entry/circle"] = file["/"]
        file["loop"] = h5py.SoftLink("/loop")
        file["text"] = "not a volume"
        file["image"] = np.zeros((3, 4))
    for dataset in (None, "soft", "entry/relative", "/hard", "entry/circle/entry/data"):
        np.testing.assert_array_equal(open_volume(tmp_path / "a.h5", dataset=dataset).read(), VALUES)
    with pytest.raises(InputError, match="chain of more than 32 links"):
        open_volume(tmp_path / "a.h5", dataset="loop")


def test_links_are_followed_inside_the_folder_only(tmp_path):
    inner = tmp_path / "inner"
    (inner / "raw").mkdir(parents=True)
    write(tmp_path / "secret.h5")
    write(inner / "raw/frames.h5")
    (inner / "sly.h5").symlink_to(tmp_path / "secret.h5")
    with h5py.File(inner / "master.h5", "w") as file:
        file["data"] = h5py.ExternalLink("raw/frames.h5", "/entry/data")
        file["secret"] = h5py.ExternalLink("../secret.h5", "/entry/data")
        file["absolute"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "/entry/data")
        file["sly"] = h5py.ExternalLink("sly.h5", "/entry/data")
        file["gone"] = h5py.ExternalLink("raw/gone.h5", "/entry/data")
    volume = open_volume(inner / "master.h5")
    assert volume.name == f"{inner}/raw/frames.h5::/entry/data"
    np.testing.assert_array_equal(volume.read(), VALUES)
    for name in ("secret", "absolute", "sly"):
        with pytest.raises(InputError, match=rf"master\.h5::/{name} leads to .*, outside the folder"):
            open_volume(inner / "master.h5", dataset=name)
    with pytest.raises(InputError, match=r"gone leads to .*raw/gone\.h5, which is not there"):
        open_volume(inner / "master.h5", dataset="gone")
    (inner / "raw/frames.h5").unlink()
    with pytest.raises(
        InputError, match=r"no three-dimensional .*Links that lead nowhere: .*frames\.h5, which is not there"
    ):
        open_volume(inner / "master.h5")


def test_voxels_stored_in_other_files_are_checked(tmp_path):
    inner = tmp_path / "inner"
    inner.mkdir()
    (tmp_path / "passwords").write_bytes(b"x" * 64)
    with h5py.File(inner / "a.h5", "w") as file:
        file.create_dataset("plain", (4, 4, 4), "u1", external=[(str(tmp_path / "passwords"), 0, 64)])
        layout = h5py.VirtualLayout((4, 4, 4), "u1")
        layout[:] = h5py.VirtualSource(str(inner / "part.h5"), "d", (4, 4, 4))
        file.create_virtual_dataset("virtual", layout)
    with pytest.raises(InputError, match=r"the storage of .*a\.h5::/plain leads to .*passwords, outside the folder"):
        open_volume(inner / "a.h5", dataset="plain")
    with pytest.raises(InputError, match=r"part\.h5, which is not there: copy the file"):
        open_volume(inner / "a.h5", dataset="virtual")
    write(inner / "part.h5", np.ones((4, 4, 4), "u1"), "d")
    assert open_volume(inner / "a.h5", dataset="virtual").read().sum() == 64


@pytest.mark.parametrize(
    ("attributes", "size"),
    [
        ({"element_size_um": [3.0, 2.0, 1.0]}, (3.0, 2.0, 1.0)),
        ({"voxel_size": 0.65, "voxel_size_unit": "um"}, (0.65, 0.65, 0.65)),
        ({"voxel_size": [1, 2, 3], "voxel_size_units": np.bytes_(b"mm")}, (1000.0, 2000.0, 3000.0)),
        ({"voxel_size": [1.0, 2.0, 3.0]}, None),
        ({"voxel_size": 1.0, "voxel_size_unit": "pixel"}, None),
        ({}, None),
    ],
)
def test_the_voxel_size_is_believed_only_with_a_unit(tmp_path, attributes, size):
    write(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["entry/data"].attrs.update(attributes)
    assert open_volume(tmp_path / "a.h5").voxel_size_um == (None if size is None else pytest.approx(size))


@pytest.mark.parametrize("stored", [0.0, -1.0, [1.0, 2.0], "wide", [np.nan] * 3])
def test_a_stored_voxel_size_that_is_none_is_refused(tmp_path, stored):
    write(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["entry/data"].attrs["element_size_um"] = stored
    with pytest.raises(InputError, match=r"as stored in element_size_um.* must be three positive lengths"):
        open_volume(tmp_path / "a.h5")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((3, 4), "u1"), "must have three axes"),
        (np.zeros((3, 0, 4), "u1"), "at least one voxel"),
        (np.zeros((3, 4, 5), "c8"), "values of type complex64, but only"),
        (np.zeros((2, 3, 4, 5), "u1"), "must have three axes"),
    ],
)
def test_what_is_no_volume_is_refused(tmp_path, values, message):
    write(tmp_path / "a.h5", values)
    with pytest.raises(InputError, match=message):
        open_volume(tmp_path / "a.h5", dataset="entry/data")


def test_wrong_names_and_files_are_refused(tmp_path):
    write(tmp_path / "a.h5")
    with pytest.raises(InputError, match=r"has no 'date' in /entry, which holds: data"):
        open_volume(f"{tmp_path}/a.h5::/entry/date")
    with pytest.raises(InputError, match=r"has no 'more' in /entry/data, which holds: nothing, it is a dataset"):
        open_volume(f"{tmp_path}/a.h5::/entry/data/more")
    with pytest.raises(InputError, match=r"/entry is a group, not a dataset; give dataset= one of: /entry/data"):
        open_volume(tmp_path / "a.h5", dataset="entry")
    (tmp_path / "b.h5").write_bytes((tmp_path / "a.h5").read_bytes()[:700])
    with pytest.raises(InputError, match=r"b\.h5 is not an HDF5 file that can be read"):
        open_volume(tmp_path / "b.h5")


def test_damage_met_later_names_the_file_and_the_place(tmp_path):
    write(tmp_path / "a.h5", chunks=(2, 9, 14), compression="gzip", fletcher32=True)
    volume = open_volume(tmp_path / "a.h5")
    before = volume.identity()
    with h5py.File(tmp_path / "a.h5", "r") as file:
        chunk = file["entry/data"].id.get_chunk_info(2)
    content = bytearray((tmp_path / "a.h5").read_bytes())
    content[chunk.byte_offset + 30] ^= 0xFF
    (tmp_path / "a.h5").write_bytes(content)
    volume.read((slice(0, 4), slice(0, 9), slice(0, 14)))
    with pytest.raises(InputError, match=r"a\.h5::/entry/data cannot be read at z 0:12, y 0:9, x 0:14"):
        volume.read()
    assert volume.identity() != before


def test_a_file_replaced_after_opening_is_refused(tmp_path):
    write(tmp_path / "a.h5")
    volume = open_volume(tmp_path / "a.h5")
    (tmp_path / "a.h5").unlink()
    write(tmp_path / "a.h5", VALUES.astype("f4"))
    with pytest.raises(InputError, match=r"float32, but was \(12, 9, 14\) uint16"):
        volume.read()


def test_a_real_nexus_file_with_links(real_data):
    volume = open_volume(real_data / "beamline_k11_nexus" / "k11-18014.nxs")
    assert volume.shape == (3201, 22, 26)
    assert volume.storage.chunk_shape == (1, 22, 26)
    same = open_volume(f"{real_data}/beamline_k11_nexus/k11-18014.nxs::/entry/imaging/data")
    assert same == volume
    part = volume.read((slice(0, 5), slice(0, 22), slice(0, 26)))
    assert part.dtype == np.uint16
    assert part.max() > 0


def test_a_real_file_with_several_volumes(real_data):
    path = real_data / "beamline_aps_tooth" / "tooth.h5"
    with pytest.raises(InputError, match=r"/exchange/data \(181, 2, 640\); /exchange/data_dark \(10, 2, 640\)"):
        open_volume(path)
    assert open_volume(f"{path}::/exchange/data").shape == (181, 2, 640)
