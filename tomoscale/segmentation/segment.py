"""Label every voxel of a volume by a network."""

from __future__ import annotations

from pathlib import Path

from tomoscale.commands import Source, opened
from tomoscale.errors import InputError
from tomoscale.volume import LabelClass, Volume
from tomoscale.work import Work

SHIPPED_MODEL = Path(__file__).parents[1] / "models" / "demo"


def segment(
    source: Source,
    target: str | Path,
    *,
    model: str | Path | None = None,
    backend: str = "torch",
    precision: str = "float32",
    work: Work | None = None,
) -> Volume:
    """Label every voxel of a normalised volume by a network.

    Parameters
    ----------
    source : Volume or path
        Floating point, scaled to 0..1 by `normalise`.
    target : path
    model : path or None
        Folder of a bundle; None takes the small model that ships, trained on phantoms.
    backend, precision : str
        "torch" or "openvino"; "float32" or "bfloat16".
    work : Work or None

    Raises
    ------
    InputError
        If the bundle is damaged, or the volume is not normalised.
    """
    # torch takes two seconds to import, which no other command should pay.
    from tomoscale.kernels.network import inference
    from tomoscale.networks.bundle import load_bundle

    work = work or Work()
    volume = opened(source)
    if volume.dtype.kind != "f":
        raise InputError(
            f"{volume.name} holds {volume.dtype}, but a network needs values scaled to 0..1: run `tomoscale normalise` first"
        )
    bundle = load_bundle(model or SHIPPED_MODEL)
    kernel = inference(bundle, volume.shape, backend=backend, precision=precision)
    classes = tuple(LabelClass(c.id, c.name, c.rgba) for c in bundle.classes)
    return work.map(kernel, volume, target, kind="labels", classes=classes)
