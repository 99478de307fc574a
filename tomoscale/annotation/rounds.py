"""Whether another round of annotation is worth it: by how much the networks of the rounds so far have gained."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from tomoscale.networks.card import Card

PATIENCE = 2
"""Rounds without a gain after which annotating ends."""


def score_of(card: Card) -> float | None:
    """Mean IoU on the validation data of a training, as its card says; None of a card that says none."""
    said = card.training.get("validation")
    return _iou(said.get("mean_iou")) if isinstance(said, Mapping) else None


def worth_another(models: Sequence[Mapping[str, Any]], least_gain: float) -> dict[str, Any]:
    """Judge the rounds so far by the networks that each began with, oldest first.

    Parameters
    ----------
    models : sequence of mappings
        With ``weights_sha256`` and ``mean_iou`` (None: not known); one that comes twice in a row was not trained between.
    least_gain : float
        Mean IoU that a round must gain. No round is worth it after `PATIENCE` that gained less, one after the other.

    Returns
    -------
    dict
        ``mean_iou`` of the networks, ``worth_another`` (None: not known yet), and ``why`` in words.

    Examples
    --------
    >>> rounds = [{"weights_sha256": str(n), "mean_iou": iou} for n, iou in enumerate((0.80, 0.86, 0.861, 0.862))]
    >>> worth_another(rounds, 0.005)["worth_another"]
    False
    >>> worth_another(rounds[:3], 0.005)["worth_another"]
    True
    """
    hashes = [m.get("weights_sha256") for m in models]
    scores = [_iou(m.get("mean_iou")) for n, m in enumerate(models) if n == 0 or hashes[n] != hashes[n - 1]]
    last = scores[-PATIENCE - 1 :]
    known = [s for s in last if s is not None]
    shown = ", ".join(f"{s:.4f}" for s in known)
    gains = [after - before for before, after in itertools.pairwise(known)]
    verdict: bool | None = None
    if len(known) < len(last):
        why = "not known: the card of a network does not say its IoU on validation data"
    elif len(last) <= PATIENCE:
        why = f"too early to say: it takes {PATIENCE} rounds of training after the first network, and there are {len(gains)}"
    else:
        verdict = any(gain >= least_gain for gain in gains)
        why = (
            f"yes: a round of the last {PATIENCE} gained {max(gains):.4f} mean IoU ({shown})"
            if verdict
            else f"no: the last {PATIENCE} rounds gained less than {least_gain} mean IoU each ({shown})"
        )
    return {"mean_iou": scores, "worth_another": verdict, "why": why}


def _iou(value: Any) -> float | None:
    """What a file says, if it is a mean IoU."""
    return float(value) if isinstance(value, int | float) and 0 <= value <= 1 else None
