"""``suggestion.json``: what was given out for annotation, where it comes from, and checksums of the files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tomoscale.errors import InputError
from tomoscale.geometry import AXES, Region, Shape, three
from tomoscale.json_files import read_json
from tomoscale.networks.card import ModelClass
from tomoscale.places import local_path
from tomoscale.training.pictures import Colour

NAME = "suggestion.json"
PROGRAM = "tomoscale suggestion 1"
GREY, LABELS, PREDICTED = "grey", "labels", "predicted"


@dataclass(frozen=True)
class Pick:
    """A piece that was given out.

    Attributes
    ----------
    name : str
        Of its files, ``grey/NAME.tif``, ``labels/NAME.tif`` (to be corrected), ``predicted/NAME.tif``.
    region : Region
        Where it comes from.
    score : float
        Mean over its voxels.
    grey_sha256, predicted_sha256 : str
        Of those files, which nobody is to change.
    """

    name: str
    region: Region
    score: float
    grey_sha256: str
    predicted_sha256: str

    @property
    def picture_shape(self) -> tuple[int, ...]:
        """Shape of its pictures: the region's, without an axis of one voxel if there is one."""
        shape = [r.stop - r.start for r in self.region]
        if 1 in shape:
            shape.remove(1)
        return tuple(shape)

    def document(self) -> dict[str, Any]:
        """JSON values."""
        spans = {a: [r.start, r.stop] for a, r in zip(AXES, self.region, strict=True)}
        return {
            "name": self.name,
            "region": spans,
            "score": self.score,
            "grey_sha256": self.grey_sha256,
            "predicted_sha256": self.predicted_sha256,
        }


@dataclass(frozen=True)
class Manifest:
    """What was given out.

    Attributes
    ----------
    folder : path
    shape : (Z, Y, X)
        Of the volume.
    voxel_size_um : (z, y, x) or None
    classes : tuple of ModelClass
    colours : tuple of (red, green, blue)
        Of the classes in the pictures.
    model, source : mapping
        JSON values that say which network and which volume.
    picks : tuple of Pick
    """

    folder: Path
    shape: Shape
    voxel_size_um: tuple[float, float, float] | None
    classes: tuple[ModelClass, ...]
    colours: tuple[Colour, ...]
    model: Mapping[str, Any]
    source: Mapping[str, Any]
    picks: tuple[Pick, ...]

    def file(self, kind: str, pick: Pick) -> Path:
        """Path of a picture."""
        return self.folder / kind / f"{pick.name}.tif"


def read_manifest(folder: str | Path) -> Manifest:
    """Read what `suggest` has written.

    Raises
    ------
    InputError
        If it is not there, not finished, or not what this program writes.
    """
    folder = local_path(folder)
    document = load(folder)
    try:
        if document.get("picks") is None:
            raise ValueError("it was not finished: give the same `tomoscale suggest` again")
        return _manifest(folder.absolute(), document)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{folder / NAME} cannot be used ({error}): suggest again") from error


def load(folder: Path) -> dict[str, Any]:
    """JSON values of ``suggestion.json``, whatever they say beyond its program.

    Raises
    ------
    InputError
    """
    path, advice = folder / NAME, "give a folder that `tomoscale suggest` wrote"
    document = read_json(path, "suggestion", advice)
    if document.get("program") != PROGRAM:
        raise InputError(f'{path}: its "program" is not {PROGRAM!r}; {advice}')
    return document


def _manifest(folder: Path, said: Mapping[str, Any]) -> Manifest:
    shape = three(int(n) for n in said["shape"])
    size = said["voxel_size_um"]
    classes = tuple(ModelClass(int(c["id"]), str(c["name"]), _colour(c["rgba"])) for c in said["classes"])
    colours = tuple((int(r), int(g), int(b)) for r, g, b in said["colours"])
    if [c.id for c in classes] != list(range(len(classes))) or len(colours) != len(classes):
        raise ValueError("classes must be numbered from 0, with a colour each")
    picks = tuple(_pick(p, shape) for p in said["picks"])
    known = None if size is None else (float(size[0]), float(size[1]), float(size[2]))
    return Manifest(folder, shape, known, classes, colours, dict(said["model"]), dict(said["source"]), picks)


def _pick(said: Mapping[str, Any], shape: Shape) -> Pick:
    name = str(said["name"])
    # A name becomes part of a path.
    if not re.fullmatch(r"[zyx0-9_]{1,60}", name):
        raise ValueError(f"{name[:80]!r} is no name of a piece")
    z, y, x = (slice(int(said["region"][a][0]), int(said["region"][a][1])) for a in AXES)
    if not all(0 <= r.start < r.stop <= n for r, n in zip((z, y, x), shape, strict=True)):
        raise ValueError(f"{name} lies outside of the volume")
    return Pick(name, (z, y, x), float(said["score"]), str(said["grey_sha256"]), str(said["predicted_sha256"]))


def _colour(values: Any) -> tuple[int, int, int, int]:
    red, green, blue, alpha = (int(v) for v in values)
    return red, green, blue, alpha
