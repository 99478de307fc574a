"""The map of blocks: the numbers of brute force in at most 8 x 8 x 8 fields, whole through JSON, refused where it lies."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.blocks import seeds
from tomoscale.block_summary import FIELDS_PER_AXIS, block_summary
from tomoscale.errors import InputError
from tomoscale.frames import RECORD
from tomoscale.report.block_map import block_chart, block_plates

grids = st.tuples(*[st.integers(1, 21)] * 3)


def records_of(grid: tuple[int, int, int], rng: np.random.Generator, lost: float = 0.2) -> np.ndarray:
    """Records of most blocks of a grid, in any order."""
    numbers = rng.permutation(int(np.prod(grid)))
    numbers = numbers[rng.random(numbers.size) >= lost]
    records = np.zeros(numbers.size, RECORD)
    records["number"] = numbers
    records["attempts"] = rng.integers(1, 4, numbers.size)
    records["seconds"] = rng.random((numbers.size, 3))
    return records


@given(seed=seeds, grid=grids)
def test_fields_hold_what_brute_force_finds(seed, grid):
    records = records_of(grid, np.random.default_rng(seed))
    found = block_summary(records, grid)
    fields = tuple(min(n, FIELDS_PER_AXIS) for n in grid)
    assert tuple(found["fields"]) == fields
    by_number = {int(r["number"]): r for r in records}
    inside: dict[tuple[int, ...], list[int]] = {}
    for number, place in enumerate(np.ndindex(*grid)):
        field = tuple(p * f // n for p, f, n in zip(place, fields, grid, strict=True))
        inside.setdefault(field, []).append(number)
    assert len(inside) == np.prod(fields), "no field is empty"
    for n, field in enumerate(np.ndindex(*fields)):
        done = [by_number[b] for b in inside[field] if b in by_number]
        assert found["missing"][n] == len(inside[field]) - len(done)
        assert found["attempts"][n] == max((int(r["attempts"]) for r in done), default=0)
        if done:
            mean = np.mean([r["seconds"].astype(float).sum() for r in done])
            assert found["seconds"][n] == pytest.approx(mean, abs=1e-4)
        else:
            assert found["seconds"][n] is None


def test_a_summary_is_small_however_many_blocks_there_are():
    records = records_of((60, 50, 40), np.random.default_rng(1), lost=0.001)
    text = json.dumps(block_summary(records, (60, 50, 40)), allow_nan=False)
    assert len(text) < 8_000
    assert len(block_summary(records, (60, 50, 40))["seconds"]) == 512


def run_of(summary: dict[str, object], name: str = "segment") -> dict[str, object]:
    return {"name": name, "grid": [1, 2, 3], "blocks_done": json.loads(json.dumps(summary))}


def test_the_figure_marks_what_was_tried_again_and_what_is_missing():
    summary = {
        "fields": [2, 1, 3],
        "seconds": [1.0, 2.0, 3.0, None, 5.0, 6.0],
        "attempts": [1, 2, 1, 0, 1, 4],
        "missing": [0, 0, 0, 1, 0, 0],
    }
    (plate,) = block_plates([run_of(summary), {"name": "no map"}])
    assert "blocks tried up to 4 times, 1 not done" in plate.caption
    assert "1.00 to 6.00 s" in plate.html
    seconds = np.array([1.0, 2.0, 3.0, np.nan, 5.0, 6.0]).reshape(2, 1, 3)
    attempts, missing = np.array([1, 2, 1, 0, 1, 4]).reshape(2, 1, 3), np.array([0, 0, 0, 1, 0, 0]).reshape(2, 1, 3)
    axes = block_chart([("a", (seconds, attempts, missing))]).figure.axes[0]
    shown = np.ma.filled(axes.images[0].get_array().astype(float), np.nan)
    np.testing.assert_array_equal(shown, [[1, 2, 3, np.nan, np.nan, 5, 6]])
    again, lost = (c.get_offsets().tolist() for c in axes.collections)
    assert again == [[1.0, 0.0], [6.0, 0.0]]
    assert lost == [[4.0, 0.0]]


def test_one_field_is_no_map():
    assert block_plates([run_of(block_summary(records_of((1, 1, 1), np.random.default_rng(1), 0), (1, 1, 1)))]) == []
    assert block_plates([{"name": "a"}, {"name": "b", "blocks_done": None}]) == []


def test_names_are_only_text():
    summary = block_summary(records_of((1, 2, 3), np.random.default_rng(1)), (1, 2, 3))
    (plate,) = block_plates([run_of(summary, "<script>x</script>")])
    assert "<script>" not in plate.html
    assert "<script>" not in plate.caption


@pytest.mark.parametrize(
    "change",
    [
        {"fields": [1, 2]},
        {"fields": [1, 2, 9]},
        {"fields": [1, 2, 10**9]},
        {"fields": [1, 2, 0]},
        {"fields": None},
        {"seconds": [1.0]},
        {"seconds": ["x"] * 6},
        {"attempts": None},
        {"missing": [[1]] * 6},
    ],
)
def test_summaries_that_do_not_fit_are_refused(change):
    summary = block_summary(records_of((1, 2, 3), np.random.default_rng(1)), (1, 2, 3)) | change
    with pytest.raises(InputError, match="the blocks of the run 'segment' are not 8 fields an axis"):
        block_plates([run_of(summary)])
