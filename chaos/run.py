"""Plays scenarios on one stage, then the storm until the time is over, and writes down what came of each."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections import Counter
from contextlib import suppress

from chaos import invariants
from chaos.breach import Breach, CannotRun
from chaos.mutants import MUTANTS
from chaos.options import ALL, STORM
from chaos.report import Report, Row
from chaos.scenarios import Scenario, coverage, load
from chaos.scenarios.acts import leave_all
from chaos.servers import Ground
from chaos.stage import Stage, stage_set
from chaos.storm import Storm
from orders.models import Fill, Order
from positions.models import Position

# A stage is at rest at the latest so long after it was healed.
CONVERGE_LIMIT_SECONDS = 60.0
# A storm makes rows by the thousand: of each kind the newest are rung for again, those of its last rounds.
RUNG_AGAIN = 500
DUPLICATED, UNRESOLVED = "I1", "I5"
LOST = ("I2", "I3")


def listing() -> str:
    """Every scenario with the rows of the fault table it covers, and what it does; then the table, row by row, with what
    covers each or why nothing can."""
    lines = [
        f"{one.name:32} {','.join(map(str, one.rows)):12} {one.text}{' (slow)' if one.is_slow else ''}"
        for one in load().values()
    ]
    lines.append(f"{STORM:32} {'all at once':12} many sessions and every fault at random, by the seed")
    return "\n".join([*lines, "", "the fault table", *coverage.lines()])


def chosen(options: argparse.Namespace) -> list[Scenario | None]:
    """What is to be played, in order; None is the storm. Raises CannotRun for a name that nothing has."""
    known = load()
    names = options.scenario or [ALL, STORM]
    for name in names:
        if name not in (*known, ALL, STORM):
            raise CannotRun(f"unknown scenario '{name}', wanted some of: {', '.join([*known, ALL, STORM])}")
    played: list[Scenario | None] = []
    for name in names:
        if name == ALL:
            # The short run plays what needs real processes; the rest is played by hand, with every mutant, in the tests.
            played += [one for one in known.values() if not options.short or (one.needs_stage and not one.is_slow)]
        else:
            played.append(None if name == STORM else known[name])
    return played


def run(options: argparse.Namespace, ground: Ground) -> Report:
    """Play everything that was chosen."""
    # What a broken platform makes this process complain of is no news.
    logging.getLogger().setLevel(logging.CRITICAL)
    report = Report(options.seed, options.pace)
    plays, began = chosen(options), time.monotonic()
    if options.mutant and options.mutant not in MUTANTS:
        raise CannotRun(f"unknown mutant '{options.mutant}', wanted one of: {', '.join(MUTANTS)}")
    with stage_set(ground, seed=options.seed, pace=options.pace, mutant=options.mutant) as stage:
        play = Playbook(stage, report)
        with suppress(KeyboardInterrupt):  # what was found until then is the report
            for scenario in plays:
                if scenario is not None:
                    play.scenario(scenario, with_bells=not options.short)
                elif options.short:
                    play.storm(0.0)
                else:
                    play.storm(max(0.0, options.minutes * 60 - (time.monotonic() - began)))
        report.facts = {
            "orders": Order.objects.count(),
            "fills": Fill.objects.count(),
            "positions closed": Position.objects.filter(status="CLOSED").count(),
            "process kills": stage.kills,
            "seconds": round(time.monotonic() - began),
        }
    return report


class Playbook:
    """Plays on one stage and writes into one report."""

    def __init__(self, stage: Stage, report: Report) -> None:
        self.stage, self.report = stage, report
        self._known: set[str] = set()

    def scenario(self, scenario: Scenario, *, with_bells: bool) -> None:
        """Play one, heal, wait, judge; I8 too, or leave that to what comes after."""
        row = self.report.row(scenario.name)
        try:
            scenario.play(self.stage)
        except Breach as breach:
            self._breach(row, str(breach))
        self.conclude(row, with_bells=with_bells)

    def storm(self, seconds: float) -> None:
        """Rage in rounds until the time is over; once at least."""
        until = time.monotonic() + seconds
        raging = Storm(self.stage, seconds)
        row = self.report.row(STORM)
        while True:
            try:
                raging.rage()
            except Breach as breach:
                self._breach(row, str(breach))
            self.conclude(row, raging)
            if time.monotonic() > until:
                break

    def conclude(self, row: Row, raging: Storm | None = None, *, with_bells: bool = True) -> None:
        """Heal, let everything come to rest, check I1 to I9, write the row."""
        stage, began = self.stage, time.monotonic()
        findings: list[invariants.Finding] = []
        try:
            stage.heal()
            healed = time.monotonic()
            if raging is not None:
                raging.end()
            else:
                # A position that is held is valued anew by every tick: only what is flat can be rung for in vain.
                leave_all(stage)
            stage.settle(CONVERGE_LIMIT_SECONDS)
            row.converged_s = max(row.converged_s, time.monotonic() - healed)
            findings = stage.check()
            if with_bells:
                findings += stage.check_bells(RUNG_AGAIN if raging is not None else None)
        except Breach as breach:
            self._breach(row, str(breach))
            row.unresolved += len(stage.waiting())
            findings = stage.check()
        self._note(row, findings)
        row.runs += 1
        row.faults += stage.injected
        stage.injected = Counter()
        self._say(row, time.monotonic() - began)

    def _say(self, row: Row, seconds: float) -> None:
        verdict = "ok" if not row.breaches else "BREACH"
        kills, exchange = self.stage.kills, self.report.faults["exchange"]
        print(
            f"chaos: {row.name} {verdict}, healed and judged in {seconds:.1f} s; {kills} processes killed and {exchange} "
            "exchange faults so far", file=sys.stderr, flush=True,
        )  # fmt: skip

    @staticmethod
    def _breach(row: Row, words: str) -> None:
        row.breaches.append(words)
        print(f"chaos: BREACH {row.name}: {words}", file=sys.stderr, flush=True)

    def _note(self, row: Row, findings: list[invariants.Finding]) -> None:
        for finding in findings:
            # What one scenario broke stays broken: the next is not to blame.
            if str(finding) in self._known:
                continue
            self._known.add(str(finding))
            self._breach(row, str(finding))
            row.lost += finding.invariant in LOST
            row.duplicated += finding.invariant == DUPLICATED
            row.unresolved += finding.invariant == UNRESOLVED
