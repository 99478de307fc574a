"""Options of how the predictions of several planes are fused."""

from __future__ import annotations

from tomoscale.cli import values
from tomoscale.cli.command import option

PLANES = (
    option(
        "--planes",
        choices=("1", "3", "9"),
        default="1",
        help="planes that slices are cut in, their predictions fused: across z (default), across each axis, or those and six diagonals",
    ),
    option("--voting", choices=("soft", "majority"), help="of planes: mean probability (default soft), or most planes"),
    option("--tie", choices=("summed", "lowest"), help="of a majority: largest sum (default), or smallest class"),
    option("--space", choices=("probabilities", "logits"), help="what soft voting adds up (default probabilities)"),
    option(
        "--tile", type=values.positive, metavar="N", help="edge of the tiles that planes are cut into (default: slices)"
    ),
    option("--method", choices=("auto", "slabs", "blocks"), help="how planes are computed, same result (default auto)"),
    option(
        "--disagreement",
        type=values.output_path,
        metavar="TARGET",
        help="also write how many planes disagree with each label",
    ),
    option(
        "--entropy", type=values.output_path, metavar="TARGET", help="also write the entropy of the mean probabilities"
    ),
)
