"""What is cut open so that the inside is seen, and what the figure says of it."""

from __future__ import annotations

import numpy as np
import pytest

from tomoscale.report import overview, scene
from tomoscale.report.planes import Palette
from tomoscale.report.scene import choose_cut, scene_plates
from tomoscale.volume import MemoryArray, Volume

CLASSES = [
    {"id": 0, "name": "background", "color": "#000000"},
    {"id": 1, "name": "metal", "color": "#d01010"},
    {"id": 2, "name": "layer", "color": "#10d010"},
    {"id": 3, "name": "Bone", "color": "#1010d0"},
]
PALETTE = Palette.of(CLASSES)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scene, "PIXELS", 80)


def screw_in_bone(shape: tuple[int, int, int] = (16, 20, 24)) -> np.ndarray:
    """Bone all over, and a bar of metal in a layer through y 6..11 and x 8..17, seen best along x."""
    labels = np.full(shape, 3, np.uint8)
    labels[:, 6:12, 8:18] = 2
    labels[:, 8:10, 10:16] = 1
    return labels


def plates_of(labels: np.ndarray, classes: list[dict[str, object]]) -> list[object]:
    return scene_plates(Volume(MemoryArray(labels), (5.0, 5.0, 5.0)), classes)


def test_bone_is_cut_through_the_middle_of_the_implant_along_its_longer_side():
    cut = choose_cut(screw_in_bone(), PALETTE)
    assert (cut.matrix, cut.others) == (3, (1, 2))
    assert (cut.axis, cut.index) == (1, 9)
    turned = choose_cut(screw_in_bone().transpose(0, 2, 1), PALETTE)
    assert (turned.axis, turned.index) == (2, 9)


def test_without_bone_the_most_frequent_class_is_the_one_around():
    labels = np.zeros((8, 8, 8), np.uint8)
    labels[:, :6], labels[:, 3:4, 3:5] = 2, 1
    assert choose_cut(labels, PALETTE).matrix == 2
    assert choose_cut(np.zeros((4, 4, 4), np.uint8), PALETTE) is None
    assert choose_cut(np.full((4, 4, 4), 4, np.uint8), PALETTE).matrix == 4, "values of no class are drawn"


def test_bodies_are_the_implant_whole_in_half_the_bone_and_the_metal_bare():
    labels = screw_in_bone()
    (first, whole), (second, bare) = scene._bodies(labels, choose_cut(labels, PALETTE), PALETTE)
    y = np.arange(20)[None, :, None]
    assert (first, second) == ("Bone cut open", "metal, the rest cut open, without Bone")
    np.testing.assert_array_equal(whole, (labels == 1) | (labels == 2) | ((labels == 3) & (y < 9)))
    np.testing.assert_array_equal(bare, (labels == 1) | ((labels == 2) & (y < 9)))


def test_with_fewer_classes_the_second_body_is_what_remains():
    labels = np.where(screw_in_bone() == 2, 1, screw_in_bone()).astype(np.uint8)
    cut = choose_cut(labels, PALETTE)
    np.testing.assert_array_equal(scene._bodies(labels, cut, PALETTE)[1][1], labels == 1)
    bone = np.full((6, 6, 6), 3, np.uint8)
    cut = choose_cut(bone, PALETTE)
    bodies = scene._bodies(bone, cut, PALETTE)
    assert [title for title, _ in bodies] == ["Bone", "Bone, cut open"]
    assert (bodies[0][1].sum(), bodies[1][1].sum()) == (216, 108)


def test_the_figure_shows_both_bodies_and_names_what_is_drawn():
    (plate,) = plates_of(screw_in_bone(), CLASSES)
    assert plate.name == "labels_3d"
    assert plate.html.count("<img") == 2
    assert [name for name in ("metal", "layer", "Bone", "background") if f"</i>{name}</li>" in plate.html] == [
        "metal",
        "layer",
        "Bone",
    ]
    assert "taken away from y = 45 µm on" in plate.caption
    assert "Every voxel is drawn" in plate.caption
    assert ">20 µm<" in plate.html or ">50 µm<" in plate.html
    assert plate.draw().svg.startswith(b"<?xml")


def test_class_names_are_only_text():
    classes = [{"id": 0, "name": "x"}, {"id": 1, "name": "<b>m</b>"}, {"id": 3, "name": "<i>bone</i>"}]
    (plate,) = plates_of(screw_in_bone(), classes)
    assert "<b>m" not in plate.html
    assert "<i>bone" not in plate.html
    assert "&lt;i&gt;bone&lt;/i&gt; cut open" in plate.html


def test_labels_without_names_are_drawn_by_value():
    (plate,) = plates_of(screw_in_bone(), [])
    assert "</i>value 3</li>" in plate.html


def test_sheets_and_empty_labels_are_not_drawn():
    assert plates_of(np.ones((2, 50, 50), np.uint8), CLASSES) == []
    assert plates_of(np.zeros((9, 9, 9), np.uint8), CLASSES) == []
    assert scene_plates(None, CLASSES) == []


def test_labels_too_large_to_read_are_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(overview, "MOST_VOXELS", 100)
    (sentence,) = plates_of(screw_in_bone(), CLASSES)
    assert "7\u202f680 voxels and no coarser level" in sentence
