"""Bone of a phantom: a real texture, and how it is laid through the volume."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import scipy.ndimage
import tifffile

from tomoscale.errors import InputError
from tomoscale.measures.otsu import otsu_thresholds
from tomoscale.phantom.voxels import Bone


@lru_cache(maxsize=1)
def bone_texture() -> np.ndarray:
    """Real bone for the phantom: the example scan that the public package qim3d carries (MIT licence).

    Returns
    -------
    (128, 128, 128) uint8 array
        Cortical shell and trabecular network in X-ray computed tomography; read only.

    Raises
    ------
    InputError
        If qim3d is not installed. Its dependencies are not needed: the package is never imported.
    """
    spec = importlib.util.find_spec("qim3d")
    folders = [Path(p) for p in (spec.submodule_search_locations or [])] if spec else []
    for folder in folders:
        path = folder / "examples" / "bone_128x128x128.tif"
        if path.is_file():
            texture = np.asarray(tifffile.imread(path))
            texture.flags.writeable = False
            return texture
    raise InputError(
        "the phantom's bone comes from the public package qim3d, which is not installed here: "
        "run `pip install --no-deps qim3d`, or give your own (z, y, x) uint8 array as `texture`"
    )


@dataclass(frozen=True)
class Held:
    """An array that a cache passes through without looking at it."""

    values: np.ndarray = field(compare=False)


@lru_cache(maxsize=4)
def laid(digest: str, texture: Held, key: int) -> Bone:
    """Texture with its threshold and the mean levels on both sides, laid from a place that the seed draws."""
    if texture.values.min() == texture.values.max():
        raise InputError(
            f"the texture (sha256 {digest}...) has one grey level only, so it shows no bone against marrow"
        )
    values = texture.values.astype(np.float32)
    counts = np.bincount(texture.values.ravel(), minlength=256)
    threshold = otsu_thresholds(counts, np.arange(256))[0] + 0.5
    above = values > threshold
    z, y, x = ((key >> (16 * n) & 0xFFFF) / 0xFFFF * 2 * size for n, size in enumerate(values.shape))
    # Smoothed a little: single dark voxels (lacunae, noise) would make salt and pepper of the truth.
    soft = scipy.ndimage.gaussian_filter(values, 0.7, mode="mirror")
    soft = np.rint(soft).astype(np.uint8)
    return Bone(soft, z, y, x, 1.6, threshold, float(values[~above].mean()), float(values[above].mean()))
