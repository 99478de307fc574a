"""What is said of the samples of a study: on the command line, within --sample, and in a configuration, by one table."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from typing import Any

from tomoscale.cli import values
from tomoscale.cli.command import ARCHITECTURE_MODULE, RUNNING, UsageError, actions_of, destination, flag, option
from tomoscale.cli.failures import near
from tomoscale.cli.paths import check_inputs
from tomoscale.cli.volume_options import ANY_VOXEL_SIZE, DATASET, EXCLUDE_ZEROS, MODEL, PERCENTILES, VOXEL_SIZE

TRUTH = option("--truth", type=values.input_path, metavar="PATH", help="labels to compare with")
REFERENCE = option(
    "--reference", type=values.input_path, metavar="PATH", help="mask of the screw as implanted, on the same grid"
)
HEALING_TIME = option(
    "--healing-time",
    dest="healing_days",
    type=values.days,
    metavar="TIME",
    help="such as 6weeks; needed for the degradation rate",
)
ROI_DISTANCE = option(
    "--roi-distance",
    dest="roi_distance_um",
    type=values.length,
    default=1000.0,
    metavar="LENGTH",
    help="bone fraction within this distance of the reference (default 1mm)",
)
ROI = option(
    "--roi",
    nargs="+",
    choices=("reference_dilated", "reference_shell", "implant_shell"),
    default=("reference_dilated",),
    help="where bone counts: around and in the reference, around it alone, around what is left (default the first)",
)
OUTER_CONTACT = flag(
    "--outer-contact", "also the contact of the outer surface, without cracks that the implant encloses"
)
SAMPLE = (
    option("--name", type=values.word, help="of the sample, in tables"),
    option(
        "--scan",
        type=values.input_path,
        metavar="PATH",
        help="grey values, to be labelled by the model",
    ),
    option("--labels", type=values.input_path, metavar="PATH", help="labels to measure, instead of a scan"),
    TRUTH,
    REFERENCE,
    HEALING_TIME,
    VOXEL_SIZE,
    DATASET,
)
"""What is said of one sample: on the command line, within --sample, and in a configuration."""

STUDY = (
    MODEL,
    ANY_VOXEL_SIZE,
    ARCHITECTURE_MODULE,
    PERCENTILES,
    EXCLUDE_ZEROS,
    option(
        "--clean-radius",
        dest="clean_radius_voxels",
        type=values.natural,
        default=1,
        metavar="VOXELS",
        help="half width of the cube that votes; 0 leaves labels as they are (default 1)",
    ),
    ROI_DISTANCE,
    ROI,
    OUTER_CONTACT,
    option(
        "--iou-preset",
        choices=("both", "s1_all4", "s2_foreground3"),
        default="both",
        help="classes of the mean IoU (default both)",
    ),
    option(
        "--statistics",
        nargs="+",
        type=values.word,
        default=(),
        metavar="TEST",
        help="tests over samples: wilcoxon, spearman, 'wilcoxon: BIC', 'spearman: DR ~ BV/TV'",
    ),
)
"""What is said of the whole study."""

FOLDER = option("--folder", type=values.output_path, help="where everything of the study goes")


def study_options(options: dict[str, Any]) -> dict[str, Any]:
    """Samples and parameters of a study, from its configuration or from the command line alone."""
    names = [destination(o) for o in SAMPLE]
    one = {name: options.pop(name) for name in names}
    config, several = options.pop("config"), options.pop("sample")
    if config is not None:
        return _from_file(options, config, {**one, "sample": several})
    if several and any(v is not None for v in one.values()):
        raise _usage("give either --sample for each sample, or the options of one sample, not both")
    samples = [sample_of(text) for text in several] or ([one] if any(v is not None for v in one.values()) else [])
    if not samples:
        raise _usage("no sample was given: name a configuration, or --sample name=T04,scan=scan.zarr for each sample")
    if options["folder"] is None:
        raise _usage("--folder is missing: the study needs a place for its results")
    return {**options, "samples": _checked(samples)}


def sample_of(text: str) -> dict[str, Any]:
    """One sample from ``name=T04,scan=scan.zarr,healing-time=6weeks``.

    Raises
    ------
    UsageError
        With the nearest valid key.
    """
    by_key = {a.option_strings[0].lstrip("-"): a for a in actions_of(SAMPLE)}
    sample: dict[str, Any] = dict.fromkeys(destination(o) for o in SAMPLE)
    # A comma ends a value only where another key follows: 5um,5um,2.5um is one value.
    for part in re.split(r",(?=[a-z-]+=)", text):
        key, _, value = part.partition("=")
        if key not in by_key:
            raise _usage(f"--sample {part[:80]!r}: keys are {', '.join(by_key)}{near(key, list(by_key))}")
        try:
            sample[by_key[key].dest] = _typed(by_key[key], value)
        except argparse.ArgumentTypeError as error:
            raise _usage(f"--sample {key}: {error}") from None
    return sample


def _typed(action: argparse.Action, text: str) -> Any:
    return action.type(text) if callable(action.type) else text


def _from_file(options: dict[str, Any], config: str, beside: Mapping[str, Any]) -> dict[str, Any]:
    """Read a study's configuration; on the command line only how to run may be said beside it."""
    from tomoscale import configuration, settings

    defaults = {a.dest: a.default for a in actions_of((FOLDER, *STUDY))}
    given = {**{k: options[k] for k in defaults if options[k] != defaults[k]}, **{k: v for k, v in beside.items() if v}}
    if given:
        key = next(iter(given))
        raise _usage(f"{key.replace('_', '-')} cannot be given beside {config}: write it there")
    root = settings.load(config)
    running = [a for a in actions_of(RUNNING) if a.dest != "plan"]
    shared = (*actions_of((FOLDER, *STUDY)), *running)
    keys = ["study", *map(configuration.key_of, shared), "samples"]
    top = configuration.check_keys(root, keys, ["study", "folder", "samples"])
    if top["study"].text("the kind of study") != "implant":
        raise top["study"].error("is no study; the one there is: implant")
    rest = settings.Setting(
        {k: v for k, v in top.items() if k not in ("study", "samples")}, root.file, root.line, root.key
    )
    found = configuration.options_of(rest, shared, paths=values.PATHS)
    chosen = {a.dest: options[a.dest] for a in running if options[a.dest] != a.default}
    items = top["samples"].items("one mapping with name: and scan: or labels: for each sample")
    samples = [configuration.options_of(item, actions_of(SAMPLE), paths=values.PATHS) for item in items]
    return {**options, **found, **chosen, "samples": _checked(samples, [f"{i.file}:{i.line}: " for i in items])}


def _checked(samples: list[dict[str, Any]], places: list[str] | None = None) -> list[dict[str, Any]]:
    """Refuse samples without a name or an image, twice the same name, and files that are not there."""
    seen: set[str] = set()
    for number, sample in enumerate(samples):
        place = places[number] if places else ""
        name = sample["name"]
        if name is None:
            raise ValueError(f"{place}sample {number + 1} has no name: give each its own, such as T04")
        if (sample["scan"] is None) == (sample["labels"] is None):
            found = "neither scan nor labels" if sample["scan"] is None else "both scan and labels"
            raise ValueError(f"{place}sample {name} has {found}: give the one that is to be measured")
        if name in seen:
            raise ValueError(f"{place}two samples are called {name}: give each its own name")
        seen.add(name)
        check_inputs(actions_of(SAMPLE), sample, f"{place}sample {name}, ")
    return samples


def _usage(message: str) -> UsageError:
    return UsageError("tomoscale study implant", message)
