"""The folder a training writes: what it is, how it went, its networks."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from tomoscale.errors import PlanError
from tomoscale.networks.bundle import save_bundle
from tomoscale.networks.card import Card
from tomoscale.networks.reach import Reach
from tomoscale.training import checkpoint
from tomoscale.training.curves import draw_curves
from tomoscale.training.preparation import PreparedData
from tomoscale.training.recipe import Recipe, as_document
from tomoscale.training.samples import Data

PROGRAM = "tomoscale training 1"
DESCRIPTION = "training.json"


@dataclass(frozen=True)
class Output:
    """Paths of a training."""

    path: Path

    def claim(self, resume: bool, *, overwrite: bool) -> None:
        """Make the folder, or take the one that a training has begun.

        Raises
        ------
        PlanError
            If something is in the way.
        """
        if self.path.exists() and not (self.path.is_dir() and not any(self.path.iterdir())):
            if not self._ours():
                raise PlanError(f"{self.path} exists and was not made by a training: give another output")
            if overwrite and not resume:
                shutil.rmtree(self.path)
            elif not resume:
                raise PlanError(
                    f"{self.path} holds a training: give resume=True to go on with it, overwrite=True to start again, or another output"
                )
        self.path.mkdir(parents=True, exist_ok=True)

    @property
    def checkpoint(self) -> Path:
        """File with the state."""
        return self.path / checkpoint.NAME

    @property
    def passes(self) -> Path:
        """Folder of the records of passes over the data."""
        return self.path / "passes"

    @property
    def best(self) -> Path:
        """Bundle with the best score so far."""
        return self.path / "best"

    @property
    def last(self) -> Path:
        """Bundle of the last validation."""
        return self.path / "last"

    @property
    def progress(self) -> Path:
        """Lines of JSON, one for every validation."""
        return self.path / "progress.jsonl"

    def describe(self, recipe: Recipe, data: Data, digest: str) -> None:
        """Write what is trained, on what."""
        content = {
            "program": PROGRAM,
            "digest": digest,
            "recipe": as_document(recipe),
            "classes": [asdict(c) for c in data.classes],
            "voxel_size_um": list(data.voxel_size_um),
            "training": [_told(s) for s in data.training],
            "validation": [_told(s) for s in data.validation],
        }
        _write(self.path / DESCRIPTION, json.dumps(content, indent=1, ensure_ascii=False) + "\n")

    def lines(self) -> list[dict[str, Any]]:
        """What validations found so far."""
        if not self.progress.exists():
            return []
        return [json.loads(line) for line in self.progress.read_text("utf-8").splitlines()]

    def note(self, line: Mapping[str, Any], names: Sequence[str]) -> None:
        """Add a line and draw the curves again."""
        lines = [*self.lines(), dict(line)]
        self._set_lines(lines)
        draw_curves(self.path, lines, names)

    def forget_after(self, step: int) -> None:
        """Drop lines of steps that will be done again."""
        self._set_lines([line for line in self.lines() if line["step"] <= step])

    def save_bundles(self, network: nn.Module, card: Card, reach: Reach, *, best: bool) -> None:
        """Write the last bundle, and the best one if it is that."""
        for path in (self.last, *((self.best,) if best else ())):
            new, old = path.with_name(path.name + ".new"), path.with_name(path.name + ".old")
            for rest in (new, old, new.with_name(new.name + ".partial")):
                shutil.rmtree(rest, ignore_errors=True)
            save_bundle(new, network, card, reach)
            if path.exists():
                os.replace(path, old)
            os.replace(new, path)
            shutil.rmtree(old, ignore_errors=True)

    def _set_lines(self, lines: Sequence[Mapping[str, Any]]) -> None:
        _write(self.progress, "".join(json.dumps(line, allow_nan=True) + "\n" for line in lines))

    def _ours(self) -> bool:
        if not (self.path / DESCRIPTION).exists():
            # Stopped while it counted the data: nothing but records of passes.
            return self.path.is_dir() and {p.name for p in self.path.iterdir()} <= {"passes", DESCRIPTION + ".partial"}
        try:
            content = json.loads((self.path / DESCRIPTION).read_text("utf-8"))
        except (OSError, ValueError):
            return False
        return isinstance(content, dict) and content.get("program") == PROGRAM


def digest_of(recipe: Recipe, data: Data, prepared: PreparedData, origin: Mapping[str, Any]) -> str:
    """SHA-256 of all that a training depends on but the machine; `origin` says whose weights it starts from."""
    document = as_document(recipe)
    content = {
        "recipe": {**document, "machine": {"precision": recipe.machine.precision}},
        "classes": [c.name for c in data.classes],
        "contents": prepared.contents,
        "counts": [s.index.totals.tolist() for s in (*prepared.training, *prepared.validation)],
        "samples": [s.name for s in (*data.training, *data.validation)],
        **({"origin": dict(origin)} if origin else {}),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _told(sample: Any) -> dict[str, Any]:
    return {
        "name": sample.name,
        "grey": sample.grey.name,
        "labels": sample.labels.name,
        "mask": None if sample.mask is None else sample.mask.name,
        "slices": {axis: list(numbers) for axis, numbers in sample.slices.items()},
    }


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, "utf-8")
    os.replace(partial, path)
