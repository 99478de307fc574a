"""What becomes of components: a decision for each, from its size, its place and what surrounds it, written per piece."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tomoscale.objects.joining import Joined, Tables
from tomoscale.objects.painting import KEPT, VALUES
from tomoscale.objects.stored import StoredArrays


@dataclass(frozen=True)
class Whole:
    """The components that the pieces of one block belong to, one entry per piece.

    Attributes
    ----------
    voxels : (k,) int64 array
        Of the whole component.
    outer : (k,) bool array
        Whether the component touches the border of the volume.
    first : (k,) int64 array
        Index in the volume, z-major, of the first voxel of the component.
    leads : (k,) bool array
        Whether the piece holds that voxel; true for one piece of each component.
    """

    voxels: np.ndarray
    outer: np.ndarray
    first: np.ndarray
    leads: np.ndarray


def whole_components(tables: Tables, joined: Joined, number: int) -> Whole:
    """Components of the pieces of a block: those at no shared side are whole by themselves."""
    stored, nodes = tables.block(number), tables.nodes_of(number)
    whole = Whole(
        stored.read("voxels").astype(np.int64),
        stored.read("outer"),
        tables.in_volume(number, stored.read("first")),
        np.ones(stored.shape("first"), bool),
    )
    border, leader = joined.border[nodes], joined.leader[nodes]
    whole.voxels[border] = joined.voxels[leader]
    whole.outer[border] = joined.outer[leader]
    whole.first[border] = joined.first[leader]
    whole.leads[border] = leader == np.arange(nodes.start, nodes.stop)
    return whole


Fate = Callable[[int, Whole], tuple[np.ndarray | int, np.ndarray]]
"""Value for each piece of a block (or one for all), and whether it stays as it is, from its number and components."""


def write_fates(tables: Tables, joined: Joined, folder: Path, dtype: np.dtype[Any], fate: Fate) -> Mapping[str, Any]:
    """Write value and fate of every piece, block by block; count the components that stay and those that do not."""
    stay = go = 0
    with (folder / VALUES).open("wb") as values, (folder / KEPT).open("wb") as kept:
        for number in range(len(tables.grid)):
            whole = whole_components(tables, joined, number)
            value, stays = fate(number, whole)
            values.write(np.broadcast_to(np.asarray(value, dtype), stays.shape).tobytes())
            kept.write(stays.tobytes())
            stay += int((stays & whole.leads).sum())
            go += int((~stays & whole.leads).sum())
        if not tables.pieces[-1]:
            # Workers map the files, which must not be empty.
            values.write(bytes(dtype.itemsize))
            kept.write(bytes(1))
    return {"dtype": dtype.str, "kept": stay, "changed": go}


def largest(tables: Tables, joined: Joined, n: int) -> tuple[int, int]:
    """Voxels and first voxel of the n-th largest component, of equal ones the earlier first; (0, 0) if there are fewer.

    Held in memory are the n largest so far and those of one block.
    """
    voxels, first = np.zeros(0, np.int64), np.zeros(0, np.int64)
    for number in range(len(tables.grid)):
        whole = whole_components(tables, joined, number)
        voxels = np.concatenate([voxels, whole.voxels[whole.leads]])
        first = np.concatenate([first, whole.first[whole.leads]])
        order = np.lexsort((first, -voxels))[:n]
        voxels, first = voxels[order], first[order]
    return (int(voxels[-1]), int(first[-1])) if voxels.size == n else (0, 0)


class Surroundings:
    """The label that most faces of a component touch; of labels that touch equally many the smallest.

    Votes of pieces at shared sides are held in memory, those of all others in the files.
    """

    def __init__(self, tables: Tables, joined: Joined) -> None:
        self.tables, self.joined = tables, joined
        leaders, labels, faces = [], [], []
        for number in range(len(tables.grid)):
            stored, nodes = tables.block(number), tables.nodes_of(number)
            border, (piece, label, n) = joined.border[nodes], _votes(stored)
            place = np.searchsorted(border, piece)
            shared = (place < border.size) & (
                border[np.minimum(place, border.size - 1)] == piece if border.size else False
            )
            leaders.append(joined.leader[nodes][place[shared]])
            labels.append(label[shared])
            faces.append(n[shared])
        self.leaders, self.labels = _majority(np.concatenate(leaders), np.concatenate(labels), np.concatenate(faces))

    def of_block(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Label around each piece's component, and whether there is any: not if it is the whole volume."""
        stored, nodes = self.tables.block(number), self.tables.nodes_of(number)
        piece, label, faces = _votes(stored)
        result = np.zeros(stored.shape("first"), label.dtype)
        known = np.zeros(result.size, bool)
        voted, majority = _majority(piece, label, faces)
        result[voted], known[voted] = majority, True
        border, leader = self.joined.border[nodes], self.joined.leader[nodes]
        place = np.minimum(np.searchsorted(self.leaders, leader), max(self.leaders.size - 1, 0))
        found = self.leaders[place] == leader if self.leaders.size else np.zeros(leader.size, bool)
        known[border] = found
        result[border[found]] = self.labels[place[found]]
        return result, known


def _votes(stored: StoredArrays) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return stored.read("vote_piece"), stored.read("vote_label"), stored.read("vote_faces")


def _majority(groups: np.ndarray, labels: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Groups in order, and the label of each with most faces, the smallest of equals."""
    if not groups.size:
        return groups, labels
    order = np.lexsort((labels, groups))
    groups, labels, faces = groups[order], labels[order], faces[order]
    new = np.ones(groups.size, bool)
    new[1:] = (groups[1:] != groups[:-1]) | (labels[1:] != labels[:-1])
    groups, labels, faces = groups[new], labels[new], np.add.reduceat(faces, np.flatnonzero(new))
    order = np.lexsort((labels, -faces, groups))
    groups, labels = groups[order], labels[order]
    new = np.ones(groups.size, bool)
    new[1:] = groups[1:] != groups[:-1]
    return groups[new], labels[new]
