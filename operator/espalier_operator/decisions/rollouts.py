"""What a rollout does next: the public face of the `rollout` package, whose `machine.RULES` is the table to read."""

from __future__ import annotations

from espalier_operator.decisions.rollout.machine import RULES as RULES
from espalier_operator.decisions.rollout.machine import decide as decide
from espalier_operator.decisions.rollout.plan import Effect as Effect
from espalier_operator.decisions.rollout.plan import RolloutPlan as RolloutPlan
from espalier_operator.decisions.rollout.plan import effects as effects
from espalier_operator.decisions.rollout.progress import Progress as Progress
from espalier_operator.decisions.rollout.world import RolloutSpec as RolloutSpec
from espalier_operator.decisions.rollout.world import Seen as Seen
