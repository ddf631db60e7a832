"""Every periodic task: its period, after how long an unheard message is worth nothing, and why it exists.

A handful of static entries whatever the number of sessions: due times of sessions, feeds and orders are columns, and these
sweeps look for what is due.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class Entry:
    task: str
    seconds: float
    reason: str

    @property
    def period(self) -> timedelta:
        return timedelta(seconds=self.seconds)

    @property
    def queue(self) -> str:
        return self.task.split(".")[0]

    @property
    def expires_seconds(self) -> int:
        # A backlog after an outage collapses into the next run instead of being worked off.
        return max(2, int(self.seconds * 1.5))


SCHEDULE = (
    Entry("marketdata.sweep", 1, "candles close at any second; a feed is to be collected within two of its close"),
    Entry("sessions.tick", 1, "sessions are due at any second; the claim is one indexed statement"),
    Entry("exits.watch", 2, "the fastest exit we track ourselves: one price call per exchange"),
    Entry("exits.sweep-orders", 2, "exits that were not sent, or of which only the venue knows"),
    Entry("exits.sweep-positions", 3, "fills, signals and stops of sessions that hold something, whose bell was lost"),
    Entry("orders.sweep", 2, "an order of unknown outcome, or open at the venue, is looked at every two seconds"),
    Entry("money.sweep", 3, "an entry whose valuing bell was lost is worth less every second"),
    Entry("money.guard", 5, "accounts that break a rule are halted; what a halt left undone is asked for again"),
    Entry("positions.sweep", 3, "signals and stops whose bell was lost; accounts that are due to be compared"),
    Entry("strategies.sweep", 3, "candles whose evaluation bell was lost"),
    Entry("optimising.sweep", 5, "studies whose bell was lost, and trials whose worker died"),
    Entry("backtesting.sweep", 5, "backtests whose bell was lost or whose worker died, and those that wait for a turn"),
    Entry(
        "sessions.sweep", 5, "recoveries asked for, sessions on paused accounts, feeds out of step with their sessions"
    ),
    Entry("exchanges.watch", 5, "whether venues take orders: read every minute, and each time while one does not"),
    Entry("exchanges.sweep", 60, "clocks drift, markets and the rights of keys change: re-read when old"),
    Entry("money.equity", 30, "sessions, accounts and owners whose next point of the equity curve is due"),
    Entry("money.thin_equity", 6 * 3600, "points of the equity curve older than two days are thinned"),
    Entry("marketdata.housekeep", 6 * 3600, "next month's candles and trades have a partition; old ones are retired"),
    Entry("pipeline.housekeep", 6 * 3600, "the journal's partition of next month exists before it begins"),
)

# What the schedule had in versions before: beat keeps in the database what it has once read.
GONE = ("positions.watch",)
