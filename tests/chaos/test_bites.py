"""The scenarios bite: a build without one of its guards fails the scenario that is meant to miss it, and a sound one passes.

Played by hand, in this process, with the guard patched away; a few again on real processes, by the command itself.
``./r3edge test`` plays one or two guards of each kind, whose absence is seen quickly and by what happened, however slow the
machine is, and every third sweep; ``R3EDGE_LONG=1 ./r3edge test tests/chaos`` plays them all. What the short run leaves out
has tests of its own in its app, which play on one row what is played here on the whole.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest
import redis
from django.db import connection

from chaos.breach import Breach
from chaos.mutants import MUTANTS, Mutant, NoSuchName, applied, apply, restore
from chaos.scenarios import SCENARIOS, Scenario, load
from embedded.checkout import ROOT
from tests.chaos.hand import HURRIED, IS_LONG, HandStage, hand_stage, played
from tests.conftest import Bells
from tests.simulator.conftest import Simulator, made_exchange

# How a breach begins that one of the nine invariants found.
INVARIANT = re.compile(r"I\d: ")

SWEEPS = [mutant for mutant in MUTANTS.values() if mutant.name.startswith("no_sweep_of_")]
# All of them are taken away at once, so that these play at once, with and without.
BELLS = [name for mutant in SWEEPS for name in mutant.caught_by][:: 1 if IS_LONG else 3]
CONSTRAINTS = {
    "no_constraint_on_live_attempts": "a second live attempt of an intent",
    "no_constraint_on_fills": "a fill again",
    "no_constraint_on_live_positions": "a second live position of a session",
    "no_constraint_on_intents": "a second intent of one purpose",
    "no_constraint_on_runs": "a second run of a configuration on an account",
    "no_constraint_on_signals": "a second signal of one candle",
    "no_constraint_on_candles": "a second candle of one minute",
}
ALONE = [mutant for mutant in MUTANTS.values() if mutant not in SWEEPS and mutant.name not in CONSTRAINTS]
BY_HAND = [name for name, scenario in load().items() if not scenario.needs_stage]
# Of each kind of guard, and none whose absence only shows by the clock.
ALWAYS = {
    "any_error_is_rejection", "resend_on_timeout",  # talking to a venue
    "claim_not_guarded", "outcome_not_guarded", "absence_is_proof",  # orders
    "exits_twice",  # positions
    "halts_leave_the_unsent",  # halts
    "account_not_locked", "ticks_not_claimed",  # money, sessions
    "open_candles_count",  # market data
    "drift_not_told",  # the books against the venue's
}  # fmt: skip
# What a mutant has to fail must pass without it. What else can be played by hand is played by the command, on processes.
MISSED = [(mutant, name) for mutant in ALONE if IS_LONG or mutant.name in ALWAYS for name in mutant.caught_by]
NEEDED = {name for _, name in MISSED}
SOUND = [name for name in BY_HAND if name in NEEDED]
# How often a scenario may run out of time before it is a finding.
TRIES = 3
# Several one after the other share a stage.
PARTS = 8 if IS_LONG else 2
ON_PROCESSES = ["any_error_is_rejection", "claim_not_guarded", "stop_does_not_wait"]


@contextmanager
def build_without(patch: pytest.MonkeyPatch, broker: redis.Redis, *mutants: Mutant) -> Iterator[HandStage]:
    """A stage by hand whose build lacks what these mutants lack."""
    if mutants:
        first, *rest = mutants
        with applied(first.name), build_without(patch, broker, *rest) as stage:
            yield stage
        if first.drops:
            with connection.cursor() as cursor:
                cursor.execute("TRUNCATE orders_order, positions_position, trading_sessions_tradingsession, "
                               "strategies_signal, marketdata_candle CASCADE")  # fmt: skip
            restore(first.name)
        return
    with Simulator(made_exchange()) as simulator, hand_stage(patch, simulator.url, broker, HURRIED) as stage:
        yield stage


@pytest.mark.timeout(400)
@pytest.mark.parametrize("part", range(PARTS))
def test_a_sound_build_passes(part: int, stage: HandStage) -> None:
    found = {}
    for name in SOUND[part::PARTS]:
        breaches = played(stage, SCENARIOS[name])
        for _ in range(TRIES - 1):
            # Hurried patience may run out beside another test on the same cores; what an invariant finds never is chance.
            if not breaches or any(INVARIANT.match(words) for words in breaches):
                break
            # A scenario that broke off has left the venue as spoiled as it was.
            stage.heal()
            breaches = played(stage, SCENARIOS[name])
        if breaches:
            found[name] = breaches

    assert found == {}


def test_with_every_sweep_no_bell_that_is_lost_is_missed(stage: HandStage) -> None:
    assert stage.together(*(partial(SCENARIOS[name].play, stage) for name in BELLS)) == [None] * len(BELLS)


@pytest.mark.parametrize(("mutant", "name"), MISSED, ids=lambda one: getattr(one, "name", one))
def test_a_build_without_a_guard_fails(
    mutant: Mutant, name: str, transactional_db: None, bells: Bells, monkeypatch: pytest.MonkeyPatch
) -> None:
    with build_without(monkeypatch, bells.client, mutant) as stage:
        stage.longest_wait, stage.grace = 6, 2
        assert played(stage, SCENARIOS[name], limit=6), f"wanted {name} to miss it: {mutant.misses}"


def test_without_any_sweep_each_bell_that_is_lost_is_missed(
    transactional_db: None, bells: Bells, monkeypatch: pytest.MonkeyPatch
) -> None:
    def play(scenario: Scenario) -> str:
        scenario.play(stage)
        return scenario.name

    with build_without(monkeypatch, bells.client, *SWEEPS) as stage:
        stage.grace = 2
        outcomes = stage.together(*(partial(play, SCENARIOS[name]) for name in BELLS))

    assert len(outcomes) == len(BELLS)
    assert [outcome for outcome in outcomes if not isinstance(outcome, Breach)] == []


def test_without_its_constraints_the_database_takes_everything_twice(
    transactional_db: None, bells: Bells, monkeypatch: pytest.MonkeyPatch
) -> None:
    with build_without(monkeypatch, bells.client, *(MUTANTS[name] for name in CONSTRAINTS)) as stage:
        [breach] = played(stage, SCENARIOS["second-writer"])

    assert [what for what in CONSTRAINTS.values() if f"{what} was" not in breach] == []


def test_every_mutant_says_what_misses_it() -> None:
    assert {name for mutant in MUTANTS.values() for name in mutant.caught_by} <= set(BY_HAND)
    assert all(mutant.caught_by and mutant.misses for mutant in MUTANTS.values())
    assert all(mutant.patches or mutant.drops for mutant in MUTANTS.values())
    assert {mutant.name for mutant in ALONE} >= ALWAYS
    assert sum(len(mutant.caught_by) for mutant in SWEEPS) == 17
    assert len(BELLS) == (17 if IS_LONG else 6)


def test_a_mutant_of_a_name_that_is_gone_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("orders.lookups.NOT_PLACED_MISSES")

    with pytest.raises(NoSuchName, match="wanted NOT_PLACED_MISSES in orders.lookups, it is gone"):
        apply("not_found_is_absent")


@pytest.mark.flow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", ON_PROCESSES if IS_LONG else ON_PROCESSES[:1])
def test_a_build_without_a_guard_fails_on_real_processes_too(name: str) -> None:
    [scenario] = MUTANTS[name].caught_by
    command = [sys.executable, "-m", "chaos", "--mutant", name, "--scenario", scenario]

    done = subprocess.run(
        command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, check=False, timeout=230
    )

    assert done.returncode == 1, f"{done.stdout}\n{done.stderr}"
    assert f"chaos: {scenario} BREACH" in done.stderr
