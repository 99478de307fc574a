"""A trained network as a folder that is safe to open: weights as plain numbers, everything else as JSON.

.. code-block:: text

    bundle/
      weights.safetensors    tensors; read by the safetensors library only, nothing is ever unpickled
      card.json              what the network is, was trained on, and how far it looks; SHA-256 of the weights
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import nn

from tomoscale.errors import InputError
from tomoscale.networks.architectures import architecture_of, arguments_of, make_network
from tomoscale.networks.card import Card, ModelClass, card_of
from tomoscale.networks.reach import Reach, probe

FORMAT = "tomoscale model 2"
WEIGHTS = "weights.safetensors"
CARD = "card.json"
MAX_CARD_BYTES = 2**20
MAX_WEIGHTS_BYTES = 16 * 2**30
MAX_HEADER_BYTES = 2**20


@dataclass(frozen=True)
class Bundle:
    """A network on disk that `load_bundle` has checked; pickles as its path and the hash of its card.

    Attributes
    ----------
    path : Path
    card : Card
    architecture : str
        A key of `tomoscale.networks.architectures.ARCHITECTURES`.
    arguments : mapping
        What the architecture is made with.
    reach : Reach
    weights_sha256, card_sha256 : str
        The card holds the hash of the weights, so the second stands for the whole bundle.
    """

    path: Path
    card: Card
    architecture: str
    arguments: Mapping[str, Any]
    reach: Reach
    weights_sha256: str
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
    def weights_bytes(self) -> int:
        """Bytes of the weights in memory."""
        return _bytes(self.skeleton().state_dict())

    def skeleton(self) -> nn.Module:
        """Return the network without weights, on the "meta" device, in eval mode."""
        return _skeleton(self.architecture, self.arguments)

    def network(self, device: str = "cpu") -> nn.Module:
        """Return the network in eval mode, float32, frozen; loaded once per process and device, shared by all callers.

        Raises
        ------
        InputError
            If the weights are not those that the card names.
        """
        with _LOADING:
            return _load_network(self, device)

    def __hash__(self) -> int:
        return hash((self.path, self.card_sha256))

    def __reduce__(self) -> tuple[Callable[..., Bundle], tuple[str, str]]:
        return _reopen, (str(self.path), self.card_sha256)


def save_bundle(path: str | Path, module: nn.Module, card: Card, reach: Reach | None = None) -> Bundle:
    """Write a network and its card to a new folder.

    Parameters
    ----------
    path : path
        Must not exist.
    module : torch module
        Of a known architecture.
    card : Card
    reach : Reach, optional
        Measured by `probe` by default.

    Raises
    ------
    ValueError
        If the path exists, the architecture is unknown, the classes do not match, or a weight is not finite.
    """
    path = Path(path).absolute()
    if path.exists():
        raise ValueError(f"{path} exists: a bundle is never overwritten, choose another path or remove it")
    architecture, arguments = architecture_of(module), arguments_of(module)
    if arguments["n_classes"] != len(card.classes):
        raise ValueError(f"the network has {arguments['n_classes']} outputs but card.classes names {len(card.classes)}")
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in module.state_dict().items()}
    broken = _first_not_finite(state)
    if broken:
        raise ValueError(f"{broken} holds NaN or infinity: the training diverged, such a network labels nothing")
    reach = reach or probe(module, arguments["in_channels"], arguments["dimensions"])
    partial = path.with_name(path.name + ".partial")
    partial.mkdir(parents=True)
    safetensors.torch.save_file(state, str(partial / WEIGHTS))
    document = _document(card, architecture, arguments, reach, _sha256(partial / WEIGHTS))
    (partial / CARD).write_text(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")
    os.replace(partial, path)
    return load_bundle(path)


def load_bundle(path: str | Path) -> Bundle:
    """Open a bundle and check all of it before anything is computed.

    Raises
    ------
    InputError
        If a file is missing, too large or damaged; the card is incomplete; the architecture is unknown; the weights
        are not those of the card, do not fit the architecture, or hold NaN.
    """
    bundle = _open_card(Path(path).absolute())
    _read_weights(bundle)
    return bundle


def _document(
    card: Card, architecture: str, arguments: Mapping[str, Any], reach: Reach, weights_sha256: str
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        **asdict(card),
        "architecture": architecture,
        "arguments": dict(arguments),
        "reach_voxels": asdict(reach),
        "exactness": "exact by blocks" if reach.local else "defined by its windows",
        "weights_sha256": weights_sha256,
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
    if made["n_classes"] != len(card.classes):
        raise ValueError(f"{len(card.classes)} classes but {made['n_classes']} outputs")
    numbers = {key: tuple(int(v) for v in values) for key, values in extents.items() if key != "local"}
    reach = Reach(**numbers, local=bool(extents["local"]))
    if len(reach.stride) != made["dimensions"]:
        raise ValueError(f"reach for {len(reach.stride)} axes but {made['dimensions']} dimensions")
    digest = str(document["weights_sha256"])
    if not re.fullmatch("[0-9a-f]{64}", digest):
        raise ValueError(f"weights_sha256 must be 64 hexadecimal digits, got {digest!r}")
    return Bundle(path, card, architecture, arguments, reach, digest, card_sha256)


def _skeleton(architecture: str, arguments: Mapping[str, Any]) -> nn.Module:
    with torch.device("meta"):
        return make_network(architecture, arguments).eval().requires_grad_(False)


def _read_weights(bundle: Bundle) -> dict[str, torch.Tensor]:
    """Tensors of a bundle, checked against the card and the architecture before and after they are read."""
    file = bundle.path / WEIGHTS
    if not file.is_file():
        raise InputError(f"{bundle.path} holds no {WEIGHTS}: get the bundle again")
    expected = bundle.skeleton().state_dict()
    wanted = _bytes(expected)
    # Before the file is parsed: a header alone can be 100 MB of names.
    if not wanted <= file.stat().st_size <= min(wanted + MAX_HEADER_BYTES, MAX_WEIGHTS_BYTES):
        raise InputError(
            f"{file} has {file.stat().st_size} bytes, but {bundle.architecture} {dict(bundle.arguments)} has {wanted} bytes "
            f"of weights (and at most {MAX_HEADER_BYTES} of names): it is cut short or belongs to another network"
        )
    digest = _sha256(file)
    if digest != bundle.weights_sha256:
        raise InputError(f"{file} has SHA-256 {digest}, its card says {bundle.weights_sha256}: get the bundle again")
    try:
        tensors = safetensors.torch.load_file(str(file))
    except (safetensors.SafetensorError, ValueError) as error:
        raise InputError(f"{file} is not a safetensors file ({error}): get the bundle again") from error
    _check_tensors(file, tensors, expected)
    return tensors


def _check_tensors(file: Path, tensors: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    missing, extra = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    if missing or extra:
        raise InputError(
            f"{file} lacks {len(missing)} tensors {missing[:3]} and has {len(extra)} that do not belong {extra[:3]}: "
            "weights and architecture are of different networks"
        )
    for name, tensor in expected.items():
        got = tensors[name]
        if got.shape != tensor.shape or got.dtype != tensor.dtype:
            raise InputError(
                f"{file}: {name} is {got.dtype} {tuple(got.shape)}, the architecture needs {tensor.dtype} "
                f"{tuple(tensor.shape)}"
            )
    broken = _first_not_finite(tensors)
    if broken:
        raise InputError(f"{file}: {broken} holds NaN or infinity, such a network labels nothing")


def _first_not_finite(tensors: Mapping[str, torch.Tensor]) -> str:
    return next((name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())), "")


_LOADING = threading.Lock()


@lru_cache(maxsize=4)
def _load_network(bundle: Bundle, device: str) -> nn.Module:
    network = bundle.skeleton()
    network.load_state_dict(_read_weights(bundle), assign=True)
    layout = torch.channels_last if bundle.dimensions == 2 else torch.channels_last_3d
    return network.requires_grad_(False).eval().to(device=device, memory_format=layout)  # type: ignore[call-overload, no-any-return]


@lru_cache(maxsize=16)
def _reopen(path: str, card_sha256: str) -> Bundle:
    """Open a pickled bundle; its weights are checked when they are loaded."""
    bundle = _open_card(Path(path))
    if bundle.card_sha256 != card_sha256:
        raise InputError(f"{path} has changed since this run was planned: plan again")
    return bundle


def _bytes(tensors: Mapping[str, torch.Tensor]) -> int:
    return sum(t.numel() * t.itemsize for t in tensors.values())


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
