"""Train on real slices by the shipped command, and print how well the last network labels the two it has not seen.

    python benchmarks/train_sandstone.py sandstone_4class/

The configuration is examples/train_sandstone.yaml: it names the four slices of training and the two of validation, and
nothing is chosen by their result: the figures are those of the last step, not of the best one.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from record import commit, machine

CONFIG = Path(__file__).parents[1] / "examples" / "train_sandstone.yaml"
CLAY, OTHERS = 0.646, {"background and pores": 0.975, "quartz": 0.968, "heavy minerals": 0.925}
FOREST = {**OTHERS, "clay": CLAY}
"""IoU of a random forest on unseen slices of the same data, to compare with."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with images/ and masks/")
    parser.add_argument("--output", type=Path, help="keep the training here")
    parser.add_argument("--steps", type=int, help="fewer steps, to try the script")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / CONFIG.name
        text = CONFIG.read_text()
        if options.steps:
            text = re.sub(
                r"steps: \d+, validate-every: \d+", f"steps: {options.steps}, validate-every: {options.steps}", text
            )
        config.write_text(text)
        output = options.output or Path(folder) / "sandstone"
        command = [sys.executable, "-m", "tomoscale", "train", str(config), "--data", str(options.data.resolve())]
        started = time.perf_counter()
        done = subprocess.run(
            [*command, "--output", str(output), "--json"], stdout=subprocess.PIPE, text=True, check=True
        )
        wall = time.perf_counter() - started
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        result = json.loads(done.stdout)
        last = json.loads((output / "progress.jsonl").read_text().splitlines()[-1])
        parameters = json.loads((output / "last" / "card.json").read_text())["arguments"]
    names = list(result["iou"])
    found = dict(zip(names, last["iou"], strict=True))
    print(
        json.dumps(
            {
                "benchmark": "train_sandstone",
                "commit": commit(),
                "machine": machine(),
                "network": parameters,
                "steps": last["step"],
                "iou": found,
                "mean_iou": last["mean_iou"],
                "best_mean_iou": {"step": result["best_step"], "mean_iou": round(result["mean_iou"], 6)},
                "random_forest_iou": FOREST,
                "better_on_every_class": all(found[n] is not None and found[n] > v for n, v in FOREST.items()),
                "wall_minutes": round(wall / 60, 1),
                "cpu_minutes": round((used.ru_utime + used.ru_stime) / 60, 1),
                "peak_memory_mib": round(used.ru_maxrss / 1024),
            }
        )
    )


if __name__ == "__main__":
    main()
