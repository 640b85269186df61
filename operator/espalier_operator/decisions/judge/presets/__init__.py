"""Where counts come from: one file per SLI source."""

from espalier_operator.decisions.judge.presets.base import CountPreset, Weight
from espalier_operator.decisions.judge.presets.counts import UserCounts
from espalier_operator.decisions.judge.presets.drift import Drift
from espalier_operator.decisions.judge.presets.errors import Errors
from espalier_operator.decisions.judge.presets.latency import Latency
from espalier_operator.decisions.judge.presets.quality import Quality, Served
from espalier_operator.decisions.judge.presets.query import UserQuery

__all__ = ["CountPreset", "Drift", "Errors", "Latency", "Quality", "Served", "UserCounts", "UserQuery", "Weight"]
