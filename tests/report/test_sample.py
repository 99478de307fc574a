"""The report: one file that shows what was given, is the same twice, reads little, and trusts no text."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.blocks import seeds
from tests.traced import Traced
from tomoscale.errors import InputError
from tomoscale.report import agreement, charts, page, planes, scene
from tomoscale.report.figures import Chart
from tomoscale.report.pictures import scale_bar
from tomoscale.report.planes import Palette, Scan, cut, grey_window, label_picture, read_plane, to_levels
from tomoscale.report.sample import report_html, write_report
from tomoscale.report.slices import PLANE_PIXELS, STRIP_PIXELS, STRIP_PLANES
from tomoscale.volume import MemoryArray, Volume

CLASSES = [
    {"id": 0, "name": "background", "color": "#000000"},
    {"id": 1, "name": "metal", "color": "#56b4e9"},
    {"id": 3, "name": "bone", "color": "#f0e442"},
]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Recorder:
    """Stand-in for a volume that is too large to exist; its value is a function of the voxel's index."""

    voxel_size_um = (5.0, 5.0, 5.0)
    storage = None

    def __init__(self, shape: tuple[int, int, int], dtype: type = np.uint8) -> None:
        self.shape, self.dtype, self.name = shape, np.dtype(dtype), "large"
        self.regions: list[tuple[slice, slice, slice]] = []

    def read(self, region: tuple[slice, slice, slice]) -> np.ndarray:
        self.regions.append(region)
        return np.zeros([r.stop - r.start for r in region], self.dtype)

    @property
    def sizes(self) -> list[int]:
        return [int(np.prod([r.stop - r.start for r in region])) for region in self.regions]


class Page(HTMLParser):
    """What a browser finds: tags in balance, their attributes, and the text between them."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def images(self) -> dict[str, tuple[str, bytes]]:
        """Kind and bytes of every picture by alt text."""
        found = {}
        for tag, attributes in self.tags:
            if tag == "img":
                kind, data = str(attributes["src"]).split(",", 1)
                found[str(attributes["alt"])] = kind, base64.b64decode(data, validate=True)
        return found

    @property
    def pictures(self) -> dict[str, np.ndarray]:
        """Pixels of the PNGs by alt text, as red, green, blue."""
        return {
            alt: np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
            for alt, (kind, data) in self.images.items()
            if kind == "data:image/png;base64"
        }

    @property
    def charts(self) -> dict[str, bytes]:
        """SVGs by alt text."""
        return {alt: data for alt, (kind, data) in self.images.items() if kind == "data:image/svg+xml;base64"}


def volume(values: np.ndarray, size: tuple[float, float, float] | None = (5.0, 5.0, 5.0)) -> Volume:
    return Volume(MemoryArray(values), size)


def example() -> dict[str, Any]:
    rng = np.random.default_rng(2)
    truth = rng.choice(np.array([0, 1, 3], np.uint8), (9, 12, 14))
    labels = np.where(rng.random(truth.shape) < 0.9, truth, np.uint8(0))
    quantity = {"name": "Bone-implant contact", "symbol": "BIC", "value": 0.61, "truth": 0.58, "relative_error": 0.0517}
    results = {
        "program": "tomoscale 0.1.0",
        "inputs": {"labels": {"name": "labels.zarr", "shape": [9, 12, 14], "voxel_size_um": [5.0, 5.0, 5.0]}},
        "classes": CLASSES,
        "quantities": [
            {**quantity, "unit": "", "definition": "F_IB/(F_IB+F_IG)"},
            {"name": "Degradation rate", "symbol": "DR", "value": 0.345678, "truth": None, "relative_error": None}
            | {"unit": "mm/year", "definition": "volume lost over area and time"},
            {"name": "Porosity", "symbol": "P", "value": 2.15, "truth": 2.16, "relative_error": -0.0046, "unit": "%"},
            {"name": "IoU of bone", "symbol": "IoU", "value": 0.9, "truth": None, "relative_error": None, "unit": ""},
        ],
        "confusion": {"counts": [[5, 1, 0], [2, 7, 1], [0, 0, 0]]},
        "histogram": {
            "centres": [10.0, 20.0, 30.0],
            "counts": [4, 0, 90],
            "classes": {"background": [4, 0, 0], "bone": [0, 0, 90]},
            "unit": "grey value",
        },
        "profile": {
            "edges_um": [0.0, 25.0, 50.0],
            "labels": {"bone": [1, 3], "background": [3, 0], "implant": [7, 0]},
            "truth": {"bone": [0, 3], "background": [0, 1], "implant": [7, 0]},
        },
        "contact_map": {
            "along_um": [0.0, 20.0, 40.0, 60.0],
            "angle_deg": [0.0, 180.0, 360.0],
            "labels": {"bone": [[1, 2], [0, 0], [5, 0]], "free": [[3, 2], [0, 0], [0, 7]]},
            "truth": {"bone": [[1, 1], [1, 1], [1, 1]], "free": [[1, 1], [1, 1], [1, 3]]},
        },
        "gap_tolerance": [
            {"gap_voxels": 0, "value": 0.41, "truth": 0.5},
            {"gap_voxels": 1, "value": 0.6, "truth": None},
        ],
        "checks": [
            {"name": "voxel size", "state": "ok", "text": "one for all"},
            {"name": "cut screw", "state": "warning", "text": "at z low"},
            {"name": "range", "state": "failed", "text": "value 9"},
        ],
        "model": {"name": "demo", "sha256": "0f" * 32, "reach": [14, 14, 14]},
        "versions": {"numpy": "2.3.1"},
        "caveats": ["the scan is synthetic"],
        "parameters": {"roi": {"distance_um": 1000.0}, "exclude_labels": [1, 2]},
    }
    run = {"name": "segment", "rows": [["blocks", "64 of 128"], ["reads", "1.4x"]], "blocks": 64, "retries": 1}
    run["blocks_done"] = {"fields": [1, 1, 3], "seconds": [0.5, None, 1.5], "attempts": [1, 0, 2], "missing": [0, 1, 0]}
    return {
        "results": results,
        "grey": volume((truth.astype(np.uint16) * 1000 + rng.integers(0, 300, truth.shape)).astype(np.uint16)),
        "labels": volume(labels),
        "truth": volume(truth),
        "runs": [{**run, "seconds": {"read": 1.5, "compute": 120.0, "write": 0.25, "wall": 33.0}}],
    }


@pytest.fixture(autouse=True)
def _small_pictures_in_space(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scene, "PIXELS", 90)  # a tenth of the side takes a hundredth of the time


@cache
def example_html() -> str:
    return report_html(**example())


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path):
    first = write_report(tmp_path / "a.html", **example())
    with matplotlib.rc_context({"axes.grid": True, "font.size": 17.0}):  # the user's own settings change nothing
        second = write_report(str(tmp_path / "b.html"), **example())
    assert first == tmp_path / "a.html"
    assert first.read_bytes() == second.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.html", "b.html"]


def test_charts_leave_the_users_settings_alone():
    with matplotlib.rc_context({"font.size": 17.0}):
        before = dict(matplotlib.rcParams)
        report_html(results=example()["results"])
        assert dict(matplotlib.rcParams) == before


def test_importing_the_report_opens_no_window_and_no_network_library():
    code = "import sys, tomoscale.report.sample; print([m for m in ('matplotlib.pyplot', 'torch', 'cupy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout == "[]\n"


def test_nothing_is_fetched_and_nothing_runs():
    html = example_html()
    found = Page(html)
    plain = re.sub(r"base64,[A-Za-z0-9+/=]+", "", html)
    assert not re.search(r"https?:|//|@import|url\(|javascript:", plain)
    assert {"script", "link", "iframe", "object", "embed", "a", "form"}.isdisjoint(tag for tag, _ in found.tags)
    names = {name for _, attributes in found.tags for name in attributes}
    assert "href" not in names
    assert not [n for n in names if n.startswith("on")]
    assert all(a["alt"] for tag, a in found.tags if tag == "img")


HOSTILE = "<script>alert(1)</script>\"' onerror=x <!-- & </td></style> $x_1$ \x00\x1b\u202e \ud800 骨"


def spoil(value: Any, places: list[str], path: str = "") -> Any:
    """Put hostile text in front of every text of JSON values, keys included, colours and all."""
    if isinstance(value, dict):
        fixed = path in ("", ".inputs.", ".classes") or re.fullmatch(
            r"\.(inputs\.\w+|classes|quantities|confusion|histogram|profile.*|contact_map.*|gap_tolerance|checks|runs.*)",
            path,
        )
        return {k if fixed else HOSTILE + k: spoil(v, places, f"{path}.{k}") for k, v in value.items()}
    if isinstance(value, list):
        return [spoil(v, places, path) for v in value]
    if isinstance(value, str):
        places.append(path)
        return HOSTILE + value
    return value


def test_hostile_text_is_only_text():
    places: list[str] = []
    arguments = example()
    arguments["results"] = spoil(arguments["results"], places)
    arguments["runs"] = [spoil(run, places, ".runs") for run in arguments["runs"]]
    found = Page(report_html(**arguments, title=HOSTILE))
    assert len(set(places)) >= 10
    assert {tag for tag, _ in found.tags} == {tag for tag, _ in Page(example_html()).tags}
    allowed = {"class", "style", "alt", "src", "title", "scope", "lang", "charset", "content", "name", "http-equiv"}
    assert {name for _, attributes in found.tags for name in attributes} <= allowed
    assert not any("alert" in str(a.get("style")) + str(a.get("class")) for _, a in found.tags)
    # All of them can be read: the caveat, names, units, definitions, the plan, parameters and the program.
    assert found.text.count("<script>alert(1)</script>") > 40
    assert not re.search("[\x00\x1b\u202e\ud800]", found.text)
    for word in (
        "the scan is synthetic",
        "cut screw",
        "at z low",
        "numpy",
        "2.3.1",
        "mm/year",
        "FIB/(FIB+FIG)",  # with subscripts
        "labels.zarr",
        "64 of 128",
        "tomoscale 0.1.0",
    ):
        assert f"骨{word}" in found.text


def test_every_quantity_stands_with_value_and_unit():
    html = example_html()
    found = re.sub(r"\s+", " ", Page(html).text)
    for quantity in example()["results"]["quantities"]:
        assert f"{quantity['name']}" in found
        assert quantity.get("definition", "").replace("_", "") in found
    rows = [re.sub(r"<[^>]+>", "|", row) for row in html.split("<tr>")]
    rate = next(row for row in rows if "Degradation rate" in row)
    assert re.search(r"DR.*\|0\.3457\|.*\|mm/year\|", rate)
    assert re.search(r"\|2\.150\|.*\|%\|.*\|2\.160\|", next(row for row in rows if "Porosity" in row))
    assert "+5.2 %" in next(row for row in rows if "Bone-implant" in row)


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (0.0, '<abbr title="+0 %, less than 1 % either way">–</abbr>'),
        (-0.0046, '<abbr title="−0.46 %, less than 1 % either way">–</abbr>'),
        (0.0099, '<abbr title="+0.99 %, less than 1 % either way">–</abbr>'),
        (0.01, "+1 %"),
        (-0.0298, "−3 %"),
        (0.052, "+5.2 %"),
        (0.0996, "+10 %"),
        (1.849, "+185 %"),
        (12.5, "+1\u202f250 %"),
        (None, ""),
        (float("nan"), ""),
        (float("inf"), ""),
    ],
)
def test_relative_errors_below_one_per_cent_are_a_dash(error: float | None, shown: str):
    assert page.relative_error(error) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.61, "0.6100"),
        (12.3456, "12.35"),
        (99999.4, "99\u202f999"),
        (123456.0, "1.235 × 10⁵"),
        (-0.00012, "−1.200 × 10⁻⁴"),
        (1234567, "1\u202f234\u202f567"),
        (0.0, "0"),
        (float("inf"), "inf"),
        (True, "True"),
        ("<5", "&lt;5"),
        (None, ""),
        (float("nan"), ""),
    ],
)
def test_numbers_have_four_digits(value: Any, shown: str):
    assert page.number(value) == shown


@pytest.mark.parametrize(
    ("part", "shown"),
    [
        (0, "0 %"),
        (1, "100 %"),
        (1e-9, "< 0.01 %"),
        (1 - 1e-9, "> 99.99 %"),
        (0.0147, "1.47 %"),
        (0.96649, "96.6 %"),
        (0.9994, "99.94 %"),
    ],
)
def test_only_nothing_is_zero_per_cent_and_only_all_is_a_hundred(part: float, shown: str):
    assert page.percent(part) == shown


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
@pytest.mark.parametrize("width", [360, 800])
def test_no_number_of_the_results_is_out_of_sight_however_narrow_the_screen(width: int, tmp_path: Path):
    html = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", example_html())
    look = """const w = document.documentElement, t = [...document.querySelectorAll('.quantities')];
        parent.document.body.textContent = [w.clientWidth, w.scrollWidth, t.length,
            Math.max(...t.map(e => e.getBoundingClientRect().right))].map(Math.round).join(' ')"""
    inside = json.dumps(f"{html}<script>{look}</script>").replace("</", "<\\/")
    (tmp_path / "frame.html").write_text(
        f'<body><iframe width="{width}" height="800" style="border:0"></iframe>'
        f"<script>document.querySelector('iframe').srcdoc = {inside}</script>"
    )
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    command = [
        CHROMIUM,
        *options,
        f"--user-data-dir={tmp_path / 'profile'}",
        "--virtual-time-budget=5000",
        "--dump-dom",
    ]
    dom = subprocess.run(
        [*command, (tmp_path / "frame.html").as_uri()], capture_output=True, text=True, timeout=120, check=True
    ).stdout
    seen, page_width, tables, right = map(int, re.sub(r"<[^>]+>", "", dom).split())
    assert seen <= width
    assert page_width == seen
    assert tables == 1
    assert right <= seen


def test_undefined_quantities_say_so():
    html = report_html(results={"quantities": [{"name": "S/V", "value": float("nan"), "unit": "1/mm"}]})
    assert "not defined" in html
    assert "Relative error" not in html  # nothing was compared


def test_label_pictures_are_the_labels():
    labels = np.zeros((3, 4, 5), np.uint8)
    labels[1, 0, 0], labels[1, 2, 3], labels[0, 2, 4], labels[1, 3, 2] = 1, 3, 1, 7
    pictures = Page(report_html(results={"classes": CLASSES}, labels=volume(labels))).pictures
    rgb = {0: (0, 0, 0), 1: (0x56, 0xB4, 0xE9), 3: (0xF0, 0xE4, 0x42), 7: (255, 0, 255)}
    colours = np.array([rgb.get(n, (1, 2, 3)) for n in range(8)], np.uint8)
    np.testing.assert_array_equal(pictures["Labels, plane z = 1"], colours[labels[1]])
    np.testing.assert_array_equal(pictures["Labels, plane y = 2"], colours[labels[:, 2]])
    np.testing.assert_array_equal(pictures["Labels, plane x = 2"], colours[labels[:, :, 2]])
    for z in range(3):
        np.testing.assert_array_equal(pictures[f"Labels, slice z = {z}"], colours[labels[z]])


def test_grey_pictures_are_the_grey_values():
    grey = np.zeros((2, 6, 7), np.float32)
    grey[1, 2:4, 1] = 8
    grey[1, 5, 5] = 4
    shown = Page(report_html(results={}, grey=volume(grey))).pictures["Grey values, plane z = 1"]
    np.testing.assert_array_equal(shown[..., 0], (grey[1] * 32).clip(0, 255))
    assert (shown == shown[..., :1]).all()


def test_error_maps_mark_exactly_the_wrong_voxels_in_the_colour_they_were_given():
    arguments = example()
    labels, truth = arguments["labels"].read()[4], arguments["truth"].read()[4]
    html = example_html()
    share = page.percent(np.mean(labels != truth))
    shown = Page(html).pictures[f"Voxels whose label differs from the truth, plane z = 4: {share}"].astype(int)
    paper = Palette.of(CLASSES).on_paper()
    for rank, value in enumerate((0, 1, 3)):
        assert (shown[(labels != truth) & (labels == value)] == paper[rank]).all()
    right = shown[labels == truth]
    assert (right == right[:, :1]).all()
    assert right.min() >= 200


def test_what_is_not_finite_is_black_and_does_not_move_the_window():
    values = np.array([[np.nan, 1.0, 3.0], [np.inf, 2.0, -np.inf]], np.float32)
    window = grey_window([cut(Scan(grey=volume(values[None])), 0, 0, 10)])
    assert 1 <= window[0] < window[1] <= 3
    np.testing.assert_array_equal(to_levels(values, (1.0, 3.0), 4), [[0, 0, 3], [3, 2, 0]])
    assert (to_levels(np.full((2, 2), 7), (7.0, 7.0), 256) == 128).all()


@given(
    seed=seeds,
    shape=st.tuples(*[st.integers(1, 11)] * 3),
    axis=st.integers(0, 2),
    steps=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    chunk=st.integers(1, 4),
    strip=st.integers(1, 30),
)
def test_a_plane_read_in_strips_equals_the_plane(seed, shape, axis, steps, chunk, strip):
    values = np.random.default_rng(seed).integers(0, 9999, shape).astype(np.uint16)
    index = shape[axis] // 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planes, "CHUNK_VOXELS", chunk)
        patch.setattr(planes, "STRIP_VOXELS", strip)
        plane = read_plane(volume(values), axis, index, steps)
    np.testing.assert_array_equal(plane, values.take(index, axis)[:: steps[0], :: steps[1]])


def test_only_the_planes_shown_are_read_in_strips():
    shape = (3000, 4000, 5000)  # more than `overview` reads without coarser levels
    grey, labels, truth = Recorder(shape, np.uint16), Recorder(shape), Recorder(shape)
    html = report_html(results={"classes": CLASSES}, grey=grey, labels=labels, truth=truth)
    three = 4000 * 5000 + 3000 * 5000 + 3000 * 4000
    assert sum(truth.sizes) == sum(grey.sizes) == sum(labels.sizes) == three + STRIP_PLANES * 4000 * 5000
    assert "60\u202f000\u202f000\u202f000 voxels and no coarser level" in Page(html).text
    assert max(grey.sizes) <= planes.STRIP_VOXELS
    assert all(1 in [r.stop - r.start for r in region] for region in grey.regions)
    sides = [p.shape[:2] for alt, p in Page(html).pictures.items() if "space" not in alt]
    assert max(max(side) for side in sides) <= PLANE_PIXELS
    assert max(max(side) for side in sides[-2 * STRIP_PLANES :]) <= STRIP_PIXELS
    assert "one voxel in 4 downwards and one in 5 to the right" in html


def test_a_plane_of_20000_by_20000_is_never_held():
    wide = Recorder((2, 20_000, 20_000), np.uint16)
    with Traced() as traced:
        plane = cut(Scan(grey=wide), 0, 1, PLANE_PIXELS)
    assert plane.grey is not None
    assert plane.grey.shape == (1000, 1000)
    assert plane.pixel == (100.0, 100.0)
    assert traced.peak_bytes < 32 * 2**20  # two strips of 8 MiB, and the plane shown twice


@pytest.mark.parametrize(
    "part",
    [
        "program",
        "inputs",
        "classes",
        "quantities",
        "confusion",
        "histogram",
        "caveats",
        "parameters",
        "profile",
        "contact_map",
        "gap_tolerance",
        "checks",
        "model",
        "versions",
    ],
)
def test_every_part_of_the_results_may_be_absent(part: str):
    arguments = example()
    del arguments["results"][part]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Chart, "svg", property(lambda chart: b"<svg/>"))  # what is drawn is not looked at here
        assert Page(report_html(results=arguments["results"])).tags


@pytest.mark.parametrize("absent", [("grey",), ("labels",), ("truth",), ("grey", "truth"), ("labels", "truth")])
def test_every_volume_may_be_absent(absent: tuple[str, ...]):
    arguments = example() | dict.fromkeys(absent) | {"results": {}, "runs": []}
    pictures = Page(report_html(**arguments)).pictures
    assert any(alt.startswith("Grey") for alt in pictures) == ("grey" not in absent)
    assert any(alt.startswith("Labels") for alt in pictures) == ("labels" not in absent)
    assert any(alt.startswith("Voxels whose") for alt in pictures) == {"labels", "truth"}.isdisjoint(absent)


def test_an_empty_report_is_a_page():
    found = Page(report_html(results={}, title="Nothing yet"))
    assert found.pictures == {}
    assert "Nothing yet" in found.text


def test_runs_without_times_and_plans_are_shown():
    html = report_html(
        results={}, runs=[{"name": "a"}, {"name": "b", "seconds": {"read": 0.0}}, {"name": "c", "rows": [["x"]]}]
    )
    assert "Plan of the run “c”" in Page(html).text


def test_one_voxel_and_one_long_line_are_drawn():
    for shape in ((1, 1, 1), (1, 1, 300), (3, 2500, 1)):
        found = Page(
            report_html(results={}, grey=volume(np.ones(shape, np.uint8)), labels=volume(np.ones(shape, bool), None))
        )
        assert len(found.pictures) == 6 + (min(shape[0], STRIP_PLANES) if shape[0] > 1 else 0)


def test_a_voxel_that_is_not_a_cube_keeps_its_proportions():
    html = report_html(results={}, grey=volume(np.zeros((4, 8, 10), np.uint8), (20.0, 5.0, 2.0)))
    ratios = [float(r) for r in re.findall(r"aspect-ratio: ([\d.]+)", html)][:3]
    assert ratios == pytest.approx([10 * 2 / (8 * 5), 10 * 2 / (4 * 20), 8 * 5 / (4 * 20)])
    assert ">5 µm<" in html  # the bar: 5 of 20 micrometres
    assert re.search(r"y = 4 \(of 0 to 7, 20 µm from the first\)", html)


def test_without_a_voxel_size_the_scale_is_in_voxels():
    html = report_html(results={}, grey=volume(np.zeros((4, 8, 100), np.uint8), None))
    assert ">20 voxels<" in html
    assert "µm" not in html


@given(width=st.floats(1e-3, 1e9))
def test_scale_bars_are_one_two_or_five(width: float):
    bar = scale_bar(width)
    assert 0.13 * width < bar <= 0.3501 * width
    assert f"{bar:.0e}"[0] in "125"
    assert bar == pytest.approx(float(f"{bar:.0e}"))


@given(
    counts=st.integers(1, 4).flatmap(
        lambda n: st.lists(st.lists(st.integers(0, 10**13), min_size=n, max_size=n), min_size=n, max_size=n)
    )
)
def test_rates_of_the_confusion_matrix_equal_the_definition(counts):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agreement, "chart_plate", lambda *_: "")  # 30 charts would take 10 seconds
        html = report_html(results={"confusion": {"counts": counts}})
    n = len(counts)
    cells = [re.sub(r"<[^>]+>", "", c) for c in re.findall(r"<td.*?</td>", html)]
    for k, row in enumerate(np.array(cells).reshape(n, n + 3)):
        true = [(k, other) for other in range(n)]
        given_ = [(other, k) for other in range(n)]
        for shown, voxels in zip(row[n:], (true, given_, {*true, *given_}), strict=True):
            total = sum(counts[a][b] for a, b in voxels)
            assert shown == (f"{counts[k][k] / total:.3f}" if total else "n/a")


def test_bars_of_iou_come_from_the_quantities_or_the_confusion_matrix():
    results = example()["results"]
    results["quantities"].append({"name": "mean IoU", "symbol": "mIoU", "value": 0.5})
    assert any(alt.endswith("by class: bone 0.900") for alt in Page(report_html(results=results)).charts)
    results["quantities"] = []
    alts = Page(report_html(results=results)).charts
    assert any(alt.endswith("by class: background 0.625, metal 0.636, bone 0.000") for alt in alts)


def test_colours_are_replaced_where_they_are_none():
    palette = Palette.of([{"id": 0, "color": "red"}, {"id": 1}, {"id": 2, "color": "#ABCDEF"}])
    assert [palette.hex(n) for n in range(4)] == [planes.COLOURS[0], planes.COLOURS[1], "#abcdef", planes.UNLISTED]
    assert palette.names == ("0", "1", "2")
    many = Palette.of([{"id": n} for n in range(31)])
    assert label_picture(cut(Scan(labels=volume(np.zeros((1, 2, 2), np.uint8))), 0, 0, 9), (0, 1), many)


def test_light_colours_stand_out_in_error_maps():
    palette = Palette.of([{"id": 0, "color": "#ffffff"}, {"id": 1, "color": "#f0e442"}, {"id": 2, "color": "#0072b2"}])
    luminance = palette.on_paper() @ np.array([0.2126, 0.7152, 0.0722])
    assert (luminance[:3] < 150).all()
    np.testing.assert_array_equal(palette.on_paper()[2], palette.colours[2])


def test_values_of_no_class_are_named():
    labels = volume(np.full((2, 2, 2), 9, np.int16))
    assert "a value that is no class" in report_html(results={"classes": CLASSES}, labels=labels)
    assert "value 9" in report_html(results={}, labels=labels)
    assert "a value that is no class" not in report_html(results={}, labels=labels)


def test_names_that_no_font_can_draw_do_not_stop_a_chart():
    chart = charts.bar_chart([("骨 $x^2$ \x00\u202e --> ]]>" + "w" * 99, 0.5, "#000000")], "IoU")
    assert chart.png.startswith(b"\x89PNG")
    drawn = ElementTree.fromstring(chart.svg)  # still one well-formed picture
    assert {e.tag.split("}")[1] for e in drawn.iter() if isinstance(e.tag, str)}.isdisjoint(
        {"script", "foreignObject", "a"}
    )


def test_pictures_carry_no_program_and_no_date():
    images = Page(example_html()).images
    assert {kind for kind, _ in images.values()} == {"data:image/png;base64", "data:image/svg+xml;base64"}
    for kind, data in images.values():
        if "png" in kind:
            assert not {"Software", "Creation Time", "date:create"} & set(Image.open(io.BytesIO(data)).info)
        else:
            assert not re.search(rb"Matplotlib|matplotlib.org|<metadata|dc:date|DOCTYPE", data)
            # References stay inside the picture: "#" and a name, or pixels.
            assert all(r.startswith((b"#", b"data:image/png")) for r in re.findall(rb'href="([^"]*)"', data))


def test_volumes_that_do_not_fit_are_refused():
    a = volume(np.zeros((2, 3, 4), np.uint8))
    with pytest.raises(InputError, match=r"has shape \(2, 3, 5\) but array in memory has \(2, 3, 4\)"):
        report_html(results={}, grey=a, labels=volume(np.zeros((2, 3, 5), np.uint8)))
    with pytest.raises(InputError, match=r"voxels of .* the scale bar would be wrong"):
        report_html(results={}, grey=a, labels=volume(np.zeros((2, 3, 4), np.uint8), (5.0, 5.0, 6.0)))
    with pytest.raises(InputError, match="labels must be whole numbers"):
        report_html(results={}, labels=volume(np.zeros((2, 3, 4), np.float32)))


def test_results_that_do_not_fit_are_refused():
    for counts in ([[1]], [[1, 2, 3], [1, 2, 3]], [[1, 2, 3], [1, 2], [1, 2, 3]]):
        with pytest.raises(InputError, match="one row and one column per class"):
            report_html(results={"classes": CLASSES, "confusion": {"counts": counts}})
    with pytest.raises(InputError, match="one count per centre"):
        report_html(results={"histogram": {"centres": [1], "counts": [1, 2]}})
    with pytest.raises(ValueError, match="a class twice"):
        Palette.of([{"id": 1}, {"id": 1}])
    with pytest.raises(ValueError, match="at most 31"):
        Palette.of([{"id": n} for n in range(32)])


def test_a_report_that_fails_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "report.html"
    path.write_text("old")

    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_report(path, results={}, grey=None, labels=None, truth=None, runs=[])
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_results_that_went_through_json_give_the_same_page():
    arguments = example()
    arguments["results"] = json.loads(json.dumps(arguments["results"]))
    assert report_html(**arguments) == example_html()
