"""Files of medical formats, as ITK writes them and by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk

VALUES = np.random.default_rng(0).integers(0, 120, (5, 6, 7)).astype("u2")


def write_by_itk(path: Path, values: np.ndarray, *, spacing_mm=(0.00065, 0.002, 0.003), compressed=False) -> Path:
    image = sitk.GetImageFromArray(values)
    image.SetSpacing(spacing_mm)
    sitk.WriteImage(image, str(path), useCompression=compressed)
    return path


def by_hand(header: str) -> Callable[..., Path]:
    """What writes this header, with some of its text replaced, and the voxels."""

    def write(path: Path, data: bytes | None = None, *replacements: tuple[str, str]) -> Path:
        text = header
        for old, new in replacements:
            assert old in text
            text = text.replace(old, new)
        path.write_bytes(text.encode() + (VALUES.tobytes() if data is None else data))
        return path

    return write
