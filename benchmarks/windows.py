"""Windows that overlap, each computed once across blocks, beside the bare network, MONAI and nnU-Net.

The limit is the network alone, as it is run, on the same windows, each once, already in memory. The peers are MONAI's sliding window
inference with Gaussian weights, and nnU-Net's predictor where it is installed, both on whole slices in memory with the
same weights in torch's default layout and on torch's own threads, as they run them. Labels of one block must be those of
many, and those of nnU-Net but for near ties: its sums are in half precision. Blocks that computed every window they touch
would compute `naive_redundancy` times as many.

The networks of nnU-Net have its channels and random weights, whose labels nearly tie more often than trained ones.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import sys
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from record import Peak, publish, rounded
from segmentation import RESOURCES, Labels, bare, from_zarr_to_zarr, load_plain, scan

from tomoscale.geometry import Grid, Shape, whole
from tomoscale.kernels.network import Runtime
from tomoscale.kernels.window_sums import window_inference
from tomoscale.networks.bundle import Bundle, load_bundle, save_bundle
from tomoscale.networks.card import Windows
from tomoscale.networks.nnunet import PlainConvUNet
from tomoscale.networks.reach import Reach
from tomoscale.networks.runtime import forward_of
from tomoscale.networks.windows import WindowGrid
from tomoscale.segmentation.segment import SHIPPED_MODEL, segment, summary
from tomoscale.volume import Volume, open_zarr
from tomoscale.work import Work


def bundle_of(network: str, folder: Path, window: int, width: int) -> Bundle:
    """The shipped network, or one of nnU-Net's, with a card that asks for windows."""
    shipped = load_bundle(SHIPPED_MODEL)
    if network == "shipped":
        card = replace(shipped.card, windows=Windows((window, window)))
        return save_bundle(folder, load_plain(shipped), card, shipped.reach)
    dimensions, stages = {"nnunet2d": (2, 5), "nnunet3d": (3, 4)}[network]
    torch.manual_seed(0)
    module = PlainConvUNet(
        [min(width * 2**s, 16 * width) for s in range(stages)],
        [[1] * dimensions] + [[2] * dimensions] * (stages - 1),
        [[3] * dimensions] * stages,
        [2] * stages,
        [2] * (stages - 1),
        dimensions=dimensions,
    )
    card = replace(shipped.card, name=network, windows=Windows((window,) * dimensions))
    everywhere = (window,) * dimensions
    return save_bundle(folder, module, card, Reach(module.stride, *[everywhere] * 4, local=False))


def by_tomoscale(model: Path, source: Volume, target: Path, block: Shape | None) -> np.ndarray:
    """From Zarr to Zarr, in two passes where windows cross blocks."""
    work = Work(resources=RESOURCES, progress=False, overwrite=True, block_shape=block)
    labels: np.ndarray = segment(source, target, model=model, work=work).read()
    return labels


def windows_of(grid: WindowGrid, grey: np.ndarray) -> list[torch.Tensor]:
    """All windows of a volume that is no smaller than one, as the network takes them."""
    everything = grid.touching(whole(grid.shape))
    places = np.stack(np.meshgrid(*everything, indexing="ij"), -1).reshape(-1, 3)
    batch = (1, 1, *grid.window) if len(grid.windows.shape) == 3 else (1, 1, *grid.window[1:])
    return [torch.from_numpy(np.ascontiguousarray(grey[grid.span(tuple(p))]).reshape(batch)) for p in places]


def by_monai(network: torch.nn.Module, grey: np.ndarray, windows: Windows) -> np.ndarray:
    """MONAI, slice by slice for two dimensions; its windows lie elsewhere where the step does not divide."""
    from monai.inferers import sliding_window_inference

    labels = []
    with torch.inference_mode():
        for part in grey[None] if len(windows.shape) == 3 else grey:
            logits: Any = sliding_window_inference(
                torch.from_numpy(part[None, None]),
                windows.shape,
                sw_batch_size=4,
                predictor=network,
                overlap=1 - windows.step,
                mode="gaussian",
            )
            labels.append(logits[0].argmax(0).to(torch.uint8).numpy())
    return np.stack(labels).reshape(grey.shape)


def by_nnunet(network: torch.nn.Module, grey: np.ndarray, windows: Windows, n_classes: int) -> np.ndarray:
    """Labels by nnU-Net's predictor on the whole volume in memory."""
    # It tells what device it takes on stdout, which is for one line of JSON.
    with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

        predictor = nnUNetPredictor(
            tile_step_size=windows.step,
            use_mirroring=False,
            perform_everything_on_device=False,
            device=torch.device("cpu"),
            allow_tqdm=False,
        )
        predictor.network = network
        predictor.configuration_manager = SimpleNamespace(patch_size=windows.shape)
        predictor.label_manager = SimpleNamespace(num_segmentation_heads=n_classes)
        predictor.allowed_mirroring_axes = None
        with torch.inference_mode():
            logits: Any = predictor.predict_sliding_window_return_logits(torch.from_numpy(grey[None]))
    labels: np.ndarray = logits.argmax(0).to(torch.uint8).numpy()
    return labels


def naive_redundancy(grid: WindowGrid, block: Shape) -> float:
    """Windows that blocks would compute if each computed all that touch it, over those there are."""
    blocks = Grid(grid.shape, block)
    return sum(int(np.prod([len(r) for r in grid.touching(region)])) for region in blocks) / len(grid)


def ways(model: Path, bundle: Bundle, source: Volume, folder: Path, block: Shape) -> dict[str, Labels]:
    """Everything that is timed, by name."""
    grey = source.read()
    assert bundle.card.windows is not None
    grid = WindowGrid(grey.shape, bundle.card.windows)
    kernel = window_inference(bundle, grey.shape, runtime=Runtime())
    threads = max(1, min(kernel.function.at_once, torch.get_num_threads()))  # type: ignore[attr-defined]
    network = forward_of(bundle, "torch", "float32", "cpu", threads)
    windows, theirs = windows_of(grid, grey), load_plain(bundle)
    found = {
        "by_blocks": Labels(lambda: by_tomoscale(model, source, folder / "blocks.zarr", block)),
        "one_block": Labels(lambda: by_tomoscale(model, source, folder / "one.zarr", grey.shape)),
        "bare": Labels(lambda: bare(network, windows, threads)),
        "bare_as_loaded": Labels(lambda: bare(theirs, windows, 0)),
    }
    if importlib.util.find_spec("openvino"):
        # Without the comparison with torch on samples, which `segment` makes and records.
        other = window_inference(bundle, grey.shape, runtime=Runtime("openvino"))
        found["openvino_one_block"] = Labels(lambda: from_zarr_to_zarr(other, source, folder, []))
    if importlib.util.find_spec("monai"):
        found["monai"] = Labels(lambda: by_monai(theirs, grey, grid.windows))
    if importlib.util.find_spec("nnunetv2"):
        found["nnunet"] = Labels(lambda: by_nnunet(theirs, grey, grid.windows, len(bundle.classes)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", choices=("shipped", "nnunet2d", "nnunet3d"), default="shipped")
    parser.add_argument("--width", type=int, default=32, help="channels of nnU-Net's networks at full resolution")
    parser.add_argument("--size", type=int, default=64, help="edge of a slice in voxels")
    parser.add_argument("--slices", type=int, default=8)
    parser.add_argument("--window", type=int, default=32)
    parser.add_argument(
        "--block", type=int, default=40, help="edge of a block in y and x, and in z of three dimensions"
    )
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    if options.network == "nnunet3d" and options.slices < options.window:
        parser.error(f"windows of three dimensions are {options.window} deep: give --slices {options.window} or more")
    block = (
        min(options.slices, options.block) if options.network == "nnunet3d" else options.slices,
        *[options.block] * 2,
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle = bundle_of(options.network, folder / "model", options.window, options.width)
        source, _ = scan(folder, (options.slices, options.size, options.size))
        found = ways(folder / "model", bundle, source, folder, block)
        with Peak() as peak:
            for _ in range(options.repeat + 1):
                for way in found.values():
                    way.time()
        counted = summary(open_zarr(folder / "blocks.zarr"))["windows"]
        grid = WindowGrid(source.shape, bundle.card.windows)
        result = {
            "network": options.network,
            "shape": list(source.shape),
            "block": list(block),
            "window": options.window,
            "threads": torch.get_num_threads(),
            "windows": counted,
            "naive_redundancy": rounded(naive_redundancy(grid, block)),
            **figures(found),
            "peak_mib": round(peak.own / 2**20),
        }
    publish("windows" if options.network == "shipped" else f"windows_{options.network}", result, options.keep)


def figures(found: dict[str, Labels]) -> dict[str, Any]:
    """Seconds, ratios of the same rounds, and how labels differ from those of many blocks."""
    seconds = {name: np.array(way.seconds[1:]) for name, way in found.items()}
    ours, expected = seconds["by_blocks"], found["by_blocks"].values
    return {
        "seconds": {name: rounded(float(np.median(s))) for name, s in seconds.items()},
        "fastest_s": {name: rounded(float(s.min())) for name, s in seconds.items()},
        # Of all cores together: what a machine that others use too does not blur.
        "core_seconds": {name: rounded(float(np.median(way.core_seconds[1:]))) for name, way in found.items()},
        "share_of_bare_speed": rounded(float(np.median(seconds["bare"] / ours))),
        "share_of_bare_speed_one_block": rounded(float(np.median(seconds["bare"] / seconds["one_block"]))),
        "times_faster_than": {
            name: rounded(float(np.median(s / ours))) for name, s in seconds.items() if name in ("monai", "nnunet")
        },
        "openvino_times_faster": {
            name: rounded(float(np.median(seconds["one_block"] / s)))
            for name, s in seconds.items()
            if name == "openvino_one_block"
        },
        "differing_voxels": {
            name: int((way.values != expected).sum()) for name, way in found.items() if way.values.size
        },
        "limits": {"share_of_bare_speed": 0.85, "redundancy": 1.0, "differing_voxels one_block": 0},
    }


if __name__ == "__main__":
    main()
