"""Volumes without an answer get one clear message from every command on objects, and odd ones the right answer."""

from __future__ import annotations

import numpy as np
import pytest

from tests.world import volume_at
from tomoscale.cli import main
from tomoscale.volume import open_zarr

SHAPE = (10, 11, 12)
LABELS = np.random.default_rng(0).integers(0, 4, SHAPE).astype(np.uint8)
VOLUMES = {
    "empty": (np.zeros(SHAPE, bool), 5.0, "mask"),
    "full": (np.ones(SHAPE, bool), 5.0, "mask"),
    "background": (np.zeros(SHAPE, np.uint8), 5.0, "labels"),
    "bone": (np.full(SHAPE, 3, np.uint8), 5.0, "labels"),
    "flat": (LABELS, (10.0, 5.0, 5.0), "labels"),
    "sizeless": (LABELS, None, "labels"),
    "float": (LABELS.astype(np.float32), 5.0, "grey"),
    "nan": (np.where(LABELS == 1, np.nan, LABELS).astype(np.float32), 5.0, "grey"),
    "grey": (LABELS, 5.0, "grey"),
    "negative": (LABELS.astype(np.int16) - 1, 5.0, "labels"),
    "large": (LABELS.astype(np.uint64) * 2**62, 5.0, "labels"),
}
FILTERS = ("components", "remove-small --min-voxels 3", "keep-largest", "replace-islands", "fill-holes")
DISTANCES = ("distance", "distance --inside", "thickness", "thickness --outside")
TABLE = "object-table"
STUDIES = ("study morphometry", "study porosity")
REFUSED = (
    *((line, name, 3, "float32") for line in (*FILTERS, *DISTANCES, *STUDIES) for name in ("float", "nan")),
    *((line, "sizeless", 3, "does not say how large a voxel is") for line in (*DISTANCES, STUDIES[0])),
    *(("thickness", name, 3, "fills the whole volume") for name in ("full", "bone")),
    *(("thickness --outside", name, 3, "fills the whole volume") for name in ("empty", "background")),
    ("thickness --correction half_voxel", "flat", 2, "half a voxel is not one length"),
    ("thickness --cleanup fiji", "flat", 2, "takes voxels for cubes"),
    ("study morphometry --cleanup fiji", "flat", 2, "takes voxels for cubes"),
    *(("study morphometry", name, 3, "none is bone") for name in ("empty", "background", "negative", "large")),
    *(("study morphometry", name, 3, "none is space") for name in ("full", "bone")),
    ("study morphometry", "grey", 3, "tomoscale threshold"),
    *(("study porosity", name, 3, "none is bone (3,)") for name in ("empty", "background")),
    *(("study porosity", name, 3, "is bone (3,)") for name in ("full", "negative", "large")),
    *((TABLE, name, 3, "float32") for name in ("float", "nan")),
    (TABLE, "sizeless", 3, "voxel"),
    ("components --connectivity 8", "flat", 2, "8"),
    ("fill-holes --classes 1,1", "flat", 2, "all different"),
)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    return {name: volume_at(folder / f"{name}.zarr", *how) for name, how in VOLUMES.items()}


def run(line, source, target):
    words = line.split()
    if words == [TABLE]:
        target = target.with_suffix(".csv")
    n = 2 if words[0] == "study" else 1
    return main([*words[:n], str(source), str(target), *words[n:], "--quiet"])


@pytest.mark.parametrize(("line", "name", "code", "words"), REFUSED)
def test_what_has_no_answer_gets_one_message(world, tmp_path, capsys, line, name, code, words):
    assert run(line, world[name], tmp_path / "out") == code
    message = capsys.readouterr().err
    assert words in message
    assert "Traceback" not in message
    assert len(message.strip().splitlines()) <= 3
    # A study keeps what its passes have made, which may have taken hours.
    if not line.startswith("study"):
        assert not list(tmp_path.iterdir()), "what is left would be in the way of the next try"


@pytest.mark.parametrize("line", FILTERS)
@pytest.mark.parametrize(("name", "value"), [("empty", 0), ("full", 1), ("background", 0), ("bone", 3)])
def test_filters_leave_volumes_of_one_value_as_they_are(world, tmp_path, line, name, value):
    assert run(line, world[name], tmp_path / "out.zarr") == 0
    assert (open_zarr(tmp_path / "out.zarr").read() == (min(value, 1) if line == "components" else value)).all()


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("distance", "empty", np.inf),
        ("distance", "full", 0),
        ("distance --inside", "empty", 0),
        ("distance --inside", "bone", np.inf),
        ("thickness", "empty", 0),
        ("thickness", "background", 0),
        ("thickness --outside", "full", 0),
        ("thickness --cleanup fiji", "empty", 0),
    ],
)
def test_lengths_of_volumes_of_one_value(world, tmp_path, line, name, value):
    assert run(line, world[name], tmp_path / "out.zarr") == 0
    assert (open_zarr(tmp_path / "out.zarr").read() == value).all()


@pytest.mark.parametrize(("name", "rows"), [("empty", 0), ("full", 1), ("background", 0), ("bone", 1), ("flat", 3)])
def test_tables_of_few_objects(world, tmp_path, capsys, name, rows):
    assert run(TABLE, world[name], tmp_path / "out") == 0
    assert "out.csv" in capsys.readouterr().out
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 1 + rows


@pytest.mark.parametrize("name", ["negative", "large"])
def test_labels_of_any_sign_and_size_are_kept(world, tmp_path, name):
    values = VOLUMES[name][0]
    assert run("keep-largest --multilabel", world[name], tmp_path / "out.zarr") == 0
    kept = open_zarr(tmp_path / "out.zarr").read()
    assert kept.dtype == values.dtype
    (label,) = set(np.unique(kept)) - {0}
    np.testing.assert_array_equal(kept[kept != 0], values[kept != 0])
    assert label in values
