"""The map of blocks hides no block: every field tells the worst of what lies behind it."""

from __future__ import annotations

import io
import re
from base64 import b64decode

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.blocks import seeds
from tomoscale.block_states import AGAIN, ASIDE, DONE, RUNNING, WAITING
from tomoscale.notebook import block_map
from tomoscale.notebook.block_map import COLOURS, map_html, map_picture, projection
from tomoscale.watch import run_state

GREEN, GREY = COLOURS[DONE].tolist(), COLOURS[WAITING].tolist()


@given(seed=seeds, shape=st.tuples(*[st.integers(1, 9)] * 3), most=st.integers(1, 9))
def test_every_block_is_counted_in_the_field_before_it(seed, shape, most):
    states = np.random.default_rng(seed).integers(0, 5, shape).astype(np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(block_map, "FIELDS", most)
        for axis in range(3):
            rows, columns = (n for a, n in enumerate(shape) if a != axis)
            expected = np.zeros((5, min(rows, most), min(columns, most)), int)
            for place, state in np.ndenumerate(states):
                row, column = (p for a, p in enumerate(place) if a != axis)
                expected[state, row * expected.shape[1] // rows, column * expected.shape[2] // columns] += 1
            np.testing.assert_array_equal(projection(states, axis), expected)


def test_a_field_has_the_colour_of_the_worst_block_behind_it():
    states = np.full((4, 1, 6), DONE, np.uint8)
    states[0, 0, 1:] = WAITING
    states[:, 0, 2] = WAITING
    states[1, 0, 3:], states[2, 0, 4:], states[3, 0, 5] = RUNNING, AGAIN, ASIDE
    picture = map_picture(states, 0)
    size = picture.shape[0]
    fields = picture[1, 1::size].tolist()
    assert fields[0] == GREEN
    assert fields[1] == np.round(0.25 * COLOURS[WAITING] + 0.75 * COLOURS[DONE]).tolist()
    assert fields[2:] == [GREY, *COLOURS[[RUNNING, AGAIN, ASIDE]].tolist()]
    assert picture.shape == (size, 6 * size, 3)


def test_a_map_of_a_million_blocks_is_small():
    html = map_html(np.ones((100, 100, 100), np.uint8), {})
    for data in re.findall(r"base64,([^\"]+)", html):
        assert max(Image.open(io.BytesIO(b64decode(data))).size) <= 150
    assert len(html) < 20_000
    assert "100 x 100 x 100 blocks (z, y, x), seen along each axis; blocks beside each other share a field" in html


def test_what_the_map_says():
    states = np.array([[[DONE, RUNNING, WAITING, ASIDE, ASIDE, ASIDE, ASIDE]]], np.uint8)
    html = map_html(states, {n: f"error of <b>{n}</b>" for n in range(7)})
    for words in ("1 done", "1 running", "1 waiting", "4 set aside", "and 1 more"):
        assert words in html
    assert "to be tried again" not in html
    assert "block 3 (z 0, y 0, x 3 of the grid): error of &lt;b&gt;3&lt;/b&gt;" in html
    assert "block 2" not in html
    assert html.count("<img") == 3


def test_a_record_without_a_grid_has_a_bar_and_no_map(tmp_path):
    (tmp_path / "plan.json").write_text('{"n_blocks": 3, "step": {"opening": {}}}')
    html = run_state(tmp_path)._repr_html_()
    assert "0/3 blocks, stopped" in html
    assert "<img" not in html
