"""What a bundle is, in words and as a table: all that its card says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tomoscale.networks.bundle import Bundle
    from tomoscale.networks.card import ModelClass, Normalisation, Windows

AXES = "zyx"


def in_words(bundle: Bundle) -> dict[str, Any]:
    """Names and sentences of all that a card says, in the order in which a reader asks."""
    card = bundle.card
    axes = _axes_of(bundle)
    return {
        "name": card.name,
        "path": str(bundle.path),
        "labels": {str(c.id): c.name for c in card.classes},
        "trained at voxels of": f"{_by(f'{v:g}' for v in card.voxel_size_um)} µm (z, y, x)",
        "grey values": normalisation_in_words(card.normalisation),
        "takes": _takes(bundle),
        "network": f"{bundle.architecture}: {_pairs(bundle.arguments)}",
        "parameters": f"{parameters_of(bundle):,}{_each(bundle)}",
        "weights": f"{bundle.weights_bytes / 2**20:.1f} MiB as 32-bit numbers{'' if bundle.members == 1 else ' in all'}",
        "members": f"{bundle.members}, averaged" if bundle.members > 1 else "1",
        "result": _result(bundle),
        "stride": f"{_by(bundle.reach.stride)} voxels ({', '.join(axes)})",
        **_reach(bundle),
        "training": _training(card.training),
        "weights sha256": bundle.weights_sha256,
    }


def facts(bundle: Bundle) -> dict[str, Any]:
    """JSON values of all that a card says."""
    return {
        "path": str(bundle.path),
        **asdict(bundle.card),
        "architecture": bundle.architecture,
        "arguments": dict(bundle.arguments),
        "dimensions": bundle.dimensions,
        "parameters": parameters_of(bundle),
        "members": bundle.members,
        "weights_bytes": bundle.weights_bytes,
        "reach_voxels": asdict(bundle.reach),
        "exactness": "exact by blocks" if bundle.reach.local else "defined by its windows",
        "weights_sha256": list(bundle.member_sha256),
        "card_sha256": bundle.card_sha256,
    }


def as_html(bundle: Bundle) -> str:
    """Return a table for notebooks."""
    words = in_words(bundle)
    rows = {name: value for name, value in words.items() if name not in ("labels", "training", "name")}
    cells = "".join(f"<tr><th>{escape(n)}</th><td>{escape(str(v))}</td></tr>" for n, v in rows.items())
    labels = "<br>".join(_swatch(c) for c in bundle.classes)
    training = "<br>".join(f"{escape(n)}: {escape(str(v))}" for n, v in words["training"].items()) or "not said"
    return (
        f"<table><caption>{escape(bundle.card.name)}</caption><tr><th>labels</th><td>{labels}</td></tr>{cells}"
        f"<tr><th>training</th><td>{training}</td></tr></table>"
    )


def parameters_of(bundle: Bundle) -> int:
    """Numbers that training changes, of one member."""
    return sum(p.numel() for p in bundle.skeleton().parameters())


def normalisation_in_words(normalisation: Normalisation) -> str:
    """What becomes of grey values."""
    if normalisation.scheme == "percentiles":
        low, high = normalisation.percentiles
        return f"percentiles {low:g} and {high:g} of the volume become 0 and 1, values beyond are clipped"
    clip = (
        "" if normalisation.clip is None else f"clipped to {normalisation.clip[0]:g}..{normalisation.clip[1]:g}, then "
    )
    if normalisation.mean is None:
        return f"{clip}mean 0 and standard deviation 1, of the volume itself"
    return f"{clip}minus {normalisation.mean:g}, divided by {normalisation.deviation:g}"


def windows_in_words(windows: Windows) -> str:
    """Grid that defines a result."""
    axes = [AXES[axis] for axis in windows.axes[-len(windows.shape) :]]
    mirrored = f", mirrored along {', '.join(axes[a] for a in windows.mirror_axes)}" if windows.mirror_axes else ""
    order = "" if windows.axes == (0, 1, 2) else f" ({', '.join(axes)})"
    regions = f", regions written in the order {', '.join(map(str, windows.regions))}" if windows.regions else ""
    return (
        f"windows of {_by(windows.shape)} voxels{order}, at most {windows.step:g} of their length apart, {windows.weights} weights"
        f"{mirrored}; mean of {windows.average}{regions}"
    )


def _axes_of(bundle: Bundle) -> list[str]:
    """Names of the axes of the network."""
    windows = bundle.card.windows
    return [AXES[axis] for axis in ((0, 1, 2) if windows is None else windows.axes)[-bundle.dimensions :]]


def _takes(bundle: Bundle) -> str:
    slices = int(bundle.arguments.get("in_slices", 1))
    what = (
        "volumes" if bundle.dimensions == 3 else "slices" if slices == 1 else f"{slices} slices, labels the middle one"
    )
    if bundle.card.windows is not None and bundle.card.windows.axes != (0, 1, 2):
        what += f" of {', '.join(_axes_of(bundle))}"
    channels = int(bundle.arguments["in_channels"])
    return what if channels == 1 else f"{what}, of {channels} channels"


def _result(bundle: Bundle) -> str:
    if bundle.card.windows is not None:
        return f"defined by its {windows_in_words(bundle.card.windows)}"
    return "exact by blocks: the same for every tiling"


def _reach(bundle: Bundle) -> dict[str, str]:
    if not bundle.reach.local:
        return {"reach": "the whole window"}
    reach = bundle.reach
    return {
        "reach": f"{_by(reach.before)} voxels before and {_by(reach.after)} after one of the output",
        "margin": f"{_by(reach.margin_before)} voxels before and {_by(reach.margin_after)} after a tile",
    }


def _training(training: Mapping[str, Any]) -> dict[str, str]:
    return {name: _said(value) for name, value in training.items()}


def _said(value: Any) -> str:
    if isinstance(value, Mapping):
        return _pairs(value) if len(value) <= 12 else f"{len(value)} entries"
    if isinstance(value, list | tuple) and (len(value) > 12 or any(isinstance(v, Mapping | list) for v in value)):
        return f"{len(value)} entries, the last {_pairs(value[-1]) if isinstance(value[-1], Mapping) else value[-1]}"
    return str(value)


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _each(bundle: Bundle) -> str:
    return "" if bundle.members == 1 else " in each member"


def _swatch(given: ModelClass) -> str:
    red, green, blue, alpha = given.rgba
    colour = f"rgba({red},{green},{blue},{alpha / 255:.2f})"
    box = f'<span style="display:inline-block;width:1em;background:{colour};border:1px solid #888">&nbsp;</span>'
    return f"{box} {given.id} {escape(given.name)}"


def _by(lengths: Iterable[Any]) -> str:
    return " x ".join(map(str, lengths))
