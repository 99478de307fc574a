"""The table of objects is that of the whole volume, to the byte, and its figures are those one can check."""

from __future__ import annotations

import csv
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.blocks import seeds
from tests.objects.test_components import noise, tiny_shapes
from tomoscale.errors import InputError, PlanError
from tomoscale.objects import table
from tomoscale.objects.table import object_table
from tomoscale.resources import Resources
from tomoscale.volume import MemoryArray, Volume
from tomoscale.work import Work

SIZE = (2.0, 1.5, 1.0)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def table_of(values: np.ndarray, block_shape=None, size=SIZE) -> tuple[list[dict[str, float]], bytes]:
    block = None if block_shape is None else tuple(min(b, n) for b, n in zip(block_shape, values.shape, strict=True))
    with tempfile.TemporaryDirectory() as folder:
        work = Work(None, Resources(slots=2), block, progress=False)
        path = object_table(Volume(MemoryArray(values), size), Path(folder) / "objects.csv", work=work)
        return [{k: float(v) for k, v in row.items()} for row in rows_of(path)], path.read_bytes()


def expected_row(labels: np.ndarray, label: int, size=SIZE) -> dict[str, float]:
    """Figures of one object, straight from its voxels."""
    mask, h = labels == label, np.array(size)
    places = np.argwhere(mask)
    padded = np.pad(mask, 1, constant_values=False)
    present = np.pad(np.ones(mask.shape, bool), 1, constant_values=False)
    inner = tuple(slice(1, -1) for _ in range(3))
    faces = border = 0.0
    for axis, area in enumerate((h[1] * h[2], h[0] * h[2], h[0] * h[1])):
        for step in (-1, 1):
            other, there = np.roll(padded, step, axis)[inner], np.roll(present, step, axis)[inner]
            faces += area * (mask & there & ~other).sum()
            border += (mask & ~there).sum()
    spread = np.cov(places.T, bias=True) * np.outer(h, h) + np.diag(h**2) / 12
    row = {
        "label": label,
        "voxels": len(places),
        "volume_um3": len(places) * h.prod(),
        "surface_faces_um2": faces,
        "border_faces": border,
        "touches_border": float(border > 0),
    }
    for i, square in enumerate(np.linalg.eigvalsh(spread)[::-1]):
        row[f"axis_{i + 1}_um"] = np.sqrt(20 * square)
    for a, axis in enumerate("zyx"):
        row[f"{axis}_start_voxels"] = places[:, a].min()
        row[f"{axis}_stop_voxels"] = places[:, a].max() + 1
        row[f"centroid_{axis}_um"] = places[:, a].mean() * h[a]
    return row


@settings(max_examples=12)
@given(seed=seeds, shape=tiny_shapes, block_shape=st.tuples(*[st.integers(2, 6)] * 3))
def test_the_table_by_blocks_is_that_of_the_voxels(seed, shape, block_shape):
    labels = noise(seed, shape, 4, 0.7)
    found, text = table_of(labels, block_shape)
    assert [row["label"] for row in found] == [k for k in np.unique(labels) if k]
    for row in found:
        for name, value in expected_row(labels, int(row["label"])).items():
            assert row[name] == pytest.approx(value, rel=1e-8, abs=1e-7), name
    assert table_of(labels, shape)[1] == text


@settings(max_examples=8)
@given(seed=seeds, shape=tiny_shapes)
def test_many_labels_in_parts_are_the_same_table(seed, shape):
    """Labels anywhere in 64 bits, written a few at a time."""
    random = np.random.default_rng(seed)
    labels = random.choice(random.integers(0, 2**64 - 1, 40, np.uint64, endpoint=True), shape)
    whole = table_of(labels, (4, 4, 4))[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table, "PARTS_AT_ONCE", 5)
        patch.setattr(table, "_SAMPLE", 2)
        assert table_of(labels, (4, 4, 4))[1] == whole
    names = [int(line.split(",")[0]) for line in whole.decode().splitlines()[1:]]
    assert names == [int(k) for k in np.unique(labels) if k]


def ball(radius: int) -> np.ndarray:
    reach = np.arange(-radius - 2, radius + 3)
    z, y, x = np.meshgrid(reach, reach, reach, indexing="ij")
    return (z**2 + y**2 + x**2 <= radius**2).astype(np.uint8)


def test_surfaces_of_a_ball_of_40_voxels():
    (row,), _ = table_of(ball(40), (30, 30, 30), (1.0, 1.0, 1.0))
    area = 4 * np.pi * 40**2
    assert row["surface_faces_um2"] / area == pytest.approx(1.4995, abs=2e-4)
    assert row["surface_crofton_um2"] / area == pytest.approx(0.9981, abs=2e-4)
    for i in (1, 2, 3):
        assert row[f"axis_{i}_um"] == pytest.approx(80, rel=0.005)


def test_a_rod_tells_its_axis():
    """A cuboid of 12 x 3 x 3 voxels of 2 um along y: variances d * d / 12, so that the ellipsoid is sqrt(5 / 3) longer."""
    labels = np.zeros((8, 16, 8), np.int16)
    labels[2:5, 2:14, 3:6] = -7
    (row,), _ = table_of(labels, (3, 5, 4), (2.0, 2.0, 2.0))
    assert row["label"] == -7
    assert [row[f"axis_{i}_um"] for i in (1, 2, 3)] == pytest.approx([24 * (5 / 3) ** 0.5] + [6 * (5 / 3) ** 0.5] * 2)
    assert [row[f"axis_1_{a}"] for a in "zyx"] == [0, 1, 0]
    assert [row[f"centroid_{a}_um"] for a in "zyx"] == [6.0, 15.0, 8.0]
    assert row["touches_border"] == 0


def test_moments_beyond_64_bits_are_exact():
    """A cuboid of 10^10 x 10 x 10 voxels in two parts: its sums of squares need more than 90 bits."""
    from tomoscale.measures.object_sums import BORDER, COLUMNS, FIRST, HIGH, LOW, SECOND, VOXELS
    from tomoscale.objects.figures import Objects

    length, n_blocks = 10**5, 10**5
    part = np.zeros(COLUMNS, np.int64)
    part[VOXELS] = length
    part[FIRST] = length * (length - 1) // 2, 0, 0
    part[SECOND] = (length - 1) * length * (2 * length - 1) // 6, 0, 0, 0, 0, 0
    sums = np.repeat(part[None], n_blocks, axis=0)
    origin = np.zeros((n_blocks, 3), np.int64)
    origin[:, 0] = np.arange(n_blocks) * length
    sums[:, LOW] = origin
    sums[:, HIGH] = origin + np.array([length - 1, 0, 0])
    rod = Objects.joined(np.ones(n_blocks, np.uint32), sums, origin, length)
    total = length * n_blocks
    assert rod.voxels.tolist() == [total]
    assert rod.border.tolist() == [sums[:, BORDER].sum()] == [0]
    assert rod.first[0].tolist() == [total * (total - 1) // 2, 0, 0]
    # As boxes: the variance of a rod is exactly the square of its length over 12.
    assert rod.spread[0, 0] == total * total / 12
    assert rod.spread[0, 1:].tolist() == [1 / 12, 1 / 12, 0, 0, 0]


def test_a_volume_without_objects_gives_names_only():
    found, text = table_of(np.zeros((4, 4, 4), np.uint8), (2, 2, 2))
    assert found == []
    assert text.startswith(b"label,voxels,volume_um3,")


def test_a_table_is_not_made_twice_and_not_overwritten_by_chance(tmp_path):
    volume = Volume(MemoryArray(ball(3)), SIZE)
    path = tmp_path / "objects.csv"
    object_table(volume, path, work=Work(None, Resources()))
    before = path.stat().st_mtime_ns
    object_table(volume, path, work=Work(None, Resources()))
    assert path.stat().st_mtime_ns == before
    other = Volume(MemoryArray(ball(4)), SIZE)
    with pytest.raises(PlanError, match="exists and was not made by this command"):
        object_table(other, path, work=Work(None, Resources()))
    object_table(other, path, work=Work(None, Resources(), overwrite=True))
    assert int(rows_of(path)[0]["voxels"]) == ball(4).sum()


def test_parquet_holds_the_same(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    labels = noise(1, (6, 6, 6), 3, 0.6)
    path = object_table(Volume(MemoryArray(labels), SIZE), tmp_path / "o.parquet", work=Work(None, Resources()))
    found = parquet.read_table(path).to_pydict()
    rows, _ = table_of(labels)
    assert list(found) == list(rows[0])
    assert found["voxels"] == [row["voxels"] for row in rows]


def test_what_cannot_be_tabulated_is_refused(tmp_path):
    labels = np.ones((2, 2, 2), np.uint8)
    with pytest.raises(InputError, match="does not say how large a voxel is"):
        object_table(Volume(MemoryArray(labels)), tmp_path / "a.csv")
    with pytest.raises(InputError, match="holds float64"):
        object_table(Volume(MemoryArray(labels.astype(float)), SIZE), tmp_path / "a.csv")
    with pytest.raises(ValueError, match=r"must end in \.csv or \.parquet"):
        object_table(Volume(MemoryArray(labels), SIZE), tmp_path / "a.txt")
