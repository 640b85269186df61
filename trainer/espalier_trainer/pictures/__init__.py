"""Pictures of a fit as PNG files of the version: the same numbers give the same bytes. matplotlib is imported only when drawing."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Final

from espalier_api.artifact import PICTURES
from espalier_trainer.log import say

if TYPE_CHECKING:
    from collections.abc import Mapping

    from espalier_trainer.engines import FitReport
    from espalier_trainer.evaluation.evaluate import Evaluation

ALL: Final = ("curves", "contributions", "reliability", "risk_coverage", "regularization_path", "search")
"""Modules below, each with `draw(story) -> bytes | None`; None when there is nothing to see."""


@dataclass(frozen=True, slots=True)
class Story:
    """What pictures tell about."""

    report: FitReport
    evaluation: Evaluation
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Of the version, by name: path.json and search.json tell of what came before the fit."""


def draw(report: FitReport, evaluation: Evaluation, files: Mapping[str, bytes] | None = None) -> dict[str, bytes]:
    """Files by name. Empty, and a word in the log, in an image without matplotlib."""
    story = Story(report, evaluation, files or {})
    try:
        drawn = {name: import_module(f"{__name__}.{name}").draw(story) for name in ALL}
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "matplotlib":
            raise
        say("no-pictures", remedy="install espalier[trainer], which has matplotlib, into the trainer's image")
        return {}
    return {
        f"{PICTURES}{name.replace('_', '-')}.png": picture for name, picture in drawn.items() if picture is not None
    }
