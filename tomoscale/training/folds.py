"""Folds of a cross-validation: whole samples, so that no network is judged by slices of what it has seen."""

from __future__ import annotations

from dataclasses import dataclass

from tomoscale.errors import InputError
from tomoscale.geometry import Spacing
from tomoscale.networks.card import ModelClass
from tomoscale.training.samples import Data, Sample

MAX_FOLDS = 64


@dataclass(frozen=True)
class Labelled:
    """Samples that are dealt into folds.

    Attributes
    ----------
    classes : tuple of ModelClass
    samples : tuple of Sample
    voxel_size_um : (z, y, x)
    groups : tuple of str
        Of each sample, the thing that was scanned: samples of one group (slices of one scan, scans of one explant) stay
        together. By default every sample is a thing of its own.
    """

    classes: tuple[ModelClass, ...]
    samples: tuple[Sample, ...]
    voxel_size_um: Spacing
    groups: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.groups and len(self.groups) != len(self.samples):
            raise ValueError(f"{len(self.samples)} samples need as many groups, got {len(self.groups)}")

    def folds(self, count: int) -> tuple[Data, ...]:
        """Deal the groups into folds, in turn, in the order in which they come: fold k is judged by groups k, k + count, ...

        Parameters
        ----------
        count : int

        Returns
        -------
        tuple of Data
            For each fold, what it learns from and what it is judged by.

        Raises
        ------
        ValueError
            If `count` is not 2 to `MAX_FOLDS`.
        InputError
            If there are fewer groups than folds, or a sample comes twice.
        """
        if not 2 <= count <= MAX_FOLDS:
            raise ValueError(f"folds must be 2 to {MAX_FOLDS}, got {count}")
        groups = self.groups or tuple(s.name for s in self.samples)
        place = {group: n for n, group in enumerate(dict.fromkeys(groups))}
        if len(place) < count:
            raise InputError(
                f"{count} folds need as many samples that are things of their own, and there are {len(place)} "
                f"({', '.join(list(place)[:5])}): ask for fewer folds, or give more samples"
            )
        fold_of = [place[g] % count for g in groups]
        return tuple(
            Data(
                self.classes,
                tuple(s for s, f in zip(self.samples, fold_of, strict=True) if f != fold),
                tuple(s for s, f in zip(self.samples, fold_of, strict=True) if f == fold),
                self.voxel_size_um,
            )
            for fold in range(count)
        )
