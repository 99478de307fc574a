"""A folder of results that several trainings make: one file says what was asked for, so that only the same goes on in it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tomoscale.errors import InputError, PlanError
from tomoscale.json_files import read_json
from tomoscale.places import replace_text


@dataclass(frozen=True)
class ResultFolder:
    """Where results go.

    Attributes
    ----------
    path : Path
    file : str
        JSON file that holds what was asked for under "asked", and all results.
    program : str
        Which its "program" says.
    what : str
        Word for it in messages, such as "a cross-validation".
    """

    path: Path
    file: str
    program: str
    what: str

    def claim(self, asked: Mapping[str, Any], *, resume: bool, overwrite: bool) -> None:
        """Make the folder, or take the one in which the same was begun.

        Raises
        ------
        PlanError
            If something is in the way.
        InputError
            If something else was asked for there.
        """
        wanted = json.loads(json.dumps(asked))  # as it is read again: JSON knows lists and no tuples
        if self.path.exists() and not (self.path.is_dir() and not any(self.path.iterdir())):
            found = self.read()
            if resume:
                self._compare(found["asked"], wanted)
                return
            if not overwrite:
                raise PlanError(
                    f"{self.path} holds {self.what}: give resume=True to go on with it, overwrite=True to start again, or another output"
                )
            shutil.rmtree(self.path)
        self.path.mkdir(parents=True, exist_ok=True)
        self.write({"asked": wanted})

    def read(self) -> dict[str, Any]:
        """Content of the file.

        Raises
        ------
        PlanError
            If there is none.
        """
        place, foreign = (
            self.path / self.file,
            f"{self.path} exists and was not made by {self.what}: give another output",
        )
        if not place.exists():
            raise PlanError(foreign)
        content = read_json(place, "record of what was asked for", "give another output", PlanError)
        if content.get("program") != self.program or not isinstance(content.get("asked"), dict):
            raise PlanError(foreign)
        return content

    def write(self, content: Mapping[str, Any]) -> None:
        """Replace the content of the file."""
        whole = {"program": self.program, **content}
        replace_text(self.path / self.file, json.dumps(whole, indent=1, ensure_ascii=False, allow_nan=False))

    def _compare(self, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
        differing = sorted(k for k in wanted if found.get(k) != wanted[k])
        if differing:
            raise InputError(
                f"{self.path} was begun with another {', '.join(differing)}: give another output, or the configuration it was begun "
                "with"
            )
