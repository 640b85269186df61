"""The machine: an ordered table of rules, one comment per rule. The first rule that has something to say decides this pass.

A rule changes what the rollout remembers; `render` turns memory into the wanted world. So every effect is derived, a crash between any
two effects is repaired by the next pass, and a new behaviour is a new rule in its place.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from espalier_operator.decisions.rollout.advance import (
    adopt_the_champion,
    clear_away,
    finish_the_bake,
    finish_the_promotion,
    finish_the_step,
    follow_an_edited_step,
    give_way_to_a_newer_candidate,
    go_on_when_decided,
    see_the_weight,
    start_with_the_newest_candidate,
    take_traffic_when_verified,
)
from espalier_operator.decisions.rollout.following import follow
from espalier_operator.decisions.rollout.people import do_as_a_person_asked, pause_as_the_spec_says
from espalier_operator.decisions.rollout.render import render
from espalier_operator.decisions.rollout.safety import (
    end_at_the_deadline,
    finish_rolling_back,
    hold_while_blind,
    honour_the_mark,
    let_go_when_deleted,
    roll_back_on_fail,
    roll_back_when_canary_is_unhealthy,
)
from espalier_operator.decisions.rollout.view import Rule, View, tick

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from espalier_operator.decisions.rollout.plan import RolloutPlan
    from espalier_operator.decisions.rollout.progress import Progress
    from espalier_operator.decisions.rollout.world import RolloutSpec, Seen

RULES: tuple[Rule, ...] = (
    let_go_when_deleted,  # a deleted rollout gives stable its traffic back before anything else
    honour_the_mark,  # a verdict that only the route remembers: the operator died between two writes
    finish_rolling_back,  # nothing else happens until weight 0 was observed
    roll_back_when_canary_is_unhealthy,  # pods that crash need no metric to be judged
    roll_back_on_fail,  # a Fail is final, also while paused or held
    do_as_a_person_asked,  # promote, abort, retry, pause: once per request id
    pause_as_the_spec_says,  # spec.paused, the declarative pause
    follow_an_edited_step,  # a live edit moves the weight to the edited step's, never above it
    see_the_weight,  # the clock starts when the weight is observed and stops when it is not
    hold_while_blind,  # NoData and SourceDown stop the step's clock, not the rollout
    end_at_the_deadline,  # too much active time in all steps together
    give_way_to_a_newer_candidate,  # supersede: only between steps
    adopt_the_champion,  # a rollout without memory takes over what serves
    start_with_the_newest_candidate,  # versions only move forward
    take_traffic_when_verified,  # ready, and the digest that passed the gates
    go_on_when_decided,  # a pause for lack of evidence ends when the evidence has come
    finish_the_step,  # hold elapsed in active time, enough requests, no Fail
    finish_the_promotion,  # all traffic observed: bake, or crown
    finish_the_bake,  # the new champion has proved itself under all traffic
    clear_away,  # kept canaries and warm previous versions end with their time
)


def decide(
    spec: RolloutSpec, seen: Seen, remembered: Progress, now: datetime, rules: Sequence[Rule] = RULES
) -> RolloutPlan:
    """What happens next. Total: with nothing to change, the plan re-asserts the present state."""
    view = View(spec, seen, remembered, now)
    view = replace(view, progress=tick(view))
    known, news = follow(view)
    view = replace(view, progress=known)
    for rule in rules:
        if (change := rule(view)) is not None:
            return render(replace(view, progress=change.progress), (*news, *change.notes), remembered)
    return render(view, news, remembered)
