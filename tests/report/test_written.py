"""A written report shows itself in a notebook: a link that can be followed, its pictures small, nothing else of it."""

from __future__ import annotations

import io
import os
import re
from base64 import b64decode

import numpy as np
import pytest
from PIL import Image

from tomoscale.report import written
from tomoscale.report.page import image, page
from tomoscale.report.written import PICTURES, PIXELS, Report


def png(side: int, colour: int = 80) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((side, 2 * side), colour, np.uint8)).save(out, "PNG")
    return out.getvalue()


def pictures(html: str) -> list[Image.Image]:
    return [Image.open(io.BytesIO(b64decode(data))) for data in re.findall(r'base64,([^"]+)"', html)]


def test_a_report_shows_a_link_and_its_first_pictures_made_small(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a b").mkdir()
    body = "<script>alert(1)</script>" + "".join(image(png(300 + n, 40 * n), 'a "title"') for n in range(6))
    (tmp_path / "a b" / "r&.html").write_text(page("t", body))
    shown = Report(tmp_path / "a b" / "r&.html")._repr_html_()
    assert 'href="a%20b/r%26.html"' in shown
    assert ">a b/r&amp;.html</a>" in shown
    assert "script" not in shown
    found = pictures(shown)
    assert [p.size for p in found] == [(PIXELS, PIXELS // 2)] * PICTURES
    assert [p.getpixel((5, 5))[0] for p in found] == [0, 40, 80, 120]


def test_a_report_elsewhere_shows_where(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    shown = Report(tmp_path / "gone.html")._repr_html_()
    assert f"<code>{tmp_path / 'gone.html'}</code>" in shown
    assert "href" not in shown
    assert "<img" not in shown


def test_what_is_no_picture_or_too_much_is_left_out(tmp_path, monkeypatch):
    report = Report(tmp_path / "r.html")
    report.path.write_text(page("t", image(b"no picture", "a") + image(png(9), "b") + image(png(40), "c")))
    monkeypatch.setattr(written, "MOST_PIXELS", 1000)
    assert len(list(report.thumbnails())) == 1
    monkeypatch.setattr(written, "MOST_BYTES", 100)
    assert list(report.thumbnails()) == []


def test_a_report_is_its_path(tmp_path):
    report = Report(tmp_path / "r.html")
    assert str(report) == os.fspath(report) == str(tmp_path / "r.html")
    with pytest.raises(AttributeError, match="cannot assign"):
        report.path = tmp_path
