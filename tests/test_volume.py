"""A volume holds what was written, says so when it does not, and refuses what it cannot read."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from ome_zarr_models.v05 import Image, ImageLabel

from tests.blocks import block_shapes, seeds, small_shapes
from tomoscale.errors import InputError, IntegrityError, PlanError
from tomoscale.geometry import Grid, whole
from tomoscale.volume import LabelClass, MemoryArray, Volume, create_volume, open_zarr
from tomoscale.voxel_size import micrometres_per

CLASSES = (LabelClass(0, "background", (0, 0, 0, 0)), LabelClass(3, "bone", (250, 240, 200, 255)))
ALL = (slice(None),) * 3


def random_values(shape, dtype="uint16", seed=0):
    values = np.random.default_rng(seed).integers(0, 2 if dtype == "bool" else 120, shape)
    return values.astype(dtype)


def written(path, values, **options):
    """A finished volume of `values`."""
    volume = create_volume(path, shape=values.shape, dtype=values.dtype, **options)
    volume.create()
    volume.write(ALL, values)
    volume.finish({"made by": "test"})
    return open_zarr(path)


def small(path, values=None, **options):
    values = random_values((40, 33, 50)) if values is None else values
    return written(path, values, chunk_shape=(8, 8, 8), shard_shape=(16, 16, 16), **options)


def edit(path: Path, change) -> None:
    metadata = json.loads(path.read_text())
    change(metadata)
    path.write_text(json.dumps(metadata))


def draw_region(data, shape):
    return tuple(
        slice(*sorted(data.draw(st.lists(st.integers(0, n), min_size=2, max_size=2, unique=True)))) for n in shape
    )


@given(
    seed=seeds,
    shape=small_shapes,
    chunk=block_shapes,
    factor=st.tuples(*[st.integers(1, 3)] * 3),
    dtype=st.sampled_from(["bool", "int8", "uint8", "uint16", "int32", "uint64", "float16", "float32", "float64"]),
    data=st.data(),
)
def test_any_region_reads_as_it_slices(tmp_path_factory, seed, shape, chunk, factor, dtype, data):
    values = random_values(shape, dtype, seed)
    path = tmp_path_factory.mktemp("v") / "v.zarr"
    shard = tuple(c * s for c, s in zip(chunk, factor, strict=True))
    volume = create_volume(
        path,
        shape=shape,
        dtype=dtype,
        kind=("grey", "mask")[seed % 2],
        chunk_shape=chunk,
        shard_shape=shard,
        durable=False,
    )
    volume.create()
    for region in Grid(shape, shard):
        volume.write(region, values[region])
    volume.finish({})
    region = draw_region(data, shape)
    found = open_zarr(path).read(region)
    assert found.flags.c_contiguous
    assert found.dtype == values.dtype
    np.testing.assert_array_equal(found, values[region])
    np.testing.assert_array_equal(zarr.open_group(path, mode="r")["0"][:], values)


def test_zarr_python_reads_the_same_voxels_and_the_metadata_are_valid(tmp_path):
    values = random_values((40, 33, 50), "uint8")
    volume = small(tmp_path / "labels.zarr", values, kind="labels", voxel_size_um=(2.0, 1.0, 0.1), classes=CLASSES)
    group = zarr.open_group(tmp_path / "labels.zarr", mode="r")
    np.testing.assert_array_equal(group["0"][:], values)
    assert group["0"].chunks == (8, 8, 8)
    assert group["0"].shards == (16, 16, 16)
    ome = ImageLabel.from_zarr(group).attributes.ome
    assert Image.from_zarr(group).attributes.ome.version == "0.5"
    assert ome.multiscales[0].datasets[0].coordinateTransformations[0].scale == [2.0, 1.0, 0.1]
    assert [axis.unit for axis in ome.multiscales[0].axes] == ["micrometer"] * 3
    assert ome.image_label.colors[1].rgba == (250, 240, 200, 255)
    assert volume.voxel_size_um == (2.0, 1.0, 0.1)
    assert volume.classes == CLASSES
    assert volume.kind == "labels"


def test_an_unknown_voxel_size_stays_unknown(tmp_path):
    assert small(tmp_path / "v.zarr").voxel_size_um is None
    Image.from_zarr(zarr.open_group(tmp_path / "v.zarr", mode="r"))
    assert open_zarr(tmp_path / "v.zarr", voxel_size_um=5).voxel_size_um == (5.0, 5.0, 5.0)


def test_zeros_are_written_and_not_left_out(tmp_path):
    small(tmp_path / "v.zarr", np.zeros((40, 33, 50), "uint8"))
    assert sum(f.is_file() for f in (tmp_path / "v.zarr/0/c").rglob("*")) == 3 * 3 * 4


def test_default_chunks_and_shards_are_never_larger_than_the_volume(tmp_path):
    for shape, chunk, shard in (
        ((5, 700, 1300), (5, 64, 64), (5, 512, 512)),
        ((64, 65, 511), (64, 64, 64), (64, 128, 512)),
    ):
        storage = create_volume(tmp_path / "v.zarr", shape=shape, dtype="u1").storage
        assert storage.chunk_shape == chunk
        assert storage.shard_shape == shard


def test_like_gives_what_is_not_given(tmp_path):
    labels = small(
        tmp_path / "a.zarr", random_values((40, 33, 50), "uint8"), kind="labels", voxel_size_um=2, classes=CLASSES
    )
    same = create_volume(tmp_path / "b.zarr", like=labels)
    assert (same.shape, same.dtype, same.voxel_size_um) == (labels.shape, labels.dtype, (2.0, 2.0, 2.0))
    assert (same.kind, same.classes) == ("labels", CLASSES)
    other = create_volume(tmp_path / "c.zarr", like=labels, dtype="float32")
    assert (other.kind, other.classes) == ("grey", ())


def test_nothing_is_on_disk_before_create_and_nothing_is_replaced_by_it(tmp_path):
    volume = create_volume(tmp_path / "deep/v.zarr", shape=(4, 4, 4), dtype="u1")
    assert not (tmp_path / "deep").exists()
    assert not volume.exists
    assert not volume.finished
    with pytest.raises(InputError, match="does not exist: create it"):
        volume.read()
    volume.create()
    assert volume.exists
    assert not volume.finished
    with pytest.raises(PlanError, match="is in the way"):
        volume.create()
    assert sorted(p.name for p in (tmp_path / "deep").iterdir()) == ["v.zarr"]


def test_an_unfinished_volume_is_opened_only_when_asked_for(tmp_path):
    volume = create_volume(
        tmp_path / "v.zarr", shape=(8, 4, 4), dtype="u1", chunk_shape=(4, 4, 4), shard_shape=(4, 4, 4)
    )
    volume.create()
    first = (slice(0, 4), slice(0, 4), slice(0, 4))
    volume.write(first, np.ones((4, 4, 4), "u1"))
    with pytest.raises(InputError, match=r"v\.zarr is not finished: .* resume it, or open it with unfinished=True"):
        open_zarr(tmp_path / "v.zarr")
    opened = open_zarr(tmp_path / "v.zarr", unfinished=True)
    assert opened.read(first).sum() == 64
    with pytest.raises(IntegrityError, match=r"0/c/1/0/0 or a chunk in it is missing \(z 0:8, .* not computed yet"):
        opened.read()
    with pytest.raises(IntegrityError, match=r"not complete: .*0/c/1/0/0 \(z 4:8, y 0:4, x 0:4\) is missing"):
        volume.finish({})
    assert not volume.finished


def test_a_record_survives_and_changes_the_identity(tmp_path):
    volume = small(tmp_path / "a.zarr")
    assert volume.finished
    assert volume.storage.state()["record"] == {"made by": "test"}
    before = volume.identity()
    assert json.loads(json.dumps(before)) == before
    assert before == open_zarr(tmp_path / "a.zarr").identity()
    volume.finish({"made by": "another"})
    assert volume.identity() != before


def test_a_lost_shard_is_an_error_and_never_zeros(tmp_path):
    volume = small(tmp_path / "v.zarr")
    (tmp_path / "v.zarr/0/c/1/0/2").unlink()
    volume.read((slice(0, 16), slice(None), slice(None)))
    with pytest.raises(IntegrityError, match=r"0/c/1/0/2 or a chunk in it is missing \(z 0:40"):
        volume.read()


def test_a_chunk_lost_within_a_shard_is_an_error(tmp_path):
    values = random_values((16, 16, 16))
    volume = small(tmp_path / "v.zarr", values)
    edit(tmp_path / "v.zarr/zarr.json", lambda m: m["attributes"].pop("tomoscale"))
    # Another program that leaves out chunks of zeros rewrites the shard.
    zeroed = zarr.open_group(tmp_path / "v.zarr", mode="r+")["0"]
    zeroed[0:8, 0:8, 0:8] = 0
    assert open_zarr(tmp_path / "v.zarr").read()[0:8, 0:8, 0:8].sum() == 0
    with pytest.raises(IntegrityError, match="missing"):
        volume.read()


def test_every_flipped_bit_is_found(tmp_path):
    values = random_values((16, 16, 16), "uint8")
    volume = small(tmp_path / "v.zarr", values)
    shard = tmp_path / "v.zarr/0/c/0/0/0"
    good = shard.read_bytes()
    rng = np.random.default_rng(1)
    for position in rng.integers(0, len(good) * 8, 100):
        bad = bytearray(good)
        bad[position // 8] ^= 1 << position % 8
        shard.write_bytes(bad)
        with pytest.raises(IntegrityError, match=r"0/c/0/0/0 (is damaged|or a chunk in it is missing)"):
            volume.read()
    shard.write_bytes(good)
    np.testing.assert_array_equal(volume.read(), values)


@pytest.mark.parametrize("content", [b"", b"\0" * 5, b"\0" * 5000])
def test_a_torn_shard_is_found_and_overwritten_without_being_read(tmp_path, content):
    values = random_values((40, 33, 50))
    small(tmp_path / "v.zarr", values)
    shard = tmp_path / "v.zarr/0/c/2/2/3"
    shard.write_bytes(content)
    with pytest.raises(IntegrityError, match=r"0/c/2/2/3 is damaged \(z 0:40, y 0:33, x 0:50 of .*restore the file"):
        open_zarr(tmp_path / "v.zarr").read()
    corner = (slice(32, 40), slice(32, 33), slice(48, 50))
    again = create_volume(
        tmp_path / "v.zarr", shape=(40, 33, 50), dtype="u2", chunk_shape=(8, 8, 8), shard_shape=(16, 16, 16)
    )
    again.write(corner, values[corner])
    np.testing.assert_array_equal(again.read(), values)


def test_what_a_killed_writer_left_does_not_end_up_in_a_shard(tmp_path):
    values = random_values((16, 16, 16))
    volume = create_volume(tmp_path / "v.zarr", shape=(16, 16, 16), dtype="u2", chunk_shape=(8, 8, 8))
    volume.create()
    folder = tmp_path / "v.zarr/0/c/0/0"
    folder.mkdir(parents=True)
    (folder / "0.__lock").write_bytes(os.urandom(1_000_000))
    volume.write(ALL, values)
    np.testing.assert_array_equal(volume.read(), values)
    volume.finish({})
    assert [f.name for f in folder.iterdir()] == ["0"]


WRITER = """
import sys, time, numpy as np
from tomoscale.volume import create_volume
volume = create_volume(sys.argv[1], shape=(64, 64, 64), dtype="u2", chunk_shape=(16, 16, 16), durable=False)
rng = np.random.default_rng(0)
values = [rng.integers(0, 60000, (64, 64, 64)).astype("u2") for _ in range(3)]
print("ready", flush=True)
while True:
    for v in values:
        volume.write((slice(0, 64),) * 3, v)
        time.sleep(0.01)  # a reader starts over when the shard is replaced under it
"""


def test_a_reader_never_sees_half_a_shard_of_a_killed_writer(tmp_path):
    rng = np.random.default_rng(0)
    versions = [rng.integers(0, 60000, (64, 64, 64)).astype("u2") for _ in range(3)]
    volume = create_volume(tmp_path / "v.zarr", shape=(64, 64, 64), dtype="u2", chunk_shape=(16, 16, 16))
    volume.create()
    volume.write(ALL, versions[0])
    for attempt in range(2):
        command = [sys.executable, "-c", WRITER, str(tmp_path / "v.zarr")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": os.getcwd()}) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            end = time.monotonic() + 0.2 + 0.017 * attempt
            torn = 0
            while time.monotonic() < end:
                # A read takes its chunks from the old or the new shard; each of them is whole.
                found = volume.read()
                torn += sum(
                    not any(np.array_equal(found[chunk], v[chunk]) for v in versions)
                    for chunk in Grid((64, 64, 64), (16, 16, 16))
                )
            writer.send_signal(signal.SIGKILL)
        assert torn == 0
        assert any(np.array_equal(volume.read(), v) for v in versions)


def test_threads_write_their_own_shards(tmp_path):
    values = random_values((40, 33, 50))
    volume = create_volume(
        tmp_path / "v.zarr", shape=values.shape, dtype="u2", chunk_shape=(8, 8, 8), shard_shape=(16, 16, 16)
    )
    volume.create()
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda region: volume.write(region, values[region]), Grid(values.shape, (16, 16, 16))))
    np.testing.assert_array_equal(volume.read(), values)


def test_writing_is_refused_where_it_would_lose_data(tmp_path):
    volume = create_volume(
        tmp_path / "v.zarr", shape=(40, 40, 40), dtype="u2", chunk_shape=(8, 8, 8), shard_shape=(16, 16, 16)
    )
    volume.create()
    with pytest.raises(ValueError, match=r"not made of whole shards \(16, 16, 16\) on axis y"):
        volume.write((slice(0, 16), slice(0, 8), slice(0, 40)), np.zeros((16, 8, 40), "u2"))
    with pytest.raises(ValueError, match=r"not made of whole shards .* on axis z"):
        volume.write((slice(8, 16), slice(0, 16), slice(0, 40)), np.zeros((8, 16, 40), "u2"))
    with pytest.raises(ValueError, match="nothing is cast silently"):
        volume.write((slice(0, 16),) * 3, np.zeros((16, 16, 16), "i4"))
    with pytest.raises(ValueError, match=r"the region .* takes \(16, 16, 16\)"):
        volume.write((slice(0, 16),) * 3, np.zeros((16, 16, 15), "u2"))
    volume.write(ALL, np.zeros((40, 40, 40), "u2"))
    volume.finish({})
    with pytest.raises(ValueError, match="opened for reading"):
        open_zarr(tmp_path / "v.zarr").write(ALL, np.zeros((40, 40, 40), "u2"))
    other = create_volume(tmp_path / "v.zarr", shape=(40, 40, 40), dtype="u2", shard_shape=(40, 40, 40))
    with pytest.raises(PlanError, match="made by another command"):
        other.write(ALL, np.zeros((40, 40, 40), "u2"))


@pytest.mark.parametrize(
    "region",
    [
        (slice(0, 5), slice(0, 5)),
        (slice(0, 41), slice(0, 5), slice(0, 5)),
        (slice(-3, None), slice(0, 5), slice(0, 5)),
        (slice(3, 3), slice(0, 5), slice(0, 5)),
        (slice(0, 4, 2), slice(0, 5), slice(0, 5)),
        (3, slice(0, 5), slice(0, 5)),
    ],
)
def test_a_region_outside_is_refused(tmp_path, region):
    volume = Volume(MemoryArray(random_values((40, 33, 50))), None)
    with pytest.raises(ValueError, match=r"is not inside the volume|three slices"):
        volume.read(region)


def test_a_full_disk_is_an_oserror(tmp_path):
    volume = create_volume(tmp_path / "v.zarr", shape=(64, 64, 64), dtype="u1")
    volume.create()
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, old[1]))
        with pytest.raises(OSError, match="File too large") as caught:
            volume.write(ALL, np.random.default_rng(0).integers(0, 256, (64, 64, 64)).astype("u1"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    assert caught.value.errno == 27
    assert caught.value.filename.endswith("v.zarr/0/c/0/0/0")
    assert not any(f.is_file() for f in (tmp_path / "v.zarr/0/c").rglob("*"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_an_oserror(tmp_path):
    volume = create_volume(tmp_path / "v.zarr", shape=(4, 4, 4), dtype="u1")
    volume.create()
    (tmp_path / "v.zarr/0").chmod(0o555)
    with pytest.raises(PermissionError, match="Permission denied"):
        volume.write(ALL, np.zeros((4, 4, 4), "u1"))
    (tmp_path / "v.zarr/0").chmod(0o755)


def test_a_volume_pickles_small_and_reads_in_another_process(tmp_path):
    volume = small(tmp_path / "v.zarr")
    message = pickle.dumps(volume)
    assert len(message) < 1000
    assert pickle.loads(message) == volume
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        np.testing.assert_array_equal(pool.apply(volume.read), volume.read())


def _read_in_child(volume, queue):
    try:
        queue.put(int(volume.read().sum()))
    except RuntimeError as error:
        queue.put(str(error))


def test_a_process_forked_from_a_reader_says_so(tmp_path):
    volume = small(tmp_path / "v.zarr")
    volume.read()
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=_read_in_child, args=(volume, queue))
    child.start()
    assert 'start processes with "spawn"' in queue.get()
    child.join()


def test_a_volume_made_anew_at_the_same_path_is_read_anew(tmp_path):
    for seed in range(2):
        values = random_values((40, 33, 50), seed=seed)
        np.testing.assert_array_equal(small(tmp_path / "v.zarr", values).read(), values)
        shutil.rmtree(tmp_path / "v.zarr")
    # The description stays the same, the codecs do not.
    for compressors in (None, "auto"):
        path = foreign(tmp_path / "f.zarr", values, compressors=compressors)
        np.testing.assert_array_equal(open_zarr(path).read(), values)


def test_memory_reads_and_writes_and_stays_in_its_process():
    values = random_values((5, 6, 7)).astype(">u2")
    volume = Volume(MemoryArray(values), (1.0, 2.0, 3.0))
    part = volume.read((slice(1, 3), slice(0, 6), slice(2, 7)))
    assert part.dtype.isnative
    assert part.flags.c_contiguous
    np.testing.assert_array_equal(part, values[1:3, :, 2:7])
    before = volume.identity()
    part[:] = 0
    assert volume.identity() == before
    volume.write((slice(0, 1), slice(0, 6), slice(0, 7)), np.full((1, 6, 7), 999, "u2"))
    assert (volume.read()[0] == 999).all()
    assert volume.identity() != before
    assert volume.finished
    with pytest.raises(TypeError, match="cannot be sent to another process"):
        pickle.dumps(volume)
    with pytest.raises(ValueError, match="nothing is cast silently"):
        volume.write((slice(0, 1), slice(0, 6), slice(0, 7)), np.zeros((1, 6, 7), "f4"))
    with pytest.raises(ValueError, match="three axes"):
        MemoryArray(np.zeros((3, 4)))


@pytest.mark.parametrize("size", [0, -1.0, float("nan"), float("inf"), (1, 2), (1, 0, 1), "wide"])
def test_a_voxel_size_that_is_none_is_refused(tmp_path, size):
    with pytest.raises(ValueError, match=r"voxel_size_um is .* must be three positive lengths"):
        create_volume(tmp_path / "v.zarr", shape=(4, 4, 4), dtype="u1", voxel_size_um=size)


def test_a_voxel_size_that_disagrees_is_refused(tmp_path):
    small(tmp_path / "v.zarr", voxel_size_um=5)
    assert open_zarr(tmp_path / "v.zarr", voxel_size_um=5.004).voxel_size_um == (5.004, 5.004, 5.004)
    with pytest.raises(InputError, match=r"5 x 5 x 5\.1 µm was given but the file states 5 x 5 x 5 µm"):
        open_zarr(tmp_path / "v.zarr", voxel_size_um=(5.0, 5.0, 5.1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "c8"}, "dtype complex64 cannot be stored"),
        ({"dtype": "f4", "kind": "labels"}, "must be of an integer type"),
        ({"dtype": "u1", "kind": "gray"}, "kind must be one of grey, labels, mask, got 'gray'"),
        (
            {"dtype": "u1", "chunk_shape": (4, 4, 4), "shard_shape": (8, 6, 8)},
            "not a multiple of chunk_shape .* on axis y",
        ),
        ({"dtype": "u1", "chunk_shape": (2048, 2048, 2048)}, "more than 2 GiB"),
        ({"dtype": "u1", "shape": (0, 4, 4)}, "shape must be three positive numbers"),
        ({}, "shape and dtype must be given"),
    ],
)
def test_descriptions_that_make_no_sense_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        create_volume(tmp_path / "v.zarr", **{"shape": (16, 16, 16), **options})
    with pytest.raises(ValueError, match="rgba of class 'bone' must be four integers"):
        LabelClass(1, "bone", (0, 0, 256, 0))


def foreign(path, values, version=3, axes="zyx", unit="micrometer", scale=None, **options):
    """An OME-Zarr image as another program writes it."""
    group = zarr.open_group(path, mode="w", zarr_format=version)
    array = group.create_array("s0", shape=values.shape, dtype=values.dtype, chunks=(4,) * values.ndim, **options)
    array[...] = values
    image = {
        "axes": [{"name": a, "type": "space", **({"unit": unit} if unit else {})} for a in axes],
        "datasets": [
            {"path": "s0", "coordinateTransformations": [{"type": "scale", "scale": scale or [2.0] * values.ndim}]}
        ],
    }
    group.attrs.update(
        {"ome": {"version": "0.5", "multiscales": [image]}} if version == 3 else {"multiscales": [image]}
    )
    return path


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("dtype", ["<u2", ">u2", ">f4", "|b1", "|u1"])
def test_volumes_of_other_programs_read_the_same(tmp_path, version, dtype):
    values = random_values((9, 10, 11), np.dtype(dtype).name).astype(dtype)
    volume = open_zarr(foreign(tmp_path / "f.zarr", values, version))
    assert volume.voxel_size_um == (2.0, 2.0, 2.0)
    assert volume.finished
    assert volume.storage.chunk_shape == (4, 4, 4)
    assert volume.read().dtype.isnative
    np.testing.assert_array_equal(volume.read(), values)
    np.testing.assert_array_equal(volume.read((slice(1, 5), slice(3, 9), slice(0, 1))), values[1:5, 3:9, 0:1])


@pytest.mark.parametrize("version", [2, 3])
def test_singleton_axes_are_indexed_away(tmp_path, version):
    values = random_values((1, 1, 9, 10, 11))
    volume = open_zarr(foreign(tmp_path / "f.zarr", values, version, axes="tczyx", scale=[1, 1, 3, 2, 1]))
    assert volume.shape == (9, 10, 11)
    assert volume.voxel_size_um == (3.0, 2.0, 1.0)
    np.testing.assert_array_equal(volume.read((slice(2, 9),) * 3), values[0, 0, 2:9, 2:9, 2:9])


@pytest.mark.parametrize(
    ("unit", "size"), [("nanometer", 0.002), ("millimeter", 2000.0), ("meter", 2e6), (None, None), ("pixel", None)]
)
def test_units_become_micrometres(tmp_path, unit, size):
    found = open_zarr(foreign(tmp_path / "f.zarr", random_values((4, 4, 4)), unit=unit)).voxel_size_um
    assert found == (None if size is None else pytest.approx((size,) * 3))


def test_units_are_known_by_many_names():
    for name in ("um", "µm", "μm", "micron", "Micrometers", "micrometres", b"um", " um "):
        assert micrometres_per(name) == 1.0
    for name in ("", "pixels", 3, None, "furlong"):
        assert micrometres_per(name) is None


def test_a_plain_array_or_another_array_opens_too(tmp_path):
    values = random_values((9, 10, 11))
    zarr.save_array(tmp_path / "plain.zarr", values)
    np.testing.assert_array_equal(open_zarr(tmp_path / "plain.zarr").read(), values)
    path = foreign(tmp_path / "f.zarr", values)
    np.testing.assert_array_equal(open_zarr(path / "s0").read(), values)
    group = zarr.open_group(path)
    group.create_array("labels/bone", data=values + 1)
    np.testing.assert_array_equal(open_zarr(path, array="labels/bone").read(), values + 1)
    assert open_zarr(path, array="labels/bone").voxel_size_um is None
    np.testing.assert_array_equal(open_zarr(path, array="labels").read(), values + 1)
    with pytest.raises(InputError, match="no array 's1' inside; give array= one of: labels, s0"):
        open_zarr(path, array="s1")


def test_a_change_of_a_foreign_volume_changes_its_identity(tmp_path):
    path = foreign(tmp_path / "f.zarr", random_values((9, 10, 11)))
    before = open_zarr(path).identity()
    assert open_zarr(path).identity() == before
    zarr.open_group(path)["s0"][8, 9, 10] = 7777
    assert open_zarr(path).identity() != before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(shape=[9, 10]), r"shape \(9, 10\), but must have three axes"),
        (lambda m: m.update(shape=[2, 9, 10, 11]), "must have three axes"),
        (lambda m: m.update(shape=[9, 0, 10]), "holds no voxel"),
        (lambda m: m.update(shape=[9, -1, 10]), "must be a list of whole numbers"),
        (lambda m: m.update(shape=[2**40, 2**40, 2**40]), "more voxels than any disk holds"),
        (lambda m: m.update(shape="large"), "must be a list of whole numbers"),
        (lambda m: m.update(data_type="complex64"), "voxels of type 'complex64' are not read"),
        (lambda m: m.update(data_type=["uint8"]), "are not read"),
        (lambda m: m.update(codecs=[{"name": "numcodecs.pickle"}]), "the codec 'numcodecs.pickle' is not read"),
        (lambda m: m.update(codecs=None), "the codec None is not read"),
        (lambda m: m.update(chunk_grid={"name": "rectangular"}), "is not regular"),
        (
            lambda m: m["chunk_grid"]["configuration"].update(chunk_shape=[2048, 2048, 2048]),
            "more than the 2 GiB allowed",
        ),
        (lambda m: m["chunk_grid"]["configuration"].update(chunk_shape=[4, 0, 4]), "chunks of"),
        (lambda m: m["chunk_grid"]["configuration"].update(chunk_shape=[4, 4]), "chunks of"),
    ],
)
def test_array_metadata_that_make_no_sense_are_refused(tmp_path, change, message):
    path = foreign(tmp_path / "f.zarr", random_values((9, 10, 11)))
    edit(path / "s0/zarr.json", change)
    with pytest.raises(InputError, match=message):
        open_zarr(path)


def _set_image(key, value):
    return lambda m: m["attributes"]["ome"]["multiscales"][0].update({key: value})


def _set_scale(scale):
    return _set_image("datasets", [{"path": "s0", "coordinateTransformations": [{"type": "scale", "scale": scale}]}])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set_image("axes", [{"name": a} for a in "xyz"]), r"the axes are \(x, y, z\) .* must be \(z, y, x\)"),
        (_set_image("axes", [{"name": a} for a in "tzyx"]), "of an array of rank 3"),
        (_set_image("datasets", [{"path": "../../etc"}]), "leads out of the volume"),
        (_set_image("datasets", [{"path": "/etc"}]), "leads out of the volume"),
        (_set_image("datasets", [{"path": "link"}]), "leads out of the volume"),
        (_set_image("datasets", [{"path": "circle"}]), "leads out of the volume"),
        (_set_image("datasets", [{"path": "x" * 5000}]), "leads out of the volume"),
        (_set_image("datasets", [{"path": "a\0"}]), "leads out of the volume"),
        (_set_image("datasets", [{"path": "s7"}]), "it is not clear which array is meant; give array= one of: s0"),
        (_set_scale([0, 1, 1]), "must be three positive lengths"),
        (_set_scale([float("nan"), 1, 1]), "must be three positive lengths"),
        (_set_scale([1, "a", 1]), "is not three numbers"),
    ],
)
def test_group_metadata_that_make_no_sense_are_refused(tmp_path, change, message):
    path = foreign(tmp_path / "f.zarr", random_values((9, 10, 11)))
    (path / "link").symlink_to(tmp_path)
    (path / "circle").symlink_to(path / "circle")
    edit(path / "zarr.json", change)
    with pytest.raises(InputError, match=message):
        open_zarr(path)


def test_version_2_metadata_are_checked_too(tmp_path):
    path = foreign(tmp_path / "f.zarr", random_values((9, 10, 11)), 2)
    for key, value, message in (
        ("compressor", {"id": "pickle"}, "the compressor 'pickle' is not read"),
        ("filters", [{"id": "pickle"}], "filters .* are not read"),
        ("dtype", "|O", r"voxels of type .?\|O"),
        ("dtype", [["a", "<u1"]], "voxels of type"),
    ):
        original = (path / "s0/.zarray").read_text()
        edit(path / "s0/.zarray", lambda m, k=key, v=value: m.update({k: v}))
        with pytest.raises(InputError, match=message):
            open_zarr(path)
        (path / "s0/.zarray").write_text(original)


def test_what_is_no_zarr_is_refused(tmp_path):
    with pytest.raises(InputError, match="no Zarr array or group here; the path does not exist"):
        open_zarr(tmp_path / "nothing.zarr")
    for text in ("{", "[]", '"a"', "[" * 100_000):
        (tmp_path / "zarr.json").write_text(text)
        with pytest.raises(InputError, match=r"zarr\.json: the metadata"):
            open_zarr(tmp_path)


def test_a_volume_of_a_newer_program_is_refused(tmp_path):
    small(tmp_path / "v.zarr")
    edit(tmp_path / "v.zarr/zarr.json", lambda m: m["attributes"]["tomoscale"].update(version=99))
    with pytest.raises(InputError, match="made by a newer tomoscale"):
        open_zarr(tmp_path / "v.zarr")


def test_a_block_read_takes_little_more_memory_than_it_holds(tmp_path):
    values = random_values((128, 128, 128), "uint8")
    written(tmp_path / "v.zarr", values)
    script = (
        "import resource, sys; from tomoscale.volume import open_zarr; v = open_zarr(sys.argv[1]);"
        "v.read((slice(0, 1),) * 3); a = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "v.read(); print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - a)"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "v.zarr")],
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    assert int(result.stdout) * 1024 < 3 * values.nbytes + 16 * 2**20


def test_whole_is_the_default_region(tmp_path):
    values = random_values((5, 6, 7))
    volume = Volume(MemoryArray(values), None)
    np.testing.assert_array_equal(volume.read(), volume.read(whole(values.shape)))
    assert volume.nbytes == values.nbytes
