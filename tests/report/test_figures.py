"""Figures as files for a paper: sharp at 300 dots an inch, the same bytes twice, whole or not there."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image

from tomoscale.report.charts import (
    SEQUENTIAL,
    bar_chart,
    confusion_chart,
    histogram_chart,
    line_chart,
    marks_chart,
    seconds_chart,
)
from tomoscale.report.figures import SERIES, WIDTH_INCHES, Chart, plain
from tomoscale.report.pictures import Picture, pictures_chart
from tomoscale.report.planes import png
from tomoscale.report.plates import (
    CAPTIONS,
    Plate,
    chart_plate,
    file_stem,
    joined,
    prefixed,
    under,
    write_plates,
    write_whole,
)
from tomoscale.report.study_charts import SampleBars, sample_bars_chart


def picture(rng: np.random.Generator) -> Picture:
    return Picture("t", "a", png(rng.integers(0, 255, (30, 40, 3)).astype(np.uint8)), (150.0, 200.0), True)


def charts() -> dict[str, Chart]:
    rng = np.random.default_rng(5)
    bars = SampleBars("DR", "mm/year", "#0072b2", [0.1, float("nan")], [0.2, 0.3], 0.1, float("nan"))
    return {
        "bars": bar_chart([("bone", 0.9, "#eeeeee")], "IoU"),
        "histogram": histogram_chart([1.0, 2.0, 3.0], [3, 0, 5], [("bone", [1, 0, 5], "#888888")], "grey value"),
        "confusion": confusion_chart([[5, 1], [0, 0]], ["background", "degradation layer"]),
        "seconds": seconds_chart([("segment", {"read": 1.0, "compute": 2.0, "write": 0.5})]),
        "marks": marks_chart([("a", [0.3, 2], [0.1, 0.4], [0.05, float("nan")])], "x (µm)", "y", {}),
        "lines": line_chart([("a", [1, 2], [0.1, float("nan")])], "x (µm)", "y", {}),
        "pictures": pictures_chart([[picture(rng), picture(rng)]], [["one", "two"]], [("bone", "#eeeeee")]),
        "samples": sample_bars_chart([bars], ["T1", "T2"]),
    }


def digests() -> list[str]:
    return [hashlib.sha256(chart.svg).hexdigest() for chart in charts().values()]


def test_charts_drawn_again_have_the_same_bytes():
    with matplotlib.rc_context({"svg.hashsalt": "other", "font.size": 20.0, "svg.fonttype": "none"}):
        second = {name: (c.svg, c.png) for name, c in charts().items()}
    for name, chart in charts().items():
        assert (chart.png, chart.svg) == second[name][::-1], name


def test_charts_have_the_same_bytes_in_another_process():
    code = "from tests.report.test_figures import digests; print(*digests())"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout
    assert other.split() == digests()


@pytest.mark.parametrize("name", list(charts()))
def test_files_are_of_one_width_and_hold_no_date(name):
    chart = charts()[name]
    image = Image.open(io.BytesIO(chart.png))
    assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)
    assert image.width == pytest.approx(300 * WIDTH_INCHES, abs=2)
    assert not {"Software", "Creation Time"} & set(image.info)
    drawn = ElementTree.fromstring(chart.svg)
    assert float(drawn.attrib["width"].removesuffix("pt")) == pytest.approx(72 * WIDTH_INCHES, abs=1)
    assert not re.search(rb"Matplotlib|matplotlib\.org|20\d\d-\d\d-\d\d|DOCTYPE", chart.svg)
    assert b"<text" not in chart.svg, "letters are outlines, so no font is needed"


def test_pictures_keep_their_own_pixels_in_an_svg():
    rng = np.random.default_rng(5)
    shown = picture(rng)
    svg = pictures_chart([[shown]], [["one"]], []).svg
    (data,) = re.findall(rb'href="data:image/png;base64,([^"]+)"', svg)
    inside = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))
    np.testing.assert_array_equal(inside, np.asarray(Image.open(io.BytesIO(shown.png))))


def test_series_differ_in_line_and_mark_and_not_in_colour_alone():
    assert len({str(line) for _, line, _, _ in SERIES}) == len({mark for _, _, mark, _ in SERIES}) == len(SERIES)


def test_the_colour_scale_rises_in_lightness():
    colours = matplotlib.colormaps[SEQUENTIAL](np.linspace(0, 1, 64))[:, :3]
    luminance = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4) @ [
        0.2126,
        0.7152,
        0.0722,
    ]
    assert (np.diff(luminance) > 0).all()


@pytest.mark.parametrize(
    ("name", "shown"),
    [("$x$", r"\$x\$"), ("骨", "\ufffd"), ("a\nb\u202e", "a\ufffdb\ufffd"), ("w" * 50, "w" * 39 + "…"), (7, "7")],
)
def test_names_are_drawn_as_plain_text(name, shown):
    assert plain(name) == shown


@pytest.mark.parametrize(
    ("name", "stem"),
    [("T 04/../x", "T_04_x"), ("../../etc", "etc"), ("骨", ""), ("a" * 99, "a" * 40), ("E24 distal", "E24_distal")],
)
def test_file_stems_are_letters_digits_and_underscores(name, stem):
    assert file_stem(name) == stem


def test_every_plate_becomes_two_files_and_a_caption(tmp_path: Path):
    chart = charts()["bars"]
    plate = chart_plate("iou", chart, "alt", "IoU of <i>a</i> &amp; b &lt; 1.")
    parts = ["<p>text</p>", *prefixed([plate, "x"], "01_T04")]
    written = write_plates(tmp_path / "figures", parts)
    assert sorted(p.name for p in (tmp_path / "figures").iterdir()) == ["01_T04_iou.png", "01_T04_iou.svg", CAPTIONS]
    assert {p.name for p in written} == {p.name for p in (tmp_path / "figures").iterdir()}
    assert (tmp_path / "figures" / "01_T04_iou.svg").read_bytes() == chart.svg
    assert (tmp_path / "figures" / CAPTIONS).read_text() == "01_T04_iou: IoU of a & b < 1.\n"


def test_plates_are_drawn_only_where_files_are_wanted():
    plate = Plate("a", "<figure></figure>", "c", lambda: pytest.fail("drawn"))
    assert joined(["", plate, "b"]) == "<figure></figure>\nb"
    assert under("Title", [""]) == []
    assert under("T & t", ["", plate]) == ["<h2>T &amp; t</h2>", plate]


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a.svg").write_text("old")

    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(tmp_path / "a.svg", b"new")
    assert [p.read_text() for p in tmp_path.iterdir()] == ["old"]
