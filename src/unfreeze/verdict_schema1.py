"""SampleScores of schema 1, as the first edition wrote them, in the terms of schema 2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unfreeze.orientations import FORMER_ORIENTATIONS

POINT = ("alpha", "accuracy", "balanced_accuracy", "log_loss")


def upgraded(verdict: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a verdict of schema 1 says, in schema 2.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: It isn't what schema 1 says.
    """
    figures = {**verdict, "schema": 2}
    figures["model"] = _renamed(figures["model"], {"poses": "orientations"})
    if "orientations" in figures["model"]:
        figures["model"]["orientations"] = [FORMER_ORIENTATIONS[name] for name in figures["model"]["orientations"]]
    figures["scores"] = _renamed(figures["scores"], {"evidence": "protocol"})
    figures["trials"] = [_trial(trial) for trial in figures.pop("tried", ())]
    figures["warnings"] = figures.pop("setbacks", ())
    cost = dict(figures["cost"])
    for part in ("seconds", "forecast"):
        if part in cost:
            cost[part] = _renamed(cost[part], {"exam": "evaluation"})
    figures["cost"] = cost
    return figures


def _trial(trial: Mapping[str, Any]) -> dict[str, Any]:
    figures = dict(trial)
    points, z = figures.pop("path"), figures.pop("errors", None) or ()
    figures["points"] = [dict(zip(POINT, point, strict=True)) for point in points]
    for point, score in zip(figures["points"], z, strict=False):
        point["z"] = score
    return figures


def _renamed(figures: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {names.get(name, name): value for name, value in figures.items()}
