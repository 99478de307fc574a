"""Bring corrected pictures back into a label volume, to the bit, and note who changed what."""

from __future__ import annotations

import getpass
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from tomoscale.annotation.manifest import GREY, LABELS, PREDICTED, Manifest, Pick, read_manifest
from tomoscale.annotation.pictures import read_labels, sha256_of
from tomoscale.errors import InputError
from tomoscale.formats import Source, opened
from tomoscale.geometry import Region, Shape, region_shape
from tomoscale.json_files import read_json
from tomoscale.kernels.filters import cast
from tomoscale.ome import Kind
from tomoscale.places import local_path, replace_text
from tomoscale.training.pictures import Colour
from tomoscale.training.recipe import IGNORED
from tomoscale.volume import LabelClass, Storage, Volume
from tomoscale.work import Work

PROGRAM = "tomoscale annotation 1"
HELD_PICTURES = 4
"""Decoded pictures that a process keeps."""


@dataclass(frozen=True)
class Piece:
    """A corrected picture: file, checksum, place, shape."""

    file: str
    sha256: str
    region: Region
    shape: tuple[int, ...]

    def labels(self, colours: tuple[Colour, ...]) -> np.ndarray:
        """Labels of the picture: uint8."""
        return _labels_of(self.file, self.sha256, self.shape, colours)


@dataclass(frozen=True)
class Annotations:
    """Corrected pictures where they belong, and elsewhere an earlier annotation or 255: a storage that is read only."""

    shape: Shape
    pieces: tuple[Piece, ...]
    colours: tuple[Colour, ...]
    earlier: Storage | None = None
    name: str = "annotations"

    @property
    def dtype(self) -> np.dtype[Any]:
        """One byte."""
        return np.dtype(np.uint8)

    @property
    def chunk_shape(self) -> Shape:
        """A slice is decoded as a whole."""
        return 1, *self.shape[1:]

    @property
    def kind(self) -> Kind:
        """They are labels."""
        return "labels"

    def read(self, region: Region) -> np.ndarray:
        """Labels of a region: (z, y, x) uint8.

        Raises
        ------
        InputError
            If a picture has changed since it was checked.
        """
        result = np.full(region_shape(region), IGNORED, np.uint8)
        if self.earlier is not None:
            result[...] = self.earlier.read(region)
        for piece in self.pieces:
            both = [
                slice(max(r.start, p.start), min(r.stop, p.stop)) for r, p in zip(region, piece.region, strict=True)
            ]
            if any(s.start >= s.stop for s in both):
                continue
            values = piece.labels(self.colours).reshape(region_shape(piece.region))
            inside = tuple(slice(s.start - p.start, s.stop - p.start) for s, p in zip(both, piece.region, strict=True))
            there = tuple(slice(s.start - r.start, s.stop - r.start) for s, r in zip(both, region, strict=True))
            result[there] = values[inside]
        return result

    def identity(self) -> dict[str, Any]:
        """Checksums of the pictures, and where they belong."""
        return {
            "pieces": [[p.sha256, [[r.start, r.stop] for r in p.region]] for p in self.pieces],
            "colours": [list(c) for c in self.colours],
            "earlier": None if self.earlier is None else self.earlier.identity(),
        }


def accept(
    folder: str | Path,
    target: str | Path,
    *,
    by: str | None = None,
    add_to: Source | None = None,
    work: Work | None = None,
) -> dict[str, Any] | None:
    """Make a label volume of the corrections of a suggestion: what was annotated, and 255 elsewhere, as trainings take it.

    A piece whose ``labels/NAME.tif`` was removed is left out. Beside the target, ``NAME.annotation.json`` says who annotated
    when, from which network, and how many voxels of each class became another.

    Parameters
    ----------
    folder : path
        That `suggest` wrote.
    target : path
        The volume to make.
    by : str, optional
        Who has annotated; by default the user of this machine.
    add_to : Volume or path, optional
        An earlier annotation of the same volume: kept where nothing new is (ground truth in stages).
    work : Work, optional

    Returns
    -------
    dict
        What ``NAME.annotation.json`` says; None where only plans are shown.

    Raises
    ------
    InputError
        If a picture has another shape, labels that are no class, or is missing in part; if grey values or predictions
        were changed; if the earlier annotation does not fit.
    """
    work, target = work or Work(), local_path(target).absolute()
    manifest = read_manifest(folder)
    earlier = None if add_to is None else _fitting(opened(add_to), manifest)
    picks = [p for p in manifest.picks if manifest.file(LABELS, p).exists()]
    if not picks:
        raise InputError(
            f"{manifest.folder / LABELS} holds none of the {len(manifest.picks)} pictures that were given out"
        )
    found = [_checked(manifest, p) for p in picks]
    pieces = tuple(piece for piece, _ in found)
    annotated = Annotations(
        manifest.shape, pieces, manifest.colours, None if earlier is None else earlier.storage, str(manifest.folder)
    )
    classes = tuple(
        LabelClass(c.id, c.name, (*colour, 255)) for c, colour in zip(manifest.classes, manifest.colours, strict=True)
    )
    source = Volume(annotated, manifest.voxel_size_um)
    volume = work.map(cast(np.dtype(np.uint8), "refuse"), source, target, kind="labels", classes=classes)
    if work.plan_only:
        return None
    record = {
        "program": PROGRAM,
        "volume": volume.name,
        "by": by or _user(),
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": dict(manifest.model),
        "source": dict(manifest.source),
        "pieces": [
            {"name": pick.name, "region": pick.document()["region"], "sha256": piece.sha256, **changed}
            for pick, (piece, changed) in zip(picks, found, strict=True)
        ],
        "left_out": [p.name for p in manifest.picks if p not in picks],
        "earlier": None if earlier is None else {"volume": earlier.name, "annotation": _record_of(earlier)},
    }
    place = sidecar(target)
    if not place.exists() or work.overwrite or _known(place)["pieces"] != record["pieces"]:
        replace_text(place, json.dumps(record, indent=1, ensure_ascii=False))
    return _known(place)


def sidecar(volume: Path) -> Path:
    """Where the record of an annotation lies."""
    return volume.with_name(f"{volume.stem}.annotation.json")


def _checked(manifest: Manifest, pick: Pick) -> tuple[Piece, dict[str, Any]]:
    """Hold the files of a piece against what was given out; return it, and what was changed in it."""
    for kind, wanted in ((GREY, pick.grey_sha256), (PREDICTED, pick.predicted_sha256)):
        file = manifest.file(kind, pick)
        if sha256_of(file) != wanted:
            raise InputError(
                f"{file} was changed since it was given out, so the corrections may be of other voxels: only {LABELS}/ is to be "
                "painted; get it back, or suggest again"
            )
    file = manifest.file(LABELS, pick)
    piece = Piece(str(file), sha256_of(file), pick.region, pick.picture_shape)
    new = piece.labels(manifest.colours)
    old = read_labels(manifest.file(PREDICTED, pick), pick.picture_shape, manifest.colours)
    names = {c.id: c.name for c in manifest.classes} | {IGNORED: "not labelled"}
    pairs, counts = np.unique(np.stack([old[old != new], new[old != new]]), axis=1, return_counts=True)
    changes = [
        {"from": names[int(a)], "to": names[int(b)], "voxels": int(n)}
        for (a, b), n in zip(pairs.T, counts, strict=True)
    ]
    return piece, {"changed_voxels": int((old != new).sum()), "changes": changes}


@lru_cache(maxsize=HELD_PICTURES)
def _labels_of(file: str, sha256: str, shape: tuple[int, ...], colours: tuple[Colour, ...]) -> np.ndarray:
    """Labels of a picture, checked."""
    labels = read_labels(Path(file), shape, colours)
    if sha256_of(Path(file)) != sha256:
        raise InputError(f"{file} was changed while it was read: accept it again when it is finished")
    return labels


def _fitting(earlier: Volume, manifest: Manifest) -> Volume:
    if earlier.shape != manifest.shape or earlier.dtype != np.uint8:
        raise InputError(
            f"{earlier.name} holds {earlier.shape} {earlier.dtype}, but annotations of this volume are {manifest.shape} uint8: it "
            "belongs to another scan"
        )
    names = {c.value: c.name for c in earlier.classes}
    wrong = [c for c in manifest.classes if names.get(c.id, c.name) != c.name]
    if wrong:
        raise InputError(
            f"{earlier.name} calls class {wrong[0].id} {names[wrong[0].id]!r}, and the suggestion {wrong[0].name!r}: they cannot be "
            "put together"
        )
    return earlier


def _record_of(volume: Volume) -> Any:
    place = sidecar(Path(volume.name))
    return _known(place) if place.exists() else None


def _known(place: Path) -> dict[str, Any]:
    content = read_json(place, "record of an annotation", "move it away")
    if content.get("program") != PROGRAM or not isinstance(content.get("pieces"), list):
        raise InputError(f"{place} is not the record of an annotation: move it away")
    return content


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
