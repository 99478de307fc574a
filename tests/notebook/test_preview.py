"""Pictures in notebooks show what is in a volume, cost little however large it is, and never raise."""

from __future__ import annotations

import io
import json
import re
import shutil
import time
from base64 import b64decode
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.blocks import seeds
from tomoscale.errors import InputError, IntegrityError
from tomoscale.geometry import Region, Shape, region_shape
from tomoscale.kernels.filters import cast
from tomoscale.kernels.morphology import opening
from tomoscale.notebook import thinned
from tomoscale.notebook.block_map import map_html
from tomoscale.notebook.look import PIXELS, Look, histogram, scale_bar
from tomoscale.notebook.preview import levels_of, preview_html
from tomoscale.notebook.sketch import CORE, MARGIN, OUTSIDE, bar_html, block_picture, memory_bar, runs_html
from tomoscale.notebook.thinned import plane_bytes, positions, read_thinned
from tomoscale.plan import plan_map, plan_measure
from tomoscale.report.planes import COLOURS, UNLISTED
from tomoscale.resources import Resources
from tomoscale.volume import LabelClass, MemoryArray, Volume, create_volume, open_zarr

WHITE = (255, 255, 255)
CLASSES = (LabelClass(0, "background", (0, 0, 0, 0)), LabelClass(2, "bone <b>", (10, 200, 30, 255)))


def pictures(html: str) -> list[np.ndarray]:
    """The pictures of a page as (rows, columns, 3) uint8 arrays."""
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    return [np.asarray(Image.open(io.BytesIO(b64decode(data))).convert("RGB")) for data in found]


def rgb(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour[1:]))


def share_of(picture: np.ndarray, colour: tuple[int, ...]) -> float:
    return float((picture == colour).all(axis=-1).mean())


def memory(values: np.ndarray, voxel_size_um=None, kind="grey", classes=()) -> Volume:
    return Volume(MemoryArray(values, kind), voxel_size_um, classes=classes)


def stored(path, values: np.ndarray, kind="grey", classes=(), finish=True, **how) -> Volume:
    volume = create_volume(path, shape=values.shape, dtype=values.dtype, kind=kind, classes=classes, **how)
    volume.create()
    volume.write(tuple(slice(0, n) for n in values.shape), values)
    if finish:
        volume.finish({})
    return volume


class Checker(HTMLParser):
    """Counts tags, and holds that each that is opened is closed."""

    VOID = ("img", "br")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.feed(html)
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


# --- What is drawn ---


def test_a_bright_object_is_where_it_is_in_all_three_planes():
    values = np.zeros((40, 60, 80), np.uint16)
    values[15:25, 10:40, 30:70] = 1000
    html = preview_html(memory(values, 2.0))
    Checker(html)
    across_z, across_y, across_x, strip = pictures(html)
    scale = PIXELS / 80
    for picture, rows, columns, (high, wide) in (
        (across_z, (10, 40), (30, 70), (60, 80)),
        (across_y, (15, 25), (30, 70), (40, 80)),
        (across_x, (15, 25), (10, 40), (40, 60)),
    ):
        inside = picture[: round(high * scale), : round(wide * scale), 0]
        expected = np.zeros((high, wide), np.uint8)
        expected[slice(*rows), slice(*columns)] = 255
        np.testing.assert_array_equal(inside, expected.repeat(4, axis=0).repeat(4, axis=1))
    assert strip.shape[1] == PIXELS


def test_proportions_follow_the_voxel_size_and_the_bar_its_length():
    html = preview_html(memory(np.zeros((10, 20, 40), np.uint8), (8.0, 2.0, 2.0)))
    across_z, across_y, _, _ = pictures(html)
    # 80 x 40 x 80 um: four pixels a micrometre.
    assert across_y.shape[0] - across_z.shape[0] == 160
    bar = (across_z[-15] == 0).all(axis=-1)[: 20 * 4 + 5]
    # 20 um is the longest of 1, 2, 5, ... within half of the width.
    assert bar.sum() == 20 * 4
    assert "80 µm x 40 µm x 80 µm" in html


@pytest.mark.parametrize(("width", "bar"), [(80, 20), (100, 50), (9.9, 2), (0.4, 0.2), (1999, 500), (2000, 1000)])
def test_a_scale_bar_is_a_round_length_within_half_of_the_width(width, bar):
    assert scale_bar(width) == pytest.approx(bar)


def test_labels_have_the_colours_and_names_of_their_classes():
    values = np.zeros((20, 20, 20), np.uint8)
    values[:, 5:15, 5:15] = 2
    values[:, :2, :2] = 9
    html = preview_html(memory(values, 1.0, "labels", CLASSES))
    Checker(html)
    across_z = pictures(html)[0][:PIXELS]
    assert share_of(across_z, (10, 200, 30)) == 0.25
    assert share_of(across_z, rgb(UNLISTED)) == 0.01
    assert share_of(across_z, rgb(COLOURS[0])) == 0.74
    assert "bone &lt;b&gt;" in html
    assert "a value that is no class" in html


def test_labels_without_names_are_told_by_their_values():
    html = preview_html(memory(np.full((4, 4, 4), 7, np.int32), None, "labels"))
    assert "value 7" in html
    assert share_of(pictures(html)[0][:PIXELS, :PIXELS], rgb(COLOURS[0])) == 1.0


def test_more_values_than_colours_share_them():
    values = np.arange(16**3, dtype=np.uint32).reshape(16, 16, 16)
    html = preview_html(memory(values, None, "labels"))
    assert "values share colours" in html
    shown = {tuple(c) for c in pictures(html)[0][:PIXELS].reshape(-1, 3).tolist()}
    assert shown <= {rgb(c) for c in COLOURS}
    assert len(shown) == len(COLOURS) - 1


def test_a_mask_is_drawn_as_inside_and_outside():
    values = np.zeros((8, 8, 8), bool)
    values[:, :4] = True
    html = preview_html(memory(values, None, "mask"))
    across_z = pictures(html)[0][:PIXELS]
    assert share_of(across_z, rgb(COLOURS[1])) == 0.5
    assert "inside" in html


def test_nan_and_infinity_are_drawn_and_counted():
    values = np.random.default_rng(0).random((12, 12, 12)).astype(np.float32)
    values[:, :3] = np.nan
    values[:, 3] = np.inf
    html = preview_html(memory(values))
    assert "not finite" in html
    across_z = pictures(html)[0]
    assert (across_z[: PIXELS // 4] == 0).all()
    assert (across_z[PIXELS // 4 : PIXELS // 3 - 1] == 255).all()
    assert "No voxel shown has a finite value" in preview_html(memory(np.full((3, 3, 3), np.nan)))


def test_a_constant_volume_is_grey():
    html = preview_html(memory(np.full((5, 5, 5), 3, np.uint8)))
    assert len(np.unique(pictures(html)[0][:PIXELS])) == 1


@given(seed=seeds, low=st.integers(-300, 300), span=st.integers(0, 700))
def test_a_histogram_is_highest_where_most_values_are(seed, low, span):
    random = np.random.default_rng(seed)
    values = random.integers(low, low + span + 1, 4000).astype(np.int16)
    values[:2000] = mode = low + span // 2
    strip = np.asarray(Image.open(io.BytesIO(histogram(values, Look((0.0, 1.0))))).convert("L"))[:44]
    heights = (strip == 0).sum(axis=0)
    place = (mode - values.min() + 0.5) / (int(values.max()) - int(values.min()) + 1)
    assert heights.max() == 44
    assert abs(heights.argmax() / PIXELS - place) < 0.51 / min(PIXELS, int(np.ptp(values)) + 1) + 2 / PIXELS


# --- What is read ---


@dataclass(frozen=True)
class Counting:
    """A storage of any size whose values are their place, and which counts the chunks it would decode."""

    shape: Shape
    chunk_shape: Shape
    name: str = "counting"
    decoded: list[int] = field(default_factory=list)
    chunks: list[int] = field(default_factory=list)
    seconds: float = 0.0
    dtype = np.dtype(np.uint16)

    def read(self, region: Region) -> np.ndarray:
        chunks = [-(-r.stop // c) - r.start // c for r, c in zip(region, self.chunk_shape, strict=True)]
        self.chunks.append(int(np.prod(chunks)))
        self.decoded.append(int(np.prod(chunks)) * int(np.prod(self.chunk_shape)) * self.dtype.itemsize)
        time.sleep(self.seconds)
        z, y, x = (np.arange(r.start, r.stop) // 64 for r in region)
        return (z[:, None, None] + 3 * y[:, None] + 7 * x).astype(self.dtype)

    def identity(self) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize("chunk", [(64, 64, 64), (1, 1, 1), (128, 128, 128), (1, 512, 512), (10_000, 64, 64)])
def test_of_a_volume_of_a_trillion_voxels_little_is_decoded(chunk):
    storage = Counting((10_000, 10_000, 10_000), chunk)
    started = time.perf_counter()
    html = preview_html(Volume(storage, 1.0))
    assert time.perf_counter() - started < 5.0
    assert sum(storage.decoded) <= 3 * thinned.BUDGET_BYTES
    assert len(storage.decoded) < 4000
    assert len(pictures(html)) >= 2
    assert len(html) < 600_000


def test_of_small_chunks_few_are_looked_at_and_what_was_not_is_said():
    storage = Counting((10_000, 10_000, 10_000), (8, 8, 8))
    html = preview_html(Volume(storage, 1.0))
    assert sum(storage.chunks) <= 3 * thinned.BUDGET_BYTES // thinned.LEAST_BYTES
    assert len(pictures(html)) == 4
    assert html.count("only the middle 512 x 512 voxels") == 3


def test_a_slice_of_a_large_tiff_stack_is_shown_and_what_is_not_shown_is_said():
    storage = Counting((10_000, 4000, 4000), (1, 4000, 4000))
    html = preview_html(Volume(storage, 1.0))
    assert sum(storage.decoded) == 4000**2 * 2
    assert len(pictures(html)) == 2
    assert "a picture across y would decode 298.0 GiB" in html


def test_of_a_plane_with_too_few_affordable_chunks_the_middle_is_shown():
    storage = Counting((10_000, 10_000, 10_000), (128, 128, 128))
    plane = read_thinned(Volume(storage), 0, 5000, PIXELS)
    assert plane.extent == (1024, 1024)
    assert plane.steps == (4, 4)
    assert sum(storage.decoded) == 8 * 8 * 128**3 * 2
    rows, columns = (s + positions(n, 4) for s, n in zip(plane.start, plane.extent, strict=True))
    expected = 5000 // 64 + 3 * (rows // 64)[:, None] + 7 * (columns // 64)
    np.testing.assert_array_equal(plane.values, expected)
    assert abs(2 * plane.start[0] + 1024 - 10_000) < 256
    assert "only the middle 1024 x 1024 voxels" in preview_html(Volume(storage))


def test_a_chunk_that_is_too_large_is_not_decoded():
    storage = Counting((20_000, 30_000, 30_000), (1, 30_000, 30_000))
    html = preview_html(Volume(storage, 1.0))
    assert storage.decoded == []
    assert "one chunk takes 1.7 GiB" in html


def test_slow_storage_is_left_after_a_while(monkeypatch):
    monkeypatch.setattr(thinned, "SECONDS", 0.2)
    monkeypatch.setattr("tomoscale.notebook.preview.SECONDS", 0.2)
    storage = Counting((5000, 5000, 5000), (64, 64, 64), seconds=0.1)
    started = time.perf_counter()
    html = preview_html(Volume(storage, 1.0))
    assert time.perf_counter() - started < 2.0
    assert "the rest is left out" in html
    assert len(pictures(html)) == 2


@given(
    shape=st.tuples(*[st.integers(1, 70)] * 3),
    chunk=st.tuples(*[st.integers(1, 40)] * 3),
    axis=st.integers(0, 2),
    pixels=st.integers(1, 80),
    budget=st.integers(10, 24),
    least=st.integers(1, 30),
    seed=seeds,
)
def test_what_is_thinned_is_every_so_many_th_voxel_of_the_plane(shape, chunk, axis, pixels, budget, least, seed):
    values = np.random.default_rng(seed).integers(0, 60000, shape).astype(np.uint16)
    storage = replace(MemoryArray(values), chunk_shape=chunk)
    index = shape[axis] // 2
    with pytest.MonkeyPatch.context() as patch:
        small = {
            "BUDGET_BYTES": 2**budget,
            "LEAST_PIXELS": least,
            "LEAST_VOXELS": 1,
            "STRIP_ROWS": 3,
            "STRIP_BYTES": 64,
        }
        for name, value in small.items():
            patch.setattr(thinned, name, value)
        try:
            plane = read_thinned(Volume(storage), axis, index, pixels)
        except InputError:  # one chunk takes more than this budget
            return
    whole = values.take(index, axis)
    rows, columns = (
        start + positions(n, step) for start, n, step in zip(plane.start, plane.extent, plane.steps, strict=True)
    )
    np.testing.assert_array_equal(plane.values, whole[np.ix_(rows, columns)])
    assert not plane.missing.any()
    assert max(plane.values.shape) <= pixels
    if least == 1:
        assert (plane.start, plane.extent) == ((0, 0), whole.shape)


@given(length=st.integers(1, 500), step=st.integers(1, 600))
def test_voxels_shown_lie_as_far_from_one_end_as_from_the_other(length, step):
    shown = positions(length, step)
    assert shown.size >= 1
    assert abs(shown[0] - (length - 1 - shown[-1])) <= 1
    assert (np.diff(shown) == step).all()


def test_a_plane_costs_the_chunks_it_crosses():
    volume = Volume(Counting((100, 200, 300), (64, 64, 64)))
    assert plane_bytes(volume, 0) == 4 * 5 * 64**3 * 2
    assert plane_bytes(volume, 2) == 2 * 4 * 64**3 * 2
    small = Volume(Counting((100, 200, 300), (10, 10, 10)))
    assert plane_bytes(small, 0) == 20 * 30 * thinned.LEAST_BYTES


# --- Levels ---


def with_level(path, values: np.ndarray, coarse: np.ndarray) -> Volume:
    """A stored volume with a second level, as other programs list it."""
    volume = stored(path, values, voxel_size_um=1.0, shard_shape=(32, 32, 32), chunk_shape=(32, 32, 32))
    other = stored(path.with_name("coarse.zarr"), coarse)
    (path.with_name("coarse.zarr") / "0").rename(path / "1")
    assert other.finished
    metadata = json.loads((path / "zarr.json").read_text())
    datasets = metadata["attributes"]["ome"]["multiscales"][0]["datasets"]
    factor = values.shape[0] / coarse.shape[0]
    datasets.append({"path": "1", "coordinateTransformations": [{"type": "scale", "scale": [factor] * 3}]})
    datasets.append({"path": "gone", "coordinateTransformations": [{"type": "scale", "scale": [8.0] * 3}]})
    (path / "zarr.json").write_text(json.dumps(metadata))
    assert volume.finished
    return open_zarr(path)


def test_the_finest_level_that_fits_the_budget_is_shown(tmp_path, monkeypatch):
    values, coarse = np.zeros((64, 64, 64), np.uint8), np.zeros((16, 16, 16), np.uint8)
    values[:, :, 32:], coarse[:, 8:] = 200, 100
    volume = with_level(tmp_path / "scan.zarr", values, coarse)
    assert [v.shape for v in levels_of(volume)] == [(16, 16, 16)]
    assert levels_of(levels_of(volume)[0]) == []
    fine = pictures(preview_html(volume))[0][:PIXELS]
    assert fine[0, -1, 0] > fine[0, 0, 0]
    monkeypatch.setattr("tomoscale.notebook.preview.BUDGET_BYTES", 64**2 * 32 - 1)
    html = preview_html(volume)
    shown = pictures(html)[0][:PIXELS]
    assert shown[-1, 0, 0] > shown[0, 0, 0]
    assert "a coarser level of 16 x 16 x 16 voxels" in html
    # The same bar over the same micrometres.
    assert (pictures(html)[0][PIXELS:] == pictures(preview_html(volume))[0][PIXELS:]).all()


# --- What cannot be shown ---


def test_a_volume_that_is_not_finished_shows_what_is_there(tmp_path):
    values = np.full((8, 8, 8), 5, np.uint8)
    volume = create_volume(
        tmp_path / "v.zarr", shape=(8, 8, 16), dtype=np.uint8, shard_shape=(8, 8, 8), chunk_shape=(8, 8, 8)
    )
    assert "Nothing is on disk yet" in preview_html(volume)
    volume.create()
    assert pictures(preview_html(volume)) == []
    volume.write((slice(0, 8), slice(0, 8), slice(0, 8)), values)
    html = preview_html(volume)
    Checker(html)
    assert "not finished" in html
    across_z = pictures(html)[0][: PIXELS // 2]
    left, right = across_z[:, : PIXELS // 2], across_z[:, PIXELS // 2 :]
    assert len(np.unique(left)) == 1
    assert {tuple(c) for c in right.reshape(-1, 3).tolist()} == {WHITE, (205, 205, 205)}


class Broken:
    """A storage that raises what it is told to."""

    shape, chunk_shape, dtype, name = (4, 4, 4), (1, 1, 1), np.dtype(np.uint8), "<script>alert(1)</script>\x1b"

    def __init__(self, error: Exception) -> None:
        self.error = error

    def read(self, region: Region) -> np.ndarray:
        raise self.error

    def identity(self) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize(
    "error",
    [
        InputError("<b>gone"),
        IntegrityError("<b>gone"),
        OSError(5, "<b>gone"),
        KeyError("<b>gone"),
        ValueError("<b>gone"),
    ],
)
def test_a_volume_that_cannot_be_read_shows_its_message_escaped(error):
    html = Volume(Broken(error))._repr_html_()
    tags = Checker(html).seen
    assert set(tags) <= {"div", "b", "br"}
    assert "&lt;b&gt;gone" in html
    assert "<script" not in html
    assert "\x1b" not in html


def test_a_removed_volume_shows_a_message(tmp_path):
    volume = stored(tmp_path / "v.zarr", np.ones((4, 4, 4), np.uint8))
    shutil.rmtree(tmp_path / "v.zarr")
    assert "Nothing is on disk yet" in volume._repr_html_()


# --- Plans, runs, bars ---


def test_a_plan_shows_its_block_to_scale(tmp_path):
    source = memory(np.zeros((96, 96, 96), bool), 1.0, "mask")
    plan = plan_map(opening(8.0, (1.0, 1.0, 1.0)), source, tmp_path / "o.zarr", kind="mask", block_shape=(32, 32, 32))
    (before, *_), read = plan.halo.before, plan.block(13).read
    assert region_shape(read) == (32 + 2 * before,) * 3
    picture = np.asarray(Image.open(io.BytesIO(block_picture(plan, 0))))
    core, margin = (picture == CORE).all(axis=-1), (picture == MARGIN).all(axis=-1)
    edge = np.sqrt(core.sum())
    assert (core.sum() + margin.sum()) / core.sum() == pytest.approx(((32 + 2 * before) / 32) ** 2, rel=0.05)
    rows, columns = np.flatnonzero(core.any(axis=1)), np.flatnonzero(core.any(axis=0))
    assert rows.size == columns.size == round(edge)
    html = plan._repr_html_()
    Checker(html)
    assert "<table>" in html
    assert len(pictures(html)) == 2
    assert "32 x 32 x 32 written (blue)" in html


def test_a_thin_margin_is_still_seen_and_none_is_not(tmp_path):
    source = memory(np.zeros((3, 3000, 3000), np.uint8), 1.0)
    plain = plan_map(cast(source.dtype, "refuse"), source, tmp_path / "c.zarr", block_shape=(3, 1000, 1000))
    assert share_of(np.asarray(Image.open(io.BytesIO(block_picture(plain, 0)))), MARGIN) == 0
    mask = memory(np.zeros((3, 3000, 3000), bool), 1.0, "mask")
    thin = plan_map(opening(1.0, (1.0, 1.0, 1.0)), mask, tmp_path / "o.zarr", kind="mask", block_shape=(3, 1000, 1000))
    picture = np.asarray(Image.open(io.BytesIO(block_picture(thin, 0))))
    margin = (picture == MARGIN).all(axis=-1)
    middle = picture.shape[0] // 2
    assert margin[middle].sum() == 2
    assert margin[:, middle].sum() == 2
    # z ends with the volume: what is beyond is not read, and is drawn as outside.
    side = np.asarray(Image.open(io.BytesIO(block_picture(thin, 1))))
    assert share_of(side, OUTSIDE) > 0.5


def test_memory_that_is_not_there_has_another_colour():
    assert "#0072b2" in memory_bar("memory", 2**30, 2**31)
    assert "width:50.0%" in memory_bar("memory", 2**30, 2**31)
    assert "#d55e00" in memory_bar("memory", 2**31, 2**30)
    assert "width:100.0%" in memory_bar("memory", 2**31, 2**30)


def test_a_plan_of_a_measure_and_of_a_gpu_is_shown():
    from tomoscale.measures.topology import configurations

    source = memory(np.zeros((30, 30, 30), bool), 1.0, "mask")
    resources = Resources(1, 1, 1, 2**32, "cuda", 2**33)
    html = plan_measure(configurations(), source, block_shape=(10, 10, 10), resources=resources)._repr_html_()
    Checker(html)
    assert "counted (blue)" in html
    assert html.count("GPU memory") == 2


def test_text_takes_the_colour_of_the_notebook(tmp_path):
    """A dark theme sets the colour of text: whatever is set here would vanish in it or in a light one."""
    source = memory(np.zeros((30, 30, 30), bool), 1.0, "mask")
    plan = plan_map(opening(2.0, (1.0, 1.0, 1.0)), source, tmp_path / "o.zarr", kind="mask")
    runs = [{"name": "cast", "target": "a.zarr", "blocks": 3, "seconds": {}}]
    states = np.arange(5, dtype=np.uint8).reshape(1, 1, 5)
    shown = [source._repr_html_(), plan._repr_html_(), runs_html(runs), map_html(states, dict.fromkeys(range(5), "e"))]
    for html in (*shown, preview_html(memory(np.ones((3, 3, 3)), None)), bar_html("a", 0.5, "b", "#0072b2")):
        assert not re.search(r"[;\"'\s]color\s*[:=]", html)
        assert "<font" not in html
    assert "cast → a.zarr" in shown[2]


def test_runs_and_bars_escape_what_they_are_given():
    runs = [{"name": "a <i>", "blocks": 3, "seconds": {"read": 1.5, "wall": 2.0}, "retries": 1}]
    html = runs_html(runs) + bar_html("<u>", 2.0, "<s>", "#000000")
    Checker(html)
    assert all(
        part in html for part in ("a &lt;i&gt;", "1.50 s", "0.00 s", "2.00 s", "&lt;u&gt;", "&lt;s&gt;", "100.0%")
    )
