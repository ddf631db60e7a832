"""The storm: many sessions trade while everything goes wrong at random, in rounds that end in calm and are judged.

The seed fixes what happens in which order; to which order or request it happens is up to the processes.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from functools import partial
from signal import SIGKILL, SIGQUIT
from typing import Any

from chaos.breach import Breach
from chaos.stage import PROCESSES, SYMBOLS, Stage
from chaos.world import patiently
from exchanges.services import exchange_clock_sync
from money.halts import halt_lift, halt_trip
from money.models import HaltMode, TradingHalt
from positions.services import session_exit
from sessions.models import SessionStatus, TradingSession
from sessions.services import UnableToCommand, session_recover, session_start, session_stop, session_suspend

ACCOUNTS = 16
CONFIGS = ((2, 3), (2, 4), (2, 5), (3, 5))
# Market seconds per second: a candle of a minute closes every second.
SPEED = 60
ROUND_SECONDS, SHORT_ROUND_SECONDS = 25.0, 10.0
# A round goes on beyond its time, up to so many times it, until it has dealt these: a busy machine makes no mild storm.
ROUND_BLOWS, LONGER_AT_MOST = 24, 5
PRICES = {"BTC-USDT": 50000.0, "ETH-USDT": 3000.0, "SOL-USDT": 150.0}
CALM_MINUTES = 30
CRASH_POINTS = (
    "order.claimed", "order.answered", "order.settled", "fills.recorded", "sessions.before_commit", "bells.before",
)  # fmt: skip
# Of all requests the part that each kind of failure meets, that takes a request's whole time, and that is answered late.
# Together less than a third: a venue that never answers is called no more, and then nothing would be tested.
CHANCE, SLOW_CHANCE, LATE_CHANCE = 0.014, 0.003, 0.07

# Of each kind of row the newest are rung for again: what is long over would only cost time. At rest all are.
RUNG_AGAIN = 100

# How positions are left: at once, in parts, by a stop that follows, and by several of them.
STOP: dict[str, Any] = {"stop_loss_percent": "0.5"}
LEVELS = [
    {"percent": "0.3", "fraction": "0.4"},
    {"percent": "0.7", "fraction": "0.3"},
    {"percent": "1.2", "fraction": "0.3"},
]
PLANS: tuple[dict[str, Any], ...] = (
    STOP | {"targets": [{"percent": "1"}]},
    STOP | {"targets": LEVELS},
    STOP | {"targets": [], "trailing_percent": "0.4", "trailing_activation_percent": "0.2"},
    STOP | {"targets": LEVELS, "trailing_percent": "0.6", "break_even_percent": "0.3", "max_hold_minutes": 30},
)

Blow = tuple[str, int, Callable[[], object]]


class Storm:
    """Rounds of ``rage`` and ``end`` on one stage, for about ``seconds``; of one short round where these are none."""

    def __init__(self, stage: Stage, seconds: float) -> None:
        self.stage, self.rng = stage, stage.rng
        self._round_seconds = ROUND_SECONDS if seconds else SHORT_ROUND_SECONDS
        self._script_markets(minutes=CALM_MINUTES + int((seconds * 2 + 600) * SPEED / 60))
        self.sessions = self._make_sessions()

    # -- the play -----------------------------------------------------------------------------------------------

    def rage(self) -> None:
        """One round: everybody trades, and blow follows blow."""
        self._clock(SPEED)
        for session_id in self.sessions:
            self._try(session_start, session_id)
        self._spoil_venue()
        began = time.monotonic()
        blows = self._blows()
        weights = [blow[1] for blow in blows]
        dealt = 0
        while not self._is_over(time.monotonic() - began, dealt):
            [blow] = self.rng.choices(blows, weights)
            blow[2]()
            dealt += 1
            self.stage.revive()
            time.sleep(self.rng.uniform(0.05, 0.4))

    def _is_over(self, seconds: float, dealt: int) -> bool:
        """Whether a round has lasted long enough that has dealt so many blows in so many seconds."""
        if dealt < ROUND_BLOWS:
            return seconds > self._round_seconds * LONGER_AT_MOST
        return seconds > self._round_seconds

    def end(self) -> None:
        """Healed: lift every halt, stop every session, some of them twice at once, and stop the venue's clock once all have
        been asked."""
        for halt in TradingHalt.objects.filter(lifted_at=None):
            halt_lift(halt.pk, "storm", actor="chaos")
        for session_id in self.sessions:
            clicks = [partial(self._try, session_stop, session_id)] * self.rng.choice((1, 1, 3))
            self.stage.together(*clicks)
        self.stage.wait(self._is_stopped, "every session of the storm stopped", 60)
        self._clock(0)

    def _is_stopped(self) -> bool:
        mine = TradingSession.objects.filter(pk__in=self.sessions)
        return not mine.exclude(status__in=(SessionStatus.STOPPED, SessionStatus.CREATED)).exists()

    # -- the blows ----------------------------------------------------------------------------------------------

    def _blows(self) -> list[Blow]:
        stage, rng = self.stage, self.rng
        return [
            ("kill", 80, self._kill),
            ("crash at a point", 20, self._crash),
            ("a computing child killed", 4, lambda: "strategies" in stage.running and stage.kill_child("strategies")),
            ("broker loses all", 3, stage.broker_lose),
            ("broker restarted empty", 1, lambda: stage.broker_restart(is_data_lost=True)),
            ("broker killed", 1, stage.broker_restart),
            ("broker connections cut", 4, partial(self._cut, "broker")),
            ("broker stalls", 2, partial(self._stall, "broker")),
            ("database connections cut", 4, partial(self._cut, "database")),
            ("database stalls", 2, partial(self._stall, "database")),
            ("cut on commit", 6, self._cut_commit),
            ("database shut down at once", 1, lambda: stage.postgres_restart(SIGQUIT)),
            ("database killed", 1, lambda: stage.postgres_restart(SIGKILL)),
            ("venue killed", 1, self._kill_venue),
            ("venue behaves otherwise", 6, self._change_venue),
            ("every bell rung", 2, self._ring),
            ("a bell rung five times, shuffled", 6, self._ring_shuffled),
            ("everybody asks the venue", 60, self._ask),
            ("clicks", 12, self._click),
            ("halt tripped, and another lifted", 8, self._halt),
            ("two beats", 2, self._second_beat),
            ("frozen and thawed", 3, lambda: self._freeze(rng.choice(PROCESSES))),
        ]

    def _kill(self) -> None:
        self._restart(self.rng.choice(PROCESSES))

    def _crash(self) -> None:
        point = self.rng.choice(CRASH_POINTS)
        name = self.rng.choice(
            ("orders", "exits") if point.startswith(("order", "fills")) else ("tracking", "orders", "exits")
        )
        self._restart(name, crash_at=f"{point}:{self.rng.randint(1, 6)}")

    def _restart(self, name: str, crash_at: str = "") -> None:
        if name in self.stage.running:
            self.stage.restart(name, crash_at=crash_at)

    def _cut(self, which: str) -> None:
        proxy = self.stage.broker_proxy if which == "broker" else self.stage.database_proxy
        self.stage.count(which)
        if self.rng.random() < 0.7:
            proxy.reset()
            return
        proxy.cut()
        time.sleep(self.rng.uniform(0.2, 1))
        proxy.heal()

    def _stall(self, which: str) -> None:
        proxy = self.stage.broker_proxy if which == "broker" else self.stage.database_proxy
        self.stage.count(which)
        self.rng.choice((proxy.stall, proxy.drop))()
        time.sleep(self.rng.uniform(0.3, 1.5))
        proxy.heal()

    def _cut_commit(self) -> None:
        self.stage.count("database")
        when = self.rng.choice(("before", "after"))
        self.stage.database_proxy.cut_at(b"COMMIT", self.rng.randint(1, 10), "before" if when == "before" else "after")

    def _kill_venue(self) -> None:
        self.stage.simulator_kill()
        self.stage.simulator_start()
        self._spoil_venue()

    def _spoil_venue(self) -> None:
        """Every kind of fault, before and after the venue acted, on a part of all requests."""
        stage = self.stage
        for when in ("before", "after"):
            for kind in ("drop", "html", "empty", "truncated"):
                stage.fault(kind=kind, when=when, chance=CHANCE, count=None)
            for status in (500, 502, 503, 504, 520, 524):
                stage.fault(kind="http", when=when, status=status, chance=CHANCE / 3, count=None)
            for code in ("408000", "500000", "999999"):
                stage.fault(kind="code", when=when, code=code, chance=CHANCE / 3, count=None)
            stage.fault(kind="hang", when=when, chance=SLOW_CHANCE, seconds=3, count=None)
            stage.fault(kind="delay", when=when, chance=LATE_CHANCE, seconds=0.3, count=None)
            # Longer than the window: the venue must refuse what arrives now.
            stage.fault(kind="delay", when=when, chance=SLOW_CHANCE, seconds=1.5, count=None, path="/api/v1/hf/orders")
        for code in ("429000", "400002"):
            stage.fault(kind="code", code=code, chance=CHANCE, count=None)

    def _change_venue(self) -> None:
        change = self.rng.choice(
            (
                {"readLagMs": 1500}, {"readLagMs": 0}, {"cancelDelayMs": 700}, {"fillRatio": 0.4}, {"fillRatio": 1},
                {"clockOffsetMs": 8000}, {"clockOffsetMs": -8000}, {"clockOffsetMs": 0}, {"candleLagMs": 1000},
                {"candleLagMs": 0}, {"duplicateClientOid": "always"}, {"duplicateClientOid": "active"},
                {"status": "cancelonly"}, {"status": "close"}, {"status": "open"}, {"status": "open"},
            )
        )  # fmt: skip
        self.stage.settings(**change)
        if change.get("status") in ("cancelonly", "close") or change.get("clockOffsetMs"):
            time.sleep(self.rng.uniform(0.3, 1.2))
            self.stage.settings(status="open", clockOffsetMs=0)
        if self.rng.random() < 0.3:
            self.stage.sim("stream", drop=True)

    def _ring(self) -> None:
        self.stage.count("bells", self._rung(partial(self.stage.ring_everything, RUNG_AGAIN)))

    def _ring_shuffled(self) -> None:
        bells = [(task, argument, ids) for task, argument, ids in self.stage.bells(RUNG_AGAIN) if ids]
        task, argument, ids = self.rng.choice(bells)
        chosen = self.rng.sample(ids, min(10, len(ids))) * 5
        self.rng.shuffle(chosen)
        self.stage.count("bells", self._rung(lambda: self.stage.ring_all(task, argument, chosen)))

    def _ask(self) -> None:
        """Every account's balances are read, and the venue's clock and markets, by bells that come three at a time."""
        bells = {task: (argument, ids) for task, argument, ids in self.stage.bells()}
        for task in ("orders.balances", "exchanges.sync"):
            argument, ids = bells[task]
            self.stage.count("bells", self._rung(partial(self.stage.ring_all, task, argument, ids * 3)))

    @staticmethod
    def _rung(ring: Callable[[], int]) -> int:
        with suppress(Breach):
            return ring()
        return 0  # the broker was away: nothing was rung

    def _click(self) -> None:
        """Several commands to one session in the same moment, or the same one several times."""
        session_id = self.rng.choice(self.sessions)
        commands = (session_suspend, session_recover, session_stop, session_start, session_exit)
        wanted = self.rng.choices(commands, (4, 4, 1, 2, 2), k=3)
        if self.rng.random() < 0.5:
            wanted = [wanted[0]] * 3
        self.stage.count("control", len(wanted))
        self.stage.together(*(partial(self._try, command, session_id) for command in wanted))
        # Whatever came of it, it trades on.
        for command in (session_recover, session_start):
            self._try(command, session_id)

    def _halt(self) -> None:
        """A halt of whatever mode and scope trips twice in one moment while another is lifted; a platform's is short."""
        mode = self.rng.choice(HaltMode.values)
        session = TradingSession.objects.get(pk=self.rng.choice(self.sessions))
        scope: dict[str, Any] = self.rng.choice(
            ({"session_id": session.pk}, {"session_id": session.pk}, {"account_id": session.account_id}, {})
        )
        trip = partial(halt_trip, mode, "storm", actor="chaos", **scope)
        in_force = list(TradingHalt.objects.filter(lifted_at=None).order_by("pk").values_list("pk", flat=True))
        lifts = [partial(halt_lift, pk, "storm", actor="chaos") for pk in in_force[: len(in_force) // 2]]
        self.stage.count("control", 2 + len(lifts))
        tripped = self.stage.together(trip, trip, *lifts)[0]
        if not scope and isinstance(tripped, TradingHalt):
            time.sleep(self.rng.uniform(0.1, 0.5))
            self.stage.together(partial(halt_lift, tripped.pk, "storm", actor="chaos"))

    def _second_beat(self) -> None:
        if "beat-2" in self.stage.running:
            self.stage.kill("beat-2")
        else:
            self.stage.start("beat-2", wait=False)
            self.stage.count("control")

    def _freeze(self, name: str) -> None:
        if name in self.stage.running and not self.stage.has_died(name):
            self.stage.freeze(name)
            time.sleep(self.rng.uniform(0.3, 1.5))
            self.stage.thaw(name)

    @staticmethod
    def _try(command: Callable[[int], object], session_id: int) -> None:
        with suppress(UnableToCommand):
            command(session_id)

    # -- the scene ----------------------------------------------------------------------------------------------

    def _make_sessions(self) -> list[int]:
        """On each account a session on each market, with a configuration in turn."""
        stage = self.stage
        configs = [
            [stage.config(stage.feed(symbol.replace("-", "/")), fast=fast, slow=slow) for fast, slow in CONFIGS]
            for symbol in SYMBOLS
        ]
        made = []
        for number in range(ACCOUNTS):
            account = stage.account("100000")
            made += [
                stage.session(
                    account, of_market[number % len(of_market)], sizing_amount=Decimal(self.rng.randint(200, 2000)),
                    exits=self.rng.choice(PLANS), max_entries=self.rng.choice((1, 1, 3)),
                    is_resting=self.rng.random() < 0.5, tick_seconds=60,
                ).pk
                for of_market in configs
            ]  # fmt: skip
        return made

    def _script_markets(self, minutes: int) -> None:
        """Quiet falling minutes, then runs of one to three minutes up and down, of up to 1.2 percent each."""
        begin_ms = self.stage.oracle()["now_ms"] // 60_000 * 60_000
        for symbol in SYMBOLS:
            closes = self._walk(PRICES[symbol], minutes)
            first_ms = begin_ms - CALM_MINUTES * 60_000
            rows = [[first_ms + minute * 60_000, *[close] * 4, 1.0] for minute, close in enumerate(closes)]
            self.stage.price(None, symbol)
            self.stage.sim(f"market/{symbol}/candles", candles=rows)

    def _walk(self, price: float, minutes: int) -> list[float]:
        rng = random.Random(self.rng.random())  # noqa: S311 - repeatable, not secret
        closes = [price * (1 - 0.0002 * minute) for minute in range(CALM_MINUTES)]
        direction = 1
        while len(closes) < minutes:
            # Back towards where it began: a walk of hours must not end at nothing.
            drift = 0.002 if closes[-1] < price * 0.9 else -0.002 if closes[-1] > price * 1.1 else 0.0
            for _ in range(rng.randint(1, 3)):
                closes.append(closes[-1] * (1 + direction * rng.uniform(0.003, 0.012) + drift))
            direction = -direction
        return [round(close, 2) for close in closes]

    def _clock(self, speed: float) -> None:
        exchange = self.stage.exchange
        exchange.clock_speed = speed
        exchange.save(update_fields=["clock_speed"])
        self.stage.sim("clock", speed=speed)
        patiently(lambda: exchange_clock_sync(exchange.pk))
        exchange.refresh_from_db()
