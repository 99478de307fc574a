"""Pictures and masks in colour as volumes."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.training.tiny import CLASSES
from tomoscale.errors import InputError
from tomoscale.training.opening import open_sample
from tomoscale.training.pictures import open_pictures

COLOURS = [(0, 0, 255), (255, 0, 0), (0, 255, 0)]


@pytest.fixture
def labels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 3, (4, 9, 11)).astype(np.uint8)


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_a_folder_of_masks_in_colour_is_a_label_volume(tmp_path, labels, ending):
    for number, plane in enumerate(np.array(COLOURS, np.uint8)[labels]):
        # Numbers sort as numbers.
        path = tmp_path / f"mask_{8 + number}.{ending}"
        Image.fromarray(plane).save(path) if ending == "png" else tifffile.imwrite(path, plane, photometric="rgb")
    found = open_pictures(tmp_path, COLOURS)
    assert (found.shape, found.kind, found.chunk_shape) == (labels.shape, "labels", (1, 9, 11))
    np.testing.assert_array_equal(found.read((slice(1, 4), slice(2, 9), slice(0, 5))), labels[1:4, 2:9, :5])


def test_a_colour_of_no_class_is_refused_with_its_place(tmp_path, labels):
    plane = np.array(COLOURS, np.uint8)[labels[0]]
    plane[3, 7] = (250, 250, 0)
    Image.fromarray(plane).save(tmp_path / "mask.png")
    found = open_pictures(tmp_path / "mask.png", COLOURS)
    with pytest.raises(
        InputError, match=r"mask\.png has the colour \(250, 250, 0\) in 1 pixels, the first at row 3, column 7"
    ):
        found.read((slice(0, 1), slice(0, 9), slice(0, 11)))
    with pytest.raises(InputError, match="is in colour: give the classes their colours"):
        open_pictures(tmp_path / "mask.png")


def test_pictures_that_are_not_equal_or_not_pictures_are_refused(tmp_path):
    Image.fromarray(np.zeros((4, 5), np.uint8)).save(tmp_path / "1.png")
    Image.fromarray(np.zeros((4, 6), np.uint8)).save(tmp_path / "2.png")
    with pytest.raises(InputError, match=r"2.png is \(4, 6\) uint8, but 1\.png is \(4, 5\)"):
        open_pictures(tmp_path)
    (tmp_path / "2.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"2\.png is not a picture that can be read"):
        open_pictures(tmp_path)
    with pytest.raises(InputError, match="is no picture and holds none"):
        open_pictures(tmp_path / "nowhere")


def test_masks_must_go_with_their_pictures(tmp_path):
    for folder, names in (("images", ("1.png", "2.png")), ("masks", ("1.png", "3.png"))):
        (tmp_path / folder).mkdir()
        for name in names:
            Image.fromarray(np.zeros((4, 5), np.uint8)).save(tmp_path / folder / name)
    paths = {"grey": str(tmp_path / "images"), "labels": str(tmp_path / "masks")}
    with pytest.raises(InputError, match=r"2\.png and .*3\.png come together by their order"):
        open_sample("a", paths, CLASSES)
    (tmp_path / "masks" / "3.png").unlink()
    with pytest.raises(InputError, match=r"holds 2 pictures but .* 1 masks"):
        open_sample("a", paths, CLASSES)
