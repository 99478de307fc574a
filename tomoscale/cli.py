"""The command line: parses, calls the function of the same name, and turns errors into one message and an exit code."""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import tomoscale
from tomoscale.errors import BlocksFailed, InputError, IntegrityError, Interrupted, PlanError

if TYPE_CHECKING:
    from tomoscale.work import Work

EXIT_CODES = """exit codes
  0  done
  2  the command line is wrong
  3  the data cannot be used
  4  not possible here: memory, disk, permission, or an output in the way
  5  some blocks failed after every retry; all others are done, the same command goes on
  6  interrupted; the same command goes on
  7  what is stored is not what was written"""

BYTES = {
    "": 1,
    "B": 1,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
}
MICROMETRES = {"": 1.0, "um": 1.0, "µm": 1.0, "nm": 1e-3, "mm": 1e3}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    options = make_parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _as_interrupt)
    try:
        result = options.run(options)
    except KeyboardInterrupt:
        return _say("interrupted before any work was done", 6)
    except (InputError, PlanError, IntegrityError, BlocksFailed, Interrupted) as error:
        return _say(str(error), error.exit_code)
    except ValueError as error:
        return _say(str(error), 2)
    except BrokenPipeError:
        # Whoever read our output has closed it; what was written to disk is whole.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _say(f"{error.filename or 'the system'}: {error.strerror or error}", 4)
    except MemoryError:
        return _say("out of memory: give smaller blocks (--block) or fewer workers (--processes)", 4)
    if result is not None:
        print(json.dumps(result, indent=1) if options.json else as_text(result))
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="tomoscale",
        description="Label and measure tomograms that no machine can hold.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"tomoscale {tomoscale.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_demo(commands)
    _add_convert(commands)
    _add_normalise(commands)
    _add_segment(commands)
    _add_clean(commands)
    _add_measure(commands)
    _add_report(commands)
    _add_audit(commands)
    return parser


def lengths(text: str) -> tuple[float, float, float]:
    """Voxel size in micrometres from "5um", "0.005mm" or "5um,2.5um,2.5um" (z, y, x).

    Examples
    --------
    >>> lengths("0.005mm")
    (5.0, 5.0, 5.0)
    """
    values = [_number(part, MICROMETRES, "a length such as 5um or 0.005mm") for part in text.split(",")]
    values = values * 3 if len(values) == 1 else values
    if len(values) != 3 or min(values) <= 0:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not one positive length or three (z,y,x), such as 5um or 5um,2.5um,2.5um"
        )
    return values[0], values[1], values[2]


def shape(text: str) -> tuple[int, int, int]:
    """Numbers of voxels from "256" or "64,512,512" (z, y, x)."""
    try:
        values = [int(part) for part in text.split(",")]
    except ValueError:
        values = []
    values = values * 3 if len(values) == 1 else values
    if len(values) != 3 or min(values) < 1:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not one positive number of voxels or three (z,y,x), such as 64,512,512"
        )
    return values[0], values[1], values[2]


def memory(text: str) -> int:
    """Bytes from "8GiB"."""
    return int(_number(text, BYTES, "an amount of memory such as 8GiB"))


def days(text: str) -> float:
    """Days from "6weeks", "42d" or "0.5years"."""
    return _number(
        text,
        {"d": 1, "day": 1, "days": 1, "w": 7, "week": 7, "weeks": 7, "y": 365.25, "year": 365.25, "years": 365.25},
        "a time such as 6weeks or 42days",
    )


def as_text(result: dict[str, Any]) -> str:
    """Lines of name and value."""
    width = max((len(str(k)) for k in result), default=0)
    return "\n".join(f"{name!s:<{width}}  {value}" for name, value in result.items())


def _number(text: str, units: dict[str, Any], wanted: str) -> float:
    match = re.fullmatch(r"\s*([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*([^\d\s]*)\s*", text)
    unit = match[2] if match else "?"
    known = {k.lower(): v for k, v in units.items()}
    if not match or unit.lower() not in known:
        raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")
    try:
        return float(match[1]) * float(known[unit.lower()])
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}") from None


def _command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], Any], text: str, example: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=text,
        description=f"{text[0].upper()}{text[1:]}.",
        epilog=f"example\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


def _working(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how to run")
    group.add_argument("--plan", action="store_true", help="print what would be read, held and written, and stop")
    group.add_argument(
        "--workers",
        default="auto",
        metavar="WHERE",
        help="threads, processes, gpus, or a scheduler's address (default: GPUs if there are any, else threads)",
    )
    group.add_argument("--processes", type=int, metavar="N", help="number of worker processes for --workers processes")
    group.add_argument(
        "--memory",
        type=memory,
        metavar="SIZE",
        help="memory of one process, such as 8GiB (default: half of what is free)",
    )
    group.add_argument(
        "--block", type=shape, metavar="Z,Y,X", help="voxels of a block (default: chosen from memory and margin)"
    )
    group.add_argument("--overwrite", action="store_true", help="remove an output that is in the way")
    group.add_argument("--quiet", action="store_true", help="show no progress")


def _with_work(options: argparse.Namespace, function: Callable[[Work], Any]) -> Any:
    from tomoscale.work import working

    with working(
        options.workers,
        processes=options.processes,
        memory_bytes=options.memory,
        block_shape=options.block,
        plan_only=options.plan,
        overwrite=options.overwrite,
        progress=False if options.quiet else None,
    ) as work:
        result = function(work)
    return None if options.plan else result


def _add_demo(commands: Any) -> None:
    parser = _command(
        commands,
        "demo",
        _demo,
        "run the whole path on real bone texture with a screw of known truth",
        "tomoscale demo demo --size 320",
    )
    parser.add_argument("folder", type=Path, help="where everything is written; made if absent")
    parser.add_argument(
        "--size", type=shape, default=(320, 320, 320), metavar="Z,Y,X", help="voxels of the scan (default 320)"
    )
    parser.add_argument(
        "--seed", type=int, default=1, help="which phantom (default 1; the shipped model never saw seeds below 1000)"
    )
    _working(parser)


def _demo(options: argparse.Namespace) -> Any:
    from tomoscale.demo import demo

    return _with_work(options, lambda work: demo(options.folder, shape=options.size, seed=options.seed, work=work))


def _add_convert(commands: Any) -> None:
    parser = _command(
        commands,
        "convert",
        _convert,
        "turn TIFF slices, HDF5 or Zarr into a chunked volume",
        "tomoscale convert slices/ scan.zarr --voxel-size 5um",
    )
    parser.add_argument(
        "source", help="folder of TIFF slices, TIFF stack, HDF5 file or file.h5::/dataset, Zarr or OME-Zarr"
    )
    parser.add_argument("target", type=Path)
    parser.add_argument(
        "--voxel-size",
        type=lengths,
        metavar="LENGTH",
        help="such as 5um, or three lengths z,y,x; needed where the file does not say",
    )
    parser.add_argument("--dataset", help="path inside an HDF5 file")
    parser.add_argument(
        "--kind",
        choices=("grey", "labels", "mask"),
        help="what the voxels are (default: what the source says, else grey)",
    )
    parser.add_argument(
        "--not-finite",
        choices=("refuse", "zero"),
        default="refuse",
        help="what becomes of NaN and infinite values (default refuse)",
    )
    _working(parser)


def _convert(options: argparse.Namespace) -> Any:
    from tomoscale import commands

    return _with_work(
        options,
        lambda work: commands.summary(
            commands.convert(
                options.source,
                options.target,
                voxel_size_um=options.voxel_size,
                dataset=options.dataset,
                kind=options.kind,
                nan_policy=options.not_finite,
                work=work,
            )
        ),
    )


def _add_normalise(commands: Any) -> None:
    parser = _command(
        commands,
        "normalise",
        _normalise,
        "clip a volume at exact global percentiles and scale it to 0..1",
        "tomoscale normalise scan.zarr normal.zarr",
    )
    parser.add_argument("source")
    parser.add_argument("target", type=Path)
    parser.add_argument("--percentiles", type=float, nargs=2, default=(0.5, 99.9), metavar=("LOW", "HIGH"))
    parser.add_argument(
        "--exclude-zeros", action="store_true", help="leave exact zeros out of the percentiles (a zero rim)"
    )
    _working(parser)


def _normalise(options: argparse.Namespace) -> Any:
    from tomoscale import commands

    low, high = options.percentiles
    return _with_work(
        options,
        lambda work: commands.summary(
            commands.normalise(
                options.source,
                options.target,
                percentiles_percent=(low, high),
                exclude_zeros=options.exclude_zeros,
                work=work,
            )
        ),
    )


def _add_segment(commands: Any) -> None:
    parser = _command(
        commands,
        "segment",
        _segment,
        "label every voxel of a normalised volume by a network",
        "tomoscale segment normal.zarr labels.zarr --model my_model/",
    )
    parser.add_argument("source")
    parser.add_argument("target", type=Path)
    parser.add_argument("--model", type=Path, help="folder of a model bundle (default: the small model that ships)")
    parser.add_argument("--backend", choices=("torch", "openvino"), default="torch")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    _working(parser)


def _segment(options: argparse.Namespace) -> Any:
    from tomoscale import commands

    return _with_work(
        options,
        lambda work: commands.summary(
            commands.segment(
                options.source,
                options.target,
                model=options.model,
                backend=options.backend,
                precision=options.precision,
                work=work,
            )
        ),
    )


def _add_clean(commands: Any) -> None:
    parser = _command(
        commands,
        "clean",
        _clean,
        "smooth labels by the majority of their neighbours",
        "tomoscale clean labels.zarr clean.zarr",
    )
    parser.add_argument("source")
    parser.add_argument("target", type=Path)
    parser.add_argument(
        "--radius", type=int, default=1, metavar="VOXELS", help="radius of the majority filter (default 1)"
    )
    _working(parser)


def _clean(options: argparse.Namespace) -> Any:
    from tomoscale import commands

    return _with_work(
        options,
        lambda work: commands.summary(
            commands.clean(options.source, options.target, radius_voxels=options.radius, work=work)
        ),
    )


def _add_measure(commands: Any) -> None:
    parser = _command(
        commands,
        "measure",
        _measure,
        "measure labels: IoU against truth, degradation rate, bone-implant contact, bone fraction",
        "tomoscale measure clean.zarr results/ --truth truth.zarr --reference screw.zarr --healing-time 6weeks",
    )
    parser.add_argument("labels")
    parser.add_argument("results", type=Path, help="folder for the numbers and the record of the run")
    parser.add_argument("--truth", help="labels to compare with")
    parser.add_argument("--reference", help="mask of the screw as implanted, on the same grid")
    parser.add_argument("--grey", help="grey values on the same grid, for signal and contrast to noise")
    parser.add_argument(
        "--healing-time", type=days, metavar="TIME", help="such as 6weeks; needed for the degradation rate"
    )
    parser.add_argument(
        "--roi-distance",
        type=float,
        default=1000.0,
        metavar="UM",
        help="bone fraction within this distance of the reference (default 1000)",
    )
    _working(parser)


def _measure(options: argparse.Namespace) -> Any:
    from tomoscale.studies import implant

    def run(work: Work) -> Any:
        results = implant.measure(
            options.labels,
            options.results,
            truth=options.truth,
            reference=options.reference,
            grey=options.grey,
            healing_days=options.healing_time,
            roi_distance_um=options.roi_distance,
            work=work,
        )
        return results if options.json or results is None else implant.table(results)

    return _with_work(options, run)


def _add_report(commands: Any) -> None:
    parser = _command(
        commands,
        "report",
        _report,
        "write the numbers and pictures as one HTML file",
        "tomoscale report results/ report.html",
    )
    parser.add_argument("results", type=Path, help="folder that `tomoscale measure` wrote")
    parser.add_argument("target", type=Path)
    parser.add_argument("--overwrite", action="store_true", help="replace a report that is there")


def _report(options: argparse.Namespace) -> Any:
    from tomoscale import commands

    return {"report": str(commands.report(options.results, options.target, overwrite=options.overwrite))}


def _add_audit(commands: Any) -> None:
    parser = _command(
        commands, "status", _status, "say how far a run is; needs no scheduler", "tomoscale status labels.zarr"
    )
    parser.add_argument("path", type=Path, help="a volume, or a results folder")
    parser = _command(
        commands,
        "verify",
        _verify,
        "compare every stored block with its recorded checksum",
        "tomoscale verify labels.zarr",
    )
    parser.add_argument("path", type=Path)


def _status(options: argparse.Namespace) -> Any:
    from tomoscale import audit

    return audit.status(options.path)


def _verify(options: argparse.Namespace) -> Any:
    from tomoscale import audit

    return audit.verify(options.path)


def _say(message: str, code: int) -> int:
    print(f"tomoscale: {message}", file=sys.stderr)
    return code


def _as_interrupt(number: int, frame: FrameType | None) -> None:
    """Let a batch system's signal end a run as Ctrl-C does: recorded, resumable."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
