"""Start a training from a trained network: its weights, but for a head of other classes (Silveira et al. 2023, section 2.4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from tomoscale.errors import InputError
from tomoscale.networks.architectures import arguments_of, make_network
from tomoscale.networks.bundle import Bundle
from tomoscale.networks.card import ModelClass
from tomoscale.training.preparation import network_arguments
from tomoscale.training.recipe import Recipe
from tomoscale.training.samples import Data


@dataclass(frozen=True)
class Start:
    """Weights to start from.

    Attributes
    ----------
    network : torch module
        As the recipe makes it.
    origin : dict
        For the card: name, hash, classes and samples of the network that gave its weights, and the tensors that are new.
    """

    network: nn.Module
    origin: dict[str, object]


def start_of(bundle: Bundle, recipe: Recipe, classes: Sequence[ModelClass]) -> Start:
    """Take the weights of a bundle for a training of a recipe.

    Where the classes are the same, by their names in order, all weights are taken. Else the tensors whose shape depends on
    the number of classes, the head, are new (drawn by the recipe's seed), and the card of the result says so.

    Parameters
    ----------
    bundle : Bundle
    recipe : Recipe
    classes : sequence of ModelClass
        That are to be told apart.

    Raises
    ------
    ValueError
        If the bundle is an ensemble, of another architecture, or made with other arguments than the recipe says.
    """
    if bundle.members > 1:
        raise ValueError(
            f"{bundle.path} is an ensemble of {bundle.members} networks and a training starts from one: give one of its members"
        )
    arguments = network_arguments(recipe, len(classes))
    torch.manual_seed(recipe.seed)
    network = make_network(recipe.network.architecture, arguments)
    own, given = network.state_dict(), bundle.network().state_dict()
    # Keys and shapes can agree where what is computed does not (dilations, norms): the architecture must be the same.
    if bundle.architecture != recipe.network.architecture:
        raise ValueError(
            f"{bundle.path} is a {bundle.architecture} and the recipe trains a {recipe.network.architecture}: set network: "
            "architecture and arguments to those of the bundle (`tomoscale model info` prints them)"
        )
    differing = _arguments_that_differ(bundle, network)
    if differing:
        raise ValueError(
            f"{bundle.path} was made with {differing}: set network: arguments to those of the bundle (`tomoscale model info` prints "
            "them)"
        )
    same = [c.name for c in bundle.classes] == [c.name for c in classes]
    new = () if same else _head(recipe, len(classes))
    kept = {name: tensor for name, tensor in given.items() if name not in new}
    network.load_state_dict({**own, **kept})
    origin: dict[str, object] = {
        "name": bundle.card.name,
        "weights_sha256": bundle.weights_sha256,
        "classes": [c.name for c in bundle.classes],
        "new_tensors": list(new),
        "training_samples": list(seen_by(bundle)),
    }
    return Start(network, origin)


def seen_by(bundle: Bundle) -> tuple[str, ...]:
    """Names of the samples that a network has learned from, and those of the network that it started from."""
    told = bundle.card.training
    before = told.get("start_from")
    names = [
        *_names(told.get("training_samples")),
        *_names(before.get("training_samples") if isinstance(before, dict) else ()),
    ]
    return tuple(dict.fromkeys(names))


def refuse_seen(bundle: Bundle, data: Data) -> None:
    """Refuse to judge by samples that the network to start from has learned from.

    Raises
    ------
    InputError
    """
    seen = set(seen_by(bundle))
    found = [s.name for s in data.validation if s.name in seen]
    if found:
        raise InputError(
            f"{bundle.path} has learned from sample {found[0]}, which is to judge what starts from it: give other samples for "
            "validation, or a new name if it is another thing"
        )


def _names(said: object) -> list[str]:
    """Names on a card, which somebody may have written by hand."""
    return [str(name) for name in said] if isinstance(said, list | tuple) else []


def _arguments_that_differ(bundle: Bundle, network: nn.Module) -> str:
    """Arguments in which a bundle differs from a network, but for the number of classes."""
    own, other = arguments_of(network), dict(bundle.arguments)
    names = sorted(({*own} | {*other}) - {"n_classes"})
    return ", ".join(f"{n} {other.get(n)!r} and not {own.get(n)!r}" for n in names if own.get(n) != other.get(n))


def _head(recipe: Recipe, n_classes: int) -> tuple[str, ...]:
    """Names of the tensors whose shape depends on the number of classes."""
    shapes = []
    for count in (n_classes, n_classes + 1):
        with torch.device("meta"):
            made = make_network(recipe.network.architecture, network_arguments(recipe, count))
        shapes.append({name: tensor.shape for name, tensor in made.state_dict().items()})
    return tuple(name for name, shape in shapes[0].items() if shapes[1][name] != shape)
