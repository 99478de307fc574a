"""Everything an implant study counts of the volumes it is given, in one pass over them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tomoscale.geometry import Spacing
from tomoscale.measures.class_histogram import INTEGERS, class_histogram, zeros
from tomoscale.measures.contact import faces
from tomoscale.measures.cylinder import Cylinder
from tomoscale.measures.fraction import roi_fractions
from tomoscale.measures.intensity import label_moments
from tomoscale.measures.pairs import label_counts
from tomoscale.measures.population import Population
from tomoscale.measures.profile import along_axis, on_faces
from tomoscale.measures.surface_map import Roles, surface_map
from tomoscale.measures.topology import configurations
from tomoscale.step import Measure
from tomoscale.volume import Volume

METAL, LAYER, BONE = 1, 2, 3
IMPLANT = (METAL, LAYER)
N_CLASSES = 4
GAPS_VOXELS = (0, 1, 2)


@dataclass(frozen=True)
class Layout:
    """Where things are counted.

    Attributes
    ----------
    voxel_size_um : (z, y, x)
    edges_um : tuple of float
        Outer edges of the shells around the reference; empty without one.
    cylinder : Cylinder or None
        Bins around the implant's axis; None where there is no implant.
    """

    voxel_size_um: Spacing
    edges_um: tuple[float, ...] = ()
    cylinder: Cylinder | None = None

    @property
    def is_isotropic(self) -> bool:
        """Whether voxels are cubes."""
        return len(set(self.voxel_size_um)) == 1


def measures_of(volumes: dict[str, Volume], layout: Layout) -> tuple[Measure, ...]:
    """Measures by the names of `volumes`: labels, truth, reference, shells, grey; of labels and truth "region", "outer"."""
    wanted: list[Measure] = []
    for name, other in (("labels", "truth"), ("truth", "labels")):
        if name in volumes:
            wanted += _of_labels(volumes, name, other if other in volumes else name, layout)
    if "reference" in volumes:
        wanted += _of_reference(layout)
    if "grey" in volumes:
        wanted.append(replace(zeros("grey"), name="grey zeros"))
        if volumes["grey"].dtype.name in INTEGERS:
            wanted.append(replace(label_moments(grey_population(volumes["grey"])), name="grey"))
            wanted.append(replace(class_histogram(volumes["grey"].dtype.name, N_CLASSES), name="grey histogram"))
    return tuple(wanted)


def grey_population(grey: Volume) -> Population:
    """Interior voxels of each class: partial-volume voxels would inflate the deviation."""
    return Population(grey.dtype.name, n_classes=N_CLASSES, interior_voxels=2)


def _of_labels(volumes: dict[str, Volume], name: str, other: str, layout: Layout) -> list[Measure]:
    regions = len(layout.edges_um) + 2 if "shells" in volumes else None
    # A label volume without a truth is compared with itself, which costs nothing: its words are already at hand.
    inputs = (other, name) if regions is None else (other, name, "shells")
    touching = surface_map(Roles(IMPLANT, BONE), layout.cylinder, gaps_voxels=GAPS_VOXELS, name=name)
    wanted = [
        replace(label_counts(N_CLASSES, regions), name=name, inputs=inputs),
        replace(touching, name=f"{name} surface"),
        replace(on_faces(N_CLASSES, name=name), name=f"{name} cut"),
    ]
    if layout.cylinder is not None:
        wanted.append(replace(along_axis(layout.cylinder, IMPLANT, name=name), name=f"{name} along"))
    if f"{name} region" in volumes:
        region = roi_fractions(N_CLASSES)
        wanted.append(replace(region, name=f"{name} region", inputs=(name, f"{name} region")))
    if f"{name} outer" in volumes:
        wanted.append(replace(faces(N_CLASSES), name=f"{name} outer", inputs=(f"{name} outer",)))
    return wanted


def _of_reference(layout: Layout) -> list[Measure]:
    wanted = [
        replace(configurations(), name="reference", inputs=("reference",)),
        replace(surface_map(Roles(None), name="reference"), name="reference surface"),
        replace(on_faces(len(layout.edges_um) + 2, name="shells"), name="shells cut"),
    ]
    if layout.cylinder is not None:
        wanted.append(replace(along_axis(layout.cylinder, None, name="reference"), name="reference along"))
    return wanted
