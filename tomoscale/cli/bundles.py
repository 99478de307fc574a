"""Commands about networks: what a bundle is, whether it is what its card says, and bundles of networks trained elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tomoscale.cli import values
from tomoscale.cli.command import ARCHITECTURE_MODULE, Command, option
from tomoscale.cli.volume_options import VOXEL_SIZE

BUNDLE = option("bundle", type=values.input_path, metavar="BUNDLE", help="folder of a model bundle")
OF_NNUNET = "for nnU-Net v2"
OF_WEIGHTS = "for weights alone"


def _info(bundle: str) -> Any:
    from tomoscale.networks.bundle import load_bundle

    return load_bundle(bundle)


def _in_words(bundle: Any) -> dict[str, Any]:
    from tomoscale.networks.description import in_words

    return in_words(bundle)


def _probe(bundle: str) -> Any:
    from tomoscale.networks.bundle import load_bundle
    from tomoscale.networks.probing import compare_with_card

    return compare_with_card(load_bundle(bundle))


def _probed(found: dict[str, Any]) -> dict[str, Any]:
    measured = found["measured"]
    if not measured["local"]:
        return {found["path"]: "its result depends on the window as a whole, as its card says"}
    names = [name for name in measured if name != "local"]
    lengths = {name.replace("_", " "): " x ".join(map(str, measured[name])) + " voxels" for name in names}
    return {found["path"]: f"measured what its card says, of {found['members']} member(s)", **lengths}


def _import(source: Sequence[str], target: Path, **how: Any) -> Any:
    if len(source) == 1 and Path(source[0]).is_dir():
        return _import_results(source[0], target, **how)
    return _import_weights(source, target, **how)


def _import_results(source: str, target: Path, **how: Any) -> Any:
    from tomoscale.networks.importing import import_nnunet

    _refuse(how, ("architecture", "arguments", "classes", "normalise", "window"), f"{source} is a folder of nnU-Net")
    names = ("spacing_unit", "voxel_size_um", "configuration", "folds", "name")
    return import_nnunet(source, target, checkpoint=how["checkpoint"] or "final", **{n: how[n] for n in names})


def _import_weights(source: Sequence[str], target: Path, **how: Any) -> Any:
    from tomoscale.networks.card import Card, Normalisation, Windows
    from tomoscale.networks.importing import import_weights
    from tomoscale.networks.plans import classes_of

    _refuse(how, ("spacing_unit", "configuration", "folds", "checkpoint"), "weights are no folder of nnU-Net")
    missing = [n for n in ("architecture", "classes", "voxel_size_um") if how[n] is None]
    if missing:
        names = ", ".join(_option_of(n) for n in missing)
        raise ValueError(f"weights do not say what network and what classes they are for: give {names}")
    classes = classes_of(how["classes"])
    card = Card(
        how["name"] or target.name,
        classes,
        how["voxel_size_um"],
        Normalisation(how["normalise"] or "percentiles"),
        None if how["window"] is None else Windows(how["window"]),
        {"imported from": [Path(s).name for s in source]},
    )
    arguments = {"in_channels": 1, "n_classes": len(classes), "dimensions": 2, **(how["arguments"] or {})}
    return import_weights(source, target, architecture=how["architecture"], arguments=arguments, card=card)


def _refuse(how: dict[str, Any], names: Sequence[str], why: str) -> None:
    given = [_option_of(n) for n in names if how[n] is not None]
    if given:
        raise ValueError(f"{', '.join(given)} cannot be given: {why}")


def _option_of(name: str) -> str:
    return f"--{name.removesuffix('_um').replace('_', '-')}"


COMMANDS = (
    Command(
        "model info",
        "say all of a model bundle: classes, voxel size, normalisation, network, reach, training",
        "tomoscale model info my_model/",
        _info,
        (BUNDLE, ARCHITECTURE_MODULE),
        show=_in_words,
    ),
    Command(
        "model probe",
        "measure reach and stride of a model's weights and compare them with its card",
        "tomoscale model probe my_model/",
        _probe,
        (BUNDLE, ARCHITECTURE_MODULE),
        show=_probed,
    ),
    Command(
        "model import",
        "make a model bundle of results of nnU-Net v2, or of weights alone; nothing in them is executed",
        "tomoscale model import nnUNetTrainer__nnUNetPlans__2d/ my_model/ --spacing-unit mm",
        _import,
        (
            option(
                "source",
                type=values.input_path,
                nargs="+",
                help="folder of results of nnU-Net v2; or .pth or .safetensors, several for an ensemble",
            ),
            option("target", type=values.output_path, help="the bundle to make"),
            option("--name", type=values.word, help="of the network"),
            VOXEL_SIZE,
            option(
                "--spacing-unit",
                choices=("mm", "um", "nm"),
                group=OF_NNUNET,
                help="of the voxel size in the plans, which do not say it",
            ),
            option(
                "--configuration",
                type=values.word,
                group=OF_NNUNET,
                metavar="NAME",
                help="such as 2d or 3d_fullres (default: as the folder's name says)",
            ),
            option("--folds", type=values.numbers, group=OF_NNUNET, metavar="N,N,...", help="default: all there are"),
            option("--checkpoint", choices=("final", "best"), group=OF_NNUNET, help="default final"),
            option(
                "--architecture",
                type=values.word,
                group=OF_WEIGHTS,
                metavar="NAME",
                help="scaled_unet, tomoseg_unet, hrnet, u2net, nnunet, nnunet_residual, sensor3d, msd, monai:DynUNet, smp:Unet, or your own",
            ),
            option(
                "--arguments",
                type=values.json_object,
                group=OF_WEIGHTS,
                metavar="JSON",
                help='of the architecture, such as \'{"depth": 5, "width": 64}\'',
            ),
            option(
                "--classes",
                type=values.words,
                group=OF_WEIGHTS,
                metavar="NAME,NAME,...",
                help="in the order of the outputs",
            ),
            option(
                "--normalise",
                choices=("percentiles", "zscore"),
                group=OF_WEIGHTS,
                help="grey values: percentiles 0.5 and 99.9 to 0 and 1, or to mean 0 and deviation 1 (default percentiles)",
            ),
            option(
                "--window",
                type=values.window,
                group=OF_WEIGHTS,
                metavar="[Z,]Y,X",
                help="voxels, of a network whose result depends on the window as a whole",
            ),
            ARCHITECTURE_MODULE,
        ),
        show=_in_words,
    ),
)
