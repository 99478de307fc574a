"""Commands about networks: model agreement."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tomoscale.cli import values
from tomoscale.cli.command import ARCHITECTURE_MODULE, Command, option
from tomoscale.cli.volume_options import ANY_VOXEL_SIZE, AS_IS, BACKEND, PRECISION

if TYPE_CHECKING:
    from tomoscale.work import Work


def _agreement(model: str, source: Any, *, work: Work, record: Path | None, **how: Any) -> Any:
    from tomoscale.formats import opened
    from tomoscale.segmentation.prepare import agreement

    volume = opened(source)
    folder = record or Path(f"{Path(volume.name.split('::')[0]).name.removesuffix('.zarr')}.histogram")
    return agreement(model, volume, record=folder, work=work, **how)


COMMANDS = (
    Command(
        "model agreement",
        "measure how many labels a faster backend or precision changes, on samples of a volume",
        "tomoscale model agreement my_model/ scan.zarr --precision bfloat16",
        _agreement,
        (
            option("model", type=values.input_path, help="a model bundle"),
            option("source", type=values.input_path, help="a volume, or what `tomoscale convert` reads"),
            ARCHITECTURE_MODULE,
            BACKEND,
            PRECISION,
            AS_IS,
            ANY_VOXEL_SIZE,
            option(
                "--record",
                type=values.output_path,
                metavar="FOLDER",
                help="for the counts of grey values (default SOURCE.histogram, here)",
            ),
        ),
        works=True,
    ),
)
