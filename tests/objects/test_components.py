"""Components by blocks are those of the whole array, with the same numbers, whatever the blocks, workers and restarts."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cc3d
import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.blocks import seeds
from tests.objects.by_blocks import ranked, run_by_blocks
from tests.traced import Traced
from tomoscale.cluster import local, resources_of
from tomoscale.errors import InputError, IntegrityError, PlanError
from tomoscale.geometry import Grid
from tomoscale.kernels.row_runs import Connectivity
from tomoscale.objects import passes, ranking
from tomoscale.objects.components import _number, components, count_components
from tomoscale.objects.joining import NODE_BYTES, Joined, Tables, join
from tomoscale.objects.passes import Operation
from tomoscale.objects.pieces import Selection, pieces
from tomoscale.resources import Resources
from tomoscale.volume import MemoryArray, Volume, create_volume
from tomoscale.work import Work

SMALL = Resources(slots=2, io_slots=1)
connectivities = st.sampled_from([6, 18, 26])
tiny_shapes = st.tuples(st.integers(1, 8), st.integers(1, 8), st.integers(1, 9))
tiny_blocks = st.tuples(st.integers(2, 5), st.integers(2, 5), st.integers(2, 6))


def memory_volume(values: np.ndarray) -> Volume:
    return Volume(MemoryArray(values, "labels"), (1.0, 1.0, 1.0))


def noise(seed: int, shape: tuple[int, ...], n_labels: int, density: float) -> np.ndarray:
    random = np.random.default_rng(seed)
    return (random.integers(1, n_labels + 1, shape) * (random.random(shape) < density)).astype(np.uint8)


def number_by_blocks(values: np.ndarray, block_shape: tuple[int, int, int], **selection) -> np.ndarray:
    return run_by_blocks(Operation("components", Selection(**selection), _number, on_source=False), values, block_shape)


def snake(shape: tuple[int, int, int]) -> np.ndarray:
    """One path of single voxels, up and down every other row of every other plane: it enters most blocks many times."""
    mask = np.zeros(shape, np.uint8)
    for i, z in enumerate(range(0, shape[0], 2)):
        mask[z, ::2] = 1
        mask[z, 1::4, -1] = 1
        mask[z, 3::4, 0] = 1
        if z + 2 < shape[0]:
            y = (shape[1] - 1) // 2 * 2 if i % 2 == 0 else 0
            mask[z + 1, y, 0] = 1
    return mask


@given(
    seed=seeds,
    shape=tiny_shapes,
    block_shape=tiny_blocks,
    connectivity=connectivities,
    density=st.sampled_from([0.15, 0.3, 0.6, 0.95]),
)
def test_components_of_a_mask_equal_those_of_the_whole(seed, shape, block_shape, connectivity, density):
    mask = noise(seed, shape, 1, density)
    structure = scipy.ndimage.generate_binary_structure(3, {6: 1, 18: 2, 26: 3}[connectivity])
    expected = ranked(scipy.ndimage.label(mask, structure)[0])
    found = number_by_blocks(mask, block_shape, connectivity=connectivity)
    assert found.dtype == np.uint32
    np.testing.assert_array_equal(found, expected)


@given(seed=seeds, shape=tiny_shapes, block_shape=tiny_blocks, connectivity=connectivities, n_labels=st.integers(2, 4))
def test_components_of_labels_equal_those_of_the_whole(seed, shape, block_shape, connectivity, n_labels):
    labels = noise(seed, shape, n_labels, 0.9)
    expected = ranked(cc3d.connected_components(labels, connectivity=connectivity))
    found = number_by_blocks(labels, block_shape, connectivity=connectivity, multilabel=True)
    np.testing.assert_array_equal(found, expected)


@settings(max_examples=9)
@given(seed=seeds, connectivity=connectivities, multilabel=st.booleans())
def test_blocks_of_one_voxel(seed, connectivity, multilabel):
    labels = noise(seed, (3, 4, 5), 2, 0.5)
    whole = labels if multilabel else (labels > 0).astype(np.uint8)
    expected = ranked(cc3d.connected_components(whole, connectivity=connectivity))
    found = number_by_blocks(labels, (1, 1, 1), connectivity=connectivity, multilabel=multilabel)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("offset", [(1, 1, 1), (1, -1, 1), (1, 1, -1), (1, -1, -1)])
@pytest.mark.parametrize("n_steps", [1, 2, 3])
def test_voxels_that_touch_across_blocks_by_a_face_an_edge_or_a_corner(offset, n_steps):
    for axes in {1: [(0,), (1,), (2,)], 2: [(0, 1), (0, 2), (1, 2)], 3: [(0, 1, 2)]}[n_steps]:
        step = [offset[a] if a in axes else 0 for a in range(3)]
        here = [1 if s >= 0 else 2 for s in step]
        mask = np.zeros((4, 4, 4), bool)
        mask[tuple(here)] = mask[tuple(h + s for h, s in zip(here, step, strict=True))] = True
        for connectivity, most in ((6, 1), (18, 2), (26, 3)):
            found = number_by_blocks(mask, (2, 2, 2), connectivity=connectivity)
            assert found.max() == (1 if n_steps <= most else 2), (step, connectivity)


@pytest.mark.parametrize("block_shape", [(3, 3, 3), (2, 7, 5), (13, 3, 17), (1, 13, 17)])
def test_a_snake_through_all_blocks_is_one_component(block_shape):
    mask = snake((13, 13, 17))
    assert cc3d.connected_components(mask, connectivity=6).max() == 1
    np.testing.assert_array_equal(number_by_blocks(mask, block_shape, connectivity=6), mask)


def test_two_spirals_in_each_other_stay_apart():
    """Two interleaved spirals of labels 1 and 2 in a plane, one voxel wide; both cross every block."""
    labels = np.zeros((1, 33, 33), np.uint8)
    y, x = np.mgrid[-16:17, -16:17]
    ring = np.maximum(abs(y), abs(x))
    labels[0] = np.where((ring % 4 == 0) & ~((y == 0) & (x > 0)), 1, labels[0])
    labels[0] = np.where((ring % 4 == 2) & ~((y == 0) & (x < 0)), 2, labels[0])
    for multilabel in (False, True):
        whole = labels if multilabel else (labels > 0).astype(np.uint8)
        expected = ranked(cc3d.connected_components(whole, connectivity=26))
        found = number_by_blocks(labels, (1, 4, 5), multilabel=multilabel)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("value", [0, 1])
def test_volumes_of_one_value(value):
    found = number_by_blocks(np.full((5, 6, 7), value, np.uint8), (2, 3, 4))
    assert (found == value).all()


def test_classes_choose_the_object():
    labels = np.array([[[1, 2, 3, 0, 2, 2, 1]]], np.int16)
    found = number_by_blocks(labels, (1, 1, 3), classes=(1, 2))
    np.testing.assert_array_equal(found[0, 0], [1, 1, 0, 0, 2, 2, 2])
    found = number_by_blocks(labels, (1, 1, 3), classes=(0, 2), multilabel=True)
    np.testing.assert_array_equal(found[0, 0], [0, 1, 0, 2, 3, 3, 0])


def test_numbers_are_ranks_of_the_first_voxel_across_blocks_beside_each_other():
    """In one row, blocks along x take turns; the last piece in scan order belongs to the first component."""
    labels = np.array([[[1, 0, 1, 0, 1, 0, 1, 0], [0, 0, 0, 0, 0, 0, 0, 0], [1, 0, 1, 0, 1, 0, 1, 1]]], np.uint8)
    found = number_by_blocks(labels, (1, 2, 3))
    np.testing.assert_array_equal(found[0, 0], [1, 0, 2, 0, 3, 0, 4, 0])
    np.testing.assert_array_equal(found[0, 2], [5, 0, 6, 0, 7, 0, 8, 8])


@pytest.fixture
def source(tmp_path) -> Volume:
    """Sponge-like labels on disk."""
    values = scipy.ndimage.gaussian_filter(np.random.default_rng(2).standard_normal((40, 44, 48)), 1.5)
    labels = np.digitize(values, np.quantile(values, [0.7, 0.85])).astype(np.uint8)
    volume = create_volume(
        tmp_path / "labels.zarr", shape=labels.shape, dtype=np.uint8, voxel_size_um=(2.0, 2.0, 2.0), kind="labels"
    )
    volume.create()
    volume.write(tuple(slice(0, n) for n in labels.shape), labels)
    volume.finish({})
    return volume


def chunk_bytes(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted((path / "0" / "c").rglob("*")) if p.is_file()}


def test_two_tilings_and_any_workers_give_the_same(tmp_path, source):
    expected = ranked(cc3d.connected_components(source.read(), connectivity=26))
    one = components(source, tmp_path / "one.zarr", multilabel=True, work=Work(None, Resources(), (16, 32, 32)))
    other = components(source, tmp_path / "other.zarr", multilabel=True, work=Work(None, SMALL, (40, 16, 48)))
    np.testing.assert_array_equal(one.read(), expected)
    np.testing.assert_array_equal(other.read(), expected)
    assert count_components(tmp_path / "one.zarr") == expected.max()
    with local(2, memory_bytes=2**30) as client:
        work = Work(client, resources_of(client), (16, 32, 32))
        components(source, tmp_path / "two.zarr", multilabel=True, work=work)
    assert chunk_bytes(tmp_path / "one.zarr") == chunk_bytes(tmp_path / "two.zarr") != {}


def test_a_finished_output_is_not_made_again_and_leaves_little(tmp_path, source):
    work = Work(None, SMALL, (16, 32, 32))
    target = components(source, tmp_path / "out.zarr", work=work)
    assert target.kind == "labels"
    assert target.voxel_size_um == (2.0, 2.0, 2.0)
    left = sum(p.stat().st_size for p in (tmp_path / "out.pieces").rglob("*") if p.is_file())
    assert left < 20_000
    components(source, tmp_path / "out.zarr", work=work)
    components(source, tmp_path / "out.zarr", work=Work(None, SMALL))
    assert [r["name"] for r in work.runs] == ["pieces", "components", "components"]
    assert [r["target"] for r in work.runs] == [None, "out.zarr", "out.zarr"]
    with pytest.raises(PlanError, match=r"(?s)begun with another plan.*connectivity"):
        components(source, tmp_path / "out.zarr", connectivity=6, work=work)
    again = components(source, tmp_path / "out.zarr", connectivity=6, work=Work(None, SMALL, overwrite=True))
    expected = ranked(cc3d.connected_components((source.read() > 0).astype(np.uint8), connectivity=6))
    np.testing.assert_array_equal(again.read(), expected)


def test_an_output_that_was_removed_is_made_again(tmp_path, source):
    work = Work(None, SMALL, (16, 32, 32))
    before = components(source, tmp_path / "out.zarr", work=work).read()
    shutil.rmtree(tmp_path / "out.zarr")
    np.testing.assert_array_equal(components(source, tmp_path / "out.zarr", work=work).read(), before)


def test_what_another_command_made_is_refused_before_anything_is_read(tmp_path, source):
    work = Work(None, SMALL, (16, 32, 32))
    with pytest.raises(PlanError, match="exists and was not made by this command"):
        components(source, Path(source.name), work=work)
    assert work.runs == []


def test_what_cannot_be_joined_in_memory_is_refused(tmp_path, source, monkeypatch):
    monkeypatch.setattr(passes, "NODE_BYTES", 2**30)
    with pytest.raises(PlanError, match=r"pieces lie at sides that blocks share.*a larger block_shape"):
        components(source, tmp_path / "out.zarr", work=Work(None, SMALL, (16, 32, 32)))


def test_the_number_of_components_of_nothing_is_an_error(tmp_path):
    with pytest.raises(InputError, match=r"make .*none\.zarr first"):
        count_components(tmp_path / "none.zarr")


def test_plans_are_shown_without_running(tmp_path, source, capsys):
    components(source, tmp_path / "out.zarr", work=Work(None, SMALL, plan_only=True))
    shown = capsys.readouterr().out
    assert "pieces" in shown
    assert "components" in shown
    assert not list(tmp_path.glob("out*"))


PROGRAM = """
import sys, time
from pathlib import Path
import tomoscale.objects.pieces as pieces, tomoscale.objects.painting as painting, tomoscale.objects.ranking as ranking
from tomoscale.objects.components import components
from tomoscale.resources import Resources
from tomoscale.work import Work
folder, where = Path(sys.argv[1]), sys.argv[2]
def slow(module, name, after):
    function, calls = getattr(module, name), []
    def called(*arguments, **more):
        calls.append(1)
        if len(calls) > after:
            (folder / "reached").touch()
            time.sleep(60)
        return function(*arguments, **more)
    setattr(module, name, called)
if where == "pieces": slow(pieces, "save_arrays", 4)
if where == "ranking": slow(ranking, "_give_out", 5)
if where == "painting": slow(painting, "paint_pieces", 4)
components(folder / "labels.zarr", folder / "out.zarr", multilabel=True,
           work=Work(None, Resources(), (16, 32, 32), progress=False))
"""


@pytest.mark.parametrize("where", ["pieces", "ranking", "painting"])
def test_a_killed_run_goes_on_and_gives_the_same_bytes(tmp_path, source, where):
    root = Path(__file__).resolve().parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path), where], cwd=root, env={**os.environ, "PYTHONPATH": str(root)}
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "reached").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / "reached").exists()
    for name in ("out", "whole"):
        components(source, tmp_path / f"{name}.zarr", multilabel=True, work=Work(None, SMALL, (16, 32, 32)))
    assert chunk_bytes(tmp_path / "out.zarr") == chunk_bytes(tmp_path / "whole.zarr") != {}
    assert [p.name for p in (tmp_path / "out.pieces").iterdir() if p.is_dir()] == []


@pytest.mark.parametrize("where", ["replace_text", "_paint", "_clear"])
def test_a_run_stopped_between_its_parts_goes_on_and_gives_the_same_bytes(tmp_path, source, where):
    class Stopped(BaseException):
        pass

    def stop(*arguments):
        raise Stopped("here")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passes, where, stop)
        with pytest.raises(Stopped, match="here"):
            components(source, tmp_path / "out.zarr", multilabel=True, work=Work(None, SMALL, (32, 32, 32)))
    for name in ("out", "whole"):
        components(source, tmp_path / f"{name}.zarr", multilabel=True, work=Work(None, SMALL, (32, 32, 32)))
    assert chunk_bytes(tmp_path / "out.zarr") == chunk_bytes(tmp_path / "whole.zarr") != {}
    assert [p.name for p in (tmp_path / "out.pieces").iterdir() if p.is_dir()] == []


def test_voxels_that_changed_between_the_passes_are_found_out(tmp_path):
    values = noise(3, (8, 8, 8), 1, 0.3)
    operation = Operation("components", Selection(), _number, on_source=False)

    def change(*arguments):
        values[:] = 1
        return _number(*arguments)

    with pytest.raises(IntegrityError, match="its voxels have changed"):
        run_by_blocks(Operation("components", operation.selection, change, on_source=False), values, (4, 4, 4))


def test_more_numbers_than_32_bits_hold_take_64(monkeypatch):
    start = ranking._start_rows

    def beyond(rows, total):
        """As if 2^32 components lay before."""
        return start(rows, total or 2**32)

    values = noise(3, (6, 7, 8), 1, 0.2)
    expected = number_by_blocks(values, (3, 4, 5))
    assert expected.dtype == np.uint32
    monkeypatch.setattr(ranking, "_start_rows", beyond)
    found = number_by_blocks(values, (3, 4, 5))
    assert found.dtype == np.uint64
    np.testing.assert_array_equal(found, np.where(expected > 0, expected.astype(np.uint64) + 2**32, 0))


def test_grey_values_are_refused(tmp_path):
    with pytest.raises(InputError, match="holds float32"):
        components(memory_volume(np.zeros((4, 4, 4), np.float32)), tmp_path / "out.zarr", work=Work(None, SMALL))


@pytest.mark.parametrize("wrong", [{"connectivity": 8}, {"classes": ()}, {"classes": (1, 1)}])
def test_a_wrong_selection_is_refused(wrong):
    with pytest.raises(ValueError, match=r"connectivity must be|classes must name"):
        Selection(**wrong)


def striped_tables(folder: Path, n_blocks: int, side: int) -> Tables:
    """Tables of blocks in a row along z whose shared sides are all different pieces, each going through all blocks."""
    grid = Grid((n_blocks, side, side), (1, side, side))
    labels = np.broadcast_to(np.arange(side * side, dtype=np.uint32).reshape(side, side), grid.shape)
    # All are of the object, 0 too.
    measure = pieces(Selection(multilabel=True, inverted=True, classes=(2**32 - 1,)), folder)
    for number in range(n_blocks):
        block = measure.block(grid, number)
        measure.function(labels[block.read], block=block)
    return Tables.open(folder, grid)


def test_memory_between_the_passes_is_that_of_the_pieces_at_sides(tmp_path):
    """10^6 of them in 64 blocks of 125 x 125 columns, and the tables and sides of some blocks."""
    tables = striped_tables(tmp_path / "pieces", 64, 125)
    connectivity: Connectivity = 26
    join(striped_tables(tmp_path / "small", 2, 4), connectivity)
    with Traced() as traced:
        joined: Joined = join(tables, connectivity)
        _number(tables, joined, tmp_path)
    assert tables.nodes[-1] == 64 * 125 * 125 == 10**6
    assert joined.leads.sum() == 125 * 125
    assert traced.peak_bytes < NODE_BYTES * 10**6, traced.peak_bytes
    values = np.fromfile(tmp_path / "values", np.uint32).reshape(64, -1)
    assert (values == np.arange(1, 125 * 125 + 1)).all()
