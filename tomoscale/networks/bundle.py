"""A trained network as a folder that is safe to open: weights as plain numbers, everything else as JSON.

.. code-block:: text

    bundle/
      weights.safetensors    tensors; read by the safetensors library only, nothing is ever unpickled
      card.json              what the network is, was trained on, and how far it looks; SHA-256 of the weights

A bundle may hold several members of one architecture, whose results are averaged (folds of a cross-validation): their
weights are ``weights.0.safetensors``, ``weights.1.safetensors``, ...
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tomoscale.errors import InputError
from tomoscale.networks.architectures import MAX_MEMBERS, arguments_of, common_of, declared_in, make_network, reach_of
from tomoscale.networks.arguments import check_input
from tomoscale.networks.card import Card, ModelClass, card_of
from tomoscale.networks.description import as_html, facts
from tomoscale.networks.reach import Reach
from tomoscale.networks.weights import bytes_of, read_weights, weights_name, write_weights
from tomoscale.places import local_path

FORMAT = "tomoscale model 2"
CARD = "card.json"
MAX_CARD_BYTES = 2**20


@dataclass(frozen=True)
class Bundle:
    """A network on disk that `load_bundle` has checked; pickles as its path and the hash of its card.

    Attributes
    ----------
    path : Path
    card : Card
    architecture : str
        A name that `tomoscale.networks.architectures.make_network` knows.
    arguments : mapping
        What the architecture is made with.
    reach : Reach
    member_sha256 : tuple of str
        Of the weights of each member.
    card_sha256 : str
        The card holds the hashes of the weights, so this stands for the whole bundle.
    """

    path: Path
    card: Card
    architecture: str
    arguments: Mapping[str, Any]
    reach: Reach
    member_sha256: tuple[str, ...]
    card_sha256: str

    @property
    def classes(self) -> tuple[ModelClass, ...]:
        """Classes in the order of their ids."""
        return self.card.classes

    @property
    def dimensions(self) -> int:
        """2 for a network on slices (y, x), 3 for one on volumes (z, y, x)."""
        return len(self.reach.stride)

    @property
    def members(self) -> int:
        """Networks of the ensemble, 1 for a single one."""
        return len(self.member_sha256)

    @property
    def weights_sha256(self) -> str:
        """Hash of the weights; of several members, the hash of their hashes in order."""
        if self.members == 1:
            return self.member_sha256[0]
        return hashlib.sha256("".join(self.member_sha256).encode()).hexdigest()

    @property
    def weights_bytes(self) -> int:
        """Bytes of the weights of all members in memory."""
        return self.members * bytes_of(self.skeleton().state_dict())

    def skeleton(self) -> nn.Module:
        """Return the network without weights, on the "meta" device, in eval mode."""
        return _skeleton(self.architecture, self.arguments)

    def network(self, device: str = "cpu", member: int = 0) -> nn.Module:
        """Return a member in eval mode, float32, frozen; loaded once per process and device, shared by all callers.

        Raises
        ------
        InputError
            If the weights are not those that the card names.
        """
        with _LOADING:
            loaded = _loaded(self, device)
            if member not in loaded:
                loaded[member] = _load_member(self, device, member)
            return loaded[member]

    def facts(self) -> dict[str, Any]:
        """Return all that the card says as JSON values."""
        return facts(self)

    def __hash__(self) -> int:
        return hash((self.path, self.card_sha256))

    def __reduce__(self) -> tuple[Callable[..., Bundle], tuple[str, str, str | None]]:
        return _reopen, (str(self.path), self.card_sha256, declared_in(self.architecture))

    def _repr_html_(self) -> str:
        return as_html(self)


def save_bundle(
    path: str | Path, module: nn.Module | Sequence[nn.Module], card: Card, reach: Reach | None = None
) -> Bundle:
    """Write a network, or the members of an ensemble, and their card to a new folder.

    Parameters
    ----------
    path : path
        Must not exist.
    module : torch module, or several
        Of a known architecture; the members of an ensemble are made with the same arguments.
    card : Card
    reach : Reach, optional
        Measured by default (`reach_of`).

    Returns
    -------
    Bundle
        As `load_bundle` opens it.

    Raises
    ------
    ValueError
        If the path exists, the architecture is unknown, the classes do not match, members differ in more than their
        weights, a weight is not finite, or the result depends on windows and the card names none.
    """
    path = local_path(path).absolute()
    if path.exists():
        raise ValueError(f"{path} exists: a bundle is never overwritten, choose another path or remove it")
    members = [module] if isinstance(module, nn.Module) else list(module)
    architecture, arguments = common_of(members)
    card.check_network(arguments)
    reach = reach or reach_of(members[0])
    _check_windows(architecture, arguments, card, reach)
    partial = path.with_name(path.name + ".partial")
    _remove_remains(partial)
    partial.mkdir(parents=True)
    try:
        hashes = [write_weights(partial / weights_name(n, len(members)), m) for n, m in enumerate(members)]
        document = _document(card, architecture, arguments, reach, hashes)
        (partial / CARD).write_text(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")
        os.replace(partial, path)
    finally:
        _remove_remains(partial)
    return load_bundle(path)


def load_bundle(path: str | Path) -> Bundle:
    """Open a bundle and check all of it before anything is computed.

    Parameters
    ----------
    path : path
        Its folder.

    Returns
    -------
    Bundle

    Raises
    ------
    InputError
        If a file is missing, too large or damaged; the card is incomplete; the architecture is unknown; the weights
        are not those of the card, do not fit the architecture, or hold NaN.
    """
    bundle = _open_card(local_path(path).absolute())
    for member in range(bundle.members):
        _read_member(bundle, member)
    return bundle


def _remove_remains(partial: Path) -> None:
    """Remove what a save that was stopped has left, and nothing else."""
    if partial.is_dir():
        for file in (partial / CARD, *partial.glob("weights*.safetensors")):
            file.unlink(missing_ok=True)
        partial.rmdir()


def _document(
    card: Card, architecture: str, arguments: Mapping[str, Any], reach: Reach, hashes: Sequence[str]
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        **asdict(card),
        "architecture": architecture,
        "arguments": dict(arguments),
        "reach_voxels": asdict(reach),
        "exactness": "exact by blocks" if reach.local else "defined by its windows",
        "weights_sha256": hashes[0] if len(hashes) == 1 else list(hashes),
    }


def _open_card(path: Path) -> Bundle:
    file = path / CARD
    if not file.is_file():
        raise InputError(f"{path} is not a model bundle: it holds no {CARD}")
    if file.stat().st_size > MAX_CARD_BYTES:
        raise InputError(f"{file} has {file.stat().st_size} bytes, a card has at most {MAX_CARD_BYTES}")
    content = file.read_bytes()
    try:
        document = json.loads(content)
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise ValueError(f'"format" must be {FORMAT!r}')
        return _bundle_of(path, document, hashlib.sha256(content).hexdigest())
    except KeyError as error:
        raise InputError(f"{file} cannot be used: it lacks {error}; save the bundle again") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{file} cannot be used: {error}; get the bundle again or save it again") from error


def _bundle_of(path: Path, document: dict[str, Any], card_sha256: str) -> Bundle:
    """Bundle of a parsed card; raises KeyError, TypeError or ValueError, which `_open_card` explains."""
    card = card_of(document)
    architecture, arguments, extents = document["architecture"], document["arguments"], document["reach_voxels"]
    made = arguments_of(_skeleton(architecture, arguments))
    check_input(made)
    card.check_network(made)
    numbers = {key: tuple(int(v) for v in values) for key, values in extents.items() if key != "local"}
    reach = Reach(**numbers, local=bool(extents["local"]))
    if len(reach.stride) != made["dimensions"]:
        raise ValueError(f"reach for {len(reach.stride)} axes but {made['dimensions']} dimensions")
    _check_windows(architecture, made, card, reach)
    said = document["weights_sha256"]
    hashes = tuple(said) if isinstance(said, list) else (said,)
    wrong = [h for h in hashes if not (isinstance(h, str) and re.fullmatch("[0-9a-f]{64}", h))]
    if wrong or not 1 <= len(hashes) <= MAX_MEMBERS:
        raise ValueError(f"weights_sha256 must be 64 hexadecimal digits, or a list of such, got {said!r:.200}")
    return Bundle(path, card, architecture, made, reach, hashes, card_sha256)


def _check_windows(architecture: str, arguments: Mapping[str, Any], card: Card, reach: Reach) -> None:
    """Refuse a network whose result would depend on the blocks."""
    if not reach.local and card.windows is None:
        raise ValueError(
            f"the result of {architecture} {dict(arguments)!r:.200} depends on its window as a whole (instance norm, aligned "
            "corners, attention), and its card names no windows: say those that it was trained for, "
            "Card(..., windows=Windows(shape))"
        )


def _skeleton(architecture: str, arguments: Mapping[str, Any]) -> nn.Module:
    with torch.device("meta"):
        return make_network(architecture, arguments).eval().requires_grad_(False)


def _read_member(bundle: Bundle, member: int) -> dict[str, torch.Tensor]:
    file = bundle.path / weights_name(member, bundle.members)
    what = f"{bundle.architecture} {dict(bundle.arguments)!r:.300}"
    return read_weights(file, bundle.member_sha256[member], bundle.skeleton().state_dict(), what)


_LOADING = threading.Lock()


@lru_cache(maxsize=4)
def _loaded(bundle: Bundle, device: str) -> dict[int, nn.Module]:
    """Members that this process has loaded."""
    return {}


def _load_member(bundle: Bundle, device: str, member: int) -> nn.Module:
    network = bundle.skeleton()
    network.load_state_dict(_read_member(bundle, member), assign=True)
    layout = torch.channels_last if bundle.dimensions == 2 else torch.channels_last_3d
    return network.requires_grad_(False).eval().to(device=device, memory_format=layout)  # type: ignore[call-overload, no-any-return]


@lru_cache(maxsize=16)
def _reopen(path: str, card_sha256: str, module: str | None = None) -> Bundle:
    """Open a pickled bundle; its weights are checked when they are loaded."""
    if module is not None:
        # It registers the architecture: the sender has imported it too, a card cannot name it.
        importlib.import_module(module)
    bundle = _open_card(Path(path))
    if bundle.card_sha256 != card_sha256:
        raise InputError(f"{path} has changed since this run was planned: plan again")
    return bundle
