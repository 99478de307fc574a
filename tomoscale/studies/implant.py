"""A study of implants: one sample measured by `measure`, several from scans to one table by `study`.

Lopes Marinho et al. 2024 and Baltruschat et al. 2021 report such a table: IoU by class, degradation rate, bone-implant
contact and bone fraction of every sample, with relative errors against the truth.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import tomoscale
from tomoscale.commands import CLASSES, clean, convert, normalise
from tomoscale.errors import InputError
from tomoscale.places import local_path, replace_text
from tomoscale.segmentation.segment import SHIPPED_MODEL, segment
from tomoscale.studies.inputs import KINDS, Sample, checked
from tomoscale.studies.published import published
from tomoscale.studies.quantities import MEANS, Roi, regions_asked
from tomoscale.studies.sample import measure as measure
from tomoscale.studies.tables import (
    Comparison,
    csv_text,
    over_samples,
    paper_table,
    parse_comparison,
    statistics_of,
)
from tomoscale.studies.tables import in_words as table
from tomoscale.volume import Volume, ZarrArray
from tomoscale.work import Work

__all__ = ["Sample", "measure", "study", "table"]

SCHEMA = "tomoscale-study/1"
IouPreset = Literal["s1_all4", "s2_foreground3", "both"]


def study(  # noqa: PLR0913 -- one argument for each thing that a methods section states
    samples: Sequence[Sample],
    folder: str | Path,
    *,
    model: str | Path | None = None,
    percentiles_percent: tuple[float, float] = (0.5, 99.9),
    exclude_zeros: bool = False,
    clean_radius_voxels: int = 1,
    roi_distance_um: float = 1000.0,
    roi: Roi | Sequence[Roi] = ("reference_dilated",),
    outer_contact: bool = False,
    iou_preset: IouPreset = "both",
    statistics: tuple[str, ...] = (),
    any_voxel_size: bool = False,
    work: Work | None = None,
) -> dict[str, Any] | None:
    """Convert, normalise, segment, clean and measure several samples, and put their numbers into one table.

    A study that was stopped goes on where it was; a sample that cannot be used is named before work starts on any.

    Parameters
    ----------
    samples : sequence of Sample
    folder : path
        Gets a folder for each sample (``scan.zarr``, ``normal.zarr``, ``labels.zarr``, ``clean.zarr``, ``results/``),
        ``study.json`` and ``study.csv``.
    model : path, optional
        Folder of a bundle; None takes the small model that ships.
    percentiles_percent, exclude_zeros
        As for `normalise`.
    clean_radius_voxels : int
        As for `clean`; 0 measures what the network gave.
    roi_distance_um, roi, outer_contact
        As for `measure`.
    iou_preset : "s1_all4", "s2_foreground3" or "both"
        Mean IoU in ``study.csv``: over four classes, over three without background, or both.
    statistics : tuple of str
        Tests over samples: ``"wilcoxon"`` (values against truths), ``"spearman"`` (against healing time), of one quantity
        as in ``"wilcoxon: BIC"``, against another as in ``"spearman: DR ~ BV/TV"``.
    any_voxel_size : bool
        Go on where voxels are not of the size that the network was trained on.
    work : Work, optional

    Returns
    -------
    dict
        The content of ``study.json``; None where only plans are shown.

    Raises
    ------
    ValueError
        If an argument makes no sense.
    InputError
        If a sample cannot be used; the message names it.
    """
    work, folder = work or Work(), local_path(folder)
    tests = tuple(parse_comparison(text) for text in statistics)
    if iou_preset != "both" and iou_preset not in MEANS:
        raise ValueError(f'iou_preset must be "both" or one of {", ".join(MEANS)}, got {iou_preset!r}')
    recipe = Recipe(
        model,
        percentiles_percent,
        exclude_zeros,
        clean_radius_voxels,
        roi_distance_um,
        regions_asked(roi),
        outer_contact,
        any_voxel_size,
    )
    volumes = checked(samples, roi_distance_um)
    bundle = described_model(model) if any("labels" not in v for v in volumes.values()) else {}
    results: dict[str, dict[str, Any]] = {}
    for sample in samples:
        own = replace(work, runs=[])  # so that the results of a sample do not list the runs of its neighbours
        found = _measured(sample, volumes[sample.name], folder / sample.name, recipe, bundle, own)
        work.runs.extend(own.runs)
        if found is not None:
            results[sample.name] = found
    if work.plan_only:
        return None
    parameters = {
        **asdict(recipe),
        "model": bundle,
        "iou_preset": iou_preset,
        "statistics": list(statistics),
    }
    content = _summed_up(samples, results, tests, parameters)
    replace_text(folder / "study.json", json.dumps(content, indent=1, allow_nan=False))
    replace_text(folder / "study.csv", csv_text(paper_table(content["table"], list(results), iou_preset)))
    return content


@dataclass(frozen=True)
class Recipe:
    """How every sample of a study is treated; the fields are those of `study`."""

    model: str | Path | None
    percentiles_percent: tuple[float, float]
    exclude_zeros: bool
    clean_radius_voxels: int
    roi_distance_um: float
    roi: tuple[Roi, ...]
    outer_contact: bool
    any_voxel_size: bool

    def __post_init__(self) -> None:
        low, high = self.percentiles_percent
        if not 0 <= low < high <= 100:
            raise ValueError(f"percentiles must be two increasing numbers within 0..100, got {low} and {high}")
        if self.clean_radius_voxels < 0:
            raise ValueError(f"clean_radius_voxels must be 0 or more, got {self.clean_radius_voxels}")


def _measured(
    sample: Sample, volumes: dict[str, Volume], place: Path, recipe: Recipe, bundle: dict[str, Any], work: Work
) -> dict[str, Any] | None:
    """Take one sample through every step."""
    ours = _converted(volumes, place, work)
    if "labels" not in ours:
        normal = normalise(
            ours["scan"],
            place / "normal.zarr",
            percentiles_percent=recipe.percentiles_percent,
            exclude_zeros=recipe.exclude_zeros,
            work=work,
        )
        labels = segment(
            normal, place / "labels.zarr", model=recipe.model, any_voxel_size=recipe.any_voxel_size, work=work
        )
        radius = recipe.clean_radius_voxels
        ours["labels"] = clean(labels, place / "clean.zarr", radius_voxels=radius, work=work) if radius else labels
    return measure(
        ours["labels"],
        place / "results",
        truth=ours.get("truth"),
        reference=ours.get("reference"),
        grey=ours.get("scan"),
        healing_days=sample.healing_days,
        roi_distance_um=recipe.roi_distance_um,
        roi=recipe.roi,
        outer_contact=recipe.outer_contact,
        model=bundle if sample.labels is None else None,
        work=work,
    )


def _converted(volumes: dict[str, Volume], folder: Path, work: Work) -> dict[str, Volume]:
    """Volumes of ours in place of foreign ones, which are slow to read by blocks and have no checksums."""
    return {
        role: volume
        if isinstance(volume.storage, ZarrArray) and volume.storage.complete
        # labels.zarr is what a network makes.
        else convert(_named(volume, kind), folder / f"{'given_' * (role == 'labels')}{role}.zarr", kind=kind, work=work)
        for role, kind in KINDS.items()
        if (volume := volumes.get(role)) is not None
    }


def _named(volume: Volume, kind: str) -> Volume:
    """Volume with the names of the papers where it has none: a study asks for labels of their code."""
    return replace(volume, classes=CLASSES) if kind == "labels" and not volume.classes else volume


def described_model(model: str | Path | None) -> dict[str, Any]:
    """What a bundle is, for the record; raises if it cannot be used."""
    from tomoscale.networks.bundle import load_bundle  # imports torch

    path = local_path(model or SHIPPED_MODEL)
    bundle = load_bundle(path)
    ids = sorted(c.id for c in bundle.classes)
    if ids != [c.value for c in CLASSES]:
        raise InputError(
            f"model {path} tells the classes {ids} apart, but a study needs {', '.join(f'{c.value} {c.name}' for c in CLASSES)}"
        )
    return {
        "name": path.name,
        "architecture": bundle.architecture,
        "weights_sha256": bundle.weights_sha256,
        "card_sha256": bundle.card_sha256,
    }


def _summed_up(
    samples: Sequence[Sample],
    results: dict[str, dict[str, Any]],
    tests: tuple[Comparison, ...],
    parameters: dict[str, Any],
) -> dict[str, Any]:
    rows = over_samples(results)
    days = {s.name: s.healing_days for s in samples}
    found, caveats = statistics_of(tests, rows, days)
    sizes = {tuple(r["parameters"]["voxel_size_um"]) for r in results.values()}
    if len(sizes) > 1:
        caveats.append("Samples have voxels of different sizes: contact is not comparable between them.")
    if len({*days.values()} - {None}) > 1:
        caveats.append("Healing times differ: mean and deviation of the degradation rate are over different times.")
    return {
        "schema": SCHEMA,
        "program": f"tomoscale {tomoscale.__version__}",
        "parameters": parameters,
        "samples": [
            {"name": s.name, "results": f"{s.name}/results/results.json", "healing_days": s.healing_days}
            for s in samples
        ],
        "table": rows,
        "statistics": found,
        "published": published(),
        "caveats": caveats,
    }
