"""Metadata of OME-Zarr groups, written and read as 0.5 (Zarr 3) and 0.4 (Zarr 2).

All of it is JSON a stranger may have written: nothing here trusts a type, a length or a path.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tomoscale.errors import InputError
from tomoscale.geometry import AXES, Shape, Spacing
from tomoscale.voxel_size import check_voxel_size, micrometres_per

Kind = Literal["grey", "labels", "mask"]
OmeVersion = Literal["0.4", "0.5"]
KINDS = ("grey", "labels", "mask")
STATE = "tomoscale"
"""Key of our own state in the attributes of a group."""
STATE_VERSION = 1
LEVEL = "0"
"""Path of the full resolution inside the group; coarser levels are "1", "2", ..."""
MAX_LEVELS = 64
"""Halved so often, any volume is one voxel."""
LABELS = "labels"
"""Folder inside an image group whose folders are its label images."""
_GREY = (128, 128, 128, 255)


@dataclass(frozen=True)
class LabelClass:
    """One class of a label volume: the value of its voxels, its name, and its colour (red, green, blue, alpha)."""

    value: int
    name: str
    rgba: tuple[int, int, int, int] = _GREY

    def __post_init__(self) -> None:
        if len(self.rgba) != 4 or not all(isinstance(c, int) and 0 <= c <= 255 for c in self.rgba):
            raise ValueError(f"rgba of class {self.name!r} must be four integers 0 to 255, got {self.rgba}")


def group_attributes(
    name: str,
    kind: Kind,
    voxel_size_um: Spacing | None,
    classes: Sequence[LabelClass],
    version: OmeVersion,
    in_image: bool,
) -> dict[str, Any]:
    """Attributes of an OME-Zarr group with one resolution level.

    An unknown voxel size is written as scale 1 without a unit, which reads as unknown again. A label volume `in_image`,
    which is in the folder of labels of an image, says so.
    """
    unit = {} if voxel_size_um is None else {"unit": "micrometer"}
    scale = [1.0] * 3 if voxel_size_um is None else list(voxel_size_um)
    own_version = {"version": version} if version == "0.4" else {}
    ome: dict[str, Any] = {
        "multiscales": [
            {
                **own_version,
                "name": name,
                "axes": [{"name": axis, "type": "space", **unit} for axis in AXES],
                "datasets": [{"path": LEVEL, "coordinateTransformations": [{"type": "scale", "scale": scale}]}],
            }
        ],
    }
    if kind == "labels":
        # The specification has no empty lists.
        colors = [{"label-value": c.value, "rgba": list(c.rgba)} for c in classes]
        properties = [{"label-value": c.value, "name": c.name} for c in classes]
        ome["image-label"] = {
            "version": version,
            **({"colors": colors, "properties": properties} if classes else {}),
            **({"source": {"image": "../../"}} if in_image else {}),
        }
    return ome if version == "0.4" else {"ome": {"version": version, **ome}}


def with_levels(attributes: Mapping[str, Any], factors: Sequence[Shape], method: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes of a group of ours that lists level 0 and, as "1", "2", ..., coarser ones.

    Parameters
    ----------
    attributes : mapping
    factors : sequence of (z, y, x)
        Voxels of level 0 along a voxel of each coarser level. Its first voxel is made of that many, so its centre lies
        half of what it is longer behind the first centre of level 0.
    method : mapping
        ``type`` and ``metadata``, as the specification names them: how the levels were made.
    """
    image = multiscales(attributes)
    assert image is not None
    finest = _dicts(image.get("datasets"))[0]
    scale = _scale(finest.get("coordinateTransformations")) or [1.0] * 3
    listed = [
        {
            "path": str(number),
            "coordinateTransformations": [
                {"type": "scale", "scale": [s * f for s, f in zip(scale, factor, strict=True)]},
                {"type": "translation", "translation": [s * (f - 1) / 2 for s, f in zip(scale, factor, strict=True)]},
            ],
        }
        for number, factor in enumerate(factors, 1)
    ]
    how = dict(method) if factors else {}
    plain = {key: value for key, value in image.items() if key not in ("type", "metadata")}
    return _with_multiscales(attributes, {**plain, **how, "datasets": [finest, *listed]})


def _with_multiscales(attributes: Mapping[str, Any], image: Mapping[str, Any]) -> dict[str, Any]:
    if "ome" in attributes:
        return {**attributes, "ome": {**attributes["ome"], "multiscales": [image]}}
    return {**attributes, "multiscales": [image]}


def label_names(attributes: Any) -> list[str]:
    """Names of the label images that a folder of labels lists."""
    ome = attributes.get("ome", attributes) if isinstance(attributes, Mapping) else {}
    names = ome.get("labels") if isinstance(ome, Mapping) else None
    return [n for n in names if isinstance(n, str)] if isinstance(names, list) else []


def with_label_names(attributes: Mapping[str, Any], names: Sequence[str], version: OmeVersion) -> dict[str, Any]:
    """Attributes of a folder of labels that lists `names`."""
    if version == "0.4":
        return {**attributes, "labels": list(names)}
    ome = attributes.get("ome")
    return {**attributes, "ome": {**(ome if isinstance(ome, dict) else {}), "version": version, "labels": list(names)}}


def multiscales(attributes: Any) -> Mapping[str, Any] | None:
    """Return the first multiscale image of a group's attributes, or None."""
    if not isinstance(attributes, Mapping):
        return None
    ome = attributes.get("ome", attributes)
    images = ome.get("multiscales") if isinstance(ome, Mapping) else None
    return images[0] if isinstance(images, list) and images and isinstance(images[0], Mapping) else None


def level_paths(image: Mapping[str, Any]) -> list[str]:
    """Paths of the resolution levels, finest first.

    Raises
    ------
    InputError
        If there are more than `MAX_LEVELS`.
    """
    found = [d["path"] for d in _dicts(image.get("datasets")) if isinstance(d.get("path"), str)]
    if len(found) > MAX_LEVELS:
        raise InputError(f"an image lists {len(found)} resolution levels, but no volume has more than {MAX_LEVELS}")
    return found


def axis_names(image: Mapping[str, Any]) -> list[str]:
    """Names of the axes in order; before 0.4 they were plain strings."""
    axes = image.get("axes")
    listed = axes if isinstance(axes, list) else []
    return [str(a.get("name")) if isinstance(a, Mapping) else str(a) for a in listed]


def check_axes(name: str, image: Mapping[str, Any], rank: int) -> None:
    """Raise `InputError` unless the axes are (z, y, x), with nothing but t and c before them."""
    names = axis_names(image)
    if names and (len(names) != rank or tuple(names[-3:]) != AXES or not set(names[:-3]) <= {"t", "c"}):
        raise InputError(
            f"{name}: the axes are ({', '.join(names)}) of an array of rank {rank}, but must be (z, y, x), after t and c at "
            "most: transpose or split the volume first"
        )


def stored_voxel_size(name: str, image: Mapping[str, Any], level: str) -> Spacing | None:
    """Voxel size of one level in micrometres; None where the scale or the unit of an axis is not stated.

    Raises
    ------
    InputError
        If the stated size is zero, negative or not finite.
    """
    dataset = next((d for d in _dicts(image.get("datasets")) if d.get("path") == level), {})
    units = [micrometres_per(a.get("unit")) for a in _dicts(image.get("axes"))[-3:]]
    own, common = _scale(dataset.get("coordinateTransformations")), _scale(image.get("coordinateTransformations"))
    if own is None or len(units) != 3 or None in units:
        return None
    try:
        z, y, x = (
            float(s) * float(c) * float(u or 0) for s, c, u in zip(own, common or (1.0,) * 3, units, strict=True)
        )
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{name}: the stored scale {own} is not three numbers") from None
    return check_voxel_size((z, y, x), f"{name} (as stored)", InputError)


def level_factors(image: Mapping[str, Any]) -> list[Spacing]:
    """Voxels of the first level along a voxel of each coarser one, as the scales say; none where they say nothing.

    Raises
    ------
    InputError
        If a scale is not three positive numbers.
    """
    scales = [_scale(d.get("coordinateTransformations")) for d in _dicts(image.get("datasets"))]
    found = []
    for scale in scales[1:]:
        try:
            z, y, x = (float(s) / float(first) for s, first in zip(scale or (), scales[0] or (), strict=True))
        except (TypeError, ValueError, OverflowError, ZeroDivisionError):
            raise InputError(
                f"the scales of the resolution levels are {scales}, which says nothing of factors"
            ) from None
        found.append((z, y, x))
    return found


def stored_classes(attributes: Any) -> tuple[LabelClass, ...]:
    """Classes of a label volume; an entry that makes no sense is left out, since only names and colours hang on it."""
    ome = attributes.get("ome", attributes) if isinstance(attributes, Mapping) else {}
    label = ome.get("image-label") if isinstance(ome, Mapping) else None
    if not isinstance(label, Mapping):
        return ()
    names = {
        p.get("label-value"): p.get("name") for p in _dicts(label.get("properties")) if _whole(p.get("label-value"))
    }
    found = {}
    for entry in _dicts(label.get("colors")):
        value, rgba = entry.get("label-value"), entry.get("rgba")
        if (
            isinstance(value, int)
            and _whole(value)
            and isinstance(rgba, list)
            and len(rgba) == 4
            and all(_whole(c) and 0 <= c <= 255 for c in rgba)
        ):
            found[value] = LabelClass(value, str(names.get(value) or value), (rgba[0], rgba[1], rgba[2], rgba[3]))
    return tuple(found.values())


def _scale(transformations: Any) -> list[Any] | None:
    """Last three factors of a list of transformations, which holds one scale."""
    for entry in _dicts(transformations):
        scale = entry.get("scale")
        if entry.get("type") == "scale" and isinstance(scale, list) and len(scale) >= 3:
            return scale[-3:]
    return None


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [v for v in value if isinstance(v, dict)] if isinstance(value, list) else []


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
