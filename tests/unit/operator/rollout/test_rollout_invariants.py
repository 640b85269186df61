"""The invariants of design/rollout.md under everything that can go wrong, in any order, and proof that the test can fail."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from espalier_operator.decisions.rollout import advance, people, render, safety
from espalier_operator.decisions.rollout.machine import RULES
from espalier_operator.decisions.rollout.progress import RESTING, Outcome, State
from espalier_operator.decisions.rollout.view import fail
from espalier_operator.decisions.rollout.world import Crash, Request, RolloutSpec, Step, VersionRef
from tests.unit.operator.rollout.simulation import BY_PODS, Operator, World

if TYPE_CHECKING:
    from collections.abc import Sequence

    from espalier_operator.decisions.rollout.view import Change, Rule, View

MINUTE = timedelta(minutes=1)
THOROUGH = settings(
    max_examples=150, stateful_step_count=50, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
HUNT = settings(
    THOROUGH, max_examples=800, derandomize=True, phases=[Phase.generate], report_multiple_bugs=False, print_blob=False
)
"""For mutants: find one counterexample, do not make it small."""

SPECS = st.builds(
    RolloutSpec,
    steps=st.sampled_from([
        (Step(5, MINUTE), Step(25, 2 * MINUTE)),
        (Step(10, MINUTE, pause=True), Step(50, timedelta(0))),
        (Step(40, 3 * MINUTE),),
        (),
    ]),
    replicas=st.sampled_from([1, 2]),
    manual_promotion=st.booleans(),
    supersede=st.booleans(),
    capabilities=st.sampled_from([RolloutSpec().capabilities, BY_PODS]),
    keep_canary=st.sampled_from([timedelta(0), 2 * MINUTE]),
    keep_previous=st.sampled_from([timedelta(0), 5 * MINUTE]),
    delete_serving=st.booleans(),
)  # fmt: skip


class RolloutUnderFaults(RuleBasedStateMachine):
    """Random candidates, samples, outages, crashes, restarts, edits, requests and deletions, in any order."""

    rules_under_test: ClassVar[Sequence[Rule]] = RULES

    @initialize(spec=SPECS, champion=st.sampled_from([True, True, True, False]), next_is_bad=st.booleans())
    def begin(self, spec: RolloutSpec, champion: bool, next_is_bad: bool) -> None:
        self.world = World(spec)
        self.operator = Operator(self.world, self.rules_under_test)
        self.newest = 0
        self.requests = 0
        if champion:
            self.a_version_passes_its_gates(bad=False)
            self.time_passes(20, 12)
            self.a_version_passes_its_gates(bad=next_is_bad)

    # --- life ------------------------------------------------------------------------------------------------------
    @rule(bad=st.booleans())
    def a_version_passes_its_gates(self, bad: bool) -> None:
        self.newest += 1
        name = f"v{self.newest}"
        self.world.candidates.append(VersionRef(name, f"sha256:{name}"))
        if bad:
            self.world.truth.bad.add(name)

    @rule(seconds=st.sampled_from([1, 5, 20, 30, 60, 120]), passes=st.integers(1, 4))
    def time_passes(self, seconds: int, passes: int) -> None:
        for _ in range(passes):
            self.world.pass_time(timedelta(seconds=seconds))
            self.operator.refresh()
            self.operator.run()
            self.world.check_after_a_fresh_pass()

    @rule(passes=st.integers(3, 12))
    def time_flies(self, passes: int) -> None:
        self.time_passes(30, passes)

    @rule()
    def a_pass_with_an_old_cache(self) -> None:
        """Pods and route as they were at the last refresh; its own status is always its own latest."""
        self.operator.run()

    # --- faults ----------------------------------------------------------------------------------------------------
    @rule(effects=st.integers(0, 5), fresh=st.booleans())
    def die_between_effects(self, effects: int, fresh: bool) -> None:
        if fresh:
            self.operator.refresh()
        self.operator.run(survive=effects)
        self.operator = Operator(self.world, self.rules_under_test)

    @precondition(lambda self: self.world.stored.progress.state is State.STEPPING)
    @rule(effects=st.integers(1, 2), really=st.integers(0, 2))
    def a_crash_that_only_a_dying_operator_saw(self, effects: int, really: int) -> None:
        """The verdict reached the route (or the route and the pods), and its cause is gone when the next one looks."""
        world = self.world
        canary = world.stored.progress.canary
        pods = [pod for pod in world.pods if canary is not None and pod.version == canary.name and pod.ready]
        if really or not pods:
            return
        pods[0].crash = Crash("OOMKilled", 137, world.now)
        world.truth.troubled.add(pods[0].version)
        self.operator.refresh()
        self.operator.run(survive=effects)
        pods[0].crash = None
        self.operator = Operator(world, self.rules_under_test)

    @precondition(lambda self: self.world.stored.progress.state is State.STEPPING)
    @rule(passes=st.integers(2, 8))
    def an_outage_of_the_source_during_a_step(self, passes: int) -> None:
        self.world.source_up = False
        self.time_passes(30, passes)
        self.world.source_up = True

    @precondition(lambda self: self.world.stored.progress.state in {State.STEPPING, State.PROMOTING})
    @rule(passes=st.integers(1, 12), condemn=st.booleans())
    def a_proxy_stays_behind(self, passes: int, condemn: bool) -> None:
        """It goes on with the weights it has; the route is accepted all the same. It moves late."""
        world = self.world
        canary = world.stored.progress.canary
        if condemn and canary is not None:
            world.truth.bad.add(canary.name)
        world.moves = False
        self.time_passes(30, passes)
        world.moves = True

    @precondition(lambda self: self.world.stored.progress.state in {State.STEPPING, State.DEPLOYING})
    @rule()
    def all_nodes_of_the_canary_die(self) -> None:
        world = self.world
        canary = world.stored.progress.canary
        if canary is None:
            return
        world.truth.troubled.add(canary.name)
        world.pods = [pod for pod in world.pods if pod.version != canary.name]
        self.time_passes(1, 2)

    @rule()
    def a_stale_operator_wakes_up(self) -> None:
        """It froze before the last pass of the living one and knows nothing since; its writes must be refused."""
        frozen = Operator(self.world, self.rules_under_test)
        self.time_passes(30, 1)
        frozen.run()

    @rule(
        what=st.sampled_from(["source_up", "traffic_flows", "gateway_up", "moves", "nodes_full"]), value=st.booleans()
    )
    def weather(self, what: str, value: bool) -> None:
        """An outage of the source, of users, of the gateway or of capacity begins or ends."""
        setattr(self.world, what, value)

    @precondition(lambda self: self.world.pods)
    @rule(which=st.integers(0, 9), oom=st.booleans(), really=st.integers(0, 2))
    def a_pod_crashes(self, which: int, oom: bool, really: int) -> None:
        if really:  # not too often, or no canary lives long enough to be judged
            return
        world = self.world
        pod = world.pods[which % len(world.pods)]
        pod.ready, pod.changed, pod.restarts = False, world.now, pod.restarts + 1
        pod.crash = Crash("OOMKilled" if oom else "Error", 137 if oom else 1, world.now)
        world.truth.troubled.add(pod.version)

    @precondition(lambda self: self.world.pods)
    @rule(which=st.integers(0, 9))
    def a_node_dies(self, which: int) -> None:
        """The pod is gone and replaced: the cluster's doing, but if no pod of the version is ready for long it counts."""
        world = self.world
        pod = world.pods.pop(which % len(world.pods))
        world.truth.troubled.add(pod.version)
        world.pass_time(timedelta(0))

    @rule(really=st.integers(0, 4))
    def the_next_version_lies_about_its_digest(self, really: int) -> None:
        if really:
            return
        self.world.liars.add(f"v{self.newest + 1}")
        self.world.truth.troubled.add(f"v{self.newest + 1}")

    # --- people ----------------------------------------------------------------------------------------------------
    @rule(verb=st.sampled_from([*people.VERBS, "resume", "retry", "dance"]))
    def ask(self, verb: str) -> None:
        self.requests += 1
        self.world.request = Request(verb, f"id-{self.requests}")

    @rule(weights=st.lists(st.sampled_from([1, 5, 20, 50]), min_size=0, max_size=3), paused=st.booleans())
    def edit(self, weights: list[int], paused: bool) -> None:
        steps = tuple(Step(w, MINUTE) for w in sorted(weights))
        self.world.spec = replace(self.world.spec, steps=steps, paused=paused)

    @precondition(lambda self: self.world.deleting is None and self.newest > 1)
    @rule(really=st.integers(0, 4))
    def delete(self, really: int) -> None:
        if not really:
            self.world.deleting = self.world.now

    # --- what must always hold -------------------------------------------------------------------------------------
    @invariant()
    def nothing_to_complain_about(self) -> None:
        assert not self.world.truth.complaints, self.world.truth.complaints

    @invariant()
    def weights_sum_to_100(self) -> None:
        weights = self.world.route.weights
        assert not weights or sum(weights.values()) == 100

    @invariant()
    def at_rest_only_stable_has_traffic(self) -> None:
        progress, weights = self.world.stored.progress, self.world.route.weights
        if progress.state in RESTING and progress.stable is not None:
            assert not {v for v, w in weights.items() if w and v != progress.stable.name}, (progress.state, weights)

    @invariant()
    def previous_is_never_the_champion(self) -> None:
        progress = self.world.stored.progress
        assert progress.previous is None or progress.previous != progress.stable

    @invariant()
    def a_deleted_rollout_leaves_stable_serving(self) -> None:
        world = self.world
        stable = world.stored.progress.stable
        if world.released and not world.spec.delete_serving and stable is not None:
            assert stable.name in world.replicas
            assert world.route.weights.get(stable.name, 100) == 100 or not world.gateway_up

    def teardown(self) -> None:
        """Heal the world: whatever happened, the rollout comes to rest by itself and the newest good version is not lost."""
        if not hasattr(self, "world") or self.world.deleting is not None:
            return
        world = self.world
        world.source_up = world.traffic_flows = world.gateway_up = world.moves = True
        world.nodes_full = False
        world.spec = replace(world.spec, paused=False, manual_promotion=False)
        for turn in range(200):
            if turn % 20 == 0:
                self.ask("resume")
            for pod in world.pods:
                pod.crash = None
            self.time_passes(30, 1)
            self.nothing_to_complain_about()
            self.at_rest_only_stable_has_traffic()
            if turn > 45 and world.stored.progress.state is State.IDLE and world.stored.progress.pause is None:
                break
        progress = world.stored.progress
        assert progress.state is State.IDLE, progress
        assert not [c for c in world.candidates if c.number > progress.tried()], (
            "a candidate waits and nobody takes it up"
        )


def test_invariants_hold() -> None:
    run_state_machine_as_test(RolloutUnderFaults, settings=THOROUGH)


# --- the test can fail: each deliberately broken rule is caught ------------------------------------------------------
def _never(_: View) -> Change | None:
    return None


def _impatient(view: View) -> Change | None:
    """Ends every step at once."""
    staged = view.state is State.STEPPING and view.progress.observed_at is not None and view.progress.pause is None
    return advance.move_on(view, approved=False) if staged else None


def _trigger_happy(view: View) -> Change | None:
    """Takes an outage for a breach."""
    blind = safety.blind_reading(view) if view.state is State.STEPPING else None
    return fail(view, Outcome.ROLLED_BACK, "Blind", "cannot see") if blind else None


def _forgetful(view: View) -> Change | None:
    """Starts the newest candidate again and again, whatever became of it."""
    newest = max(view.seen.candidates, key=lambda c: c.number, default=None)
    if view.state not in RESTING or newest is None or newest == view.progress.stable or view.progress.pause is not None:
        return None
    return advance.start(view, newest)


def _hasty(view: View) -> Change | None:
    """Calls a rollback done when the route says so, whatever the counters count."""
    seen = view.progress.observation
    believed = replace(seen, how="lag", told=False) if seen is not None else None
    return safety.finish_rolling_back(replace(view, progress=replace(view.progress, observation=believed)))


MUTANTS: dict[str, dict[Rule, Rule]] = {
    "a failing canary goes on": {safety.roll_back_on_fail: _never},
    "steps end without looking": {advance.finish_the_step: _impatient},
    "an outage rolls back": {safety.hold_while_blind: _trigger_happy},
    "a condemned version is offered again": {advance.start_with_the_newest_candidate: _forgetful},
    "the mark on the route is ignored": {safety.honour_the_mark: _never},
    "rollbacks never end": {safety.finish_rolling_back: _never},
    "rollbacks are done before traffic has gone": {safety.finish_rolling_back: _hasty},
    "nothing is ever promoted": {advance.finish_the_promotion: _never},
}


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS.keys())
def test_a_broken_rule_is_caught(mutant: dict[Rule, Rule]) -> None:
    broken = type("Broken", (RolloutUnderFaults,), {"rules_under_test": tuple(mutant.get(r, r) for r in RULES)})
    with pytest.raises((AssertionError, ExceptionGroup)):
        run_state_machine_as_test(broken, settings=HUNT)


@pytest.mark.slow
def test_a_reckless_rise_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weight that rises before pods are ready breaks invariant 1."""
    monkeypatch.setattr(render, "may_rise", lambda *_: True)
    monkeypatch.setattr(render, "exposure", lambda view: render.target(view.progress))
    with pytest.raises((AssertionError, ExceptionGroup)):
        run_state_machine_as_test(RolloutUnderFaults, settings=HUNT)
