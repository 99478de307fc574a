"""Pick what is worth most to annotate, and give it out as pictures with what the network says of it.

.. code-block:: text

    target/
      suggestion.json      where each piece comes from, its score, checksums
      grey/NAME.tif        grey values
      labels/NAME.tif      labels of the network: correct these
      predicted/NAME.tif   the same, to see later what was changed
      labels.zarr, probabilities/, scores/    what the scores are made of

The loop of active learning: predict, score, pick, correct (`accept`), train from the same network (`start_from`), again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tomoscale.annotation.manifest import GREY, LABELS, NAME, PREDICTED, PROGRAM, Manifest, Pick, load, read_manifest
from tomoscale.annotation.pictures import colours_of, sha256_of, write_grey, write_labels
from tomoscale.annotation.places import name_of, patches_of, pick, slices_across
from tomoscale.annotation.rounds import score_of, worth_another
from tomoscale.errors import InputError, PlanError
from tomoscale.formats import Source, opened
from tomoscale.geometry import Region, Shape
from tomoscale.measures.uncertainty import Score, uncertainty, unit_of
from tomoscale.places import local_path, replace_text
from tomoscale.segmentation.segment import segment
from tomoscale.training.class_index import Cells
from tomoscale.volume import Volume
from tomoscale.work import Work

if TYPE_CHECKING:
    from tomoscale.networks.bundle import Bundle


@dataclass(frozen=True)
class Asked:
    """What is to be picked.

    Attributes
    ----------
    number : int
        Pieces, at most.
    score : str
        See `uncertainty`.
    across : "z", "y" or "x"
        Slices across this axis.
    patch : (z, y, x) or None
        Patches of this size in place of slices.
    spacing : int
        Voxels between two pieces, from start to start along at least one axis.
    least_gain : float
        Mean IoU that a round of annotating and training must gain to be worth it, see `worth_another`.
    """

    number: int = 10
    score: Score = "entropy"
    across: Literal["z", "y", "x"] = "z"
    patch: Shape | None = None
    spacing: int = 10
    least_gain: float = 0.005

    def __post_init__(self) -> None:
        if self.number < 1 or self.spacing < 0:
            raise ValueError(
                f"number must be at least 1 and spacing at least 0, got {self.number} and {self.spacing} voxels"
            )
        if self.patch is not None and min(self.patch) < 1:
            raise ValueError(f"a patch has at least one voxel along each axis, got {self.patch}")
        if not 0 <= self.least_gain < 1:
            raise ValueError(f"least_gain is a mean IoU from 0 to below 1, got {self.least_gain}")
        if self.across not in ("z", "y", "x"):
            raise ValueError(f"across must be z, y or x, got {self.across!r}")

    def cells(self, shape: Shape) -> Cells:
        """What may be picked in a volume."""
        return slices_across(self.across, shape) if self.patch is None else patches_of(self.patch, shape)


def suggest(  # noqa: PLR0913 -- what to look at, what to pick, what is known already
    model: str | Path,
    source: Source,
    target: str | Path,
    *,
    asked: Asked | None = None,
    after: Sequence[str | Path] = (),
    disagreement: Source | None = None,
    work: Work | None = None,
) -> dict[str, Any] | None:
    """Pick the slices or patches that a network is least sure of, and give them out for correction.

    The same call again goes on where it was stopped, and never writes over pictures that were given out.

    Parameters
    ----------
    model : path
        Folder of a bundle.
    source : Volume or path
        Grey values.
    target : path
        A new folder.
    asked : Asked, optional
    after : sequence of paths
        Folders of earlier suggestions for this volume, oldest first: their pieces are not picked again, and the spacing holds
        to them. By the networks they began with, ``rounds`` says whether another round is worth it.
    disagreement : Volume or path, optional
        How many planes chose another label than the fused one, for the score "disagreement".
    work : Work, optional

    Returns
    -------
    dict
        The content of ``suggestion.json``; None where only plans are shown.

    Raises
    ------
    InputError
        If model, volume or earlier folders do not fit each other.
    PlanError
        If something is in the way.
    ValueError
        If what is asked for makes no sense.
    """
    from tomoscale.networks.bundle import load_bundle  # imports torch

    work, target, asked = work or Work(), local_path(target).absolute(), asked or Asked()
    volume, bundle = opened(source), load_bundle(model)
    planes = _planes(disagreement, asked, volume)
    cells, earlier = asked.cells(volume.shape), _earlier(after, volume)
    taken = [p.region for manifest in earlier for p in manifest.picks]
    document = _document(bundle, volume, (asked, cells, taken))
    document["rounds"] = worth_another([*(m.model for m in earlier), document["model"]], asked.least_gain)
    if not work.plan_only and not _claim(target, document, work.overwrite):
        return load(target)
    work = Work(work.client, work.resources, work.block_shape, work.plan_only, progress=work.progress, runs=work.runs)
    labels = segment(
        volume,
        target / "labels.zarr",
        model=model,
        probabilities=None if planes else target / "probabilities",
        quantisation="uint16",
        work=work,
    )
    if work.plan_only:
        return None
    volumes = {"disagreement": planes} if planes else _shares(target / "probabilities", len(bundle.classes))
    measure = uncertainty(asked.score, cells.cell, volume.shape, len(bundle.classes))
    sums = work.measure((measure,), volumes, target / "scores")["scores"]
    found = pick(sums, cells, asked.number, asked.spacing, taken)
    if not found:
        raise InputError(
            f"no piece of {cells.cell} voxels is left that is {asked.spacing} voxels from those annotated: make the spacing smaller"
        )
    document["picks"] = [
        _give_out(region, score, (volume, labels), (asked, target, document)) for region, score in found
    ]
    replace_text(target / NAME, json.dumps(document, indent=1, ensure_ascii=False))
    return document


def _planes(disagreement: Source | None, asked: Asked, volume: Volume) -> Volume | None:
    """Open the volume that says how many planes disagree, if there is one."""
    if (disagreement is not None) != (asked.score == "disagreement"):
        raise ValueError(
            "the score disagreement needs a volume that says how many planes disagree, and no other score takes one"
        )
    if disagreement is None:
        return None
    planes = opened(disagreement)
    if planes.shape != volume.shape or planes.dtype.kind != "u":
        raise InputError(
            f"{planes.name} holds {planes.shape} {planes.dtype}, but disagreements of {volume.name} are {volume.shape} whole numbers"
        )
    return planes


def _document(bundle: Bundle, volume: Volume, what: tuple[Asked, Cells, list[Region]]) -> dict[str, Any]:
    """JSON values of ``suggestion.json`` before anything is picked."""
    asked, cells, taken = what
    return {
        "program": PROGRAM,
        "asked": {
            "number": asked.number,
            "score": asked.score,
            "cell": list(cells.cell),
            "spacing": asked.spacing,
            "least_gain": asked.least_gain,
            "taken": [[[r.start, r.stop] for r in region] for region in taken],
        },
        "model": {
            "name": bundle.card.name,
            "weights_sha256": bundle.weights_sha256,
            "card_sha256": bundle.card_sha256,
            "mean_iou": score_of(bundle.card),
        },
        "source": {"name": volume.name, "dtype": volume.dtype.name},
        "shape": list(volume.shape),
        "voxel_size_um": None if volume.voxel_size_um is None else list(volume.voxel_size_um),
        "classes": [{"id": c.id, "name": c.name, "rgba": list(c.rgba)} for c in bundle.classes],
        "colours": [list(c) for c in colours_of([(c.rgba[0], c.rgba[1], c.rgba[2]) for c in bundle.classes])],
        "picks": None,
    }


def _shares(folder: Path, n_classes: int) -> dict[str, Volume]:
    """Volumes of the probabilities of the classes, by their ids."""
    found = {int(p.name.partition("_")[0]): p for p in folder.glob("*_*.zarr")}
    return {f"class_{n}": opened(found[n]) for n in range(n_classes)}


def _give_out(
    region: Region, score: int, volumes: tuple[Volume, Volume], how: tuple[Asked, Path, dict[str, Any]]
) -> dict[str, Any]:
    """Write the pictures of a piece, and say where it comes from."""
    asked, target, document = how
    grey, labels = volumes
    name = name_of(region, grey.shape)
    voxels = 1
    for r in region:
        voxels *= r.stop - r.start
    mean = score / (unit_of(asked.score) * voxels)
    shape = Pick(name, region, mean, "", "").picture_shape
    colours = [(c[0], c[1], c[2]) for c in document["colours"]]
    own = write_grey(target / GREY / f"{name}.tif", grey.read(region).reshape(shape))
    said = labels.read(region).reshape(shape)
    predicted = write_labels(target / PREDICTED / f"{name}.tif", said, colours)
    write_labels(target / LABELS / f"{name}.tif", said, colours)
    return Pick(name, region, mean, own, predicted).document()


def _earlier(folders: Sequence[str | Path], volume: Volume) -> list[Manifest]:
    """Earlier suggestions for a volume."""
    found: list[Manifest] = []
    for folder in folders:
        earlier = read_manifest(folder)
        if earlier.shape != volume.shape:
            raise InputError(
                f"{folder} is of a volume of {earlier.shape} voxels and {volume.name} has {volume.shape}: it belongs to another scan"
            )
        found.append(earlier)
    return found


def _claim(target: Path, document: dict[str, Any], overwrite: bool) -> bool:
    """Make the folder or take the one that the same call has begun; whether there is anything left to do."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        target.mkdir(parents=True, exist_ok=True)
        replace_text(target / NAME, json.dumps(document))
        return True
    try:
        there = load(target)
    except InputError:
        raise PlanError(f"{target} exists and was not made by a suggestion: give another target") from None
    if overwrite:
        _refuse_loss(target, there)
        shutil.rmtree(target)
        return _claim(target, document, False)
    same = {**there, "picks": None} == document
    if not same and {path.name for path in target.iterdir()} == {NAME}:
        # What was refused before anything was made of it is in nobody's way.
        replace_text(target / NAME, json.dumps(document))
        return True
    if not same:
        differing = sorted(k for k in document if k != "picks" and there.get(k) != document[k])
        raise PlanError(
            f"{target} holds a suggestion of another {', '.join(differing)}: give another target, or overwrite=True"
        )
    return there.get("picks") is None


def _refuse_loss(target: Path, there: dict[str, Any]) -> None:
    """Refuse to remove corrections that somebody has painted."""
    if there.get("picks") is None:
        return
    earlier: Manifest = read_manifest(target)
    for one in earlier.picks:
        file = earlier.file(LABELS, one)
        if file.exists() and sha256_of(file) != one.predicted_sha256:
            raise PlanError(
                f"{file} was corrected, and overwrite=True would remove it: `tomoscale accept` it and move the folder away, or give "
                "another target"
            )
