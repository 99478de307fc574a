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


def test_a_real_data_exchange_file(real_data):
    path = real_data / "beamline_aps_tooth" / "tooth.h5"
    volume = open_volume(path)
    assert volume.name == f"{path}::/exchange/data"
    assert volume.shape == (181, 2, 640)
    assert volume.voxel_size_um is None
    assert open_volume(path, dataset="exchange/data_white").shape == (10, 2, 640)


NEXUS = np.arange(2 * 3 * 4, dtype="u2").reshape(2, 3, 4)
COORDINATES = {"z": (2, 3.0), "y": (3, 2.0), "x": (4, 1.0)}


def nxdata(group, name, values, order="zyx", axes=None, units="um"):
    """An NXdata with the values in the given order of axes, and coordinates for each."""
    group.attrs["NX_class"] = "NXdata"
    dataset = group.create_dataset(name, data=values.transpose(["zyx".index(a) for a in order]))
    for letter, (count, step) in COORDINATES.items():
        if units is not None:
            group[letter] = np.arange(count) * step
            group[letter].attrs["units"] = units
    if axes == "group":
        group.attrs["axes"] = list(order)
    if axes in ("colons", "brackets"):
        dataset.attrs["axes"] = ":".join(order) if axes == "colons" else f"[{','.join(order)}]"
    return dataset


def entry(file, name="entry", definition=None, default=None):
    group = file.create_group(name)
    group.attrs["NX_class"] = "NXentry"
    if definition:
        group["definition"] = definition
    if default:
        group.attrs["default"] = default
    return group


@pytest.mark.parametrize("order", ["zyx", "xyz", "yxz", "xzy"])
@pytest.mark.parametrize("axes", ["group", "colons", "brackets"])
@pytest.mark.parametrize("units", ["um", "mm", "pixels", None])
def test_axes_are_put_into_the_stated_order(tmp_path, order, axes, units):
    with h5py.File(tmp_path / "a.nxs", "w") as file:
        data = entry(file).create_group("data")
        nxdata(data, "data", NEXUS, order, axes, units)
        data.attrs["signal"] = "data"
        data["data"].attrs.update({"voxel_size": 9.0} if units == "pixels" else {})
    volume = pickle.loads(pickle.dumps(open_volume(tmp_path / "a.nxs")))
    np.testing.assert_array_equal(volume.read(), NEXUS)
    found = volume.read((slice(1, 2), slice(0, 2), slice(1, 4)))
    np.testing.assert_array_equal(found, NEXUS[1:2, 0:2, 1:4])
    assert found.flags.c_contiguous
    factor = {"um": 1, "mm": 1000}.get(units)
    assert volume.voxel_size_um == (None if factor is None else (3.0 * factor, 2.0 * factor, 1.0 * factor))
    np.testing.assert_array_equal(open_volume(tmp_path / "a.nxs", dataset="entry/data/data").read(), NEXUS)


def test_a_stated_size_follows_the_axes(tmp_path):
    with h5py.File(tmp_path / "a.nxs", "w") as file:
        nxdata(file.create_group("data"), "v", NEXUS, "xyz", "group", None).attrs["element_size_um"] = [1.0, 2.0, 3.0]
        file["data/v"].attrs["note"] = "of x, y and z, as the axes"
    assert open_volume(tmp_path / "a.nxs").voxel_size_um == (3.0, 2.0, 1.0)


@pytest.mark.parametrize("coordinates", [[0, 1, 3, 4], [0, 0, 0, 0], [0, 1, 2, 3, 4], "text"])
def test_coordinates_that_are_not_regular_say_nothing(tmp_path, coordinates):
    with h5py.File(tmp_path / "a.nxs", "w") as file:
        data = file.create_group("data")
        nxdata(data, "v", NEXUS, axes="group")
        del data["x"]
        data["x"] = coordinates
        data["x"].attrs["units"] = "um"
    assert open_volume(tmp_path / "a.nxs").voxel_size_um is None


def several(file):
    """Two entries' worth of volumes of which no rule can say which is meant."""
    file["raw"] = np.zeros((2, 2, 2))
    file["other"] = np.zeros((2, 2, 2))


@pytest.mark.parametrize(
    "write",
    [
        lambda f: (
            f.attrs.update(default="e2"),
            entry(f, "e1"),
            nxdata(entry(f, "e2", default="d").create_group("d"), "s", NEXUS),
            f["e2/d"].attrs.update(signal="s"),
        ),
        lambda f: (
            nxdata(entry(f, "only", default="d").create_group("d"), "s", NEXUS),
            f["only/d"].attrs.update(signal=np.bytes_(b"s")),
        ),
        lambda f: (
            nxdata(entry(f, "only", default="d").create_group("d"), "s", NEXUS),
            f["only/d/s"].attrs.update(signal=1),
        ),
        lambda f: (
            f.attrs.update(default="e/d"),
            nxdata(entry(f, "e").create_group("d"), "s", NEXUS),
            f["e/d"].attrs.update(signal="s"),
        ),
        lambda f: nxdata(entry(f, "scan", "NXtomoproc").create_group("data"), "data", NEXUS),
        lambda f: nxdata(entry(f, "scan", "NXtomoproc").create_group("data"), "data", NEXUS, "xyz"),
        lambda f: f.create_dataset("exchange/data", data=NEXUS),
        lambda f: f.create_dataset("exchange/data", data=NEXUS.transpose()).attrs.update(axes="x:y:z"),
        lambda f: (f.attrs.update(default="gone"), f.create_dataset("exchange/data", data=NEXUS)),
        lambda f: (
            f.attrs.update(default="e"),
            entry(f, "e", default="e2"),
            f.create_dataset("exchange/data", data=NEXUS),
        ),
    ],
    ids=[
        "default",
        "only entry",
        "old signal",
        "path",
        "tomoproc",
        "tomoproc xyz",
        "exchange",
        "exchange xyz",
        "gone",
        "none",
    ],
)
def test_the_volume_is_found_by_what_the_file_says(tmp_path, write):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        several(file)
        write(file)
    np.testing.assert_array_equal(open_volume(tmp_path / "a.h5").read(), NEXUS)


@pytest.mark.parametrize("shape", [(4, 4, 4), (2, 2, 3)])
def test_a_reconstruction_whose_axes_nothing_tells_is_refused(tmp_path, shape):
    values = np.arange(np.prod(shape)).reshape(shape)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        data = entry(file, "scan", "NXtomoproc").create_group("data")
        data.create_dataset("data", data=values)
    with pytest.raises(InputError, match=r"does not say which axis is z, y and x .* give dataset=/scan/data/data"):
        open_volume(tmp_path / "a.h5")
    np.testing.assert_array_equal(open_volume(tmp_path / "a.h5", dataset="/scan/data/data").read(), values)


def test_a_default_may_be_a_link_into_the_folder_but_not_out_of_it(tmp_path):
    inner = tmp_path / "inner"
    inner.mkdir()
    write(inner / "frames.h5", NEXUS)
    write(tmp_path / "secret.h5", NEXUS + 1)
    for target, found in (("frames.h5", NEXUS), ("../secret.h5", np.ones((2, 2, 2)))):
        with h5py.File(inner / "master.nxs", "w") as file:
            group = entry(file, default="d").create_group("d")
            group.attrs.update(NX_class="NXdata", signal="s")
            group["s"] = h5py.ExternalLink(target, "/entry/data")
            file["small"] = np.ones((2, 2, 2))
        np.testing.assert_array_equal(open_volume(inner / "master.nxs").read(), found)


def virtual(path, source, inside, shape=(4, 4, 4), name="v"):
    with h5py.File(path, "a") as file:
        layout = h5py.VirtualLayout(shape, "u1")
        layout[:] = h5py.VirtualSource(source, inside, shape)
        file.create_virtual_dataset(name, layout)


def test_files_of_voxels_are_looked_for_beside_the_file_not_in_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    (tmp_path / "here").mkdir()
    for folder, value in (("in", 7), ("here", 9)):
        (tmp_path / folder / "raw.bin").write_bytes(bytes([value]) * 64)
        write(tmp_path / folder / "part.h5", np.full((4, 4, 4), value, "u1"), "d")
    with h5py.File(tmp_path / "in/a.h5", "w") as file:
        file.create_dataset("plain", (4, 4, 4), "u1", external=[("raw.bin", 0, 64)])
    virtual(tmp_path / "in/a.h5", "part.h5", "d")
    monkeypatch.chdir(tmp_path / "here")
    for name in ("plain", "v"):
        volume = open_volume(tmp_path / "in/a.h5", dataset=name)
        assert set(volume.read().ravel()) == {7}
        before = volume.storage.identity()
        assert before["sources"]
    (tmp_path / "in/part.h5").unlink()
    with pytest.raises(InputError, match=r"voxels in .*part\.h5, which is not there any more"):
        volume.read()


def test_external_voxels_that_are_cut_short_are_refused(tmp_path):
    (tmp_path / "raw.bin").write_bytes(bytes(63))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("plain", (4, 4, 4), "u1", external=[("raw.bin", 0, 64)])
        file.create_dataset("rest", (4, 4, 4), "u1", external=[("raw.bin", 10, h5py.h5f.UNLIMITED)])
    with pytest.raises(InputError, match=r"a\.h5::/plain has voxels in .*raw\.bin up to byte 64, but it has 63"):
        open_volume(tmp_path / "a.h5", dataset="plain")
    with pytest.raises(InputError, match="up to byte 74, but it has 63"):
        open_volume(tmp_path / "a.h5", dataset="rest")
    (tmp_path / "raw.bin").write_bytes(bytes(74))
    volume = open_volume(tmp_path / "a.h5", dataset="rest")
    (tmp_path / "raw.bin").write_bytes(bytes(73))
    with pytest.raises(InputError, match="up to byte 74, but it has 73"):
        volume.read()


def test_virtual_datasets_are_checked_through_all_their_sources(tmp_path):
    inner = tmp_path / "inner"
    inner.mkdir()
    (tmp_path / "passwords").write_bytes(b"x" * 64)
    write(tmp_path / "out.h5", np.ones((4, 4, 4), "u1"), "d")
    with h5py.File(inner / "deep.h5", "w") as file:
        file["link"] = h5py.ExternalLink("../out.h5", "/d")
        file.create_dataset("stolen", (4, 4, 4), "u1", external=[(str(tmp_path / "passwords"), 0, 64)])
        file["fine"] = np.full((4, 4, 4), 3, "u1")
    virtual(inner / "deep.h5", ".", "stolen", name="again")
    for inside, message in (
        ("link", r"link leads to \.\./out\.h5, outside the folder"),
        ("stolen", r"deep\.h5::/stolen leads to .*passwords, outside the folder"),
        ("again", r"deep\.h5::/stolen leads to .*passwords, outside the folder"),
        ("gone", "has no 'gone' in /"),
    ):
        (inner / "a.h5").unlink(missing_ok=True)
        virtual(inner / "a.h5", "deep.h5", inside)
        with pytest.raises(InputError, match=message):
            open_volume(inner / "a.h5", dataset="v")
    (inner / "a.h5").unlink()
    virtual(inner / "a.h5", "deep.h5", "fine")
    virtual(inner / "a.h5", ".", "v", name="w")
    assert open_volume(inner / "a.h5", dataset="w").read().sum() == 192


def test_virtual_datasets_made_of_each_other_are_refused(tmp_path):
    virtual(tmp_path / "a.h5", "b.h5", "v")
    virtual(tmp_path / "b.h5", "a.h5", "v")
    for n in range(12):
        virtual(tmp_path / "chain.h5", ".", f"v{n + 1}", name=f"v{n}")
    write(tmp_path / "chain.h5", np.ones((4, 4, 4), "u1"), "v12")
    for name, dataset in (("a", "v"), ("b", "v"), ("chain", "v0")):
        with pytest.raises(InputError, match="in a circle or more than 8 times over"):
            open_volume(tmp_path / f"{name}.h5", dataset=dataset)
    assert open_volume(tmp_path / "chain.h5", dataset="v6").read().sum() == 64


def test_virtual_datasets_of_files_named_by_a_pattern_are_refused(tmp_path):
    layout = h5py.VirtualLayout((4, 4, 4), "u1", maxshape=(None, 4, 4))
    layout[0 : h5py.h5s.UNLIMITED, :, :] = h5py.VirtualSource("p-%b.h5", "d", (1, 4, 4))[0:1]
    write(tmp_path / "p-0.h5", np.ones((1, 4, 4), "u1"), "d")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_virtual_dataset("v", layout)
    with pytest.raises(InputError, match=r"named by the pattern p-%b\.h5, which are not read"):
        open_volume(tmp_path / "a.h5", dataset="v")


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "lzf"},
        {"compression": "gzip", "shuffle": True},
        {"scaleoffset": 0},
        hdf5plugin.Blosc(cname="zstd"),
        hdf5plugin.Blosc2(),
        hdf5plugin.LZ4(),
        hdf5plugin.Zstd(),
        hdf5plugin.BZip2(),
        hdf5plugin.Bitshuffle(cname="zstd"),
    ],
)
def test_compressions_of_facilities(tmp_path, options):
    write(tmp_path / "a.h5", chunks=(4, 9, 7), **options)
    np.testing.assert_array_equal(open_volume(tmp_path / "a.h5").read(), VALUES)


def test_a_compression_nobody_knows_is_refused_when_it_is_opened(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        created = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        created.set_chunk((2, 2, 2))
        created.set_filter(300, h5py.h5z.FLAG_OPTIONAL)
        space = h5py.h5s.create_simple((4, 4, 4))
        h5py.h5d.create(file.id, b"v", h5py.h5t.NATIVE_UINT8, space, created)
    with pytest.raises(InputError, match=r"/v is compressed with filter 300 \(unnamed\), which is not installed"):
        open_volume(tmp_path / "a.h5")


def test_objects_of_no_use_are_passed_over(tmp_path):
    write(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "a") as file:
        h5py.h5d.create(file.id, b"time", h5py.h5t.UNIX_D32LE, h5py.h5s.create_simple((2, 2, 2)))
        file["type"] = np.dtype("f4")
        file["empty"] = h5py.Empty("f4")
        file["dot"] = np.zeros((2, 2))
        file["entry"].attrs["axes"] = [".", ".", "."]
    np.testing.assert_array_equal(open_volume(tmp_path / "a.h5").read(), VALUES)


def test_a_file_of_very_many_objects_is_refused_quickly(tmp_path, monkeypatch):
    monkeypatch.setattr("tomoscale.formats.hdf5_links.MAX_NODES", 50)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for n in range(60):
            file.create_group(f"{n}")
    with pytest.raises(InputError, match="holds more than 50 objects: give dataset="):
        open_volume(tmp_path / "a.h5")


@given(seed=seeds)
def test_a_file_with_spoilt_bytes_reads_or_is_refused(tmp_path_factory, seed):
    path = tmp_path_factory.mktemp("h") / "a.h5"
    write(path, chunks=(4, 9, 7), compression="gzip")
    content = bytearray(path.read_bytes())
    draw = np.random.default_rng(seed)
    for place in draw.integers(8, min(len(content), 3000), 12):
        content[place] = draw.integers(256)
    path.write_bytes(content)
    try:
        open_volume(path).read((slice(0, 1),) * 3)
    except InputError as error:
        assert "a.h5" in str(error)  # noqa: PT017 -- either is right
