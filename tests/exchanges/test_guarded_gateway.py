"""A gateway behind the shared budget and circuit: what is refused, what still passes, and who is told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, cast

import pytest

from exchanges import breaker, guarded_gateway, shared
from exchanges.budget import Use
from exchanges.gateway import ExchangeUnavailable, Gateway, OrderOutcomeUnknown, OrderRejected
from exchanges.guarded_gateway import GuardedGateway, breaker_of, public_budget
from exchanges.venues import CAUTIOUS, Allowance, Pool, Venue
from tests.conftest import Bells
from tests.exchanges.conftest import ticket
from tests.race import at_once, elsewhere

SILENT = ExchangeUnavailable("RequestTimeout")
REFUSED_KEY = ExchangeUnavailable("400003", is_refused_key=True, is_answer=True)
BAD_SYMBOL = ExchangeUnavailable("BadSymbol", is_answer=True)
LIMITED = ExchangeUnavailable("429000", retry_after=timedelta(seconds=7))


@dataclass
class Inner:
    """A venue that does what it is told: each call is noted, and raises ``failure`` while there is one."""

    failure: Exception | None = None
    calls: list[str] = field(default_factory=list)

    def __getattr__(self, name: str) -> Callable[..., str]:
        def call(*_: Any) -> str:
            self.calls.append(name)
            if self.failure is not None:
                raise self.failure
            return "answer"

        return call


def guarded(inner: Inner, account: str = "account:1", exchange_id: int = 1) -> Any:
    """Guarded; typed as whatever, since ``Inner`` answers with plain words."""
    return GuardedGateway(cast(Gateway, inner), "kucoin", exchange_id, account)


def fail(gateway: Any, times: int = 5) -> None:
    for _ in range(times):
        with pytest.raises(ExchangeUnavailable):
            gateway.balances()


@pytest.fixture(autouse=True)
def _closed(bells: Bells) -> None:
    """No circuit is open and no pool has been drawn from."""


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Circuits stay open for a fifth of a second."""
    monkeypatch.setattr(breaker, "OPEN_MS", 200)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A venue that allows a weight of 10 in 30 s."""
    pools = {"public": Pool(10, 30), "account": Pool(10, 30)}
    monkeypatch.setattr(guarded_gateway, "venue_of", lambda _: Venue(allowance=Allowance(pools, CAUTIOUS.calls)))


# -- the circuit ------------------------------------------------------------------------------------------------------


def test_after_five_failures_in_a_row_nobody_asks_the_venue(bells: Bells) -> None:
    inner = Inner(SILENT)
    fail(guarded(inner))
    inner.failure = None

    with pytest.raises(ExchangeUnavailable, match="wanted a venue that answers") as refused:
        guarded(inner, "account:2").order_create(ticket())

    assert inner.calls == ["balances"] * 5
    assert refused.value.retry_after is None
    assert breaker_of(1).is_open()
    assert bells.rung("exchanges.read_status") == [{"exchange_ids": [1]}]


def test_a_success_in_between_begins_the_count_anew() -> None:
    inner = Inner()
    gateway = guarded(inner)
    for _ in range(3):
        inner.failure = SILENT
        fail(gateway, 4)
        inner.failure = None
        gateway.balances()

    assert len(inner.calls) == 15
    assert not breaker_of(1).is_open()


@pytest.mark.parametrize("answer", [REFUSED_KEY, BAD_SYMBOL, OrderRejected("poor", code="200004")])
def test_a_venue_that_refuses_in_its_own_words_is_well(answer: Exception) -> None:
    inner = Inner(answer)
    gateway = guarded(inner)

    for _ in range(8):
        with pytest.raises(type(answer)):
            gateway.order_create(ticket())

    assert len(inner.calls) == 8
    assert not breaker_of(1).is_open()


def test_orders_of_unknown_outcome_open_the_circuit_too() -> None:
    gateway = guarded(Inner(OrderOutcomeUnknown("timeout")))

    for _ in range(5):
        with pytest.raises(OrderOutcomeUnknown):
            gateway.order_create(ticket())

    with pytest.raises(ExchangeUnavailable):
        gateway.order_create(ticket())


def test_failures_of_all_workers_count_together() -> None:
    inner = Inner(SILENT)

    at_once([lambda: guarded(inner).balances()] * 5)

    assert breaker_of(1).is_open()
    fail(guarded(inner), 1)
    assert len(inner.calls) == 5


def test_another_venue_is_asked_as_before() -> None:
    fail(guarded(Inner(SILENT), exchange_id=1))

    assert guarded(Inner(), exchange_id=2).balances() == "answer"


def test_after_a_while_one_call_may_try_and_its_success_lets_all_in(brief: None, bells: Bells) -> None:
    inner = Inner(SILENT)
    gateway = guarded(inner)
    fail(gateway)
    time.sleep(0.25)
    inner.failure = None
    bells_before = len(bells.rung("exchanges.read_status"))

    gateway.balances()

    assert not breaker_of(1).is_open()
    assert len(bells.rung("exchanges.read_status")) == bells_before + 1
    at_once([gateway.balances] * 4)
    assert len(inner.calls) == 10


def test_a_circuit_closes_whatever_the_clock_was_of_the_machine_that_opened_it(brief: None) -> None:
    inner = Inner(SILENT)
    gateway = guarded(inner)
    fail(gateway)
    shared.client().set("r3edge:exchange:1:pybreaker:opened_at", int(time.time()) + 3600)
    time.sleep(0.25)
    inner.failure = None

    gateway.balances()

    assert not breaker_of(1).is_open()


def test_a_trial_that_fails_keeps_the_circuit_open_for_as_long_again(brief: None) -> None:
    inner = Inner(SILENT)
    gateway = guarded(inner)
    fail(gateway)
    time.sleep(0.25)

    fail(gateway, 3)  # the first of them tries

    assert len(inner.calls) == 6
    time.sleep(0.25)
    fail(gateway, 1)
    assert len(inner.calls) == 7


def test_while_one_call_tries_the_others_are_refused_at_once(brief: None) -> None:
    fail(guarded(Inner(SILENT)))
    time.sleep(0.25)
    is_asked, may_answer = threading.Event(), threading.Event()

    class Slow(Inner):
        def balances(self) -> str:
            is_asked.set()
            assert may_answer.wait(5)
            return "answer"

    trial = threading.Thread(target=guarded(Slow()).balances)
    trial.start()
    assert is_asked.wait(5)
    waiting = Inner()
    started = time.monotonic()
    fail(guarded(waiting), 4)
    took = time.monotonic() - started
    may_answer.set()
    trial.join(5)

    assert waiting.calls == []
    assert took < 1
    assert not breaker_of(1).is_open()


def test_a_trial_whose_worker_died_is_followed_by_another(brief: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breaker, "TRYING_MS", 200)
    inner = Inner(SILENT)
    gateway = guarded(inner)
    fail(gateway)
    time.sleep(0.25)
    inner.failure = RuntimeError("died")  # nothing is recorded of it
    with pytest.raises(RuntimeError):
        gateway.balances()
    inner.failure = None
    fail(gateway, 1)

    time.sleep(0.25)

    gateway.balances()
    assert not breaker_of(1).is_open()


def test_calls_let_in_before_it_opened_do_not_keep_it_open(brief: None) -> None:
    inner = Inner(SILENT)
    before = breaker_of(1).admit(None, None, None)
    fail(guarded(inner))
    time.sleep(0.25)

    breaker_of(1).record(before, is_failure=True)

    fail(guarded(inner), 1)
    assert len(inner.calls) == 6  # it was let in to try


def test_calls_of_one_process_are_made_side_by_side() -> None:
    both = threading.Barrier(2)

    class Together(Inner):
        def balances(self) -> str:
            both.wait(5)
            return "answer"

    # Were calls made one after the other, neither would see the other arrive.
    assert at_once([guarded(Together()).balances] * 2) == ["answer", "answer"]


def test_a_redis_that_forgot_everything_closes_the_circuit(bells: Bells) -> None:
    fail(guarded(Inner(SILENT)))

    bells.clear()

    assert guarded(Inner()).balances() == "answer"
    fail(guarded(Inner(SILENT)))
    assert breaker_of(1).is_open()


# -- the budget -------------------------------------------------------------------------------------------------------


def test_over_the_budget_nothing_is_sent_and_an_exit_still_is(small: None) -> None:
    inner = Inner()
    gateway = guarded(inner)
    for _ in range(6):
        gateway.balances()

    with pytest.raises(ExchangeUnavailable, match="read calls may use") as refused:
        gateway.balances()
    looks = [gateway.order_find("BTC/USDT", "mine") for _ in range(2)]
    with pytest.raises(ExchangeUnavailable, match="look calls may use"):
        gateway.order_find("BTC/USDT", "mine")
    gateway.order_create(ticket())
    with pytest.raises(ExchangeUnavailable, match="entry calls may use"):
        gateway.order_create(ticket())
    gateway.order_create(ticket(is_exit=True))

    assert refused.value.retry_after is not None
    assert looks == ["answer"] * 2
    assert inner.calls == ["balances"] * 6 + ["order_find"] * 2 + ["order_create"] * 2


def test_a_refusal_of_ours_says_nothing_about_the_venue(small: None) -> None:
    gateway = guarded(Inner())
    for _ in range(6):
        gateway.balances()

    fail(gateway, 8)

    assert not breaker_of(1).is_open()


def test_public_data_and_accounts_draw_from_different_pools(small: None) -> None:
    one, two = guarded(Inner(), "account:1"), guarded(Inner(), "account:2")
    for _ in range(6):
        one.balances()
        two.time()

    one.quotes([])
    with pytest.raises(ExchangeUnavailable):
        one.time()
    assert two.balances() == "answer"
    assert public_budget("kucoin", 1).used() == 7


def test_an_exchange_that_allows_more_than_its_kind_is_asked_more(small: None) -> None:
    inner = Inner()
    usual, generous = (
        GuardedGateway(cast(Gateway, inner), "kucoin", number, public_weight=weight)
        for number, weight in ((1, None), (2, 20))
    )
    answered = []

    for gateway in (usual, generous):
        inner.calls.clear()
        for _ in range(20):
            with suppress(ExchangeUnavailable):
                gateway.time()
        answered.append(len(inner.calls))

    assert answered == [6, 12]  # reads may use sixty of a hundred


def test_a_venue_that_says_too_many_blocks_that_account_alone_until_then() -> None:
    inner = Inner(LIMITED)
    gateway, other = guarded(inner), guarded(Inner(), "account:2")
    with pytest.raises(ExchangeUnavailable):
        gateway.order_create(ticket())
    inner.failure = None

    def refused() -> float:
        with pytest.raises(ExchangeUnavailable, match="rate limit") as raised:
            guarded(inner).order_create(ticket(is_exit=True))
        return cast(timedelta, raised.value.retry_after).total_seconds()

    assert refused() == pytest.approx(7, abs=0.5)
    assert elsewhere(refused) == pytest.approx(7, abs=0.5)
    assert inner.calls == ["order_create"]
    assert (other.order_create(ticket()), gateway.quotes([])) == ("answer", "answer")
    assert not breaker_of(1).is_open()


def test_a_trial_that_the_budget_refuses_is_left_to_another(small: None, brief: None) -> None:
    inner = Inner(SILENT)
    gateway = guarded(inner)
    fail(gateway, 5)
    public_budget("kucoin", 1).take(6, Use.READ)
    time.sleep(0.25)
    inner.failure = None
    with pytest.raises(ExchangeUnavailable, match="read calls may use"):
        gateway.time()

    gateway.balances()

    assert not breaker_of(1).is_open()


# -- who is told ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "task"),
    [
        ("200001", "exchanges.read_status"),
        ("400600", "exchanges.sync"),
        ("900001", "exchanges.sync"),
        ("200004", None),
    ],
)
def test_an_order_refused_for_the_venue_or_the_market_has_them_read_again(
    bells: Bells, code: str, task: str | None
) -> None:
    with pytest.raises(OrderRejected):
        guarded(Inner(OrderRejected("no", code=code))).order_create(ticket())

    for one in ("exchanges.read_status", "exchanges.sync"):
        assert bells.rung(one) == ([{"exchange_ids": [1]}] if one == task else [])


def test_every_call_of_a_gateway_is_handed_on() -> None:
    inner = Inner()
    gateway = guarded(inner)
    arguments: dict[str, tuple[Any, ...]] = {
        "quotes": ([],), "candles": ("BTC/USDT", "1m", None, 1), "order_create": (ticket(),), "orders_open": ("BTC/USDT",),
        "stops_open": ("BTC/USDT",), **dict.fromkeys(("stop_find", "stop_cancel"), ("a", "b")),
        **dict.fromkeys(("order_find", "order_get", "order_fills", "order_cancel", "orders_done", "fills_since"), ("a", "b")),
        "fundings_since": ("a", "b"), "margin_match": ("a", "b", "c"),
        **dict.fromkeys(("trades_since", "funding_rates_since"), ("a", "b", 1)),
    }  # fmt: skip
    names = [name for name, value in vars(Gateway).items() if callable(value) and not name.startswith("_")]

    for name in names:
        getattr(gateway, name)(*arguments.get(name, ()))

    assert inner.calls == names
    assert len(names) >= 16
    assert shared.client().ping()
