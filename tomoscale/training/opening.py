"""Open the samples of a training: volumes of any format, and pictures with masks in grey or colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tomoscale.formats import open_volume
from tomoscale.geometry import Spacing
from tomoscale.networks.card import ModelClass
from tomoscale.training.pictures import Pictures, check_pairs, is_picture, open_pictures
from tomoscale.training.samples import Sample
from tomoscale.volume import Volume


def open_sample(
    name: str,
    paths: Mapping[str, str | None],
    classes: Sequence[ModelClass],
    *,
    slices: Mapping[str, tuple[int, ...]] | None = None,
    voxel_size_um: Spacing | None = None,
) -> Sample:
    """Open a sample.

    Parameters
    ----------
    name : str
    paths : mapping
        "grey", "labels", and "mask" (or None): volumes, pictures, or folders of pictures.
    classes : sequence of ModelClass
        Their colours are those of masks in colour.
    slices : mapping, optional
        The only labelled slices, by axis.
    voxel_size_um : (z, y, x), optional
        Of volumes that do not say.

    Raises
    ------
    InputError
        If one cannot be read, or they do not fit together.
    """
    colours = [(c.rgba[0], c.rgba[1], c.rgba[2]) for c in classes]
    grey = _open(str(paths["grey"]), (), voxel_size_um)
    labels = _open(str(paths["labels"]), colours, voxel_size_um)
    mask = None if paths.get("mask") is None else _open(str(paths["mask"]), (), voxel_size_um)
    if isinstance(grey.storage, Pictures) and isinstance(labels.storage, Pictures):
        check_pairs(grey.storage, labels.storage)
    return Sample(name, grey, labels, mask, dict(slices or {}))


def _open(path: str, colours: Sequence[tuple[int, int, int]], voxel_size_um: Spacing | None) -> Volume:
    if is_picture(path):
        return Volume(open_pictures(path, colours), voxel_size_um)
    volume = open_volume(path)
    return Volume(volume.storage, volume.voxel_size_um or voxel_size_um, classes=volume.classes)
