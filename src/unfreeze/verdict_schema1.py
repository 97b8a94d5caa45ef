"""Conversion of ``verdict.json`` of schema 1, which the first edition wrote, to schema 2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unfreeze.orientations import FORMER_ORIENTATIONS

POINT_FIELDS = ("alpha", "accuracy", "balanced_accuracy", "log_loss")


def upgrade_schema1(verdict: Mapping[str, Any]) -> dict[str, Any]:
    """Return a verdict of schema 1 with the names of schema 2.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: ``verdict`` doesn't have the fields of schema 1.
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
    figures["points"] = [dict(zip(POINT_FIELDS, point, strict=True)) for point in points]
    for point, z_score in zip(figures["points"], z, strict=False):
        point["z"] = z_score
    return figures


def _renamed(figures: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {names.get(name, name): value for name, value in figures.items()}
