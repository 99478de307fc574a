"""Commands that look at what is there: info, view, status, verify."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from tomoscale.cli import values
from tomoscale.cli.command import Command, flag, option
from tomoscale.cli.volume_options import DATASET, RAW, VOXEL_SIZE, raw_layout


def _info(path: str, *, shape: Any, dtype: Any, byte_order: Any, offset: Any, **how: Any) -> Any:
    from tomoscale.info import info

    return info(path, raw=raw_layout(shape, dtype, byte_order, offset), **how)


def _in_words(found: dict[str, Any]) -> dict[str, str]:
    from tomoscale.info import in_words

    return in_words(found)


def _view(source: str, *, labels: list[str], **how: Any) -> Any:
    from tomoscale.view import view

    # The address is printed at once, for people; stdout waits for the result.
    with redirect_stdout(sys.stderr):
        return {"address": view(source, labels=tuple(labels), wait=True, **how)}


def _status(path: Path) -> Any:
    from tomoscale import audit

    return audit.status(path)


def _status_in_words(found: dict[str, Any]) -> dict[str, str]:
    from tomoscale import audit

    return audit.in_words(found)


def _verify(path: Path, *, remove_leftovers: bool) -> Any:
    from tomoscale import audit

    return audit.verify(path, remove_leftovers=remove_leftovers)


def _verified(found: dict[str, Any]) -> dict[str, str]:
    left, strays = found["leftovers"], found["strays"]
    what = f"{left['removed']} removed" if left["removed"] else "nothing needs them: --remove-leftovers removes them"
    end = "" if found["finished"] else "; the run is not finished, the same command goes on"
    end = f"{end}; coarser levels too: {found['levels_compared']}" if "levels_compared" in found else end
    compared = f"{found['blocks_compared']} of {found['blocks']} blocks compared, all equal what was written{end}"
    return {
        found["path"]: compared,
        **({"left by killed runs": f"{_listed(left)}; {what}"} if left["count"] else {}),
        **({"not of this volume": f"{_listed(strays)}; look before you remove them"} if strays["count"] else {}),
    }


def _listed(found: dict[str, Any]) -> str:
    from tomoscale.words import size

    more = f" and {found['count'] - len(found['paths'])} more" if found["count"] > len(found["paths"]) else ""
    return f"{found['count']} ({size(found['bytes'])}): {', '.join(found['paths'])}{more}"


COMMANDS = (
    Command(
        "info",
        "say what a file or a volume holds: format, shape, type, voxel size, levels",
        "tomoscale info scan.h5 --dataset /entry/data",
        _info,
        (
            option("path", type=values.input_path, help="anything `tomoscale convert` reads, or a volume"),
            VOXEL_SIZE,
            DATASET,
            *RAW,
        ),
        step=True,
        show=_in_words,
    ),
    Command(
        "view",
        "show a volume and labels over it in a viewer, on this machine alone",
        "tomoscale view scan.zarr --labels clean.zarr",
        _view,
        (
            option("source", type=values.input_path, help="a volume"),
            option(
                "--labels",
                type=values.input_path,
                nargs="+",
                action="extend",
                default=[],
                metavar="PATH",
                help="labels or masks to lay over it",
            ),
            option("--viewer", choices=("neuroglancer", "napari"), default="neuroglancer", help="default neuroglancer"),
            option(
                "--port", type=values.port, default=0, metavar="N", help="of the server on 127.0.0.1 (default: any)"
            ),
        ),
    ),
    Command(
        "status",
        "say how far a run is; needs no scheduler",
        "tomoscale status labels.zarr",
        _status,
        (option("path", type=values.input_path, help="a volume, or a results folder"),),
        show=_status_in_words,
    ),
    Command(
        "verify",
        "compare every stored block with its recorded checksum",
        "tomoscale verify labels.zarr",
        _verify,
        (
            option("path", type=values.input_path, help="a volume, or a results folder"),
            flag("--remove-leftovers", "remove what killed runs left there; refused while a run writes"),
        ),
        step=True,
        show=_verified,
    ),
)
